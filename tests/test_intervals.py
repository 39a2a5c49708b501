"""Intervals against the percentiles of copied rows, by definition and by how often they hold the truth."""

import dataclasses
import json
import math

import numpy as np
import pytest
from small_predictions import DECISIONS, FREQUENCIES, make_dataset, store
from small_scores import run_metrics, scored_split

from mlresearch.errors import UserError
from mlresearch.evaluate import Evaluation, evaluate
from mlresearch.intervals import find_intervals, percentile_interval
from mlresearch.predictions import read_predictions
from mlresearch.resampling import draw_weights


def made(folder, kind="hierarchy"):
    """Stored predictions of a split, what they said, and the metrics that a record has of them."""
    dataset = make_dataset(kind)
    said = store(folder, dataset)
    scored = read_predictions(folder, "test", dataset)
    [found] = evaluate(scored, [DECISIONS], dataset.hierarchy, FREQUENCIES)
    return dataset, said, scored, found.metrics()


def intervals_of(dataset, scored, metrics, resamples=39, **options):
    return find_intervals(scored, DECISIONS, dataset.hierarchy, FREQUENCIES, metrics, resamples, **options)


@pytest.mark.parametrize("kind", ["flat", "hierarchy", "unknown"])
def test_every_metric_has_the_percentiles_of_copied_rows(kind, tmp_path):
    dataset, said, scored, metrics = made(tmp_path, kind)
    found = intervals_of(dataset, scored, metrics, seed=3)
    assert not found.left_out
    assert set(found.bounds) == {f"test.{group}.{name}" for group, of in metrics.items() for name in of}
    # The draws are those of NumPy's generator, row by row.
    drawn = np.random.default_rng(3).integers(40, size=(39, 40))
    values = []
    for rows in drawn:
        known = None if said.known is None else said.known[rows]
        preds = {name: decision.apply(said)[rows] for name, decision in DECISIONS.items()}
        cells = said.log_marginals[rows], preds, said.labels[rows]
        values.append(run_metrics(*cells, dataset.hierarchy, known, FREQUENCIES, said.loss[rows]))
    for place, bounds in found.bounds.items():
        _, group, name = place.split(".")
        ordered = sorted(each[group][name] for each in values)
        assert bounds == pytest.approx((ordered[0], ordered[-1]), rel=1e-9), place  # ⌊40 · 0.025⌋ = 1


@pytest.mark.parametrize(
    ("resamples", "level", "place"), [(39, 0.95, 1), (999, 0.95, 25), (99, 0.9, 5), (1000, 0.5, 250)]
)
def test_an_interval_leaves_out_as_much_on_either_side(resamples, level, place):
    values = np.random.default_rng(0).permutation(resamples) + 1.0
    assert percentile_interval(values, level) == (place, resamples + 1 - place)
    assert resamples >= math.ceil(2 / (1 - level) - 1e-9) - 1


