import inspect
import itertools
import json
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import accuracy_score, f1_score, hamming_loss
from small_scores import label_metrics, validation_counts
from test_hierarchy import random_dag

from mlresearch.decisions import (
    GRID,
    METRIC_SIGN,
    ClosedThresholds,
    ExpectedF1,
    GlobalThreshold,
    Half,
    LabelThresholds,
    Mode,
    Rules,
    TopLabels,
    ValidationCounts,
    decide,
    decision_from_json,
    fit_global_threshold,
    fit_label_thresholds,
)
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.evaluate import Evaluation
from mlresearch.heads import conditional
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.logspace import log_odds
from mlresearch.metrics import ExampleRanks
from mlresearch.scored import ScoredRows

HIERARCHY = random_dag(np.random.default_rng(0), 6, forest=False)
BELOW_HALF = np.nextafter(np.float32(math.log(0.5)), np.float32(-np.inf))


def scored(probs, labels) -> ScoredRows:
    """Make scores of the given marginals; 0 becomes −∞."""
    probs, labels = np.asarray(probs), np.asarray(labels, bool)
    with np.errstate(divide="ignore"):
        log_marginals = np.log(probs).astype(np.float32)
    return of_log_marginals(log_marginals, labels)


def of_log_marginals(log_marginals, labels) -> ScoredRows:
    return ScoredRows(np.arange(len(labels)), log_marginals, {"mode": ~labels}, np.zeros(len(labels)), labels)


def fit_labels(scores: ScoredRows) -> LabelThresholds:
    return fit_label_thresholds(validation_counts(scores.log_marginals, scores.labels))


def fit_global(scores: ScoredRows, metric: str, grid=GRID) -> GlobalThreshold:
    return fit_global_threshold(validation_counts(scores.log_marginals, scores.labels, grid=grid), metric)


def random_scores(seed: int, shape: tuple[int, int], *, tied: bool) -> ScoredRows:
    rng = np.random.default_rng(seed)
    probs = rng.integers(0, 11, shape) / 10 if tied else rng.random(shape)
    density = rng.choice([0.0, 0.1, 0.4, 1.0], shape[1])
    return scored(probs, rng.random(shape) < np.where(rng.random() < 0.5, probs, density))


def f1(preds, labels) -> float:
    both = int(preds.sum()) + int(labels.sum())
    return 2 * int((preds & labels).sum()) / both if both else 0.0


@pytest.mark.parametrize("tied", [True, False])
def test_no_threshold_of_a_label_is_better_than_the_fitted_one(tied):
    unfitted = 0
    for seed in range(200):
        scores = random_scores(seed, (1 + seed % 14, 5), tied=tied)
        decision = fit_labels(scores)
        preds = decision.apply(scores)
        for label in range(5):
            column, truth = scores.log_marginals[:, label], scores.labels[:, label]
            # Whatever some threshold from 0 to 1 predicts, 0 or one of the scores as threshold predicts too.
            best = max(f1(column > cut, truth) for cut in [-np.inf, *column])
            assert f1(preds[:, label], truth) == best or best == 0
            if best == 0:
                assert np.array_equal(preds[:, label], column > np.float32(math.log(0.5)))
                unfitted += 1
        unfitted -= decision.num_unfitted
    assert unfitted == 0


def test_label_thresholds_lie_between_scores_and_as_near_to_half_as_ties_allow():
    # Label 0: positives at .8 and .6 over a negative at .2: the cut is halfway from .6 to .2, as logarithms.
    # Label 1: cutting below .9 (2 · 1 / (1 + 2)) and below .6 (2 · 2 / (4 + 2)) both reach F1 2/3;
    # √(.6 · .3) ≈ .42 is closer to ½ than √(.9 · .8) ≈ .85.
    # Label 2: best is to predict all (6 / 8, else 4 / 7 or less): the cut is half the lowest score.
    # Label 3: no positive, so ½.
    probs = np.array([[0.8, 0.9, 0.2, 0.7], [0.6, 0.8, 0.9, 0.7], [0.2, 0.7, 0.8, 0.1], [0.1, 0.6, 0.7, 0.2]])
    probs = np.vstack([probs, [0.05, 0.3, 0.6, 0.3]])
    labels = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]], bool)
    decision = fit_labels(scored(probs, labels))
    expected = [math.sqrt(0.6 * 0.2), math.sqrt(0.6 * 0.3), 0.1, 0.5]
    np.testing.assert_allclose(np.exp(decision.log_thresholds), expected, rtol=1e-6)
    assert decision.num_unfitted == 1


