"""Passes over blocks against whole matrices, scikit-learn and themselves, whatever the blocks and wherever they are."""

import gc
import math
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score
from small_scores import label_sets, run_metrics, scored_split, validation_counts

from mlresearch.data.pipeline import Batches, EncodedSplit
from mlresearch.decisions import GRID, Rules, fit_global_threshold, fit_label_thresholds
from mlresearch.definitions import PROBABILITIES, RANKING, WATCHED
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate, evaluate_validation, score_split, validation_metrics
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies, LabelSets
from mlresearch.scored import ScoredSplit
from mlresearch.step import Scored

# Sums of float64 ratios or losses in another order; all else are counts, and equal to the last digit.
TOLERANCE = 1e-12
COUNTS = {"micro_average_precision", "macro_average_precision", "weighted_average_precision"}
SUMS = {"example_precision", "example_recall", "example_f1", "mean"} | RANKING - COUNTS | PROBABILITIES

HIERARCHY = LabelHierarchy.from_edges("abcdef", np.array([[1, 0], [2, 0], [4, 3]]))
FREQUENCIES = Frequencies(np.array([9.0, 7.5, 1.0, 0.0, 1.0, 30.0]), np.array([90, 90, 80, 90, 90, 85]))


def made_up(seed=0, examples=53, runs=2, *, unknown=True, decimals=1):
    """Scores of runs with ties and probabilities of 0, modes, losses, and a truth with a label that is nowhere on."""
    rng = np.random.default_rng(seed)
    shape = (runs, examples, HIERARCHY.num_labels)
    labels = rng.random(shape[1:]) < rng.random(shape[2])
    labels[:, 3] = False
    with np.errstate(divide="ignore"):
        scores = np.log((rng.random(shape) + labels).clip(0, 1.5).round(decimals) / 1.5).astype(np.float32)
    known = rng.random(shape[1:]) < 0.8 if unknown else None
    losses = rng.random(shape[:2]).astype(np.float32)
    return scores, rng.random(shape) < 0.4, labels, known, losses


def assert_equal_metrics(found, expected):
    assert found.keys() == expected.keys()
    for group, numbers in expected.items():
        assert found[group].keys() == numbers.keys()
        for name, value in numbers.items():
            if value is not None and name in SUMS:
                assert found[group][name] == pytest.approx(value, rel=TOLERANCE)
            else:
                assert found[group][name] == value, (group, name)


@pytest.mark.parametrize("unknown", [False, True])
def test_passes_report_what_whole_matrices_have(unknown, monkeypatch):
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 40)
    scores, modes, labels, known, losses = made_up(unknown=unknown)
    validation = scored_split(scores, modes, labels, known, losses=losses)
    found = evaluate_validation(validation, 2, HIERARCHY, Rules("macro_f1"), FREQUENCIES)
    truth = labels if known is None else labels & known  # what is unknown has no truth
    for run, (evaluation, decisions) in enumerate(found):
        counts = validation_counts(scores[run], truth, known, grid=GRID)
        fitted = fit_global_threshold(counts, "macro_f1"), fit_label_thresholds(counts)
        assert decisions["global_threshold"].threshold == fitted[0].threshold
        assert decisions["global_threshold"].fitted_on == "abc/validation"
        np.testing.assert_array_equal(decisions["label_thresholds"].log_thresholds, fitted[1].log_thresholds)
        preds = {
            "mode": modes[run],
            "half": scores[run] > math.log(0.5),
            "global_threshold": scores[run] > math.log(fitted[0].threshold),
            "label_thresholds": scores[run] > fitted[1].log_thresholds,
        }
        expected = run_metrics(scores[run], preds, truth, HIERARCHY, known, FREQUENCIES, losses[run])
        assert list(evaluation.metrics()) == list(expected)
        assert_equal_metrics(evaluation.metrics(), expected)


