"""Decisions: from a distribution's scores to predictions, each for a stated metric.

No single rule is best for every metric. Hamming loss wants marginals over ½ (`Half`), subset accuracy the
most probable label set (`Mode`), micro-F1 one threshold (`GlobalThreshold`), macro-F1 a threshold a label
(`LabelThresholds`). Source: Dembczyński, Waegeman, Cheng & Hüllermeier, "On Label Dependence and Loss
Minimization in Multi-label Classification", 2012.

What is fitted is fitted on validation data: the fitting functions take `ValidationScores` and nothing else.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple, overload

import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from mlresearch.errors import UserError, suggest
from mlresearch.metrics import NO_EXAMPLES, LabelCounts, ScoreTable, concatenate_known, rank_positives

GRID = (0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70)
"""Thresholds that `fit_global_threshold` tries unless told otherwise."""

METRIC_SIGN = {"micro_f1": 1, "macro_f1": 1, "example_f1": 1, "subset_accuracy": 1, "hamming_loss": -1}
"""Metrics a global threshold can be fitted for: 1 where more is better, −1 where less is."""


class ScoredBatch(NamedTuple):
    """One padded batch of a pass over a split; rows whose `mask` is False hold no example.

    known: whether each label is known, None where all are.
    """

    log_marginals: Float[Array | np.ndarray, "batch labels"]
    labels: Bool[Array | np.ndarray, "batch labels"]
    mode: Bool[Array | np.ndarray, "batch labels"]
    mask: Bool[Array | np.ndarray, "batch"]
    known: Bool[Array | np.ndarray, "batch labels"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class SplitScores:
    """What a model says about the real examples of a split, on the host.

    log_marginals: float32 [examples, labels], a NaN is a `UserError`; labels: the truth, bool, of soft labels
    whether they are over ½; mode: the distribution's mode, bool; fingerprint: of the split's data; known: whether
    the truth is known, bool, None where all of it is. What is unknown is neither fitted on nor counted.
    """

    split: str
    log_marginals: Float32[np.ndarray, "examples labels"]
    labels: Bool[np.ndarray, "examples labels"]
    mode: Bool[np.ndarray, "examples labels"]
    fingerprint: str
    known: Bool[np.ndarray, "examples labels"] | None = None

    def __post_init__(self) -> None:
        _ = self.table  # a NaN shows here

    @functools.cached_property
    def table(self) -> ScoreTable:
        """The scores and labels as a state of ranking metrics; nothing is copied."""
        return ScoreTable(self.log_marginals, self.labels, self.known)


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationScores(SplitScores):
    """Scores of the validation split, the only ones that a decision may be fitted on.

    Any other split is a `TypeError`.
    """

    def __post_init__(self) -> None:
        if self.split != "validation":
            raise TypeError(f"ValidationScores of the split {self.split!r}: only 'validation' makes them")
        super().__post_init__()


@overload
def collect_scores(
    split: Literal["validation"], batches: Iterable[ScoredBatch], fingerprint: str
) -> ValidationScores: ...


@overload
def collect_scores(split: str, batches: Iterable[ScoredBatch], fingerprint: str) -> SplitScores: ...


def collect_scores(split: str, batches: Iterable[ScoredBatch], fingerprint: str) -> SplitScores:
    """Gather one pass over a split on the host; the split "validation" gives `ValidationScores`.

    Rows keep their order, padding is dropped, scores become float32. A split without examples is a
    `UserError`.
    """
    rows: list[tuple[np.ndarray, ...]] = []
    known_rows: list[np.ndarray | None] = []
    for log_marginals, labels, mode, mask, known in batches:
        real = np.asarray(mask)
        scores = np.asarray(log_marginals, np.float32)
        rows.append((scores[real], np.asarray(labels)[real], np.asarray(mode)[real]))
        known_rows.append(None if known is None else np.asarray(known)[real])
    if not sum(len(scores) for scores, _, _ in rows):
        raise UserError(NO_EXAMPLES)
    whole_known = concatenate_known(known_rows, [labels for _, labels, _ in rows])
    scores, labels, mode = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    made = ValidationScores if split == "validation" else SplitScores
    return made(split, scores, labels, mode, fingerprint, whole_known)


@dataclasses.dataclass(frozen=True)
class Half:
    """Labels whose marginal is over ½, strictly: best for Hamming loss by the model's distribution.

    Coherent marginals give coherent predictions, since a parent's marginal is no less than its child's.
    """

    kind: ClassVar[str] = "half"

    def apply(self, scores: SplitScores) -> Bool[np.ndarray, "examples labels"]:
        """Return the predictions."""
        return scores.log_marginals > _log_threshold(0.5)

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind}


@dataclasses.dataclass(frozen=True)
class Mode:
    """The distribution's most probable label set: best for subset accuracy by the model's distribution."""

    kind: ClassVar[str] = "mode"

    def apply(self, scores: SplitScores) -> Bool[np.ndarray, "examples labels"]:
        """Return the predictions."""
        return scores.mode

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind}


@dataclasses.dataclass(frozen=True)
class GlobalThreshold:
    """Labels whose marginal is over one fitted threshold, strictly; as coherent as the marginals are.

    value: `metric` at the threshold, on the split with the fingerprint `fitted_on`; at_edge: the threshold is
    the first or last of `grid`, so that a wider grid may hold a better one.
    """

    kind: ClassVar[str] = "global_threshold"

    metric: str
    threshold: float
    value: float
    grid: tuple[float, ...]
    at_edge: bool
    fitted_on: str

    def apply(self, scores: SplitScores) -> Bool[np.ndarray, "examples labels"]:
        """Return the predictions."""
        return scores.log_marginals > _log_threshold(self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind} | dataclasses.asdict(self) | {"grid": list(self.grid)}


@dataclasses.dataclass(frozen=True, eq=False)
class LabelThresholds:
    """Labels whose marginal is over the label's own fitted threshold, strictly: for macro-F1.

    Separate thresholds may break coherence: a child can pass a low threshold where its parent fails a high
    one, even though the parent's marginal is the larger one.

    log_thresholds: logarithms of the thresholds, float32 [labels]. num_unfitted: labels left at ½, because no
    threshold finds any of their positives. fitted_on: fingerprint of the split.
    """

    kind: ClassVar[str] = "label_thresholds"

    log_thresholds: Float32[np.ndarray, "labels"]
    num_unfitted: int
    fitted_on: str

    def apply(self, scores: SplitScores) -> Bool[np.ndarray, "examples labels"]:
        """Return the predictions; another number of labels than that of the fit is a `UserError`."""
        if scores.labels.shape[1] != len(self.log_thresholds):
            raise UserError(
                f"thresholds of {len(self.log_thresholds)} labels for scores of {scores.labels.shape[1]}: "
                "the decision was fitted in another label space"
            )
        return scores.log_marginals > self.log_thresholds

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types; float32 values come back bit for bit."""
        return {
            "kind": self.kind,
            "log_thresholds": self.log_thresholds.tolist(),
            "num_unfitted": self.num_unfitted,
            "fitted_on": self.fitted_on,
        }


