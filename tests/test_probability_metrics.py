"""Calibration error, Brier score and log loss against scikit-learn, plain loops and numbers worked by hand."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import brier_score_loss, log_loss

from mlresearch.errors import UserError
from mlresearch.metrics import NUM_BINS, Reliability

# Logarithms and exponentials are float32's, of 2⁻²⁴ each; sums are float64's.
TOLERANCE = 1e-5
SUMS = 1e-12


def reliability(marginals, labels, known=None):
    with np.errstate(divide="ignore"):
        return Reliability.of(np.log(marginals).astype(np.float32), labels, known)


def made_up(seed, shape=(40, 7)):
    rng = np.random.default_rng(seed)
    marginals = rng.random(shape) ** rng.integers(1, 9, shape[1])
    return marginals.clip(1e-6, 1 - 1e-6), rng.random(shape) < marginals**0.7, rng.random(shape) < 0.6


def calibration_error_by_loops(marginals, labels):
    bins = [[] for _ in range(NUM_BINS)]
    for marginal, true in zip(marginals.tolist(), labels.tolist(), strict=True):
        bins[max(math.ceil(marginal * NUM_BINS), 1) - 1].append((marginal, true))
    gaps = [abs(np.mean([true for _, true in of]) - np.mean([p for p, _ in of])) * len(of) for of in bins if of]
    return sum(gaps) / len(marginals)


@pytest.mark.parametrize("with_unknown", [False, True])
def test_metrics_are_those_of_scikit_learn_and_of_loops(with_unknown):
    for seed in range(10):
        marginals, labels, known = made_up(seed)
        if with_unknown:
            known[:, 2] = False
        else:
            known = np.ones_like(labels)
        state = reliability(marginals, labels, known if with_unknown else None)
        by_label = [
            calibration_error_by_loops(marginals[of, at], labels[of, at]) if of.any() else np.nan
            for at, of in enumerate(known.T)
        ]
        np.testing.assert_allclose(state.by_label, by_label, rtol=TOLERANCE)
        assert state.compute() == pytest.approx(
            {
                "calibration_error": calibration_error_by_loops(marginals[known], labels[known]),
                "macro_calibration_error": np.nanmean(by_label),
                "brier_score": brier_score_loss(labels[known], marginals[known]),
                "log_loss": log_loss(labels[known], marginals[known], labels=[False, True]),
            },
            rel=TOLERANCE,
        )


def test_a_hand_worked_example():
    # Bins are 1/15 wide: 0.1 is in the second, up to 2/15, and 0.9 in the fourteenth, from 13/15 to 14/15.
    marginals = np.array([[0.1, 0.1], [0.1, 0.1], [0.9, 0.1], [0.9, 0.1]])
    labels = np.array([[0, 0], [1, 0], [1, 0], [1, 0]], bool)
    state = reliability(marginals, labels)
    assert np.argwhere(state.cells).tolist() == [[0, 1], [0, 13], [1, 1]]
    assert state.cells[state.cells > 0].tolist() == [2, 2, 4]
    assert state.positives[state.cells > 0].tolist() == [1, 2, 0]
    np.testing.assert_allclose(state.probabilities[state.cells > 0], [0.2, 1.8, 0.4], rtol=TOLERANCE)
    # First label: (|1 − 0.2| + |2 − 1.8|) / 4. Second: |0 − 0.4| / 4. Together: (|1 − 0.6| + |2 − 1.8|) / 8.
    np.testing.assert_allclose(state.by_label, [0.25, 0.1], rtol=TOLERANCE)
    assert state.compute() == pytest.approx(
        {
            "calibration_error": 0.075,
            "macro_calibration_error": 0.175,
            # Five false cells at 0.1, one true one there, two true ones at 0.9.
            "brier_score": (5 * 0.01 + 0.81 + 2 * 0.01) / 8,
            "log_loss": -(5 * math.log(0.9) + math.log(0.1) + 2 * math.log(0.9)) / 8,
        },
        rel=TOLERANCE,
    )


def test_the_ends_of_the_scale():
    marginals = np.array([[0.0, 1.0, 1 / 15, 0.5]])
    state = reliability(marginals, np.array([[0, 1, 0, 0]], bool))
    assert np.argwhere(state.cells)[:, 1].tolist() == [0, 14, 0, 7]
    assert state.compute()["log_loss"] == pytest.approx(-(math.log(14 / 15) + math.log(0.5)) / 4, rel=TOLERANCE)
    # What is sure and wrong costs infinitely much, what is nearly sure as much as its logarithm says.
    assert reliability(np.zeros((1, 1)), np.ones((1, 1), bool)).compute()["log_loss"] == math.inf
    assert reliability(np.ones((1, 1)), np.zeros((1, 1), bool)).compute()["log_loss"] == math.inf
    nearly = Reliability.of(np.array([[-1e-9]], np.float32), np.zeros((1, 1), bool)).compute()
    assert nearly["log_loss"] == pytest.approx(9 * math.log(10), rel=TOLERANCE)


@given(
    labels=hnp.arrays(bool, (12, 4)),
    known=hnp.arrays(bool, (12, 4)).filter(np.any),
    marginals=hnp.arrays(np.float32, (12, 4), elements=st.sampled_from([0, 0.03, 0.2, 0.4, 0.51, 0.97, 1])),
    order=st.permutations(range(12)),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_any_split_into_batches_in_any_order_gives_the_same(labels, known, marginals, order, cuts):
    whole = reliability(marginals, labels, known)
    parts = np.split(np.array(order), sorted(cuts))
    merged = functools.reduce(
        Reliability.merge, [reliability(marginals[part], labels[part], known[part]) for part in parts]
    )
    np.testing.assert_array_equal(merged.cells, whole.cells)
    np.testing.assert_array_equal(merged.positives, whole.positives)
    assert whole.cells.sum() == known.sum()
    assert whole.positives.sum() == (labels & known).sum()
    np.testing.assert_allclose(merged.probabilities, whole.probabilities, rtol=SUMS, atol=SUMS)
    assert merged.compute() == pytest.approx(whole.compute(), rel=SUMS, abs=SUMS)


def test_nothing_known_has_no_calibration():
    nothing = np.zeros((2, 3), bool)
    with pytest.raises(UserError, match="none of its labels is known"):
        reliability(np.full((2, 3), 0.5), nothing, nothing).compute()


def test_the_layout_of_scores_in_memory_does_not_matter():
    marginals, labels, known = made_up(0)
    expected = reliability(marginals, labels, known).compute()
    assert reliability(np.asfortranarray(marginals), labels, known).compute() == pytest.approx(expected, rel=SUMS)
