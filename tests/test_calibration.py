"""Maps of marginals and of scores against grids and scikit-learn, and what they keep."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from small_scores import scored_split
from test_heads import distribution, hierarchies, make_head, random_scores

from mlresearch.calibration import Method
from mlresearch.calibration.maps import Isotonic, Platt, ScoreMaps, Temperature, calibration_from_json
from mlresearch.calibration.of_marginals import ValidationCells, fit_isotonic, fit_platt, fit_temperature, pool_cells
from mlresearch.calibration.of_runs import Calibrations, MappedSplit
from mlresearch.calibration.of_scores import Truth, ValidationScores, fit_score_maps
from mlresearch.decisions import Rules
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate_validation
from mlresearch.label_space import LabelSets
from mlresearch.step import HeadInputs

FITS = {"temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic}


def log_sigmoid(log_odds):
    return (-np.logaddexp(0, -np.asarray(log_odds, np.float64))).astype(np.float32)


def draw(seed=0, examples=400, labels=9, slope=2.5, shift=1.0, decimals=None, runs=1):
    """Log-odds that are too large by a factor and a shift, and labels drawn from the true ones."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1.0, 1.5, (examples, labels))
    on = rng.random(true.shape) < expit(true)
    said = slope * true + shift
    return np.stack([said if decimals is None else said.round(decimals)] * runs), on


def scored(log_odds, on, known=None, **options):
    return scored_split(log_sigmoid(log_odds), log_odds > 0, on, known, **options)


def test_the_temperature_is_the_best_of_a_grid():
    [log_odds], on = draw(shift=0.0)
    [cells] = pool_cells(scored(log_odds[None], on))
    temperature = fit_temperature(cells).temperature
    grid = np.geomspace(0.2, 20, 2001)
    margins = np.where(on, -log_odds, log_odds)
    losses = [np.logaddexp(0, margins / t).mean() for t in grid]
    assert temperature == pytest.approx(grid[np.argmin(losses)], rel=0.003)  # the grid's step
    assert np.logaddexp(0, margins / temperature).mean() <= min(losses) + 1e-9
    assert 2 < temperature < 3


def test_platt_is_logistic_regression_without_penalty():
    [log_odds], on = draw()
    [cells] = pool_cells(scored(log_odds[None], on))
    found = fit_platt(cells)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(log_odds.reshape(-1, 1), on.ravel())
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert found.intercept == pytest.approx(reference.intercept_[0], rel=1e-4)


def test_a_slope_below_0_is_0_and_all_labels_get_their_share():
    [log_odds], on = draw()
    [cells] = pool_cells(scored(-log_odds[None], on))
    found = fit_platt(cells)
    assert found.slope == 0
    assert found.intercept == pytest.approx(logit(on.mean()), rel=1e-5)
    assert fit_temperature(cells).temperature == pytest.approx(100)


def test_isotonic_is_scikit_learn_s():
    """At the log-odds of all cells; no two of them share a bin."""
    [log_odds], on = draw(decimals=1)
    [cells] = pool_cells(scored(log_odds[None], on))
    least = 1 / (on.size + 2)
    reference = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    expected = reference.fit_transform(log_odds.ravel(), on.ravel()).reshape(log_odds.shape)
    found = fit_isotonic(cells)
    np.testing.assert_allclose(np.exp(found(log_sigmoid(log_odds))), expected, rtol=2e-6)
    assert 10 < len(np.unique(expected)) < len(np.unique(log_odds))
    outside = np.exp(found(log_sigmoid(np.array([-300.0, -50.0, 50.0]))))
    np.testing.assert_allclose(outside, reference.predict([-300.0, -50.0, 50.0]), rtol=1e-5)