def test_average_precision_and_the_best_f1_are_scikit_learn_s():
    for seed in range(20):
        scores, modes, labels, _, _ = made_up(seed, examples=30, runs=1, unknown=False, decimals=1 + seed % 3)
        [(found, decisions)] = evaluate_validation(scored_split(scores, modes, labels), 1, None, Rules())
        ranking = found.metrics()["ranking"]
        present = labels.any(axis=0)
        finite = np.maximum(scores[0], -1e30)  # which scikit-learn asks for; probability 0 stays lowest
        columns = zip(labels.T[present], finite.T[present], strict=True)
        macro = np.mean([average_precision_score(*column) for column in columns])
        assert ranking["micro_average_precision"] == pytest.approx(
            average_precision_score(labels.ravel(), finite.ravel()), rel=TOLERANCE
        )
        assert ranking["macro_average_precision"] == pytest.approx(macro, rel=TOLERANCE)
        exact = scores[0].astype(np.float64)
        micro = {at: f1_score(labels, exact > math.log(at), average="micro", zero_division=0) for at in GRID}
        assert micro[decisions["global_threshold"].threshold] == max(micro.values())
        assert found.metrics()["global_threshold"]["micro_f1"] == pytest.approx(max(micro.values()), rel=TOLERANCE)


@given(
    cells=hnp.arrays(bool, (3, 12, 6)),
    scores=hnp.arrays(np.float32, (1, 12, 6), elements=st.sampled_from([-np.inf, -2.0, -0.7, -0.5, -0.0, 0.0])),
    order=st.permutations(range(12)),
    batch=st.integers(1, 12),
    cells_a_block=st.integers(1, 80),
    kept=st.booleans(),
)
def test_blocks_their_order_and_scoring_again_change_nothing(cells, scores, order, batch, cells_a_block, kept):
    labels, modes, known = cells
    if not known.any():
        return
    given = HIERARCHY, Rules(), FREQUENCIES
    expected = evaluate_validation(scored_split(scores, modes[None], labels, known, batch=12), 1, *given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlresearch.scored.BLOCK_CELLS", cells_a_block)
        patch.setattr("mlresearch.scored.KEPT_BYTES", 1 << 20 if kept else 0)
        split = scored_split(scores, modes[None], labels, known, batch=batch, order=np.array(order))
        found = evaluate_validation(split, 1, *given)
    assert_equal_metrics(found[0][0].metrics(), expected[0][0].metrics())
    for name, decision in expected[0][1].items():
        assert found[0][1][name].to_json() == decision.to_json()


def counted(monkeypatch, kept_bytes):
    """A split that counts how often it is scored, in blocks of 4 examples."""
    monkeypatch.setattr("mlresearch.scored.KEPT_BYTES", kept_bytes)
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 24)
    scores, modes, labels, known, losses = made_up(examples=20)
    times = []

    def score():
        times.append(1)
        yield np.arange(20), scores, {"mode": modes}, losses

    return times, lambda: ScoredSplit("validation", "abc", label_sets(labels, known), 6, score)


@pytest.mark.parametrize(("kept_bytes", "passes"), [(20 * 6 * 8, (1, 1, 1, 1)), (20 * 6 * 8 - 1, (1, 2, 2, 3))])
def test_a_split_is_scored_once_where_it_can_be_kept_and_once_a_pass_elsewhere(kept_bytes, passes, monkeypatch):
    times, make = counted(monkeypatch, kept_bytes)
    runs = [
        lambda: validation_metrics(make(), 2, "mode", HIERARCHY),
        lambda: validation_metrics(make(), 2, "ranking", HIERARCHY),
        lambda: evaluate(make(), [{}, {}], HIERARCHY),
        lambda: evaluate_validation(make(), 2, HIERARCHY, Rules()),
    ]
    for run, expected in zip(runs, passes, strict=True):
        times.clear()
        run()
        assert len(times) == expected


def test_a_pass_that_was_broken_off_is_not_kept(monkeypatch):
    times, make = counted(monkeypatch, 1 << 20)
    split = make()
    next(iter(split))
    assert sum(len(block[0].rows) for block in split) == 20
    assert len(times) == 2