@pytest.mark.parametrize("at", [-1.0, -80.0, -1e-30, -0.6931472, -3e4])
def test_label_thresholds_tell_neighbouring_floats_apart(at):
    # Halfway between neighbours rounds to the even one, so the lower has to be even once and odd once.
    low = np.float32(at)
    for _ in range(2):
        high = np.nextafter(low, np.float32(0))
        scores = of_log_marginals(np.array([[high], [low]]), np.array([[True], [False]]))
        assert fit_labels(scores).apply(scores).tolist() == [[True], [False]]
        low = high


def test_a_label_whose_positives_have_probability_zero_stays_at_half():
    scores = scored([[0.0, 0.9], [0.7, 0.2]], [[1, 1], [0, 0]])
    decision = fit_labels(scores)
    assert decision.num_unfitted == 1
    assert decision.apply(scores).tolist() == [[False, True], [True, False]]


REFERENCE = {
    "micro_f1": lambda labels, preds: f1_score(labels, preds, average="micro", zero_division=0),
    "macro_f1": lambda labels, preds: f1_score(labels, preds, average="macro", zero_division=0),
    "example_f1": lambda labels, preds: f1_score(labels, preds, average="samples", zero_division=1),
    "subset_accuracy": accuracy_score,
    "hamming_loss": lambda labels, preds: -hamming_loss(labels, preds),
}


def test_every_metric_has_a_reference():
    assert REFERENCE.keys() == METRIC_SIGN.keys()


@pytest.mark.parametrize("metric", REFERENCE)
def test_the_global_threshold_is_the_best_of_the_grid(metric):
    edges = 0
    for seed in range(25):
        scores = random_scores(seed, (1 + seed % 20, 4), tied=seed % 3 == 0)
        decision = fit_global(scores, metric)
        exact = scores.log_marginals.astype(np.float64)
        by_threshold = {t: REFERENCE[metric](scores.labels, exact > math.log(t)) for t in GRID}
        best = max(by_threshold.values())
        assert by_threshold[decision.threshold] == pytest.approx(best, abs=1e-12)
        assert decision.value == pytest.approx(abs(best), abs=1e-12)
        # No threshold strictly nearer to ½ is as good, up to the rounding of equal averages.
        nearer = [t for t in GRID if abs(t - 0.5) < abs(decision.threshold - 0.5) - 1e-9]
        assert all(by_threshold[t] < best for t in nearer)
        assert decision.at_edge == (decision.threshold in (0.30, 0.70))
        assert decision.fitted_on == "abc"
        np.testing.assert_array_equal(decision.apply(scores), exact > math.log(decision.threshold))
        edges += decision.at_edge
    assert 0 < edges < 25


@pytest.mark.parametrize("metric", REFERENCE)
def test_the_reported_value_is_the_metric_of_the_predictions(metric):
    scores = random_scores(7, (40, 6), tied=False)
    decision = fit_global(scores, metric)
    assert decision.value == label_metrics(decision.apply(scores), scores.labels, None)[metric]


def test_equal_thresholds_go_to_the_one_nearest_to_half():
    scores = scored([[0.1, 0.9], [0.9, 0.1]], [[0, 1], [1, 0]])
    assert fit_global(scores, "micro_f1").threshold == 0.5
    assert not fit_global(scores, "micro_f1").at_edge
    # In floating point .7 − .5 is less than .5 − .3: the lower threshold wins all the same.
    assert fit_global(scores, "micro_f1", (0.3, 0.7)).threshold == 0.3


def test_a_threshold_at_the_edge_of_the_grid_is_reported():
    # Only thresholds of .68 and more keep the negative out.
    scores = scored([[0.9, 0.68]], [[1, 0]])
    narrow = fit_global(scores, "micro_f1")
    assert (narrow.threshold, narrow.value, narrow.at_edge) == (0.70, 1.0, True)
    wide = fit_global(scores, "micro_f1", (*GRID, 0.75))
    assert (wide.threshold, wide.at_edge) == (0.70, False)