@pytest.mark.parametrize("kind", FITS)
def test_pooling_costs_nothing_that_is_seen_and_blocks_do_not_matter(kind, monkeypatch):
    """Against every cell for itself, unknown ones left out."""
    [log_odds], on = draw(1)
    known = np.random.default_rng(2).random(on.shape) < 0.7
    [cells] = pool_cells(scored(log_odds[None], on, known))
    order = np.argsort(log_odds[known])
    exact = log_odds[known][order].astype(np.float32).astype(np.float64)
    alone = np.ones(len(order), np.int64)
    each = ValidationCells("validation", "abc", alone, on[known][order].astype(np.int64), exact)
    assert cells.count.sum() == known.sum()
    assert (cells.count > 1).any()
    found, wanted = FITS[kind](cells), FITS[kind](each)
    grid = log_sigmoid(np.linspace(-6, 6, 200))
    difference = np.abs(np.exp(found(grid)) - np.exp(wanted(grid)))
    assert difference.mean() < 1e-3 if kind == "isotonic" else difference.max() < 1e-5  # a curve may jump at a cell
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 50)
    [blocks] = pool_cells(scored(log_odds[None], on, known, order=np.random.default_rng(0).permutation(len(on))))
    assert np.array_equal(blocks.count, cells.count)
    np.testing.assert_allclose(blocks.log_odds, cells.log_odds, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", FITS)
def test_what_is_calibrated_already_stays(kind):
    """Within three standard errors of 90,000 cells."""
    log_odds, on = draw(examples=10_000, slope=1.0, shift=0.0)
    [cells] = pool_cells(scored(log_odds, on))
    grid = np.linspace(-3, 1.5, 50)
    np.testing.assert_allclose(np.exp(FITS[kind](cells)(log_sigmoid(grid))), expit(grid), atol=0.03)
    if kind != "isotonic":
        assert np.diff(np.exp(FITS[kind](cells)(log_sigmoid(grid)))) == pytest.approx(np.diff(expit(grid)), rel=0.05)


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("value", [False, True])
def test_where_nothing_is_on_or_nothing_is_off_nothing_changes(kind, value):
    log_odds, on = draw()
    [cells] = pool_cells(scored(log_odds, np.full_like(on, value)))
    same = log_sigmoid(np.linspace(-60, 60, 99))
    np.testing.assert_allclose(FITS[kind](cells)(same), same, rtol=2e-6)


NEXT = np.float32(np.inf)
HARD = np.array([0.0, -1e-44, -1e-38, -1e-30, -1e-8, -0.6931472, -1.0, -17.0, -79.99, -1e4, -3e38, -np.inf], np.float32)


def all_scales(around=40):
    """Float32 log-marginals of all sizes, each with its next neighbours, ascending."""
    rng = np.random.default_rng(0)
    spread = -np.exp(rng.uniform(-90, 85, 3000))
    values = np.concatenate([HARD, spread.astype(np.float32), -np.exp(rng.uniform(-3, 3, 2000)).astype(np.float32)])
    near = [values]
    for _ in range(around):
        near.append(np.nextafter(near[-1], NEXT))
    with np.errstate(under="ignore"):
        return np.unique(np.minimum(np.concatenate(near), np.float32(0)))


MAPS = [
    Temperature(1.0, ""),
    *(Temperature(t, "") for t in (0.01, 0.7, 3.3, 100.0)),
    *(Platt(slope, shift, "") for slope in (0.0, 1e-12, 1e-5, 0.3, 1.7, 100.0) for shift in (-80.0, -1e-9, 3.0, 80.0)),
    Isotonic(np.array([-9.0, -2.0, -1.0, 0.3, 0.3000001, 4.0]), np.array([-11.0, -3.0, -3.0, 1.0, 1.0000001, 7.0]), ""),
    Isotonic(np.array([-1.0, 1.0 / 3]), np.array([-1e-9, 1e-9]), ""),
    Isotonic(np.array([0.1]), np.array([0.2]), ""),
]


def test_no_map_ever_turns_two_numbers_round():
    """Neighbouring float32 numbers from −3e38 to 0: bit for bit, and no NaN."""
    values = all_scales()
    assert len(values) > 100_000
    for each in MAPS:
        mapped = each(values)
        assert mapped.dtype == np.float32
        assert not np.isnan(mapped).any()
        assert (mapped <= 0).all()
        falls = np.flatnonzero(mapped[1:] < mapped[:-1])
        assert not len(falls), (each, values[falls[:1]], mapped[falls[:1]])


@given(
    knots=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=1, max_size=8),
    at=st.floats(-6, 3),
    kind=st.sampled_from(["isotonic", "platt", "temperature"]),
)
def test_neighbours_stay_in_order(knots, at, kind):
    log_odds, values = np.cumsum([np.add(knot, (1e-9, 0)) for knot in knots], axis=0).T - 3.0
    maps = {
        "isotonic": Isotonic(log_odds, values, ""),
        "platt": Platt(knots[0][0], knots[0][1], ""),
        "temperature": Temperature(knots[0][0] + 0.01, ""),
    }
    start = log_sigmoid(np.append(log_odds, at))
    points = [start]
    for _ in range(6):
        points = [np.nextafter(points[0], -NEXT), *points, np.nextafter(points[-1], NEXT)]
    mapped = maps[kind](np.stack(points))
    assert (mapped[1:] >= mapped[:-1]).all()