@pytest.mark.parametrize("group", WATCHED)
def test_what_is_watched_is_what_is_reported(group):
    scores, modes, labels, known, losses = made_up()
    split = scored_split(scores, modes, labels, known, losses=losses)
    watched = validation_metrics(split, 2, group, HIERARCHY, FREQUENCIES)
    evaluated = evaluate_validation(split, 2, HIERARCHY, Rules(), FREQUENCIES)
    for run, (own, (evaluation, _)) in enumerate(zip(watched, evaluated, strict=True)):
        reported = evaluation.metrics()
        on = modes[run] if group == "mode" else scores[run] > np.log(0.5)
        assert own.pop("predicted.share") == on[known].mean()
        assert own == {f"{group}.{name}": value for name, value in reported[group].items()} | {
            "loss.mean": reported["loss"]["mean"]
        }


def test_a_run_that_has_diverged_has_no_numbers_and_harms_no_other(monkeypatch):
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 60)
    scores, modes, labels, known, _ = made_up(runs=3)
    expected = evaluate_validation(scored_split(scores[::2], modes[::2], labels, known), 2, None, Rules())
    scores[1, 40] = np.nan  # of labels that are on and off, known and unknown
    split = scored_split(scores, modes, labels, known)
    first, second, third = evaluate_validation(split, 3, None, Rules())
    assert second is None
    assert evaluate(split, [{}] * 3, None)[1] is None
    assert validation_metrics(split, 3, "ranking", None)[1] is None
    for found, wanted in zip((first, third), expected, strict=True):
        assert_equal_metrics(found[0].metrics(), wanted[0].metrics())


def test_without_training_frequencies_and_a_hierarchy_their_metrics_are_left_out():
    scores, modes, labels, _, _ = made_up(runs=1)
    split = scored_split(scores, modes, labels)
    [[most], [least]] = (
        [found.metrics() for found, _ in evaluate_validation(split, 1, hierarchy, Rules(), frequencies)]
        for hierarchy, frequencies in ((HIERARCHY, FREQUENCIES), (None, None))
    )
    missing = {group: set(most[group]) - set(least[group]) for group in most}
    of_decisions = {f"{kind}_{ratio}" for kind in ("hierarchical", "cophe") for ratio in ("precision", "recall", "f1")}
    of_decisions |= {"violation_rate", "macro_f1_head", "macro_f1_middle", "macro_f1_tail"}
    assert missing["mode"] == missing["label_thresholds"] == of_decisions
    assert missing["ranking"] == {"propensity_precision_at_1", "propensity_precision_at_3", "propensity_precision_at_5"}
    assert not missing["probabilities"]
    for group, numbers in least.items():
        assert numbers == {name: most[group][name] for name in numbers}


def test_an_infinite_loss_is_none():
    scores, modes, labels, _, losses = made_up()
    losses[0, 3], scores[0, 3, np.flatnonzero(labels[3])] = np.inf, -np.inf
    first, second = evaluate(scored_split(scores, modes, labels, losses=losses), [{}, {}], None)
    assert first.loss is None
    assert first.metrics()["probabilities"]["log_loss"] is None
    assert second.loss == pytest.approx(losses[1].mean(dtype=np.float64), rel=TOLERANCE)


def test_where_nothing_is_positive_nothing_is_found():
    scores, modes, labels, _, _ = made_up(runs=1)
    [(found, decisions)] = evaluate_validation(scored_split(scores, modes, np.zeros_like(labels)), 1, None, Rules())
    ranking = found.metrics()["ranking"]
    assert ranking["micro_average_precision"] == ranking["macro_average_precision"] == ranking["precision_at_1"] == 0
    assert decisions["label_thresholds"].num_unfitted == 6


def test_thresholds_are_tried_on_validation_alone():
    scores, modes, labels, _, _ = made_up(runs=1)
    for split in ("test", "train"):
        with pytest.raises(TypeError, match=split):
            evaluate_validation(scored_split(scores, modes, labels, split=split), 1, None, Rules())