Decision = Half | Mode | GlobalThreshold | LabelThresholds


def decision_from_json(data: dict[str, Any]) -> Decision:
    """Return the decision that `to_json` wrote; an unknown kind or fields of another are a `UserError`."""
    fields = dict(data)
    kinds: dict[str, type[Decision]] = {made.kind: made for made in (Half, Mode, GlobalThreshold, LabelThresholds)}
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise UserError(f"unknown decision {kind!r}{suggest(str(kind), kinds)}")
    expected = {field.name for field in dataclasses.fields(kinds[kind])}
    if fields.keys() != expected:
        raise UserError(f"decision {kind!r}: has the fields {sorted(fields)}, needs {sorted(expected)}")
    if "grid" in fields:
        fields["grid"] = tuple(fields["grid"])
    if "log_thresholds" in fields:
        fields["log_thresholds"] = np.asarray(fields["log_thresholds"], np.float32)
    return kinds[kind](**fields)


def fit_global_threshold(scores: ValidationScores, metric: str, grid: tuple[float, ...] = GRID) -> GlobalThreshold:
    """Return the threshold of `grid` that is best for `metric`; of equally good ones the closest to ½.

    metric: one of `METRIC_SIGN`. grid: ascending, between 0 and 1; of two thresholds as close to ½ the lower
    one wins. An unknown metric or another grid is a `UserError`; scores of another type are a `TypeError`.

    Only cells above the lowest threshold are looked at, once for all thresholds: a cell above the k-th
    threshold is above all before it, so counts by highest threshold passed add up to the counts at each.
    Source: Yang, "A Study of Thresholding Strategies for Text Categorization", 2001.
    """
    _require_validation(scores)
    check_threshold_search(metric, grid)
    values = [counts.compute()[metric] for counts in _counts_at(scores, grid)]
    best = max(METRIC_SIGN[metric] * value for value in values)
    # Rounding makes 0.45 and 0.55 as close to ½ as they look.
    _, threshold, value = min(
        (round(abs(threshold - 0.5), 12), threshold, value)
        for threshold, value in zip(grid, values, strict=True)
        if METRIC_SIGN[metric] * value == best
    )
    at_edge = threshold in (grid[0], grid[-1])
    return GlobalThreshold(metric, threshold, value, grid, at_edge, scores.fingerprint)


