"""Calibration: maps after which a label of probability p is on in a share p of examples, fitted on validation.

There are two places for them, ``config.evaluate.calibration_of``:

- ``marginals``: one map of the log-odds of all labels alike, which never falls, so that no child comes above a parent,
  bit for bit. It changes marginals and what is decided by them. The loss, the mode and other label sets that are taken
  from the distribution itself stay as they are. Equal values of an isotonic map make ties in rankings.
- ``scores``: an affine map of each label's scores before the head (`ScoreMaps`). Marginals, loss, mode and other label
  sets are those of the distribution that the head makes of them, coherent wherever the head is.

Kinds: ``temperature`` divides by one number, ``platt`` is affine, ``isotonic``, of marginals alone, is free but for its
direction. A map is fitted before decisions are, which see what it makes of the validation split; after a refit it stays
what it was. What is validated while a run trains is not calibrated.

Sources: Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods",
1999; Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002; Guo,
Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Float64, Int64
from ml_collections import ConfigDict
from scipy import optimize, special

from mlresearch.errors import UserError, suggest
from mlresearch.files import write_json
from mlresearch.label_space import LabelSets
from mlresearch.logspace import CERTAIN, LOGIT_BOUND, at_least_float32
from mlresearch.pytree import pytree_dataclass
from mlresearch.scored import ScoredRows, ScoredSplit

KINDS = ("temperature", "platt", "isotonic")

PLACES = ("marginals", "scores")

BINS_A_UNIT = 1024
"""Cells whose log-odds lie in one of so many parts of a unit count as one of their mean; see `ValidationCells`."""

STEEPEST = 100.0
"""The largest slope of a map; the least of a temperature, and of a map of scores, is 1 over it."""


@dataclasses.dataclass(frozen=True)
class Method:
    """How probabilities are calibrated: ``config.evaluate``.

    kind: one of `KINDS`, empty for not at all; place: one of `PLACES`. Others, and isotonic maps of scores, are
    `UserError`s.
    """

    kind: str = ""
    place: str = "marginals"

    @classmethod
    def of(cls, config: ConfigDict) -> "Method":
        """Return that of a run's config."""
        return cls(config.evaluate.calibration, config.evaluate.calibration_of)

    def __post_init__(self) -> None:
        if self.kind not in ("", *KINDS):
            raise UserError(f"config.evaluate.calibration is {self.kind!r}{suggest(self.kind, KINDS)}")
        if self.place not in PLACES:
            raise UserError(f"config.evaluate.calibration_of is {self.place!r}{suggest(self.place, PLACES)}")
        if self.kind == "isotonic" and self.place == "scores":
            raise UserError(
                "config.evaluate.calibration = 'isotonic' is a map of marginals, of all labels alike: one label's "
                "validation is too little for it. Set calibration_of = 'marginals', or calibration = 'platt'"
            )

    def check(self, validation: LabelSets) -> None:
        """Raise `UserError` where marginals are to be calibrated to soft labels."""
        if self.kind and self.place == "marginals" and validation.has_soft:
            raise UserError(
                "config.evaluate.calibration of marginals counts labels that are on or off, and the validation split "
                "has soft ones; set config.evaluate.calibration_of = 'scores', or calibration = ''"
            )


class MarginalMap(abc.ABC):
    """A map of log-odds that never falls."""

    @abc.abstractmethod
    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return the mapped log-odds, by operations that are monotone in floating point, too."""

    def __call__(self, log_marginals: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
        """Return the log-marginals under the map: of two, the larger one never becomes the smaller one, bit for bit.

        Log-odds of different float32 numbers differ by far more than float64 rounds, and so does log σ of float32
        numbers; between the two there are the map's operations and rounding, which are monotone.
        """
        narrow = self.of_log_odds(log_odds_of(log_marginals)).astype(np.float32)
        return -_softplus(-narrow.astype(np.float64)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Temperature(MarginalMap):
    """Log-odds divided by one number, above 0; a half stays a half. fitted_on: fingerprint of the split."""

    kind: ClassVar[str] = "temperature"

    temperature: float
    fitted_on: str

    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return z / t."""
        return log_odds / self.temperature

    def to_json(self) -> dict[str, Any]:
        """Return the map in JSON's types."""
        return {"kind": self.kind, "of": "marginals"} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Platt(MarginalMap):
    """An affine map of log-odds, with a slope of at least 0. fitted_on: fingerprint of the split."""

    kind: ClassVar[str] = "platt"

    slope: float
    intercept: float
    fitted_on: str

    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return a z + b."""
        return self.slope * log_odds + self.intercept

    def to_json(self) -> dict[str, Any]:
        """Return the map in JSON's types."""
        return {"kind": self.kind, "of": "marginals"} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Isotonic(MarginalMap):
    """Log-odds by a curve that never falls: straight between its points, level beyond them.

    log_odds: where the points lie, ascending; values: the mapped ones. fitted_on: fingerprint of the split. Levels end
    where cells of validation lie: rounding, which devices do each in its way, may tell apart there what ties.
    """

    kind: ClassVar[str] = "isotonic"

    log_odds: Float64[np.ndarray, "points"]
    values: Float64[np.ndarray, "points"]
    fitted_on: str

    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return the curve's value."""
        after = np.minimum(np.searchsorted(self.log_odds, log_odds, side="right"), len(self.log_odds) - 1)
        # What rounding adds to a straight line would lie above the next one's beginning.
        return np.minimum(np.interp(log_odds, self.log_odds, self.values), self.values[after])

    def to_json(self) -> dict[str, Any]:
        """Return the map in JSON's types."""
        points = {"log_odds": self.log_odds.tolist(), "values": self.values.tolist()}
        return {"kind": self.kind, "of": "marginals", **points, "fitted_on": self.fitted_on}


