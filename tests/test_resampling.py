"""Metrics of resampled examples against the metrics of the rows copied as often as they were drawn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from small_predictions import DECISIONS, EDGES, FREQUENCIES, make_dataset, store
from small_scores import label_metrics, run_metrics, scored_split, split_metrics

from mlresearch import predictions
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.predictions import read_predictions
from mlresearch.resampling import Outcomes, draw_weights, evaluate_copies

AVERAGES = ["test.ranking.micro_average_precision", "test.ranking.macro_average_precision"]


def read(folder, dataset, places):
    scored = read_predictions(folder, "test", dataset)
    return Outcomes.of(scored, DECISIONS, dataset.hierarchy, FREQUENCIES, places)


def test_weights_are_resamples_of_equal_size_whatever_the_blocks(monkeypatch):
    whole = np.concatenate(list(draw_weights(50, 2000, seed=3)))
    monkeypatch.setattr("mlresearch.resampling.BLOCK_ELEMENTS", 700)
    blocks = list(draw_weights(50, 2000, seed=3, width=60))
    assert len(blocks) > 100
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert (whole.sum(axis=1) == 50).all()
    assert (np.concatenate(list(draw_weights(50, 2000, seed=4))) != whole).any()
    # Each weight is binomial with 50 draws at 1/50: mean 1, variance 49/50.
    assert whole.mean() == 1
    assert whole.var() == pytest.approx(0.98, abs=0.02)


@pytest.mark.parametrize("kind", ["flat", "hierarchy", "unknown"])
def test_a_resample_has_the_metrics_of_its_rows(kind, tmp_path):
    dataset = make_dataset(kind)
    scores = store(tmp_path, dataset)
    preds = {name: decision.apply(scores) for name, decision in DECISIONS.items()}

    def copied(rows):
        known = None if scores.known is None else scores.known[rows]
        on = {name: of[rows] for name, of in preds.items()}
        cells = scores.log_marginals[rows], on, scores.labels[rows]
        return run_metrics(*cells, dataset.hierarchy, known, FREQUENCIES, scores.loss[rows])

    places = [f"test.{group}.{name}" for group, of in copied(np.arange(40)).items() for name in of]
    [weights] = draw_weights(40, 12, seed=0)
    weights[0] = 1  # the split itself
    given = read(tmp_path, dataset, places).metrics(places, weights)
    assert list(given) == places
    absent = set()
    for at, times in enumerate(weights):
        wanted = copied(np.repeat(np.arange(40), times))
        absent.add(wanted["mode"]["num_labels_absent"])
        for place, numbers in given.items():
            _, group, name = place.split(".")
            assert numbers[at] == pytest.approx(wanted[group][name], rel=1e-9), (place, at)
    assert len(absent) > 1, "rare labels are in some resamples only"


@pytest.mark.parametrize("kind", ["flat", "hierarchy", "unknown"])
def test_copied_rows_have_the_same_metrics(kind, tmp_path):
    """Two ways to all metrics, which share no code but that of the states."""
    dataset = make_dataset(kind)
    store(tmp_path, dataset)
    scored = read_predictions(tmp_path, "test", dataset)
    [weights] = draw_weights(len(scored), 5, seed=1)
    copied = list(evaluate_copies(scored, DECISIONS, dataset.hierarchy, FREQUENCIES, weights))
    given = read(tmp_path, dataset, list(copied[0])).metrics(list(copied[0]), weights)
    assert given.keys() == copied[0].keys()
    for place, numbers in given.items():
        np.testing.assert_allclose(numbers, [row[place] for row in copied], rtol=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2))
def test_average_precision_is_scikit_learns_of_weighted_examples(seed, examples, labels, decimals):
    rng = np.random.default_rng(seed)
    truth = rng.random((examples, labels)) < rng.random()
    with np.errstate(divide="ignore"):
        scores = np.log(rng.random(truth.shape).round(decimals)).astype(np.float32)  # with ties, and all at 0
    weights = rng.multinomial(examples, np.full(examples, 1 / examples), size=3)
    scored = scored_split(scores[None], truth[None], truth, split="test", order=rng.permutation(examples), batch=3)
    given = Outcomes.of(scored, {}, None, scored.labels.frequencies(labels), AVERAGES).metrics(AVERAGES, weights)
    finite = np.maximum(scores, -1e9)  # scikit-learn takes no infinities
    for at, times in enumerate(weights):
        drawn = [label for label in range(labels) if (times * truth[:, label]).any()]
        by_label = [average_precision_score(truth[:, label], finite[:, label], sample_weight=times) for label in drawn]
        assert given[AVERAGES[1]][at] == pytest.approx(np.mean(by_label) if drawn else 0.0, rel=1e-9)
        micro = 0.0
        if drawn:
            cells = np.repeat(times, labels)
            micro = average_precision_score(truth.ravel(), finite.ravel(), sample_weight=cells)
        assert given[AVERAGES[0]][at] == pytest.approx(micro, rel=1e-9)


def test_neither_blocks_nor_the_order_of_examples_matter(monkeypatch):
    rng = np.random.default_rng(4)
    hierarchy = LabelHierarchy.from_edges("abcdefgh", EDGES)
    truth = rng.random((31, 8)) < 0.3
    known = rng.random(truth.shape) < 0.8
    scores = np.log(rng.random(truth.shape).round(1) * 0.98 + 0.01).astype(np.float32)
    losses = rng.random(31).astype(np.float32)
    [weights] = draw_weights(31, 7, seed=0)

    def metrics(order):
        truths = (scores[None], rng.random((1, 31, 8)) < 2, truth & known, known)
        scored = scored_split(*truths, losses=losses[None], split="test", order=order)
        places = list(next(evaluate_copies(scored, DECISIONS, hierarchy, FREQUENCIES, weights)))
        return Outcomes.of(scored, DECISIONS, hierarchy, FREQUENCIES, places).metrics(places, weights)

    expected = metrics(np.arange(31))
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 40)
    given = metrics(rng.permutation(31))
    assert given.keys() == expected.keys()
    for place, numbers in expected.items():
        np.testing.assert_allclose(given[place], numbers, rtol=1e-9)


def test_a_split_without_positives_has_no_average_precision():
    nothing = np.zeros((1, 4, 3), bool)
    scored = scored_split(np.full((1, 4, 3), -1.0, np.float32), nothing, nothing[0], split="test")
    outcomes = Outcomes.of(scored, {}, None, scored.labels.frequencies(3), AVERAGES)
    given = outcomes.metrics(AVERAGES, np.ones((2, 4), np.int64))
    assert all((given[place] == 0).all() for place in AVERAGES)


def test_stored_top_scores_give_what_they_hold(tmp_path, monkeypatch):
    dataset = make_dataset("hierarchy")
    monkeypatch.setattr(predictions, "FULL_SCORES", 7)
    monkeypatch.setattr(predictions, "TOP_SCORES", 7)
    monkeypatch.setattr(predictions, "BLOCK_CELLS", 24)
    scores = store(tmp_path, dataset)
    with np.load(tmp_path / "predictions_test.npz") as stored:
        assert stored["log_marginals"].shape == (40, 7)
    passing = DECISIONS["half"].apply(scores)
    assert passing.sum(axis=1).max() == 7  # all that pass are stored, and in some rows just so
    of_ranks = [AVERAGES[0], "test.ranking.ranking_loss"]
    places = [*of_ranks, "test.ranking.precision_at_3", "test.mode.micro_f1", "test.half.micro_f1", "test.loss.mean"]
    given = read(tmp_path, dataset, places).metrics(places, np.ones((1, 40), np.int64))
    wanted = split_metrics(scores.log_marginals, passing, scores.labels, None)
    assert given["test.half.micro_f1"][0] == pytest.approx(wanted["micro_f1"])
    assert given["test.ranking.precision_at_3"][0] == pytest.approx(wanted["precision_at_3"])
    of_mode = label_metrics(scores.sets["mode"], scores.labels, None)
    assert given["test.mode.micro_f1"][0] == pytest.approx(of_mode["micro_f1"])
    assert math.isclose(given["test.loss.mean"][0], scores.loss.mean())
    assert not given.keys() & set(of_ranks)  # which need all scores