def test_half_is_exact_on_the_log_scale():
    # float32 has log ½ as −0.69314718246, below the true −0.69314718056: it is not over ½, the next one is.
    half = np.float32(math.log(0.5))
    around = np.array([[BELOW_HALF, half, np.nextafter(half, np.float32(0))]])
    scores = of_log_marginals(around, np.zeros((1, 3), bool))
    assert Half().apply(scores).tolist() == [[False, False, True]]
    # A sigmoid's marginals follow the sign of its logit wherever float32 can tell them from ½.
    logits = np.array([[-88.0, -1.0, -1e-6, 0.0, 1e-6, 1.0, 88.0]], np.float32)
    log_marginals = np.asarray(jax.nn.log_sigmoid(jnp.asarray(logits)))
    preds = Half().apply(of_log_marginals(log_marginals, np.zeros((1, 7), bool)))
    np.testing.assert_array_equal(preds, logits > 0)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.35, 1 / 3, 0.55, 0.65, 0.7, 0.9])
def test_thresholds_compare_as_exact_numbers(threshold):
    nearest = np.float32(math.log(threshold))
    around = np.array([[np.nextafter(nearest, np.float32(side)), nearest] for side in (-np.inf, 0)])
    scores = of_log_marginals(around, np.ones((2, 2), bool))
    decision = fit_global(scores, "micro_f1", (threshold,))
    np.testing.assert_array_equal(decision.apply(scores), around.astype(np.float64) > math.log(threshold))


def test_mode_returns_the_mode():
    scores = random_scores(3, (5, 4), tied=False)
    np.testing.assert_array_equal(Mode().apply(scores), ~scores.labels)


def test_one_threshold_for_all_labels_keeps_coherence_and_separate_ones_may_not():
    rng = np.random.default_rng(8)
    children, parents = np.arange(1, 15), (np.arange(1, 15) - 1) // 2
    probs = rng.random((50, 15))
    for child, parent in zip(children, parents, strict=True):
        probs[:, child] *= probs[:, parent]
    scores = scored(probs, rng.random((50, 15)) < probs)
    for decision in (Half(), fit_global(scores, "macro_f1")):
        preds = decision.apply(scores)
        assert preds.any()
        assert label_metrics(preds, scores.labels, (children, parents))["violation_rate"] == 0
    preds = fit_labels(scores).apply(scores)
    assert label_metrics(preds, scores.labels, (children, parents))["violation_rate"] > 0


FITS = [fit_label_thresholds, lambda counts: fit_global_threshold(counts, "micro_f1")]


@pytest.fixture(params=[True, False], ids=["checked", "unchecked"])
def annotations_checked(request):
    """Run with and without the checker of annotations: the code's own check must hold without it."""
    jaxtyping.config.update("jaxtyping_disable", not request.param)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("annotations_checked")
@pytest.mark.parametrize("fit", FITS)
def test_only_validation_counts_are_fitted(fit):
    scores = random_scores(1, (6, 3), tied=False)
    counts = validation_counts(scores.log_marginals, scores.labels)
    other = Evaluation({}, None, {}, None, ranks=counts.ranks)
    for refused in (other, counts.ranks, scores, scores.log_marginals, None):
        with pytest.raises(TypeError, match="ValidationCounts"):
            fit(refused)
    fit(counts)


@pytest.mark.parametrize("split", ["test", "train", "Validation"])
def test_other_splits_make_no_validation_counts(split):
    scores = random_scores(1, (6, 3), tied=False)
    with pytest.raises(TypeError, match=split):
        validation_counts(scores.log_marginals, scores.labels, split=split)


@pytest.mark.parametrize("tied", [False, True])
def test_labels_of_a_low_f1_fall_back_to_their_highest_score(tied):
    scores = random_scores(3, (40, 9), tied=tied)
    scores = scores._replace(labels=scores.labels & (np.arange(40) % 4 == 0)[:, None])  # rare ones, hard to tell
    counts = validation_counts(scores.log_marginals, scores.labels)
    plain, fallen = fit_label_thresholds(counts), fit_label_thresholds(counts, 0.5)
    preds = plain.apply(scores)
    f1 = [f1_score(*pair, zero_division=0) for pair in zip(scores.labels.T, preds.T, strict=True)]
    low = (np.array(f1) < 0.5) & (np.array(f1) > 0)
    assert low.any()
    assert fallen.num_fallen_back == low.sum()
    assert fallen.num_unfitted == plain.num_unfitted
    np.testing.assert_array_equal(
        fallen.log_thresholds, np.where(low, scores.log_marginals.max(0), plain.log_thresholds)
    )
    assert not fallen.apply(scores)[:, low].any()
    assert fit_label_thresholds(counts, 0.0).num_fallen_back == 0


