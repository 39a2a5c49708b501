"""Tests of significance against enumeration and against the definitions they come from."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mlresearch.resampling import draw_weights
from mlresearch.tables.significance import bootstrap, holm, least_p, seeds_needed, wilcoxon

p_values = st.lists(st.floats(1e-6, 1) | st.sampled_from([0.01, 0.02, 0.05]), min_size=1, max_size=9)


def rejected_by_holm(values, alpha):
    """The procedure as it was published: reject the smallest p while it is at most α / (hypotheses left)."""
    left = sorted(range(len(values)), key=lambda at: values[at])
    rejected = set()
    while left and values[left[0]] * len(left) <= alpha:
        rejected.add(left.pop(0))
    return rejected


@given(p_values, st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.3]))
def test_holm_rejects_what_the_procedure_rejects(values, alpha):
    adjusted = holm(values)
    assert {at for at, p in enumerate(adjusted) if p <= alpha} == rejected_by_holm(values, alpha)


@given(p_values)
def test_an_adjusted_p_is_the_least_level_that_rejects(values):
    for at, p in enumerate(holm(values)):
        assert values[at] <= p <= 1
        if p < 1:
            assert at in rejected_by_holm(values, p * (1 + 1e-9))
            assert at not in rejected_by_holm(values, p * (1 - 1e-9))


@given(st.permutations([0.001, 0.004, 0.02, 0.02, 0.3]))
def test_holm_does_not_depend_on_the_order(values):
    alone = dict(zip([0.001, 0.004, 0.02, 0.02, 0.3], holm([0.001, 0.004, 0.02, 0.02, 0.3]), strict=True))
    assert holm(values) == [alone[value] for value in values]


def exact_wilcoxon(differences):
    """The share of all sign flips whose sum of signed mid-ranks is at least as far from its mean, two-sided."""
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    ranks = scipy.stats.rankdata(np.abs(differences))
    observed = ranks[differences > 0].sum()
    flips = np.array(list(itertools.product((0, 1), repeat=len(ranks)))) @ ranks
    return min(1.0, 2 * min((flips >= observed).mean(), (flips <= observed).mean()))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_wilcoxon_is_exact_with_ties_and_zeros(differences):
    differences = np.array(differences) / 7
    assert wilcoxon(differences) == pytest.approx(exact_wilcoxon(differences))
    assert wilcoxon(-differences) == pytest.approx(wilcoxon(differences))


def test_wilcoxon_takes_differences_that_differ_by_rounding_as_equal():
    first, second = np.array([0.3, 0.2, 0.7, 0.9]), np.array([0.2, 0.1, 0.8, 0.7])
    assert len({float(abs(value)) for value in first - second}) > 2  # 0.3 − 0.2 is not 0.2 − 0.1
    assert wilcoxon(first - second) == pytest.approx(exact_wilcoxon(np.array([1, 1, -1, 2])))


@pytest.mark.parametrize("units", range(2, 12))
def test_no_data_have_a_smaller_p_than_the_least(units):
    same_sign = np.arange(1, units + 1) / 10
    assert wilcoxon(same_sign) == pytest.approx(least_p(units))
    assert exact_wilcoxon(same_sign) == pytest.approx(least_p(units))


def test_six_seeds_are_needed_for_one_comparison():
    assert seeds_needed(1, 0.05) == 6
    for comparisons, alpha in itertools.product((1, 3, 24, 500), (0.05, 0.01)):
        units = seeds_needed(comparisons, alpha)
        assert holm([least_p(units)] * comparisons)[0] <= alpha < holm([least_p(units - 1)] * comparisons)[0]


@given(st.lists(st.integers(-5, 9), min_size=2, max_size=5))
def test_bootstrap_agrees_with_all_resamples(differences):
    differences = np.array(differences) / 10
    units, resamples = len(differences), 20_000
    everything = np.array(list(itertools.product(differences, repeat=units))).mean(axis=1)
    mean = differences.mean()
    exact = (np.abs(everything - mean) >= abs(mean) - 1e-9).mean()
    drawn = np.concatenate([weights @ differences for weights in draw_weights(units, resamples, 0)]) / units
    assert bootstrap(float(mean), drawn) == pytest.approx(exact, abs=5 * 0.5 / np.sqrt(resamples))


def test_bootstrap_is_never_below_its_floor():
    drawn = np.full(999, 0.2)  # as all resamples of equal differences are
    assert bootstrap(0.2, drawn) == pytest.approx(1 / 1000)
    assert bootstrap(0.2, drawn, least_p(3)) == 0.25
    assert bootstrap(0.0, np.zeros(999)) == 1.0


def test_bootstrap_keeps_its_level_where_nothing_differs():
    rng = np.random.default_rng(0)
    false_calls = 0
    for _ in range(300):
        differences = rng.normal(size=40)
        drawn = np.concatenate([weights @ differences for weights in draw_weights(40, 500, 1)]) / 40
        false_calls += bootstrap(float(differences.mean()), drawn) <= 0.05
    assert 3 <= false_calls <= 32  # about 15 to 18 of 300; four standard deviations
