"""Rows compared over several data sets at once: mean ranks, whether they differ, and by how much they have to."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

DIGITS = 12
"""Decimals of a value that count: rows that are equal but for rounding share a rank."""


class MeanRanks(NamedTuple):
    """Ranks of rows within each data set, 1 the best and ties shared, and their means over data sets.

    ranks: the mean rank of each row, best first. num_data_sets: N. p_value: of Friedman's hypothesis that all rows are
    alike, by the F-statistic of Iman and Davenport. critical_difference: two rows whose mean ranks differ by less
    are not told apart at `alpha`, by Nemenyi's test of all pairs.
    """

    ranks: Mapping[str, float]
    num_data_sets: int
    p_value: float
    critical_difference: float
    alpha: float

    @property
    def cliques(self) -> list[tuple[str, ...]]:
        """Largest groups of rows, neighbours by mean rank, that are not told apart; each of at least two rows."""
        names, ranks = list(self.ranks), list(self.ranks.values())
        found: list[tuple[int, int]] = []
        for start, rank in enumerate(ranks):
            stop = max(end for end, other in enumerate(ranks) if other - rank < self.critical_difference)
            if stop > start and (not found or stop > found[-1][1]):
                found.append((start, stop))
        return [tuple(names[start : stop + 1]) for start, stop in found]


def mean_ranks(values: Mapping[str, Sequence[float]], *, better: int, alpha: float) -> MeanRanks | None:
    """Return the mean ranks of rows; None of fewer than three rows or two data sets, which no test can tell apart.

    values: of each row, one a data set. better: 1 where more is better, −1 where less is. With N data sets and k rows
    of mean ranks Rⱼ

        χ² = 12 N / (k (k + 1)) · (Σ Rⱼ² − k (k + 1)² / 4), corrected for ties,
        F = (N − 1) χ² / (N (k − 1) − χ²) with k − 1 and (k − 1) (N − 1) degrees of freedom,
        critical difference = q √(k (k + 1) / 6 N),

    q the studentised range's quantile for k groups and ∞ degrees of freedom, over √2.

    Sources: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", 2006; Friedman, "A Comparison of
    Alternative Tests of Significance for the Problem of m Rankings", 1940; Iman and Davenport, "Approximations of the
    Critical Region of the Friedman Statistic", 1980; Nemenyi, "Distribution-free Multiple Comparisons", 1963.
    """
    table = np.array(list(values.values()), np.float64).round(DIGITS).T
    num_data_sets, num_rows = table.shape if table.ndim == 2 else (0, 0)
    if num_rows < 3 or num_data_sets < 2:
        return None
    ranks = stats.rankdata(-better * table, axis=1).mean(axis=0)
    if (table == table[:, :1]).all():
        p_value = 1.0
    else:
        chi2 = float(stats.friedmanchisquare(*table.T).statistic)
        rest = num_data_sets * (num_rows - 1) - chi2
        degrees = num_rows - 1, (num_rows - 1) * (num_data_sets - 1)
        p_value = float(stats.f.sf((num_data_sets - 1) * chi2 / rest, *degrees)) if rest > 1e-9 else 0.0
    quantile = float(stats.studentized_range.ppf(1 - alpha, num_rows, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(num_rows * (num_rows + 1) / (6 * num_data_sets))
    order = np.argsort(ranks, kind="stable").tolist()
    names = list(values)
    return MeanRanks({names[at]: float(ranks[at]) for at in order}, num_data_sets, p_value, critical, alpha)
