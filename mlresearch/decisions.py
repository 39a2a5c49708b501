"""Decisions: from a distribution's scores to predictions, each for a stated metric.

No single rule is best for every metric. Hamming loss wants marginals over ½ (`Half`), subset accuracy the
most probable label set (`Mode`), micro-F1 one threshold (`GlobalThreshold`), macro-F1 a threshold a label
(`LabelThresholds`). Source: Dembczyński, Waegeman, Cheng & Hüllermeier, "On Label Dependence and Loss
Minimization in Multi-label Classification", 2012.

What is fitted is fitted on validation data: the fitting functions take `ValidationCounts` and nothing else.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float32, Float64

from mlresearch.errors import UserError, suggest
from mlresearch.metrics import LabelCounts, Ranks
from mlresearch.scored import ScoredRows

GRID = (0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70)
"""Thresholds that `fit_global_threshold` tries unless told otherwise."""

METRIC_SIGN = {"micro_f1": 1, "macro_f1": 1, "example_f1": 1, "subset_accuracy": 1, "hamming_loss": -1}
"""Metrics a global threshold can be fitted for: 1 where more is better, −1 where less is."""


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationCounts:
    """What passes over the validation split counted, the only thing that a decision may be fitted on.

    fingerprint: of the split's data. grid, at_thresholds: from `counts_at`, merged. ranks: of all its examples. Unknown
    labels are neither fitted on nor counted. Any other split is a `TypeError`.
    """

    split: str
    fingerprint: str
    grid: tuple[float, ...]
    at_thresholds: tuple[LabelCounts, ...]
    ranks: Ranks

    def __post_init__(self) -> None:
        if self.split != "validation":
            raise TypeError(f"ValidationCounts of the split {self.split!r}: only 'validation' makes them")


@dataclasses.dataclass(frozen=True)
class Half:
    """Labels whose marginal is over ½, strictly: best for Hamming loss by the model's distribution.

    Coherent marginals give coherent predictions, since a parent's marginal is no less than its child's.
    """

    kind: ClassVar[str] = "half"

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
        """Return the predictions."""
        return scores.log_marginals > _log_threshold(0.5)

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind}


@dataclasses.dataclass(frozen=True)
class Mode:
    """The distribution's most probable label set: best for subset accuracy by the model's distribution."""

    kind: ClassVar[str] = "mode"

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
        """Return the predictions."""
        assert scores.mode is not None, "asked for when the model scored the examples"
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

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
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

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
        """Return the predictions; another number of labels than that of the fit is a `UserError`."""
        if scores.log_marginals.shape[1] != len(self.log_thresholds):
            raise UserError(
                f"thresholds of {len(self.log_thresholds)} labels for scores of {scores.log_marginals.shape[1]}: "
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


def fit_global_threshold(counts: ValidationCounts, metric: str) -> GlobalThreshold:
    """Return the threshold of the counts' grid that is best for `metric`; of equally good ones the closest to ½.

    metric: one of `METRIC_SIGN`. Of two thresholds as close to ½ the lower one wins. Counts of another type are a
    `TypeError`.

    Source: Yang, "A Study of Thresholding Strategies for Text Categorization", 2001.
    """
    _require_validation(counts)
    grid = counts.grid
    values = [at.compute()[metric] for at in counts.at_thresholds]
    best = max(METRIC_SIGN[metric] * value for value in values)
    # Rounding makes 0.45 and 0.55 as close to ½ as they look.
    _, threshold, value = min(
        (round(abs(threshold - 0.5), 12), threshold, value)
        for threshold, value in zip(grid, values, strict=True)
        if METRIC_SIGN[metric] * value == best
    )
    at_edge = threshold in (grid[0], grid[-1])
    return GlobalThreshold(metric, threshold, value, grid, at_edge, counts.fingerprint)


def check_threshold_search(metric: str, grid: tuple[float, ...]) -> None:
    """Raise `UserError` for a metric no threshold can be fitted for, and for a grid not ascending between 0 and 1."""
    if metric not in METRIC_SIGN:
        raise UserError(f"no threshold can be fitted for the metric {metric!r}{suggest(metric, METRIC_SIGN)}")
    if not grid or not all(low < high for low, high in zip((0.0, *grid), (*grid, 1.0), strict=True)):
        raise UserError(f"the grid of thresholds {grid} is not ascending between 0 and 1")


def counts_at(scores: ScoredRows, grid: tuple[float, ...]) -> tuple[LabelCounts, ...]:
    """Return the state of the predictions at each threshold of `grid`, ascending.

    Only cells above the lowest threshold are looked at, once for all thresholds: a cell above the k-th
    threshold is above all before it, so counts by highest threshold passed add up to the counts at each.
    """
    levels = np.asarray([_log_threshold(threshold) for threshold in grid])
    examples, num_labels = scores.labels.shape
    known = scores.known
    positives = scores.labels if known is None else scores.labels & known
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
    return tuple(
        LabelCounts.from_sums(
            (label_sums[0][at], label_sums[1][at], label_true),
            (example_sums[0][at], example_sums[1][at], example_true),
            mask,
            None,
            known_by_label,
        )
        for at in range(len(grid))
    )


def fit_label_thresholds(counts: ValidationCounts) -> LabelThresholds:
    """Return each label's best threshold for its own F1; of equally good ones the closest to ½.

    F1 = 2 TP / (predicted + true) only rises where the threshold falls below the score of a positive, so that
    one of the cuts just below a positive's score is best. A cut lies halfway, in the logarithm, between that
    score and the next lower one of the label, or at half the score where there is none (or it is probability
    0). A label without positives, or with all of them at probability 0, stays at ½: the split says nothing
    about it, and to never predict it would give up its F1 on every other split. Exact.

    Counts of another type are a `TypeError`.
    Source: Lipton, Elkan & Narayanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014.
    """
    _require_validation(counts)
    ranks, positives = counts.ranks, counts.ranks.positives
    log_thresholds = np.full(len(counts.at_thresholds[0].tp), _round_down(math.log(0.5)))
    true = positives.count[positives.group]
    f1 = np.where(np.isneginf(positives.scores), 0.0, 2 * ranks.hits / (ranks.hits + ranks.alarms + true))
    best = np.flatnonzero((f1 > 0) & (f1 == np.maximum.reduceat(f1, positives.first)[positives.group]))
    score, below = positives.scores[best].astype(np.float64), ranks.next_lower[best].astype(np.float64)
    cuts = np.where(np.isneginf(below), score - math.log(2), (below + score) / 2)
    # By label, the closest to ½ first; of two as close the one of the lower score.
    order = np.lexsort((np.abs(np.exp(cuts) - 0.5), positives.group[best]))
    fitted, chosen = np.unique(positives.group[best][order], return_index=True)
    log_thresholds[positives.labels[fitted]] = _round_down(cuts[order[chosen]])
    return LabelThresholds(log_thresholds, len(log_thresholds) - len(fitted), counts.fingerprint)


def _require_validation(counts: ValidationCounts) -> None:
    """Raise a `TypeError` unless the counts come from the validation split."""
    if not isinstance(counts, ValidationCounts):
        raise TypeError(
            f"decisions are fitted on ValidationCounts only, not on {type(counts).__name__} "
            f"of the split {getattr(counts, 'split', None)!r}"
        )


def _log_threshold(threshold: float) -> Float32[np.ndarray, ""]:
    """Return log(threshold) such that float32 scores compare with it as with the exact value."""
    return _round_down(math.log(threshold))


def _round_down(values: float | Float64[np.ndarray, "labels"]) -> Float32[np.ndarray, "..."]:
    """Return the largest float32 that is at most each value: a float32 is above both or above neither."""
    nearest = np.asarray(values, np.float32)
    return np.where(nearest.astype(np.float64) <= values, nearest, np.nextafter(nearest, np.float32(-np.inf)))