@pytree_dataclass
class ScoreMaps:
    """Of each label's scores s before the head a s + b, a > 0; where a head asks for several scores, they share it.

    kind: ``temperature``, where b = 0, or ``platt``. fitted_on: fingerprint of the split. Those of several runs are one
    with a leading axis.
    """

    scale: Float[Array | np.ndarray, "*runs labels"]
    shift: Float[Array | np.ndarray, "*runs labels"]
    kind: str = dataclasses.field(metadata={"static": True})
    fitted_on: str = dataclasses.field(metadata={"static": True})

    def __call__(
        self, label_scores: Float[Array, "batch labels scores_per_label"]
    ) -> Float[Array, "batch labels scores_per_label"]:
        """Return the scores under the maps, float32 or wider."""
        scores = at_least_float32(label_scores)
        return scores * self.scale.astype(scores.dtype)[:, None] + self.shift.astype(scores.dtype)[:, None]

    def to_json(self) -> dict[str, Any]:
        """Return the maps in JSON's types; float32 values come back bit for bit."""
        numbers = {"scale": self.scale.tolist(), "shift": self.shift.tolist()}
        return {"kind": self.kind, "of": "scores", **numbers, "fitted_on": self.fitted_on}


Calibration = Temperature | Platt | Isotonic | ScoreMaps


def calibration_from_json(data: dict[str, Any]) -> Calibration:
    """Return the calibration that `to_json` wrote; an unknown kind or fields of another are a `UserError`."""
    fields = dict(data)
    kind, place = fields.pop("kind", None), fields.pop("of", None)
    classes: dict[str, Any] = {of.kind: of for of in (Temperature, Platt, Isotonic)}
    if place == "scores":
        classes = dict.fromkeys(("temperature", "platt"), ScoreMaps)
    if kind not in classes or place not in PLACES:
        raise UserError(f"unknown calibration {kind!r} of {place!r}{suggest(str(kind), classes)}")
    made = classes[kind]
    expected = {field.name for field in dataclasses.fields(made)} - {"kind"}
    if fields.keys() != expected:
        raise UserError(f"calibration {kind!r} of {place!r}: has the fields {sorted(fields)}, needs {sorted(expected)}")
    dtype = np.float32 if made is ScoreMaps else np.float64
    values = {name: np.asarray(of, dtype) if isinstance(of, list) else of for name, of in fields.items()}
    found: Calibration = made(**values, **({"kind": kind} if made is ScoreMaps else {}))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationCells:
    """The known cells of the validation split, pooled by log-odds: the only thing that maps of marginals are fitted on.

    fingerprint: of the split's data. A bin is `BINS_A_UNIT`-th of a unit wide, between ±`LOGIT_BOUND`, beyond which
    log-odds count as these: memory is that of the bins, however many cells there are. Of each bin that is not empty:
    count, its cells; on, those that are on; log_odds: their mean, so that what pooling changes in a loss is of second
    order in the width. Any other split is a `TypeError`.
    """

    split: str
    fingerprint: str
    count: Int64[np.ndarray, "bins"]
    on: Int64[np.ndarray, "bins"]
    log_odds: Float64[np.ndarray, "bins"]

    def __post_init__(self) -> None:
        require_validation(self.split, type(self).__name__)

    @property
    def says_something(self) -> bool:
        """Whether some cells are on and some are off."""
        return bool(0 < self.on.sum() < self.count.sum())


def require_validation(split: str, name: str) -> None:
    """Raise a `TypeError` for another split than validation."""
    if split != "validation":
        raise TypeError(f"{name} of the split {split!r}: only 'validation' makes them")


