"""Passes over a scored split, and every number reported of it.

The first pass counts what decisions get right, bins marginals and keeps the scores of positives; the second counts all
scores against these, which gives average precision and the best thresholds exactly; over validation a third one counts
what the thresholds get right.

Memory is O(positives + labels + a block of examples), however long the split: about 110 bytes a positive, and of 98,505
labels some 430 MB whatever there is to count (`experiments/bench/evaluation.py`).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float64

from mlresearch.data.pipeline import Batch, Batches
from mlresearch.data.records import Dataset
from mlresearch.decisions import (
    Decision,
    Rules,
    ValidationCounts,
    counts_at,
)
from mlresearch.files import write_json
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies
from mlresearch.metrics import (
    Edges,
    ExampleRanks,
    ExtendedTruth,
    HierarchicalCounts,
    LabelCounts,
    Positives,
    Ranks,
    Reliability,
    frequency_bins,
    inverse_propensities,
    macro_f1_in_bins,
)
from mlresearch.per_label import write_per_label
from mlresearch.predictions import Predictions
from mlresearch.progress import track
from mlresearch.scored import Said, ScoredRows, ScoredSplit
from mlresearch.step import Scored


def score_split(score: Callable[[Batch], Scored], batches: Batches, split: str, fingerprint: str) -> ScoredSplit:
    """Return what all runs of a program say of a split; `score`: the compiled evaluation step."""

    def scores() -> Iterator[Said]:
        for batch in track(batches.once(), f"score {split}", batches.steps_per_epoch):
            scored = jax.device_get(score(batch))
            real = slice(None) if batch.mask.all() else np.flatnonzero(batch.mask)  # a slice copies nothing
            yield (
                np.asarray(batch.rows)[real],
                scored.log_marginals[:, real],
                {name: on[:, real] for name, on in scored.sets.items()},
                scored.loss[:, real],
            )

    return ScoredSplit(split, fingerprint, batches.split.labels, batches.num_labels, scores)


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """What the first pass counts of one run, of some examples.

    decisions: by name; hierarchical: the same, empty without a hierarchy; at_thresholds: of `counts_at`; scores: None
    where they are not judged; loss: the sum over examples; diverged: some marginals are NaN.
    """

    decisions: Mapping[str, LabelCounts]
    hierarchical: Mapping[str, HierarchicalCounts]
    at_thresholds: tuple[LabelCounts, ...]
    scores: "ScoreCounts | None"
    loss: float
    diverged: bool

    @classmethod
    def of(
        cls,
        scores: ScoredRows,
        decisions: Mapping[str, Decision],
        edges: Edges | None,
        truth: ExtendedTruth | None,
        grid: tuple[float, ...],
        of_scores: "ScoreCounts | None",
    ) -> "Counts":
        """Count a block, whose truth is `truth`."""
        everyone = np.ones(len(scores.rows), bool)
        preds = {name: decision.apply(scores) for name, decision in decisions.items()}
        return cls(
            {
                name: LabelCounts.of(on, scores.labels, everyone, edges, scores.known).to_host()
                for name, on in preds.items()
            },
            {} if truth is None else {name: truth.compare(on) for name, on in preds.items()},
            counts_at(scores, grid) if grid else (),
            of_scores,
            float(scores.loss.sum(dtype=np.float64)),
            bool(np.isnan(scores.log_marginals).any()),
        )

    def merge(self, other: "Counts") -> "Counts":
        """Return what is counted of both states' examples together."""
        return Counts(
            {name: counts.merge(other.decisions[name]) for name, counts in self.decisions.items()},
            {name: counts.merge(other.hierarchical[name]) for name, counts in self.hierarchical.items()},
            tuple(mine.merge(its) for mine, its in zip(self.at_thresholds, other.at_thresholds, strict=True)),
            None if self.scores is None or other.scores is None else self.scores.merge(other.scores),
            self.loss + other.loss,
            self.diverged or other.diverged,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreCounts:
    """What the first pass counts of one run's scores, of some examples."""

    example_ranks: ExampleRanks
    positives: Positives
    reliability: Reliability

    @classmethod
    def of(cls, scores: ScoredRows, weights: Float64[np.ndarray, "labels"] | None) -> "ScoreCounts":
        """Count a block; weights: inverse propensities."""
        cells = scores.log_marginals, scores.labels, scores.known
        return cls(ExampleRanks.of(*cells, weights), Positives.of(*cells), Reliability.of(*cells))

    def merge(self, other: "ScoreCounts") -> "ScoreCounts":
        """Return what is counted of both states' examples together."""
        return ScoreCounts(
            self.example_ranks.merge(other.example_ranks),
            self.positives.merge(other.positives),
            self.reliability.merge(other.reliability),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What passes over a split say of one run.

    decisions: by name. loss: the mean, None where a label set of the split is impossible under the head, so that it
    would be infinite, and where there is none. hierarchical: by the same names, empty without a hierarchy. scores,
    ranks, validation, predictions: None where they were not asked for. frequencies: of training labels, None where they
    are not at hand: without them there are neither macro-F1 in bins nor propensities.
    """

    decisions: Mapping[str, LabelCounts]
    loss: float | None
    hierarchical: Mapping[str, HierarchicalCounts]
    frequencies: Frequencies | None
    scores: ScoreCounts | None = None
    ranks: Ranks | None = None
    validation: ValidationCounts | None = None
    predictions: Predictions | None = None

    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Return the metrics of each decision by its name, ``ranking`` and ``probabilities`` of scores, and ``loss``.

        A log loss that is infinite is None.
        """
        bins = {} if self.frequencies is None else frequency_bins(self.frequencies)
        metrics: dict[str, dict[str, float | None]] = {
            name: {**counts.compute(), **{of: float(value) for of, value in macro_f1_in_bins(counts, bins).items()}}
            for name, counts in self.decisions.items()
        }
        for name, counts in self.hierarchical.items():
            metrics[name] |= counts.compute()
        if self.ranks is not None and self.scores is not None:
            metrics["ranking"] = {**self.ranks.compute(), **self.scores.example_ranks.compute()}
            of_marginals = self.scores.reliability.compute().items()
            metrics["probabilities"] = {name: value if math.isfinite(value) else None for name, value in of_marginals}
        return metrics | {"loss": {"mean": self.loss}}


def evaluate(
    scored: ScoredSplit,
    decisions: Sequence[Mapping[str, Decision]],
    hierarchy: LabelHierarchy | None,
    frequencies: Frequencies | None = None,
    *,
    scores: bool = True,
    grid: tuple[float, ...] = (),
    predictions: bool = False,
) -> list[Evaluation | None]:
    """Count what all runs say of a split; None for a run that has diverged: some of its marginals are NaN.

    decisions: of each run, by name. frequencies: of the training split's labels, None where they are not at hand.
    scores: whether scores are judged, too, which takes a second pass. grid: thresholds that are tried where decisions
    are to be fitted, of validation alone (else a `TypeError`). predictions: whether to keep what is to be stored.
    """
    edges = None if hierarchy is None else (hierarchy.children, hierarchy.parents)
    weights = None if frequencies is None else inverse_propensities(frequencies)
    kept = [Predictions(len(scored), scored.num_labels) if predictions else None for _ in decisions]
    counts: list[Counts] = []
    for block in scored:
        truth = None if hierarchy is None else ExtendedTruth.of(block[0].labels, hierarchy, block[0].known)
        new = [
            Counts.of(each, own, edges, truth, grid, ScoreCounts.of(each, weights) if scores else None)
            for each, own in zip(block, decisions, strict=True)
        ]
        counts = _merge(counts, new)
        for each, own_kept in zip(block, kept, strict=True):
            if own_kept is not None:
                own_kept.add(each)
    positives = [own.scores.positives for own in counts if own.scores is not None]
    ranks: list[Ranks] = []
    for block in scored if scores else ():
        of_runs = zip(block, positives, strict=True)
        ranks = _merge(ranks, [Ranks.of(own, each.log_marginals, each.labels, each.known) for each, own in of_runs])
    return [
        None
        if own.diverged
        else Evaluation(
            own.decisions,
            own.loss / len(scored) if math.isfinite(own.loss) else None,
            own.hierarchical,
            frequencies,
            own.scores,
            ranks[run] if scores else None,
            ValidationCounts(scored.name, scored.fingerprint, grid, own.at_thresholds, ranks[run]) if grid else None,
            kept[run],
        )
        for run, own in enumerate(counts)
    ]


State = TypeVar("State", Counts, Ranks)


def _merge(states: list[State], new: list[State]) -> list[State]:
    """Return each run's state with what is new; of the first block nothing is old."""
    return [one.merge(other) for one, other in zip(states, new, strict=True)] if states else new


def evaluate_validation(
    scored: ScoredSplit,
    runs: int,
    hierarchy: LabelHierarchy | None,
    rules: Rules,
    frequencies: Frequencies | None = None,
    *,
    predictions: bool = False,
) -> list[tuple[Evaluation, dict[str, Decision]] | None]:
    """Fit decisions on validation by `rules`, and count what all of them say of it.

    Returns each run's evaluation and its decisions by name, None for a run that has diverged. Another split is a
    `TypeError`.
    """
    unfitted = rules.unfitted
    grid = rules.threshold_grid
    found = evaluate(scored, [unfitted] * runs, hierarchy, frequencies, grid=grid, predictions=predictions)
    fitted = [
        {} if each is None or each.validation is None else rules.fit(each.validation, hierarchy) for each in found
    ]
    counted = evaluate(scored, fitted, hierarchy, scores=False)
    return [
        None if one is None or other is None else (_join(one, other), {**unfitted, **own})
        for one, other, own in zip(found, counted, fitted, strict=True)
    ]


def _join(one: Evaluation, other: Evaluation) -> Evaluation:
    """Return what is said of all decisions of two evaluations of a run; the rest is the first one's."""
    return dataclasses.replace(
        one,
        decisions={**one.decisions, **other.decisions},
        hierarchical={**one.hierarchical, **other.hierarchical},
    )


PREDICTED_SHARE = "predicted.share"
"""The place, among what is watched, of the share of known cells that are predicted on: 0 if none is, 1 if all are."""


def validation_metrics(
    scored: ScoredSplit,
    runs: int,
    group: str,
    hierarchy: LabelHierarchy | None,
    frequencies: Frequencies | None = None,
) -> list[dict[str, float | None] | None]:
    """Return what is watched while runs train: the metrics of one group, of `definitions.WATCHED`.

    By their places within the split, ``mode.micro_f1``; the loss and `PREDICTED_SHARE` are among them whatever the
    group, the share that of ``half`` where the group has no predictions. None for a run that has diverged.
    """
    unfitted = Rules().unfitted
    name = group if group in unfitted else "half"
    judged = group in ("ranking", "probabilities")
    found = evaluate(scored, [{name: unfitted[name]}] * runs, hierarchy, frequencies, scores=judged)
    return [
        None
        if each is None
        else {f"{group}.{metric}": value for metric, value in each.metrics()[group].items()}
        | {"loss.mean": each.loss, PREDICTED_SHARE: each.decisions[name].predicted_share}
        for each in found
    ]


def write_evaluations(
    folder: Path, dataset: Dataset, decisions: Mapping[str, Decision], found: Mapping[str, Evaluation]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Write ``decisions.json``, ``per_label.csv`` and, where they were kept, the predictions of splits.

    Returns the metrics by split.
    """
    write_json(folder / "decisions.json", {name: decision.to_json() for name, decision in decisions.items()})
    test = found["test"]
    assert test.ranks is not None, "a test split is ranked"
    write_per_label(folder, dataset, decisions, test.decisions, test.ranks)
    for split, evaluation in found.items():
        if evaluation.predictions is not None:
            evaluation.predictions.write(folder, split)
    return {split: evaluation.metrics() for split, evaluation in found.items()}
