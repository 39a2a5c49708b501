"""Scores and truths as whole matrices, and what the package makes of them in one block."""

import numpy as np

from mlresearch.decisions import ValidationCounts, counts_at
from mlresearch.label_space import LabelSets
from mlresearch.metrics import (
    ExampleRanks,
    ExtendedTruth,
    LabelCounts,
    Positives,
    Ranks,
    Reliability,
    frequency_bins,
    inverse_propensities,
    macro_f1_in_bins,
)
from mlresearch.scored import ScoredRows, ScoredSplit


def label_metrics(preds, labels, edges, known=None):
    """Every metric of binary predictions."""
    return LabelCounts.of(preds, labels, np.ones(len(labels), bool), edges, known).compute()


def ranks_of(scores, labels, known=None):
    """The ranks of the positives of a whole split."""
    return Ranks.of(Positives.of(scores, labels, known), scores, labels, known)


def ranking_metrics(scores, labels, known=None):
    """Every metric of rankings."""
    return ranks_of(scores, labels, known).compute() | ExampleRanks.of(scores, labels, known).compute()


def split_metrics(scores, preds, labels, edges, known=None):
    """Every metric of predictions and scores."""
    return label_metrics(preds, labels, edges, known) | ranking_metrics(scores, labels, known)


def run_metrics(scores, preds, labels, hierarchy, known, frequencies, losses):
    """Every metric of predictions by their names and of scores, as a record has them."""
    everyone, bins = np.ones(len(labels), bool), frequency_bins(frequencies)
    edges = None if hierarchy is None else (hierarchy.children, hierarchy.parents)
    truth = None if hierarchy is None else ExtendedTruth.of(labels, hierarchy, known)
    counts = {name: LabelCounts.of(on, labels, everyone, edges, known) for name, on in preds.items()}
    ranks = ExampleRanks.of(scores, labels, known, inverse_propensities(frequencies))
    return {
        name: of.compute() | macro_f1_in_bins(of, bins) | (truth.compare(preds[name]).compute() if truth else {})
        for name, of in counts.items()
    } | {
        "ranking": ranks_of(scores, labels, known).compute() | ranks.compute(),
        "probabilities": {
            name: value if np.isfinite(value) else None
            for name, value in Reliability.of(scores, labels, known).compute().items()
        },
        "loss": {"mean": float(np.mean(losses, dtype=np.float64))},
    }


def validation_counts(scores, labels, known=None, grid=(0.5,), split="validation"):
    """What passes over validation count."""
    rows = ScoredRows(np.arange(len(labels)), scores, {"mode": ~labels}, np.zeros(len(labels)), labels, known)
    return ValidationCounts(split, "abc", grid, counts_at(rows, grid), ranks_of(scores, labels, known))


def label_sets(labels, known=None):
    """Label sets of a truth; what is not known is listed as such."""
    known = np.ones_like(labels) if known is None else known
    listed = [np.flatnonzero(row) for row in labels | ~known]
    values = [np.where(known[at, ids], 1.0, np.nan).tolist() for at, ids in enumerate(listed)]
    return LabelSets.from_rows([ids.tolist() for ids in listed], None if known.all() else values)


def scored_split(scores, modes, labels, known=None, *, losses=None, split="validation", batch=7, order=None):
    """A scored split of runs [runs, examples, labels], scored in batches of an order."""
    order = np.arange(len(labels)) if order is None else order
    losses = np.zeros(scores.shape[:2], np.float32) if losses is None else losses

    def score():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            yield rows, scores[:, rows], {"mode": modes[:, rows]}, losses[:, rows]

    return ScoredSplit(split, "abc", label_sets(labels, known), labels.shape[1], score)