@pytest.mark.parametrize("of", MAPS, ids=repr)
def test_no_child_comes_above_a_parent(of):
    """Marginals of a coherent head at scores from small to ±10⁴, where many a child equals its parent."""
    hierarchy = hierarchies(False)[0]
    head = make_head("max_constraint", {}, hierarchy)
    for size in (1.0, 1e-6, 1e4):
        marginals = np.asarray(distribution(head, size * random_scores(head, hierarchy, 60, 0)).log_marginals)
        children, parents = marginals[:, hierarchy.children], marginals[:, hierarchy.parents]
        assert (children == parents).any()
        mapped = of(marginals)
        assert (mapped[:, hierarchy.children] <= mapped[:, hierarchy.parents]).all()


@pytest.mark.parametrize("split", ["train", "test"])
def test_maps_are_fitted_on_validation_alone(split):
    log_odds, on = draw()
    with pytest.raises(TypeError, match=split):
        pool_cells(scored(log_odds, on, split=split))
    with pytest.raises(TypeError, match=split):
        Calibrations.of_marginals(scored(log_odds, on, split=split), Method("platt"))
    with pytest.raises(TypeError, match=split):
        ValidationScores(split, "abc", lambda: iter([]))
    [cells] = pool_cells(scored(log_odds, on))
    with pytest.raises(TypeError, match=split):
        dataclasses.replace(cells, split=split)
    for fit in FITS.values():
        with pytest.raises(TypeError, match="ValidationCells"):
            fit(scored(log_odds, on))
    with pytest.raises(TypeError, match="ValidationScores"):
        fit_score_maps(cells, 0, None, "platt")


def test_each_run_has_its_own_map_and_one_that_diverged_harms_no_other():
    log_odds, on = draw(runs=3)
    log_odds[2] /= 2
    expected = Calibrations.of_marginals(scored(log_odds[[0, 2]], on), Method("platt")).each
    said = log_sigmoid(log_odds)
    said[1, 17, 3] = np.nan
    split = scored_split(said, log_odds > 0, on)
    found = Calibrations.of_marginals(split, Method("platt"))
    assert found.each == [expected[0], None, expected[1]]
    assert expected[1].slope == pytest.approx(2 * expected[0].slope, rel=1e-3)
    assert {own.fitted_on for own in expected} == {"abc/validation"}
    records = [{}, {}, {}]
    found.note(records, split, found.apply(split))
    assert records[1]["calibration"]["validation"] == {"before": None, "after": None}
    [mapped] = found.apply(split)
    np.testing.assert_array_equal(mapped[1].log_marginals, said[1])
    np.testing.assert_array_equal(mapped[0].log_marginals, expected[0](said[0]))


