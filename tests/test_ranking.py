"""Mean ranks over data sets against the worked example and the tables of Demšar (2006), and against definitions."""

import numpy as np
import pytest
from scipy import stats

from mlresearch.tables.ranking import mean_ranks

# AUC of C4.5 with its parameters m and cf, or both, chosen within, on 14 data sets: Demšar (2006), table 6.
AUC = {
    "C4.5": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957],
    "C4.5+m": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978],
    "C4.5+cf": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946],
    "C4.5+m+cf": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970],
}


def test_the_worked_example():
    found = mean_ranks(AUC, better=1, alpha=0.05)
    assert found.ranks == pytest.approx(
        {"C4.5+m+cf": 1.964, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5": 3.143}, abs=1e-3
    )
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)  # 1.25
    # Its χ² of 9.28, without correction for ties, gives F = 3.69 and p < .05 beyond 2.85; ties make it larger.
    assert stats.f.sf(4.5, 3, 39) < found.p_value < stats.f.sf(3.69, 3, 39)
    assert found.cliques == [("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")]
    # There, at .1, C4.5 is told apart from C4.5+m and C4.5+m+cf, and C4.5+cf from none.
    found = mean_ranks(AUC, better=1, alpha=0.1)
    assert found.cliques == [("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5")]


@pytest.mark.parametrize(
    ("alpha", "quantiles"),
    [(0.05, [2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]), (0.10, [2.052, 2.291, 2.459, 2.589, 2.693])],
)
def test_critical_values_are_those_of_the_table(alpha, quantiles):
    """Demšar (2006), table 5, from three rows on."""
    rng = np.random.default_rng(0)
    for rows, quantile in enumerate(quantiles, 3):
        found = mean_ranks({str(row): rng.random(6).tolist() for row in range(rows)}, better=1, alpha=alpha)
        assert found.critical_difference == pytest.approx(quantile * np.sqrt(rows * (rows + 1) / 36), abs=2e-3)


def test_less_is_better_turns_the_ranks_round():
    rng = np.random.default_rng(1)
    values = {name: rng.random(7).tolist() for name in "abcd"}
    more, less = (mean_ranks(values, better=better, alpha=0.05) for better in (1, -1))
    assert {name: 5 - rank for name, rank in more.ranks.items()} == pytest.approx(less.ranks)
    assert more.p_value == pytest.approx(less.p_value)
    assert list(more.ranks.values()) == sorted(more.ranks.values())


def test_rows_that_are_equal_but_for_rounding_share_a_rank():
    found = mean_ranks({"a": [0.3, 0.1, 0.2], "b": [0.1 + 0.2, 0.1, 0.2], "c": [0.0, 0.0, 0.0]}, better=1, alpha=0.05)
    assert found.ranks == {"a": 1.5, "b": 1.5, "c": 3.0}
    assert mean_ranks({name: [0.5] * 4 for name in "abc"}, better=1, alpha=0.05).p_value == 1


def test_the_p_value_is_no_smaller_than_chance_has_it():
    """Of rows that are alike, one draw in twenty or so has a p below .05."""
    rng = np.random.default_rng(2)
    draws = rng.random((2000, 12, 5))
    hits = [
        mean_ranks(dict(zip("abcde", draw.T.tolist(), strict=True)), better=1, alpha=0.05).p_value < 0.05
        for draw in draws
    ]
    assert 0.03 < np.mean(hits) < 0.07


def test_rows_always_in_one_order_differ():
    found = mean_ranks(
        {name: (np.arange(9.0) + place).tolist() for place, name in enumerate("abc")}, better=1, alpha=0.05
    )
    assert found.ranks == {"c": 1, "b": 2, "a": 3}
    assert found.p_value == 0
    assert found.cliques == [("c", "b"), ("b", "a")]


def test_too_few_rows_or_data_sets_have_no_test():
    assert mean_ranks({"a": [0.1, 0.2], "b": [0.2, 0.3]}, better=1, alpha=0.05) is None
    assert mean_ranks({"a": [0.1], "b": [0.2], "c": [0.3]}, better=1, alpha=0.05) is None
    assert mean_ranks({}, better=1, alpha=0.05) is None
