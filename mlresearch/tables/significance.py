"""Paired tests of two rows of a table, and what many of them together may claim.

Two-sided all of them. A unit is what is drawn anew: a seed, or an example.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

TESTS = ("wilcoxon", "bootstrap")

DIGITS = 12
"""Decimals of a difference that count: 0.3 − 0.2 and 0.2 − 0.1 are one difference, not two ranks."""


def wilcoxon(differences: Float[np.ndarray, "units"]) -> float:
    """Return the p-value of the signed-rank test that differences are symmetric about 0.

    Differences of 0 are left out; where all are, p = 1. Exact up to 50 units without equal sizes and up to 13 with
    some; beyond that the normal approximation. Source: Wilcoxon, "Individual Comparisons by Ranking Methods", 1945.
    """
    differences = np.round(differences, DIGITS)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def bootstrap(observed: float, resampled: Float[np.ndarray, "resamples"], least: float = 0.0) -> float:
    """Return the p-value of an observed difference d, given the same difference d* in each resample.

        p = (1 + #{|d* − d| ≥ |d|}) / (1 + #resamples),    but no less than `least`

    The resamples are shifted to a mean difference of 0, as the hypothesis has it. Source: Efron & Tibshirani,
    "An Introduction to the Bootstrap", 1993, section 16.4.
    """
    extreme = np.round(np.abs(resampled - observed), DIGITS) >= np.round(abs(observed), DIGITS)
    return max((1 + int(extreme.sum())) / (1 + len(resampled)), least)


def least_p(units: int) -> float:
    """Return the least p-value that so many units allow: ``2^(1 − units)``, where all differences have one sign.

    It is the least of Wilcoxon's exact test, and a floor under the bootstrap: all resamples of two differences may
    point one way, and prove nothing.
    """
    return math.ldexp(1.0, 1 - units)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number m: calling those up to α significant has a chance of α to err at all.

        adjusted p of the k-th smallest = max over j ≤ k of min(1, (m − j + 1) · p of the j-th smallest)

    That holds however the tests depend on each other.
    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return adjusted.tolist()


def seeds_needed(comparisons: int, alpha: float) -> int:
    """Return the least number of seeds with which any of so many comparisons can be significant after `holm`."""
    return next(units for units in range(2, 1100) if comparisons * least_p(units) <= alpha)