@pytest.mark.parametrize("least", [0, 1, 5, 9, 41])
def test_labels_of_few_positives_share_the_threshold_of_the_best_macro_f1(least):
    scores = random_scores(4, (40, 9), tied=False)
    kept = np.random.default_rng(0).random((40, 9)) < np.linspace(0, 1, 9)
    scores = scores._replace(labels=scores.labels & kept)
    counts = validation_counts(scores.log_marginals, scores.labels, grid=GRID)
    plain, shared = fit_label_thresholds(counts, 0.3), fit_label_thresholds(counts, 0.3, least)
    number = scores.labels.sum(0)
    few = number < least
    best = max(
        GRID,
        key=lambda threshold: (
            f1_score(scores.labels, scores.log_marginals > np.log(threshold), average="macro", zero_division=0),
            -abs(threshold - 0.5),
        ),
    )
    expected = np.where(few, np.log(best), plain.log_thresholds)
    np.testing.assert_allclose(shared.log_thresholds, expected, rtol=1e-6)
    np.testing.assert_array_equal(shared.log_thresholds[~few], plain.log_thresholds[~few])
    highest = fit_label_thresholds(counts).apply(scores)
    low = np.array([f1(*pair) < 0.3 for pair in zip(highest.T, scores.labels.T, strict=True)])
    assert shared.num_sharing == few.sum()
    assert shared.num_fallen_back == (low & (number > 0) & ~few).sum()
    assert shared.num_unfitted == ((number == 0) & ~few).sum()
    assert decision_from_json(json.loads(json.dumps(shared.to_json()))).to_json() == shared.to_json()


def test_a_negative_number_of_positives_is_refused():
    with pytest.raises(UserError, match="label_threshold_positives is -1; it must not be negative"):
        Rules(least_positives=-1)


@pytest.mark.parametrize("forest", [True, False])
def test_closed_thresholds_are_the_nearest_coherent_sets_above_and_below(forest):
    scores = random_scores(4, (50, 8), tied=False)
    thresholds = fit_labels(scores)
    open_preds = thresholds.apply(scores)
    hierarchy = random_dag(np.random.default_rng(forest), 8, forest=forest)
    up, down = (ClosedThresholds(thresholds, closure, hierarchy).apply(scores) for closure in ("up", "down"))
    sets = np.array(list(itertools.product([False, True], repeat=8)))
    coherent = sets[~(sets[:, hierarchy.children] & ~sets[:, hierarchy.parents]).any(1)]
    for row, on in enumerate(open_preds):
        above = coherent[(coherent >= on).all(1)]
        below = coherent[(coherent <= on).all(1)]
        np.testing.assert_array_equal(up[row], above[above.sum(1).argmin()])
        np.testing.assert_array_equal(down[row], below[below.sum(1).argmax()])
    assert (up != open_preds).any()
    assert (down != open_preds).any()


def test_top_labels_are_those_of_precision_at_k():
    scores = random_scores(8, (30, 7), tied=True)
    for k in (1, 3, 5):
        preds = TopLabels(k).apply(scores)
        assert (preds.sum(1) == k).all()
        hits = (preds & scores.labels).sum(1).mean() / k
        wanted = ExampleRanks.of(scores.log_marginals, scores.labels).compute()[f"precision_at_{k}"]
        assert hits == pytest.approx(wanted)


def expectations(sets, probs, metric, batch):
    """[sets, batch] of the expected metric of each prediction, larger is better; of the others NaN."""
    overlap, sizes = sets.astype(float) @ sets.T, sets.sum(1)
    if metric == "subset_accuracy":
        values = np.eye(len(sets))
    elif metric == "hamming_loss":
        values = 2 * overlap - sizes[:, None] - sizes
    elif metric == "example_f1":
        values = np.where(sizes[:, None] + sizes == 0, 1.0, 2 * overlap / np.maximum(sizes[:, None] + sizes, 1))
    else:
        values = np.where(sizes[:, None] == 2, overlap / 2, np.nan)
    return values @ probs


@pytest.mark.parametrize("metric", ["subset_accuracy", "hamming_loss", "example_f1", "precision_at_2"])
def test_each_decision_is_the_best_for_its_metric(metric):
    """Of all label sets none has a better expectation, under a distribution in which the decisions differ."""
    with jax.enable_x64(True):
        hierarchy = random_dag(np.random.default_rng(1), 7, forest=True)
        head = conditional.Head(hierarchy, 7, 2, siblings="hurdle", param_dtype="float64", rngs=nnx.Rngs(0))
        scores = jnp.asarray(np.random.default_rng(2).normal(0.5, 1.5, (40, 7, 1)))
        dist = head(scores, Encoded(jnp.zeros((40, 1, 2)), jnp.ones((40, 1), bool), jnp.zeros((40, 2))))
        sets = np.array(list(itertools.product([False, True], repeat=7)))
        tiled = jnp.broadcast_to(jnp.asarray(sets)[:, None], (len(sets), 40, 7))
        probs = np.exp(jax.jit(jax.vmap(lambda dist, on: dist.log_prob(on), (None, 0)))(dist, tiled))
        found = decide(dist, metric)
    expected = expectations(sets, probs, metric, 40)
    of_found = expected[(sets[:, None] == found).all(-1).argmax(0), np.arange(40)]
    np.testing.assert_allclose(of_found, np.nanmax(expected, axis=0), rtol=1e-6, atol=1e-9)


