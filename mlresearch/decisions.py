"""Decisions: from a distribution's scores to predictions, each for a stated metric (`decide`).

No single rule is best for every metric. Hamming loss wants marginals over ½ (`Half`), subset accuracy the
most probable label set (`Mode`), micro-F1 one threshold (`GlobalThreshold`), macro-F1 a threshold a label
(`LabelThresholds`), example-F1 the set of the largest expected one (`ExpectedF1`), precision at k the k most probable
labels (`TopLabels`). Source: Dembczyński, Waegeman, Cheng & Hüllermeier, "On Label Dependence and Loss
Minimization in Multi-label Classification", 2012.

What is fitted is fitted on validation data: the fitting functions take `ValidationCounts` and nothing else.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Bool, Float32, Float64
from ml_collections import ConfigDict

from mlresearch.errors import UserError, suggest
from mlresearch.f_measure import largest_expected_f1
from mlresearch.heads import LabelDistribution
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.metrics import LabelCounts, Ranks
from mlresearch.scored import ScoredRows

GRID = (0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70)
"""Thresholds that `fit_global_threshold` tries unless told otherwise."""

METRIC_SIGN = {"micro_f1": 1, "macro_f1": 1, "example_f1": 1, "subset_accuracy": 1, "hamming_loss": -1}
"""Metrics a global threshold can be fitted for: 1 where more is better, −1 where less is."""

CLOSURES = ("", "up", "down")
"""How predictions may be made coherent with a hierarchy: not at all, by adding labels, by leaving labels out."""


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
        """Return the predictions, which the model gave with its scores."""
        return scores.sets["mode"]

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind}


@dataclasses.dataclass(frozen=True)
class ExpectedF1:
    """The label set of at most `most` labels with the largest expected example-F1 by the model's distribution.

    See `f_measure.largest_expected_f1`. Coherent marginals give coherent predictions.
    """

    kind: ClassVar[str] = "expected_f1"

    most: int

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
        """Return the predictions, which the model gave with its scores."""
        return scores.sets["expected_f1"]

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind, "most": self.most}


@dataclasses.dataclass(frozen=True)
class TopLabels:
    """The k labels of the largest marginals: best for precision at k by the model's distribution.

    Of equal marginals the label that comes first in the label space goes first.
    """

    kind: ClassVar[str] = "top_labels"

    k: int

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
        """Return the predictions."""
        preds = np.zeros(scores.log_marginals.shape, bool)
        best = np.argsort(-scores.log_marginals, axis=1, kind="stable")[:, : self.k]
        np.put_along_axis(preds, best, True, axis=1)
        return preds

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types."""
        return {"kind": self.kind, "k": self.k}


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
    threshold finds any of their positives. fallback, num_fallen_back: labels of an F1 below `fallback`, which are
    predicted only where they score more than ever on the split. least_positives, num_sharing: labels of fewer positives
    on the split, which share a threshold. fitted_on: fingerprint of the split.
    """

    kind: ClassVar[str] = "label_thresholds"

    log_thresholds: Float32[np.ndarray, "labels"]
    num_unfitted: int
    fallback: float
    num_fallen_back: int
    least_positives: int
    num_sharing: int
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
            "fallback": self.fallback,
            "num_fallen_back": self.num_fallen_back,
            "least_positives": self.least_positives,
            "num_sharing": self.num_sharing,
            "fitted_on": self.fitted_on,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ClosedThresholds:
    """What thresholds a label predict, made coherent with a hierarchy.

    closure: ``up`` adds the ancestors of every label that is predicted, ``down`` leaves out labels that miss one.
    """

    kind: ClassVar[str] = "closed_thresholds"

    thresholds: LabelThresholds
    closure: str
    hierarchy: LabelHierarchy

    def apply(self, scores: ScoredRows) -> Bool[np.ndarray, "rows labels"]:
        """Return the predictions; another number of labels than that of the fit is a `UserError`."""
        return self.hierarchy.close_rows(self.thresholds.apply(scores), up=self.closure == "up")

    def to_json(self) -> dict[str, Any]:
        """Return the decision in JSON's types, without the hierarchy."""
        return {"kind": self.kind, "thresholds": self.thresholds.to_json(), "closure": self.closure}


Decision = Half | Mode | ExpectedF1 | TopLabels | GlobalThreshold | LabelThresholds | ClosedThresholds