def test_no_examples_are_refused():
    with pytest.raises(UserError, match="no examples"):
        scored_split(np.zeros((1, 0, 3), np.float32), np.zeros((1, 0, 3), bool), np.zeros((0, 3), bool))


def test_batches_are_scored_without_their_padding_and_find_their_places():
    lengths = np.array([3, 20, 5, 30, 8, 17, 2], np.int32)
    split = EncodedSplit(LabelSets.from_rows([[at % 3] for at in range(7)]), lengths, np.zeros((7, 32), np.int32))
    batches = Batches(split, num_labels=3, batch_size=2, buckets=(8, 32))

    def score(batch):  # says which example it is, and NaN of padding
        value = jnp.where(batch.mask, -1.0 - batch.rows, jnp.nan)
        cells = jnp.broadcast_to(value[None, :, None], (2, 2, 3))
        return Scored(cells, {"mode": cells < -3}, jnp.broadcast_to(value, (2, 2)))

    scored = score_split(score, batches, "test", "abc")
    blocks = list(scored)
    assert [len(block) for block in blocks] == [2]
    for of_run in blocks[0]:
        assert sorted(of_run.rows.tolist()) == list(range(7))
        np.testing.assert_array_equal(of_run.log_marginals, np.broadcast_to(-1.0 - of_run.rows[:, None], (7, 3)))
        np.testing.assert_array_equal(of_run.sets["mode"], of_run.log_marginals < -3)
        np.testing.assert_array_equal(of_run.loss, -1.0 - of_run.rows)
        np.testing.assert_array_equal(of_run.labels.argmax(axis=1), of_run.rows % 3)
        assert of_run.known is None
        assert of_run.log_marginals.dtype == np.float32


def test_rankings_need_no_mode():
    scored, sets = (np.log(np.random.default_rng(0).random((2, 5, 3))), np.arange(15).reshape(5, 3) % 2 == 0)
    labels = LabelSets.from_rows([np.flatnonzero(row).tolist() for row in sets])

    def split(**sets):
        said = np.arange(5), scored, sets, -scored.sum(-1)
        return ScoredSplit("validation", "abc", labels, 3, lambda: iter([said]))

    without, beside = (validation_metrics(split(**sets), 2, "ranking", None) for sets in ({}, {"mode": scored > -0.5}))
    assert without == beside
    with pytest.raises(KeyError, match="mode"):
        validation_metrics(split(), 2, "mode", None)


def peak_bytes(examples, num_labels):
    """The most that is held at once while a long split is evaluated that is made as it is asked for."""
    rng = np.random.default_rng(0)
    noise = np.log(rng.random(num_labels + examples, np.float32))
    labels = LabelSets(rng.integers(num_labels, size=examples).astype(np.int32), np.arange(examples + 1))

    def score():
        for start in range(0, examples, 16):
            if start % 256 == 0:
                gc.collect()  # or what waits for the collector counts, more of it the more the process holds besides
            rows = np.arange(start, start + 16)
            scores = np.stack([noise[row : row + num_labels] for row in rows])[None]
            yield rows, scores, {"mode": scores > -0.1}, np.zeros((1, 16), np.float32)

    gc.collect()
    gc.freeze()
    tracemalloc.start()
    try:
        evaluate_validation(ScoredSplit("validation", "", labels, num_labels, score), 1, None, Rules())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def test_memory_is_that_of_positives_and_of_a_block_not_of_the_split(monkeypatch):
    monkeypatch.setattr("mlresearch.scored.KEPT_BYTES", 0)
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 1 << 13)
    num_labels = 1000
    peak_bytes(64, num_labels)  # what is imported and compiled on the way
    # The less of two: a table of the process that grows meanwhile (interned names, JAX's caches) does so once.
    short, long = (min(peak_bytes(examples, num_labels) for _ in range(2)) for examples in (256, 1024))
    scores_alone = 4 * num_labels * (1024 - 256)
    assert long - short < 256 * (1024 - 256)  # a positive an example, in some arrays of 8 bytes each
    assert long - short < scores_alone / 10
    assert long < scores_alone