def test_too_few_resamples_are_refused_with_how_many_it_takes(tmp_path):
    for resamples, level, fewest in [(38, 0.95, 39), (1, 0.9, 19), (198, 0.99, 199)]:
        with pytest.raises(UserError, match=f"it takes {fewest}$"):
            percentile_interval(np.zeros(resamples), level)
        percentile_interval(np.zeros(fewest), level)
    for level in (0.0, 1.0, -0.5):
        with pytest.raises(UserError, match="between 0 and 1"):
            percentile_interval(np.zeros(100), level)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    """The mean of 80 draws, each 1 with probability ¾, in 400 samples of them."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        [weights] = draw_weights(80, 199, seed)
        low, high = percentile_interval(weights @ (rng.random(80) < 0.75) / 80, 0.9)
        held += low <= 0.75 <= high
    assert held / 400 == pytest.approx(0.9, abs=0.06)  # four standard deviations of 0.015


def test_a_seed_draws_the_same_whatever_the_blocks(tmp_path, monkeypatch):
    dataset, _, scored, metrics = made(tmp_path)
    found = intervals_of(dataset, scored, metrics)
    monkeypatch.setattr("mlresearch.resampling.BLOCK_ELEMENTS", 250)
    again = intervals_of(dataset, scored, metrics)
    assert again.bounds.keys() == found.bounds.keys()
    for place, bounds in found.bounds.items():
        assert again.bounds[place] == pytest.approx(bounds, rel=1e-12)
    assert intervals_of(dataset, scored, metrics, seed=1).bounds != found.bounds
    narrow = intervals_of(dataset, scored, metrics, level=0.5)
    for place, (low, high) in narrow.bounds.items():
        assert found.bounds[place][0] <= low <= high <= found.bounds[place][1]


def test_a_metric_of_tomorrow_is_computed_on_copied_rows(tmp_path, monkeypatch):
    dataset, said, scored, _ = made(tmp_path)
    metrics_of = Evaluation.metrics

    def metrics(self):
        """A number that is no sum over examples: the highest true positives of a label."""
        return metrics_of(self) | {"new": {"most": float(self.decisions["half"].tp.max())}}

    monkeypatch.setattr(Evaluation, "metrics", metrics)
    [found] = evaluate(scored, [DECISIONS], dataset.hierarchy, FREQUENCIES)
    intervals = intervals_of(dataset, scored, found.metrics())
    hits = DECISIONS["half"].apply(said) & said.labels
    drawn = np.random.default_rng(0).integers(40, size=(39, 40))
    most = [hits[rows].sum(axis=0).max() for rows in drawn]
    assert intervals.of("new", "most") == (min(most), max(most))
    assert not intervals.left_out


def test_what_has_no_interval_is_named_with_the_reason(tmp_path):
    dataset, _, scored, metrics = made(tmp_path)
    metrics["mode"]["micro_f1"] += 0.01
    metrics["loss"]["mean"] = None
    metrics["half"]["unheard_of"] = 0.5
    found = intervals_of(dataset, scored, metrics)
    assert "the record says" in found.left_out["test.mode.micro_f1"]
    assert found.left_out["test.loss.mean"] == "it is infinite, or there is none"
    assert found.left_out["test.half.unheard_of"] == "the scores do not give it"
    assert len(found.left_out) == 3
    assert not found.left_out.keys() & found.bounds.keys()
    assert json.loads(json.dumps(found.to_json()))["left_out"] == found.left_out


def test_a_metric_that_some_resamples_lack_is_left_out():
    """Only one example has a true label, which some resamples miss."""
    labels = np.zeros((12, 3), bool)
    labels[4, 1] = True
    scored = scored_split(np.full((1, 12, 3), -1.0, np.float32), labels[None], labels, split="test")
    [found] = evaluate(scored, [{}], None, scored.labels.frequencies(3))
    metrics = found.metrics()
    intervals = find_intervals(scored, {}, None, scored.labels.frequencies(3), metrics, 39)
    assert intervals.left_out["test.ranking.r_precision"] == "it has no value in some resamples"
    assert "test.ranking.precision_at_1" in intervals.bounds
    assert dataclasses.asdict(intervals)["resamples"] == 39


def test_of_the_highest_scores_alone_the_others_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("mlresearch.predictions.FULL_SCORES", 7)
    monkeypatch.setattr("mlresearch.predictions.TOP_SCORES", 7)
    dataset = make_dataset("flat")
    said = store(tmp_path, dataset)
    scored = scored_split(
        said.log_marginals[None], said.sets["mode"][None], said.labels, losses=said.loss[None], split="test"
    )
    [found] = evaluate(scored, [DECISIONS], None, FREQUENCIES)
    intervals = intervals_of(dataset, read_predictions(tmp_path, "test", dataset), found.metrics())
    whole = {place for place, why in intervals.left_out.items() if why.startswith("it needs all scores")}
    assert {"test.ranking.micro_average_precision", "test.ranking.coverage_error"} <= whole
    assert not {"test.mode.micro_f1", "test.ranking.precision_at_5", "test.loss.mean"} & intervals.left_out.keys()


def test_marginals_of_many_cells_are_not_binned_example_by_example(tmp_path, monkeypatch):
    dataset, _, scored, metrics = made(tmp_path)
    for module in ("resampling", "intervals"):
        monkeypatch.setattr(f"mlresearch.{module}.SUMMED_CELLS", 40 * 8 - 1)
    found = intervals_of(dataset, scored, metrics)
    assert set(found.left_out) == {f"test.probabilities.{name}" for name in metrics["probabilities"]}
    assert set(found.left_out.values()) == {"of more than 319 cells it takes too long"}


def test_resamples_without_a_known_cell_have_no_value():
    scores, known = np.log(np.full((1, 5, 8), 0.4, np.float32)), np.zeros((5, 8), bool)
    known[2] = True
    scored = scored_split(scores, scores > 0, known.copy(), known, split="test")
    decisions = {"half": DECISIONS["half"]}
    [found] = evaluate(scored, [decisions], None, FREQUENCIES)
    intervals = find_intervals(scored, decisions, None, FREQUENCIES, found.metrics(), 39)
    for place in ("test.half.micro_f1", "test.half.macro_f1_head", "test.probabilities.log_loss"):
        assert intervals.left_out[place] == "it has no value in some resamples"