def test_cross_entropy_is_scikit_learn_s_and_falls():
    log_odds, on = draw()
    known = np.random.default_rng(2).random(on.shape) < 0.7
    split = scored(log_odds, on, known)
    calibrations = Calibrations.of_marginals(split, Method("platt"))
    records = [{}]
    calibrations.note(records, split, calibrations.apply(split))
    said = records[0]["calibration"]
    assert (said["kind"], said["of"]) == ("platt", "marginals")
    a_row = known.sum() / len(on)
    before = a_row * log_loss(on[known], expit(log_odds[0][known]))
    assert said["validation"]["before"] == pytest.approx(before, rel=1e-5)
    found = calibrations.each[0]
    after = a_row * log_loss(on[known], expit(found.slope * log_odds[0] + found.intercept)[known])
    assert said["validation"]["after"] == pytest.approx(after, rel=1e-5)
    assert after < 0.8 * before


def test_decisions_see_what_is_calibrated_and_label_sets_stay():
    log_odds, on = draw()
    split = scored(log_odds, on)
    mapped = MappedSplit(split, [Platt(0.5, -1.0, "")])
    by_hand = scored_split(log_sigmoid(0.5 * log_odds - 1.0), log_odds > 0, on)
    found, wanted, plain = (evaluate_validation(each, 1, None, Rules())[0] for each in (mapped, by_hand, split))
    for name in ("half", "global_threshold", "label_thresholds"):
        assert found[0].metrics()[name] == wanted[0].metrics()[name]
    assert found[0].metrics()["mode"] == plain[0].metrics()["mode"]
    assert found[0].metrics()["half"] != plain[0].metrics()["half"]
    assert found[1]["global_threshold"].fitted_on == "abc/validation"


CALIBRATIONS = [
    Temperature(1 / 3, "abc/validation"),
    Platt(0.1, -1e-9, "abc/validation"),
    Isotonic(np.array([-1 / 3, 2.0]), np.array([-7.1, 0.3]), "abc/validation"),
    ScoreMaps(np.array([0.1, 3.0], np.float32), np.array([1e-9, -2.0], np.float32), "platt", "abc/validation"),
]


@pytest.mark.parametrize("of", CALIBRATIONS, ids=repr)
def test_json_keeps_every_bit(of):
    again = calibration_from_json(json.loads(json.dumps(of.to_json())))
    assert type(again) is type(of)
    for field in dataclasses.fields(of):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(of, field.name))
    with pytest.raises(UserError, match="has the fields"):
        calibration_from_json({**of.to_json(), "other": 1})
    with pytest.raises(UserError, match=r"unknown calibration 'plat'.*did you mean 'platt'"):
        calibration_from_json({**of.to_json(), "kind": "plat"})


# Maps of scores


def head_scores(name, options, *, forest=True, examples=200, seed=0):
    """A head, its scores of examples, too large by a factor, and label sets drawn from the distribution without it."""
    hierarchy = hierarchies(forest)[0]
    head = make_head(name, options, hierarchy)
    true = random_scores(head, hierarchy, examples, seed)
    return hierarchy, head, np.asarray(true), distribution(head, true)


def validation_scores(scores, labels, rows=70):
    """Scores [examples, labels, scores a label] of one run in batches, the last one padded."""
    listed = LabelSets.from_rows([np.flatnonzero(row).tolist() for row in labels])
    num_labels = labels.shape[1]

    def batches():
        for start in range(0, len(labels), rows):
            at = np.arange(start, min(start + rows, len(labels)))
            at, mask = np.resize(at, rows), np.arange(rows) < len(at)
            ids = np.where(mask[:, None], listed.take(at, num_labels, num_labels), num_labels)
            pooled = np.zeros((1, rows, 4), np.float32)
            yield HeadInputs(scores[None, at].astype(np.float32), pooled), Truth(ids.astype(np.int32), None, mask)

    return ValidationScores("validation", "abc/validation", batches)


