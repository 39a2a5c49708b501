"""Macro-F1 by frequency and propensity-scored precision against scikit-learn, loops and numbers worked by hand."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from mlresearch.label_space import Frequencies, LabelSets
from mlresearch.metrics import ExampleRanks, LabelCounts, frequency_bins, inverse_propensities, macro_f1_in_bins

TOLERANCE = 1e-12


def frequencies_of(on, known=100):
    return Frequencies(np.array(on, np.float64), np.full(len(on), known))


def test_bins_are_equal_parts_of_the_labels_that_occur():
    # By frequency: 3 (9), 0 and 4 (5), 6 (2), 2 (1), 5 (0.5, of soft labels); 1 and 7 never occur.
    found = frequency_bins(frequencies_of([5, 0, 1, 9, 5, 0.5, 2, 0]))
    assert {name: ids.tolist() for name, ids in found.items()} == {"head": [3, 0], "middle": [4, 6], "tail": [2, 5]}
    sizes = [[len(ids) for ids in frequency_bins(frequencies_of([1] * count)).values()] for count in (0, 1, 5, 7)]
    assert sizes == [[0, 0, 0], [1, 0, 0], [2, 2, 1], [3, 2, 2]]


def test_macro_f1_of_a_bin_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    for _ in range(30):
        labels, preds = rng.random((2, 12, 9)) < rng.random((2, 1, 9))
        frequencies = frequencies_of(rng.integers(0, 6, 9))
        counts = LabelCounts.of(preds, labels, np.ones(12, bool), None)
        bins = frequency_bins(frequencies)
        expected = {
            f"macro_f1_{name}": f1_score(labels, preds, labels=ids, average="macro", zero_division=0)
            for name, ids in bins.items()
            if len(ids)
        }
        assert macro_f1_in_bins(counts, bins) == pytest.approx(expected, rel=TOLERANCE)


def test_bins_without_labels_are_left_out():
    counts = LabelCounts.of(*np.ones((2, 3, 2), bool), np.ones(3, bool), None)
    assert macro_f1_in_bins(counts, frequency_bins(frequencies_of([0, 3]))) == {"macro_f1_head": 1.0}


def test_propensities_are_those_of_the_formula():
    # p = 1 / (1 + C e^(−A log(n + B))), C = (log N − 1)(B + 1)^A
    c = (math.log(100) - 1) * 2.5**0.55
    expected = [1 + c * math.exp(-0.55 * math.log(on + 1.5)) for on in (0, 1, 98.5)]
    np.testing.assert_allclose(inverse_propensities(frequencies_of([0, 1, 98.5])), expected, rtol=TOLERANCE)
    few = inverse_propensities(Frequencies(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 2])))
    assert few.tolist() == [1, 1, 1]  # no propensity is above 1, though log N is below 1


def gains_of(scores, labels, known, weights):
    return {
        name: value
        for name, value in ExampleRanks.of(scores, labels, known, weights).compute().items()
        if name.startswith("propensity")
    }


def test_a_hand_worked_example():
    # 1 / p: a 1, b 4, c 2, d 3.    by score      true    among 1  among 3   the best
    #   example 0                   a b c d       a b d   1        1 + 4     4, then 4 + 3 + 1
    #   example 1                   c d a b       b       0        0         4, then 4
    weights = np.array([1.0, 4.0, 2.0, 3.0])
    scores = np.array([[4, 3, 2, 1], [2, 1, 4, 3]], np.float32)
    labels = np.array([[1, 1, 0, 1], [0, 1, 0, 0]], bool)
    expected = {"propensity_precision_at_1": 1 / 8, "propensity_precision_at_3": 5 / 12}
    assert gains_of(scores, labels, None, weights) == pytest.approx(expected, rel=TOLERANCE)


@st.composite
def splits(draw):
    shape = draw(st.integers(1, 8)), draw(st.integers(1, 7))
    scores = hnp.arrays(np.float32, shape, elements=st.sampled_from([-np.inf, -2.0, -1.0, -0.5, 0.0]))
    weights = hnp.arrays(np.float64, shape[1], elements=st.sampled_from([1.0, 1.5, 2.25, 7.0]))
    return draw(scores), draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape)), draw(weights)


@given(split=splits(), data=st.data())
def test_propensity_scored_precision_is_a_ratio_of_sums(split, data):
    scores, labels, known, weights = split
    expected = {}
    for k in (1, 3, 5):
        gain = best = 0.0
        for row, true, row_known in zip(scores.tolist(), labels & known, known, strict=True):
            if row_known.sum() >= k:
                ranked = sorted(np.flatnonzero(row_known), key=lambda at, row=row: (-row[at], at))
                gain += sum(weights[at] for at in ranked[:k] if true[at])
                best += sum(sorted(weights[true], reverse=True)[:k])
        if best and k <= labels.shape[1]:
            expected[f"propensity_precision_at_{k}"] = gain / best
    assert gains_of(scores, labels, known, weights) == pytest.approx(expected, rel=TOLERANCE)
    order = data.draw(st.permutations(range(len(scores))))
    parts = [ExampleRanks.of(scores[[row]], labels[[row]], known[[row]], weights) for row in order]
    merged = functools.reduce(ExampleRanks.merge, parts).compute()
    assert merged == pytest.approx(ExampleRanks.of(scores, labels, known, weights).compute(), rel=TOLERANCE)
    ideal = np.where(labels, weights, 0).astype(np.float32)  # the rarest of the true labels first
    assert gains_of(ideal, labels, known, weights) == pytest.approx(dict.fromkeys(expected, 1.0), rel=TOLERANCE)


def test_of_labels_equally_frequent_it_is_precision():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((20, 12)).astype(np.float32), np.zeros((20, 12), bool)
    for row in labels:
        row[rng.choice(12, 6, replace=False)] = True  # no fewer than k, so that k of them can be found
    found = ExampleRanks.of(scores, labels, None, inverse_propensities(frequencies_of([7] * 12))).compute()
    for k in (1, 3, 5):
        assert found[f"propensity_precision_at_{k}"] == pytest.approx(found[f"precision_at_{k}"], rel=TOLERANCE)


def test_labels_that_are_nowhere_on_have_frequencies_too():
    found = LabelSets.from_rows([(), ()]).frequencies(3)
    assert found.on.dtype == np.float64
    assert (found.on.tolist(), found.known.tolist()) == ([0.0] * 3, [2] * 3)
    assert not any(len(ids) for ids in frequency_bins(found).values())