def check_threshold_search(metric: str, grid: tuple[float, ...]) -> None:
    """Raise `UserError` for a metric no threshold can be fitted for, and for a grid not ascending between 0 and 1."""
    if metric not in METRIC_SIGN:
        raise UserError(f"no threshold can be fitted for the metric {metric!r}{suggest(metric, METRIC_SIGN)}")
    if not grid or not all(low < high for low, high in zip((0.0, *grid), (*grid, 1.0), strict=True)):
        raise UserError(f"the grid of thresholds {grid} is not ascending between 0 and 1")


def _counts_at(scores: SplitScores, grid: tuple[float, ...]) -> list[LabelCounts]:
    """Return the state of the predictions at each threshold of `grid`, ascending."""
    levels = np.asarray([_log_threshold(threshold) for threshold in grid])
    examples, num_labels = scores.labels.shape
    positives, known = scores.table.positives, scores.known
    passing = scores.log_marginals > levels[0]
    above = np.flatnonzero(passing if known is None else passing & known)
    passed = np.searchsorted(levels, scores.log_marginals.ravel()[above], side="left") - 1
    rows, columns = np.divmod(above, num_labels)
    hit = positives.ravel()[above]

    def count(ids: np.ndarray, size: int, kept: np.ndarray | slice) -> np.ndarray:
        """Count the kept cells of each id at each threshold, int64 [grid, size]."""
        cells = np.bincount(passed[kept] * size + ids[kept], minlength=len(grid) * size)
        return cells.reshape(len(grid), size)[::-1].cumsum(axis=0)[::-1]

    everything = slice(None)
    label_sums = (count(columns, num_labels, hit), count(columns, num_labels, everything))
    example_sums = (count(rows, examples, hit), count(rows, examples, everything))
    label_true, example_true = positives.sum(axis=0), positives.sum(axis=1)
    known_by_label = None if known is None else known.sum(axis=0)
    mask = np.ones(examples, bool) if known is None else np.asarray(known.any(axis=1))
    return [
        LabelCounts.from_sums(
            (label_sums[0][at], label_sums[1][at], label_true),
            (example_sums[0][at], example_sums[1][at], example_true),
            mask,
            None,
            known_by_label,
        )
        for at in range(len(grid))
    ]


def fit_label_thresholds(scores: ValidationScores) -> LabelThresholds:
    """Return each label's best threshold for its own F1; of equally good ones the closest to ½.

    F1 = 2 TP / (predicted + true) only rises where the threshold falls below the score of a positive, so that
    one of the cuts just below a positive's score is best. A cut lies halfway, in the logarithm, between that
    score and the next lower one of the label, or at half the score where there is none (or it is probability
    0). A label without positives, or with all of them at probability 0, stays at ½: the split says nothing
    about it, and to never predict it would give up its F1 on every other split. Exact; O(examples ·
    log(examples)) a label.

    Scores of another type are a `TypeError`.
    Source: Lipton, Elkan & Narayanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014.
    """
    _require_validation(scores)
    log_thresholds = np.full(scores.labels.shape[1], _log_threshold(0.5))
    unfitted = np.ones(len(log_thresholds), bool)
    for label, ranked, positives in scores.table.by_label():
        hits, predicted = rank_positives(ranked, positives)
        f1 = np.where(np.isneginf(positives), 0.0, 2 * hits / (predicted + len(positives)))
        if not f1.any():
            continue
        best = np.flatnonzero(f1 == f1.max())
        score = positives[best].astype(np.float64)
        below = np.concatenate([[-np.inf], ranked])[len(ranked) - predicted[best]].astype(np.float64)
        cuts = np.where(np.isneginf(below), score - math.log(2), (below + score) / 2)
        log_thresholds[label] = _round_down(cuts[np.abs(np.exp(cuts) - 0.5).argmin()])
        unfitted[label] = False
    return LabelThresholds(log_thresholds, int(unfitted.sum()), scores.fingerprint)


def _require_validation(scores: SplitScores) -> None:
    """Raise a `TypeError` unless the scores come from the validation split."""
    if not isinstance(scores, ValidationScores):
        raise TypeError(
            f"decisions are fitted on ValidationScores only, not on {type(scores).__name__} "
            f"of the split {getattr(scores, 'split', None)!r}"
        )


def _log_threshold(threshold: float) -> np.float32:
    """Return log(threshold) such that float32 scores compare with it as with the exact value."""
    return _round_down(math.log(threshold))


def _round_down(value: float) -> np.float32:
    """Return the largest float32 that is at most `value`: a float32 is above both or above neither."""
    nearest = np.float32(value)
    return nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf))