def pool_cells(scored: ScoredSplit) -> list[ValidationCells | None]:
    """Return the pooled cells of each run; None for a run that has diverged: some of its marginals are NaN."""
    num_bins = 2 * int(LOGIT_BOUND) * BINS_A_UNIT
    sums: list[Float64[np.ndarray, "3 bins"]] = []
    for block in scored:
        sums = sums or [np.zeros((3, num_bins)) for _ in block]
        for own, each in zip(sums, block, strict=True):
            log_odds, on = _known_cells(each)
            if np.isnan(log_odds).any():
                own[:] = np.nan
                continue
            at = ((log_odds + LOGIT_BOUND) * BINS_A_UNIT).astype(np.int64).clip(0, num_bins - 1)
            for row, weights in enumerate((None, on, log_odds)):
                own[row] += np.bincount(at, weights, num_bins)
    return [None if np.isnan(own).any() else _cells_of(scored, own[:, own[0] > 0]) for own in sums]


def _cells_of(scored: ScoredSplit, sums: Float64[np.ndarray, "3 bins"]) -> ValidationCells:
    count, on, total = sums
    whole = count.astype(np.int64), on.astype(np.int64)
    return ValidationCells(scored.name, scored.fingerprint, *whole, total / count)


def _known_cells(scores: ScoredRows) -> tuple[Float64[np.ndarray, "cells"], Bool[np.ndarray, "cells"]]:
    """Return the log-odds of the known cells, within ±`LOGIT_BOUND`, and which are on."""
    known = slice(None) if scores.known is None else scores.known.ravel()
    log_odds = log_odds_of(scores.log_marginals.ravel()[known])
    return np.maximum(log_odds, -LOGIT_BOUND), scores.labels.ravel()[known]