def test_decide_takes_what_was_fitted_for_the_metric():
    scores = random_scores(9, (40, 6), tied=False)
    dist = ProductOfBernoullis(jnp.asarray(log_odds(jnp.asarray(scores.log_marginals))))
    for metric, fitted in [("micro_f1", fit_global(scores, "micro_f1")), ("macro_f1", fit_labels(scores))]:
        log_marginals = np.asarray(dist.log_marginals)
        np.testing.assert_array_equal(
            decide(dist, metric, fitted), fitted.apply(of_log_marginals(log_marginals, scores.labels))
        )
        with pytest.raises(UserError, match="fitted on validation"):
            decide(dist, metric)
    with pytest.raises(UserError, match="fitted for 'micro_f1', not for 'macro_f1'"):
        decide(dist, "macro_f1", fit_global(scores, "micro_f1"))
    with pytest.raises(UserError, match="not for 'subset_accuracy'"):
        decide(dist, "subset_accuracy", fit_labels(scores))
    with pytest.raises(UserError, match="did you mean 'micro_f1'"):
        decide(dist, "mikro_f1")


def decisions():
    scores = random_scores(5, (30, 6), tied=False)
    thresholds = fit_labels(scores)
    closed = ClosedThresholds(thresholds, "up", HIERARCHY)
    return [Half(), Mode(), ExpectedF1(8), TopLabels(3), fit_global(scores, "macro_f1"), thresholds, closed]


@pytest.mark.parametrize("decision", decisions(), ids=lambda decision: decision.kind)
def test_json_round_trip(decision):
    read = decision_from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False)), HIERARCHY)
    assert type(read) is type(decision)
    assert read.to_json() == decision.to_json()
    scores = random_scores(6, (30, 6), tied=True)
    scores = scores._replace(sets=scores.sets | {"expected_f1": scores.labels})
    np.testing.assert_array_equal(read.apply(scores), decision.apply(scores))
    if isinstance(decision, LabelThresholds):
        assert read.log_thresholds.tobytes() == decision.log_thresholds.tobytes()
    elif not isinstance(decision, ClosedThresholds):
        assert read == decision
    if isinstance(decision, LabelThresholds | GlobalThreshold):
        assert decision.to_json()["fitted_on"] == "abc"


def test_json_of_no_decision_is_refused():
    with pytest.raises(UserError, match="did you mean 'half'"):
        decision_from_json({"kind": "hlaf"})
    with pytest.raises(UserError, match="unknown decision None"):
        decision_from_json({})
    with pytest.raises(UserError, match="threshold"):
        decision_from_json({"kind": "global_threshold", "metric": "micro_f1"})
    with pytest.raises(UserError, match="no hierarchy"):
        decision_from_json(decisions()[-1].to_json())


def test_wrong_requests_are_refused():
    scores = random_scores(1, (6, 3), tied=False)
    with pytest.raises(UserError, match="did you mean 'micro_f1'"):
        Rules("micro-f1")
    for grid in [(), (0.5, 0.4), (0.4, 0.4), (0.0, 0.5), (0.5, 1.0), (float("nan"),)]:
        with pytest.raises(UserError, match="grid"):
            Rules(threshold_grid=grid)
    for wrong in ({"fallback": 1.1}, {"fallback": -0.1}, {"closure": "sideways"}, {"most": -1}):
        with pytest.raises(UserError, match=r"config\.evaluate\."):
            Rules(**wrong)
    with pytest.raises(UserError, match="thresholds of 3 labels for scores of 4"):
        fit_labels(scores).apply(random_scores(1, (6, 4), tied=False))


def test_fitted_decisions_name_the_type_they_need():
    for fit in (fit_global_threshold, fit_label_thresholds):
        assert inspect.signature(fit).parameters["counts"].annotation is ValidationCounts
