"""Passes over a scored split, and every number reported of it.

The first pass counts what decisions get right and keeps the scores of positives; the second counts all scores against
these, which gives average precision and the best thresholds exactly; over validation a third one counts what the
thresholds get right. Memory is O(positives + a block of examples), however long the split.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

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
from mlresearch.metrics import Edges, ExampleRanks, LabelCounts, Positives, Ranks
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

    decisions: by name; at_thresholds: of `counts_at`; loss: the sum over examples; diverged: some marginals are NaN.
    """

    decisions: Mapping[str, LabelCounts]
    at_thresholds: tuple[LabelCounts, ...]
    example_ranks: ExampleRanks
    positives: Positives
    loss: float
    diverged: bool

    @classmethod
    def of(
        cls, scores: ScoredRows, decisions: Mapping[str, Decision], edges: Edges | None, grid: tuple[float, ...]
    ) -> "Counts":
        """Count a block."""
        everyone = np.ones(len(scores.rows), bool)
        return cls(
            {
                name: LabelCounts.of(decision.apply(scores), scores.labels, everyone, edges, scores.known).to_host()
                for name, decision in decisions.items()
            },
            counts_at(scores, grid) if grid else (),
            ExampleRanks.of(scores.log_marginals, scores.labels, scores.known),
            Positives.of(scores.log_marginals, scores.labels, scores.known),
            float(scores.loss.sum(dtype=np.float64)),
            bool(np.isnan(scores.log_marginals).any()),
        )

    def merge(self, other: "Counts") -> "Counts":
        """Return what is counted of both states' examples together."""
        return Counts(
            {name: counts.merge(other.decisions[name]) for name, counts in self.decisions.items()},
            tuple(mine.merge(its) for mine, its in zip(self.at_thresholds, other.at_thresholds, strict=True)),
            self.example_ranks.merge(other.example_ranks),
            self.positives.merge(other.positives),
            self.loss + other.loss,
            self.diverged or other.diverged,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What passes over a split say of one run.

    decisions: by name. loss: the mean, None where a label set of the split is impossible under the head, so that it
    would be infinite, and where there is none. ranks, validation, predictions: None where they were not asked for.
    """

    decisions: Mapping[str, LabelCounts]
    loss: float | None
    example_ranks: ExampleRanks
    ranks: Ranks | None = None
    validation: ValidationCounts | None = None
    predictions: Predictions | None = None

    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Return the metrics of each decision by its name, under ``ranking`` those that need none, and ``loss``."""
        metrics: dict[str, dict[str, float | None]] = {
            name: {**counts.compute()} for name, counts in self.decisions.items()
        }
        if self.ranks is not None:
            metrics["ranking"] = {**self.ranks.compute(), **self.example_ranks.compute()}
        return metrics | {"loss": {"mean": self.loss}}


def evaluate(
    scored: ScoredSplit,
    decisions: Sequence[Mapping[str, Decision]],
    hierarchy: LabelHierarchy | None,
    *,
    ranking: bool = True,
    grid: tuple[float, ...] = (),
    predictions: bool = False,
) -> list[Evaluation | None]:
    """Count what all runs say of a split; None for a run that has diverged: some of its marginals are NaN.

    decisions: of each run, by name. ranking: whether a second pass ranks the scores; without it there is no average
    precision. grid: thresholds that are tried where decisions are to be fitted, of validation alone (else a
    `TypeError`). predictions: whether to keep what is to be stored.
    """
    edges = None if hierarchy is None else (hierarchy.children, hierarchy.parents)
    kept = [Predictions(len(scored), scored.num_labels) if predictions else None for _ in decisions]
    counts: list[Counts] = []
    for block in scored:
        counts = _merge(counts, [Counts.of(each, own, edges, grid) for each, own in zip(block, decisions, strict=True)])
        for each, own_kept in zip(block, kept, strict=True):
            if own_kept is not None:
                own_kept.add(each)
    ranks: list[Ranks] = []
    for block in scored if ranking else ():
        of_runs = zip(block, counts, strict=True)
        ranks = _merge(
            ranks, [Ranks.of(own.positives, each.log_marginals, each.labels, each.known) for each, own in of_runs]
        )
    return [
        None
        if own.diverged
        else Evaluation(
            own.decisions,
            own.loss / len(scored) if math.isfinite(own.loss) else None,
            own.example_ranks,
            ranks[run] if ranking else None,
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
    scored: ScoredSplit, runs: int, hierarchy: LabelHierarchy | None, rules: Rules, *, predictions: bool = False
) -> list[tuple[Evaluation, dict[str, Decision]] | None]:
    """Fit decisions on validation by `rules`, and count what all of them say of it.

    Returns each run's evaluation and its decisions by name, None for a run that has diverged. Another split is a
    `TypeError`.
    """
    unfitted = rules.unfitted
    found = evaluate(scored, [unfitted] * runs, hierarchy, grid=rules.threshold_grid, predictions=predictions)
    fitted = [
        {} if each is None or each.validation is None else rules.fit(each.validation, hierarchy) for each in found
    ]
    counted = evaluate(scored, fitted, hierarchy, ranking=False)
    return [
        None
        if one is None or other is None
        else (dataclasses.replace(one, decisions={**one.decisions, **other.decisions}), {**unfitted, **own})
        for one, other, own in zip(found, counted, fitted, strict=True)
    ]


PREDICTED_SHARE = "predicted.share"
"""The place, among what is watched, of the share of known cells that are predicted on: 0 if none is, 1 if all are."""


def validation_metrics(
    scored: ScoredSplit, runs: int, group: str, hierarchy: LabelHierarchy | None
) -> list[dict[str, float | None] | None]:
    """Return what is watched while runs train: the metrics of one group, ``mode``, ``half``, ``ranking``, ``loss``.

    By their places within the split, ``mode.micro_f1``; the loss and `PREDICTED_SHARE` are among them whatever the
    group, the share that of ``half`` where the group has no predictions. None for a run that has diverged.
    """
    unfitted = Rules().unfitted
    name = group if group in unfitted else "half"
    found = evaluate(scored, [{name: unfitted[name]}] * runs, hierarchy, ranking=group == "ranking")
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