def log_odds_of(log_marginals: Float32[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return log p − log(1 − p), at most `LOGIT_BOUND` and at least −`CERTAIN`."""
    wide = log_marginals.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(wide - np.log(-np.expm1(wide)), -CERTAIN, LOGIT_BOUND)


def fit_temperature(cells: ValidationCells) -> Temperature:
    """Return the temperature of the least cross-entropy, between 1 / `STEEPEST` and `STEEPEST`; 1 if nothing says it.

    The cross-entropy is convex in the slope 1 / t. Cells of another type are a `TypeError`.
    """
    _require_cells(cells)

    def derivative(slope: float) -> float:
        return float(cells.log_odds @ (cells.count * special.expit(slope * cells.log_odds) - cells.on))

    flattest = 1 / STEEPEST
    if not cells.says_something:
        slope = 1.0
    elif derivative(flattest) >= 0:
        slope = flattest
    elif derivative(STEEPEST) <= 0:
        slope = STEEPEST
    else:
        slope = optimize.brentq(derivative, flattest, STEEPEST, xtol=1e-12)
    return Temperature(1 / slope, cells.fingerprint)


def fit_platt(cells: ValidationCells) -> Platt:
    """Return the slope and the intercept of the least cross-entropy; the identity if nothing says them.

    The slope lies between 0 and `STEEPEST`, the intercept between ±`LOGIT_BOUND`. Labels are counted as they are, not
    drawn towards a half as by Platt: cells of all labels are many. Cells of another type are a `TypeError`.
    """
    _require_cells(cells)
    if not cells.says_something:
        return Platt(1.0, 0.0, cells.fingerprint)
    num_on = cells.on.sum()

    def loss(numbers: Float64[np.ndarray, "2"]) -> tuple[float, Float64[np.ndarray, "2"]]:
        mapped = numbers[0] * cells.log_odds + numbers[1]
        residual = cells.count * special.expit(mapped) - cells.on
        slope = np.array([cells.log_odds @ residual, residual.sum()])
        return _cross_entropy(mapped, cells.on, cells.count) / num_on, slope / num_on

    found = optimize.minimize(
        loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, STEEPEST), (-LOGIT_BOUND, LOGIT_BOUND)],
        options={"ftol": 0.0, "gtol": 1e-10, "maxiter": 1000},
    )
    return Platt(float(found.x[0]), float(found.x[1]), cells.fingerprint)


def fit_isotonic(cells: ValidationCells) -> Isotonic:
    """Return the curve that never falls of the least squared (and cross-entropy) loss; the identity if nothing says it.

    Pools adjacent violators. Of N cells, no probability is nearer to 0 or 1 than 1 / (N + 2): that none of some cells
    is on does not mean that none ever will be. Cells of another type are a `TypeError`.
    """
    _require_cells(cells)
    if not cells.says_something:
        ends = np.array([-LOGIT_BOUND, LOGIT_BOUND])
        return Isotonic(ends, ends, cells.fingerprint)
    least = 1 / (cells.count.sum() + 2)
    shares = optimize.isotonic_regression(cells.on / cells.count, weights=cells.count).x.clip(least, 1 - least)
    differs = shares[1:] != shares[:-1]
    corner = np.append(True, differs) | np.append(differs, True)  # the first and the last of equal ones
    return Isotonic(cells.log_odds[corner], special.logit(shares[corner]), cells.fingerprint)


def _require_cells(cells: ValidationCells) -> None:
    """Raise a `TypeError` unless the cells come from the validation split."""
    if not isinstance(cells, ValidationCells):
        raise TypeError(
            f"maps are fitted on ValidationCells only, not on {type(cells).__name__} "
            f"of the split {getattr(cells, 'split', getattr(cells, 'name', None))!r}"
        )


FITS: dict[str, Callable[[ValidationCells], Temperature | Platt | Isotonic]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


class MappedSplit(ScoredSplit):
    """A scored split whose log-marginals are those under each run's map, None for as they are."""

    def __init__(self, split: ScoredSplit, maps: Sequence[MarginalMap | None]) -> None:
        self.name, self.fingerprint, self.whole = split.name, split.fingerprint, split.whole
        self.labels, self.num_labels = split.labels, split.num_labels
        self._split, self._maps = split, maps

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[list[ScoredRows]]:
        for block in self._split:
            yield [
                each if own is None else each._replace(log_marginals=own(each.log_marginals))
                for each, own in zip(block, self._maps, strict=True)
            ]


def score_maps(calibrations: Sequence[Calibration | None]) -> list[ScoreMaps]:
    """Return the maps of scores among the calibrations of runs, the identity of one that diverged."""
    found = [own for own in calibrations if isinstance(own, ScoreMaps)]
    if not found:
        return []
    scale = np.ones_like(found[0].scale)
    identity = dataclasses.replace(found[0], scale=scale, shift=np.zeros_like(scale))
    return [own if isinstance(own, ScoreMaps) else identity for own in calibrations]


def cross_entropies(scored: ScoredSplit) -> list[float | None]:
    """Return each run's mean over examples of the marginals' cross-entropy, summed over known labels; None if NaN."""
    sums: list[float] = []
    for block in scored:
        sums = sums or [0.0] * len(block)
        for run, each in enumerate(block):
            log_odds, on = _known_cells(each)
            sums[run] += _cross_entropy(log_odds, on, np.ones(len(on), np.int64))
    return [None if np.isnan(total) else total / len(scored) for total in sums]


def _cross_entropy(
    log_odds: Float64[np.ndarray, "cells"],
    on: Int64[np.ndarray, "cells"] | Bool[np.ndarray, "cells"],
    count: Int64[np.ndarray, "cells"],
) -> float:
    """Return −Σ log P(label) over cells, of which `count` have the same log-odds and `on` are on."""
    return float(count @ _softplus(log_odds) - on @ log_odds)


def _softplus(x: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return log(1 + eˣ); of NaN it is NaN, without a warning."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrations:
    """Those of all runs of a program, and what they do to scored splits.

    each: one a run, None for a run that has diverged; empty where there is none.
    """

    method: Method = Method()
    each: Sequence[Calibration | None] = ()

    @classmethod
    def of_marginals(cls, plain: ScoredSplit, method: Method) -> "Calibrations":
        """Return each run's map of marginals, fitted on what it says of validation, where the method is one of these.

        Another split is a `TypeError`.
        """
        if not method.kind or method.place != "marginals":
            return cls()
        pooled = pool_cells(plain)
        return cls(method, [None if cells is None else FITS[method.kind](cells) for cells in pooled])

    def apply(
        self, plain: ScoredSplit, say: Callable[[str, Sequence[ScoreMaps]], ScoredSplit] | None = None
    ) -> ScoredSplit:
        """Return a scored split calibrated.

        say: scores a split by its name anew, with maps of each run's scores; where there are none, it is not needed.
        """
        if not self.each:
            return plain
        if self.method.place == "marginals":
            return MappedSplit(plain, [own for own in self.each if not isinstance(own, ScoreMaps)])
        assert say is not None
        return say(plain.name, score_maps(self.each))

    def note(self, records: Sequence[dict[str, Any]], plain: ScoredSplit, calibrated: ScoredSplit) -> None:
        """Write into run records the marginals' cross-entropy of a split before and after calibration, if there is one.

        See `cross_entropies`.
        """
        if not self.each:
            return
        for record, before, after in zip(records, cross_entropies(plain), cross_entropies(calibrated), strict=True):
            known = record.setdefault("calibration", {"kind": self.method.kind, "of": self.method.place})
            known[plain.name] = {"before": before, "after": after}

    def write(self, folder: Path, run: int = 0) -> None:
        """Write ``calibration.json`` of a run, if it has one."""
        own = self.each[run] if self.each else None
        if own is not None:
            write_json(folder / "calibration.json", own.to_json())
