"""What a run's stored predictions got right, example by example, and its metrics on resampled examples."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from mlresearch.data.records import Dataset
from mlresearch.decisions import Decision
from mlresearch.definitions import GROUPS
from mlresearch.errors import UserError
from mlresearch.inputs import load_dataset
from mlresearch.label_space import LabelSets
from mlresearch.metrics import Edges, ExampleValues, LabelCounts, rank_examples
from mlresearch.scored import BLOCK_CELLS, Said, ScoredSplit
from mlresearch.workdir import read_decisions

Sparse: TypeAlias = scipy.sparse.csr_array

SPLIT = "test"
"""The split whose examples are resampled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions of one decision against the truth, among known labels.

    hits, predicted, true, unknown: sparse 0/1 [examples, labels]. counted: whether an example has a known label;
    orphaned: whether a child is predicted without one of its parents, None where there is no hierarchy. All of them are
    those of `metrics.LabelCounts`.
    """

    hits: Sparse
    predicted: Sparse
    true: Sparse
    unknown: Sparse
    counted: np.ndarray
    values: ExampleValues
    orphaned: np.ndarray | None

    @classmethod
    def of(cls, preds: Sparse, labels: LabelSets, num_labels: int, edges: Edges | None) -> "Outcome":
        """Compare predictions, sparse 0/1 [examples, labels], with label sets."""
        true, unknown = labels.sparse(num_labels), _unknown(labels, num_labels)
        counted = unknown.sum(axis=1) < num_labels
        orphaned = None
        if edges is not None:
            children, parents = preds[:, edges[0]], preds[:, edges[1]]
            orphaned = (children.sum(axis=1) > children.multiply(parents).sum(axis=1)) & counted
        preds = Sparse(preds - preds.multiply(unknown))
        hits = Sparse(preds.multiply(true))
        num_hits, num_preds, num_true = (matrix.sum(axis=1) for matrix in (hits, preds, true))
        return cls(
            *(hits, preds, true, unknown, counted),
            values=ExampleValues.of(num_hits, num_preds, num_true, counted),
            orphaned=orphaned,
        )

    def counts(self, weights: Int[np.ndarray, "resamples examples"]) -> Iterator[LabelCounts]:
        """Yield the state of each resample, in which example i stands ``weights[·, i]`` times."""
        examples = weights @ self.counted
        hits, predicted, true, unknown = (
            (matrix.T @ weights.T).T for matrix in (self.hits, self.predicted, self.true, self.unknown)
        )
        # An example without a known label adds to `unknown` for every label, but counts nowhere.
        known = weights.sum(axis=1)[:, None] - unknown
        exact, precision, recall, f1 = (weights @ each for each in self.values)
        none = np.zeros_like(examples)
        checked, violations = (none, none) if self.orphaned is None else (examples, weights @ self.orphaned)
        for at in range(len(weights)):
            yield LabelCounts(
                tp=hits[at],
                fp=predicted[at] - hits[at],
                fn=true[at] - hits[at],
                known=known[at],
                examples=examples[at],
                exact=exact[at],
                checked=checked[at],
                violations=violations[at],
                example_precision=precision[at],
                example_recall=recall[at],
                example_f1=f1[at],
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """What one run got right on the test split: decisions by name, and of `rankings` each example's metrics by name.

    An example that a metric leaves out has NaN.
    """

    num_examples: int
    num_labels: int
    decisions: Mapping[str, Outcome]
    rankings: Mapping[str, np.ndarray]

    def metrics(
        self, places: Sequence[str], weights: Int[np.ndarray, "resamples examples"]
    ) -> dict[str, Float[np.ndarray, "resamples"]]:
        """Return metrics of each resample by place, of those places that are sums over examples and are at hand."""
        given = {}
        for name, outcome in self.decisions.items():
            wanted = [place for place in places if place.startswith(f"{SPLIT}.{name}.")]
            computed = [counts.compute() for counts in outcome.counts(weights)] if wanted else []
            for place in wanted:
                metric = place.rpartition(".")[2]
                if all(metric in values for values in computed):
                    given[place] = np.array([values[metric] for values in computed])
        for name, values in self.rankings.items():
            counted = weights @ ~np.isnan(values)
            if (place := f"{SPLIT}.ranking.{name}") in places and counted.all():
                given[place] = weights @ np.nan_to_num(values) / counted
        return given


class OutcomeReader:
    """Reads the outcomes of runs from their folders; each data set is loaded once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def read(self, folder: Path, config: ConfigDict, fingerprint: str, places: Sequence[str]) -> Outcomes:
        """Return what `places` need of the run in `folder`; predictions or data that are not at hand: a `UserError`.

        fingerprint: of the data that the run was made on.
        """
        path = folder / f"predictions_{SPLIT}.npz"
        if not path.is_file():
            raise UserError(f"there is no {path}")
        if fingerprint not in self._datasets:
            dataset = load_dataset(config)
            if dataset.fingerprint != fingerprint:
                raise UserError(f"{dataset.name} is not what it was when the run in {folder} was made")
            self._datasets[fingerprint] = dataset
        dataset = self._datasets[fingerprint]
        with np.load(path) as stored:
            return read_outcomes(dict(stored), dataset, folder, places)