Chooser = Callable[[LabelDistribution], Bool[Array, "batch labels"]]
"""Takes a label set of each example from a distribution."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which decisions an evaluation makes, and how they are fitted: ``config.evaluate``.

    threshold_metric, threshold_grid: of `fit_global_threshold`. fallback, least_positives: of `fit_label_thresholds`.
    closure: of `ClosedThresholds`, empty for none. most: of `ExpectedF1`, 0 for none. A setting out of range is a
    `UserError`.
    """

    threshold_metric: str = "micro_f1"
    threshold_grid: tuple[float, ...] = GRID
    fallback: float = 0.0
    least_positives: int = 0
    closure: str = ""
    most: int = 0

    @classmethod
    def of(cls, config: ConfigDict) -> "Rules":
        """Return those of a run's config."""
        section = config.evaluate
        return cls(
            section.threshold_metric,
            tuple(section.threshold_grid),
            section.label_threshold_fallback,
            section.label_threshold_positives,
            section.label_threshold_closure,
            section.expected_f1_labels,
        )

    def __post_init__(self) -> None:
        if self.threshold_metric not in METRIC_SIGN:
            raise UserError(
                f"no threshold can be fitted for the metric {self.threshold_metric!r}"
                f"{suggest(self.threshold_metric, METRIC_SIGN)}"
            )
        grid = self.threshold_grid
        if not grid or not all(low < high for low, high in zip((0.0, *grid), (*grid, 1.0), strict=True)):
            raise UserError(f"the grid of thresholds {grid} is not ascending between 0 and 1")
        if not 0 <= self.fallback <= 1:
            raise UserError(f"config.evaluate.label_threshold_fallback is {self.fallback}; it is an F1, 0 to 1")
        if self.least_positives < 0:
            key, value = "config.evaluate.label_threshold_positives", self.least_positives
            raise UserError(f"{key} is {value}; it must not be negative")
        if self.closure not in CLOSURES:
            key = "config.evaluate.label_threshold_closure"
            raise UserError(f"{key} is {self.closure!r}{suggest(self.closure, CLOSURES)}")
        if self.most < 0:
            raise UserError(f"config.evaluate.expected_f1_labels is {self.most}; it must not be negative")

    @property
    def choosers(self) -> dict[str, Chooser]:
        """What takes label sets from a model's distribution, by the decision that they are for."""
        choosers: dict[str, Chooser] = {"mode": lambda dist: dist.mode()}
        if self.most:
            choosers["expected_f1"] = lambda dist: largest_expected_f1(dist, self.most)
        return choosers

    @property
    def unfitted(self) -> dict[str, Decision]:
        """Decisions that need no validation, by name."""
        decisions: dict[str, Decision] = {"mode": Mode(), "half": Half()}
        return decisions | ({"expected_f1": ExpectedF1(self.most)} if self.most else {})

    def fit(self, counts: ValidationCounts, hierarchy: LabelHierarchy | None) -> dict[str, Decision]:
        """Return the decisions that are fitted on validation, by name; one is closed where there is a hierarchy."""
        thresholds = fit_label_thresholds(counts, self.fallback, self.least_positives)
        decisions: dict[str, Decision] = {
            "global_threshold": fit_global_threshold(counts, self.threshold_metric),
            "label_thresholds": thresholds,
        }
        if self.closure and hierarchy is not None:
            decisions["closed_thresholds"] = ClosedThresholds(thresholds, self.closure, hierarchy)
        return decisions


def decide(
    distribution: LabelDistribution, metric: str, fitted: Decision | None = None, *, most: int = 64
) -> Bool[np.ndarray, "batch labels"]:
    """Return the predictions for a stated metric.

    - ``hamming_loss``: marginals over ½. ``subset_accuracy``: the mode. ``example_f1``: the set of at most `most`
      labels with the largest expectation of it. ``precision_at_K``: the K labels of the largest marginals.
    - ``micro_f1``, and any other of `METRIC_SIGN`: the threshold that was fitted for it, `fitted`.
    - ``macro_f1``: `fitted`, thresholds a label.

    What is fitted knows the split that it was fitted on. A metric without a decision, and one whose decision is missing
    or was fitted for another, are `UserError`s.
    """
    decision = fitted or _unfitted(metric, most)
    if decision is None:
        raise UserError(f"a decision for {metric!r} is fitted on validation: give it as `fitted`")
    made_for = decision.metric if isinstance(decision, GlobalThreshold) else None
    if isinstance(decision, LabelThresholds | ClosedThresholds):
        made_for = "macro_f1"
    if fitted is not None and made_for != metric:
        raise UserError(f"the decision {fitted.kind!r} was fitted for {made_for!r}, not for {metric!r}")
    log_marginals = np.asarray(distribution.log_marginals, np.float32)
    choosers = Rules(most=most).choosers
    sets = {decision.kind: np.asarray(choosers[decision.kind](distribution))} if decision.kind in choosers else {}
    rows, truth = np.arange(len(log_marginals)), np.zeros(log_marginals.shape, bool)
    return decision.apply(ScoredRows(rows, log_marginals, sets, np.full(len(rows), np.nan), truth))