def test_maps_of_independent_scores_are_penalised_logistic_regressions():
    """Each label for itself, on a grid; a label without a positive, and one without a negative, stay finite."""
    log_odds, on = draw(labels=4, examples=150)
    on[:, 2], on[:, 3] = False, True
    head = make_head("independent", {}, hierarchies(True)[0])
    found = fit_score_maps(validation_scores(log_odds[0][..., None], on), 0, head, "platt")
    assert found.fitted_on == "abc/validation"
    log_scale, shift = np.meshgrid(np.linspace(-2.5, 2.5, 301), np.linspace(-4, 4, 401), indexing="ij")
    for label in range(4):
        penalty = (log_scale**2 + shift**2) / 2
        for score, true in zip(log_odds[0, :, label], on[:, label], strict=True):
            mapped = np.exp(log_scale) * score + shift
            penalty = penalty + np.logaddexp(0, -mapped if true else mapped)
        best = np.unravel_index(penalty.argmin(), penalty.shape)
        assert np.log(found.scale[label]) == pytest.approx(log_scale[best], abs=0.02)
        assert found.shift[label] == pytest.approx(shift[best], abs=0.03)
    only_scale = fit_score_maps(validation_scores(log_odds[0][..., None], on), 0, head, "temperature")
    assert (only_scale.shift == 0).all()
    assert (only_scale.scale > 0).all()


HEADS = [
    ("independent", {}),
    ("max_constraint", {}),
    ("conditional", {"siblings": "any"}),
    ("mixture", {"components": 2, "of": "independent", "siblings": "any"}),
]


@pytest.mark.parametrize(("name", "options"), HEADS, ids=str)
def test_maps_of_scores_make_up_for_a_factor(name, options):
    """The loss on other examples, before and after; coherence is the head's own."""
    hierarchy, head, scores, dist = head_scores(name, options, examples=600)
    key = jax.random.key(0)
    if dist.normalised:
        labels = np.asarray(dist.sample(key, 1)[0])
    else:  # one uniform number an example: children come on with their parents alone
        labels = np.log(np.random.default_rng(0).random((600, 1))) < np.asarray(dist.log_marginals)
    wrong = 4.0 * scores
    maps = fit_score_maps(validation_scores(wrong[:400], labels[:400], 250), 0, head, "platt")
    before, after = (distribution(head, jnp.asarray(of[400:])) for of in (wrong, maps(jnp.asarray(wrong))))

    def loss(dist):
        marginals = np.asarray(dist.log_marginals, np.float64)
        if dist.normalised:
            return -float(dist.log_prob(jnp.asarray(labels[400:])).mean())
        return -np.where(labels[400:], marginals, np.log(-np.expm1(np.minimum(marginals, -1e-9)))).sum(1).mean()

    true = distribution(head, jnp.asarray(scores[400:]))
    assert loss(after) - loss(true) < 0.3 * (loss(before) - loss(true))
    if head.coherent:
        marginals = np.asarray(after.log_marginals)
        assert (marginals[:, hierarchy.children] <= marginals[:, hierarchy.parents]).all()


def test_label_sets_that_a_head_cannot_give_are_left_out():
    """Under ``one`` no set without a child of a label that is on is possible."""
    _, head, scores, dist = head_scores("conditional", {"siblings": "one"})
    labels = np.array(dist.sample(jax.random.key(0), 1)[0])
    expected = fit_score_maps(validation_scores(scores[:150], labels[:150], 150), 0, head, "platt")
    labels[150:] = False
    found = fit_score_maps(validation_scores(scores, labels, 200), 0, head, "platt")
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-3)
    np.testing.assert_allclose(found.shift, expected.shift, atol=1e-3)


def test_a_run_whose_scores_are_nan_has_no_maps():
    _, head, scores, dist = head_scores("independent", {})
    scores = scores.copy()
    scores[3, 1] = np.nan
    labels = np.asarray(dist.sample(jax.random.key(0), 1)[0])
    assert fit_score_maps(validation_scores(scores, labels), 0, head, "platt") is None