def read_outcomes(stored: Mapping[str, np.ndarray], dataset: Dataset, folder: Path, places: Sequence[str]) -> Outcomes:
    """Return the outcomes of predictions as `Predictions.write` stored them.

    Where only the most probable labels were stored, the others count as impossible.
    """
    labels, num_labels = dataset.splits[SPLIT].labels, dataset.label_space.num_labels
    hierarchy = dataset.hierarchy
    edges = None if hierarchy is None else (hierarchy.children, hierarchy.parents)
    if len(stored["log_marginals"]) != len(labels):
        count = len(stored["log_marginals"])
        raise UserError(f"{folder} holds predictions of {count} examples, the split has {len(labels)}")
    groups = {place.split(".")[1] for place in places if place.startswith(f"{SPLIT}.")}
    preds = {name: _stored_sets(stored, name, num_labels) for name in groups if f"{name}_ids" in stored}
    scored = ScoredSplit(SPLIT, dataset.fingerprint, labels, num_labels, lambda: _said(stored, num_labels))
    if others := groups - preds.keys() - GROUPS.keys():
        decisions = {name: decision for name, decision in read_decisions(folder).items() if name in others}
        preds |= _decide(decisions, scored)
    return Outcomes(
        len(labels),
        num_labels,
        {name: Outcome.of(matrix, labels, num_labels, edges) for name, matrix in preds.items()},
        _rank(scored, whole="label_ids" not in stored) if "ranking" in groups else {},
    )


def _stored_sets(stored: Mapping[str, np.ndarray], name: str, num_labels: int) -> Sparse:
    """Return the label sets that were stored of a decision."""
    ids, offsets = stored[f"{name}_ids"], stored[f"{name}_offsets"]
    return Sparse((np.ones(len(ids), np.int64), ids, offsets), shape=(len(offsets) - 1, num_labels))


def _said(stored: Mapping[str, np.ndarray], num_labels: int) -> Iterator[Said]:
    """Yield the stored scores of a few examples at a time, in order; no losses were stored."""
    height = max(BLOCK_CELLS // num_labels, 1)
    num_examples = len(stored["log_marginals"])
    for start in range(0, num_examples, height):
        rows = np.arange(start, min(start + height, num_examples))
        log_marginals = stored["log_marginals"][rows]
        if "label_ids" in stored:
            top, log_marginals = log_marginals, np.full((len(rows), num_labels), -np.inf, np.float32)
            np.put_along_axis(log_marginals, stored["label_ids"][rows], top, 1)
        yield rows, log_marginals[None], {}, np.full((1, len(rows)), np.nan)


def _decide(decisions: Mapping[str, Decision], scored: ScoredSplit) -> dict[str, Sparse]:
    """Return the predictions of one run's decisions by name; blocks are in the split's order."""
    parts: dict[str, list[Sparse]] = {name: [] for name in decisions}
    for [scores] in scored:
        for name, decision in decisions.items():
            parts[name].append(Sparse(decision.apply(scores).astype(np.int64)))
    return {name: Sparse(scipy.sparse.vstack(of_blocks)) for name, of_blocks in parts.items()}


def _rank(scored: ScoredSplit, *, whole: bool) -> dict[str, np.ndarray]:
    """Return `rank_examples` by metric; where scores are not whole, of the metrics of the highest ones alone."""
    values = [rank_examples(scores.log_marginals, scores.labels, scores.known) for [scores] in scored]
    names = [name for name in values[0] if whole or "_at_" in name]
    return {name: np.concatenate([block[name] for block in values]) for name in names}


def _unknown(labels: LabelSets, num_labels: int) -> Sparse:
    """Return the sparse 0/1 [examples, labels] matrix of labels that are unknown."""
    unknown = np.zeros(len(labels.ids), bool) if labels.values is None else np.isnan(labels.values)
    cells = (labels.rows[unknown], labels.ids[unknown])
    return Sparse((np.ones(len(cells[0]), np.int64), cells), shape=(len(labels), num_labels))
