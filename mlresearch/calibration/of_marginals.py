"""Maps of the log-odds of all labels alike, fitted on what a run says of validation."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import optimize, special

from mlresearch.calibration import require_validation
from mlresearch.calibration.maps import STEEPEST, Isotonic, Platt, Temperature, log_odds_of, softplus
from mlresearch.logspace import LOGIT_BOUND
from mlresearch.scored import ScoredRows, ScoredSplit

BINS_A_UNIT = 1024
"""Cells whose log-odds lie in one of so many parts of a unit count as one of their mean; see `ValidationCells`."""


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


def cross_entropies(scored: ScoredSplit) -> list[float | None]:
    """Return each run's mean over examples of the marginals' cross-entropy, summed over known labels; None if NaN.

    Of soft labels the truth is whether they are over ½.
    """
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
    return float(count @ softplus(log_odds) - on @ log_odds)