def _unfitted(metric: str, most: int) -> Decision | None:
    """Return the decision for a metric that needs no validation, None where one is fitted; else a `UserError`."""
    known: dict[str, Decision | None] = {
        "hamming_loss": Half(),
        "subset_accuracy": Mode(),
        "example_f1": ExpectedF1(most),
        "micro_f1": None,
        "macro_f1": None,
    }
    prefix, _, k = metric.rpartition("_")
    if prefix == "precision_at" and k.isdigit() and int(k) > 0:
        return TopLabels(int(k))
    if metric not in known:
        raise UserError(f"there is no decision for the metric {metric!r}{suggest(metric, known)}")
    return known[metric]


def decision_from_json(data: dict[str, Any], hierarchy: LabelHierarchy | None = None) -> Decision:
    """Return the decision that `to_json` wrote; an unknown kind or fields of another are a `UserError`.

    hierarchy: that of the run, for decisions that are closed by it.
    """
    fields = dict(data)
    kinds: dict[str, type[Decision]] = {made.kind: made for made in typing.get_args(Decision)}
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise UserError(f"unknown decision {kind!r}{suggest(str(kind), kinds)}")
    expected = {field.name for field in dataclasses.fields(kinds[kind])} - {"hierarchy"}
    if fields.keys() != expected:
        raise UserError(f"decision {kind!r}: has the fields {sorted(fields)}, needs {sorted(expected)}")
    if "grid" in fields:
        fields["grid"] = tuple(fields["grid"])
    if "log_thresholds" in fields:
        fields["log_thresholds"] = np.asarray(fields["log_thresholds"], np.float32)
    if "thresholds" in fields:
        if hierarchy is None:
            raise UserError(f"decision {kind!r}: there is no hierarchy to close it by")
        fields |= {"thresholds": decision_from_json(fields["thresholds"]), "hierarchy": hierarchy}
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


def fit_label_thresholds(counts: ValidationCounts, fallback: float = 0.0, least_positives: int = 0) -> LabelThresholds:
    """Return each label's best threshold for its own F1; of equally good ones the closest to ½.

    F1 = 2 TP / (predicted + true) only rises where the threshold falls below the score of a positive, so that
    one of the cuts just below a positive's score is best. A cut lies halfway, in the logarithm, between that
    score and the next lower one of the label, or at half the score where there is none (or it is probability
    0). A label without positives, or with all of them at probability 0, stays at ½: the split says nothing
    about it, and to never predict it would give up its F1 on every other split. Exact.

    fallback: where the best F1 is lower, as it is of rare labels whose threshold says little, the threshold is the
    label's highest score on the split (SCutFBR.1 of Yang, "A Study of Thresholding Strategies for Text Categorization",
    2001; Fan & Lin, "A Study on Threshold Selection for Multi-label Classification", 2007, on its choice).

    least_positives: labels of fewer positives on the split, none too, share one threshold: that of the counts' grid
    which is best for macro-F1. A threshold of a label's own that so few positives decide would carry over badly.

    Counts of another type are a `TypeError`.
    Source: Lipton, Elkan & Narayanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014.
    """
    _require_validation(counts)
    ranks, positives = counts.ranks, counts.ranks.positives
    log_thresholds = np.full(len(counts.at_thresholds[0].tp), _round_down(math.log(0.5)))
    true = positives.count[positives.group]
    f1 = np.where(np.isneginf(positives.scores), 0.0, 2 * ranks.hits / (ranks.hits + ranks.alarms + true))
    highest = np.maximum.reduceat(f1, positives.first) if len(f1) else f1
    best = np.flatnonzero((f1 > 0) & (f1 == highest[positives.group]))
    score, below = positives.scores[best].astype(np.float64), ranks.next_lower[best].astype(np.float64)
    cuts = np.where(np.isneginf(below), score - math.log(2), (below + score) / 2)
    # By label, the closest to ½ first; of two as close the one of the lower score.
    order = np.lexsort((np.abs(np.exp(cuts) - 0.5), positives.group[best]))
    fitted, chosen = np.unique(positives.group[best][order], return_index=True)
    log_thresholds[positives.labels[fitted]] = _round_down(cuts[order[chosen]])
    fallen_back = positives.labels[fitted[highest[fitted] < fallback]]
    log_thresholds[fallen_back] = ranks.highest[fallen_back]
    number = np.zeros(len(log_thresholds), np.int64)
    number[positives.labels] = positives.count
    sharing = number < least_positives
    unfitted = ~sharing
    unfitted[positives.labels[fitted]] = False
    if sharing.any():
        log_thresholds[sharing] = _log_threshold(fit_global_threshold(counts, "macro_f1").threshold)
    return LabelThresholds(
        log_thresholds,
        num_unfitted=int(unfitted.sum()),
        fallback=fallback,
        num_fallen_back=int((~sharing[fallen_back]).sum()),
        least_positives=least_positives,
        num_sharing=int(sharing.sum()),
        fitted_on=counts.fingerprint,
    )


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
