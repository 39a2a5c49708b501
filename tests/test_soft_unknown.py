"""Unknown labels (NaN) and soft labels (probabilities), from the batch to the loss, the metrics and the decisions."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, hamming_loss, ndcg_score, precision_recall_fscore_support
from small_losses import label_loss
from small_scores import label_metrics, split_metrics, validation_counts
from test_heads import all_sets, distribution, every_head, hierarchies, make_head, random_scores
from test_hierarchy import random_dag, reach

from mlresearch.data.pipeline import Batches, EncodedSplit
from mlresearch.decisions import (
    METRIC_SIGN,
    Rules,
    fit_global_threshold,
    fit_label_thresholds,
)
from mlresearch.definitions import RANKING
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate_validation, score_split
from mlresearch.heads import check_label_values
from mlresearch.label_space import LabelSets
from mlresearch.metrics import ExampleRanks, LabelCounts, Positives, Ranks
from mlresearch.step import Scored, multi_hot

ROWS = 120
on_forest_and_dag = pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])


def random_evidence(rng, sets, log_probs):
    """[rows, labels] labels with NaN: part of a set that the head can give in two rows of three, anything in the third.

    The first row is all unknown, the second all known; how much is known differs by row.
    """
    num_labels = sets.shape[1]
    evidence = np.empty((log_probs.shape[1], num_labels), np.float32)
    for row, log_prob in enumerate(log_probs.T):
        possible = sets if row % 3 == 2 else sets[np.isfinite(log_prob)]
        evidence[row] = rng.choice(possible)
        evidence[row, rng.random(num_labels) < rng.random()] = np.nan
        if row < 2:
            evidence[row] = np.nan if row == 0 else possible[0]
    return evidence


def enumerate_log_probs(dist, batch, num_labels):
    """[sets, batch] log-probabilities of every label set."""
    sets = all_sets(num_labels)
    each = jax.jit(lambda dist: jax.lax.map(lambda on: dist.log_prob(jnp.broadcast_to(on, (batch, num_labels))), sets))
    return sets, np.asarray(each(dist), np.float64)


def leaf_closures(rng, hierarchy, rows):
    """[rows, labels] random leaves with their ancestors, which every head can give."""
    labels = np.zeros((rows, hierarchy.num_labels), bool)
    for row, leaf in zip(labels, rng.choice(np.flatnonzero(hierarchy.num_children == 0), rows), strict=True):
        row[hierarchy.close(np.array([leaf]))] = True
    return labels


@jax.jit
def loss_of(dist, labels):
    return dist.loss(labels, label_loss())


@every_head
@on_forest_and_dag
@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_joint_loss_sums_over_all_completions(name, options, forest, x64):
    """exp(−loss) is the total probability of the label sets that agree with what is known."""
    with jax.enable_x64(x64):
        hierarchy = hierarchies(forest)[0]
        head = make_head(name, options, hierarchy)
        scores = random_scores(head, hierarchy, ROWS, 1, dtype=jnp.float64 if x64 else jnp.float32)
        dist = distribution(head, scores)
        if not (dist.normalised and head.unknown_labels):
            return
        sets, log_probs = enumerate_log_probs(dist, ROWS, hierarchy.num_labels)
        evidence = random_evidence(np.random.default_rng(forest), sets, log_probs)
        agrees = (np.isnan(evidence) | (evidence == sets[:, None])).all(-1)
        expected = np.where(agrees, np.exp(log_probs), 0).sum(0)
        loss = np.asarray(loss_of(dist, jnp.asarray(evidence)))
        assert loss.dtype == scores.dtype
        assert loss[0] == 0
        if name == "flat_softmax":  # which learns what it can of a fully known set that it cannot give
            kept = np.isnan(evidence).any(1) | (expected > 0)
            loss, expected = loss[kept], expected[kept]
        assert (np.isposinf(loss) == (expected == 0)).all()
        np.testing.assert_allclose(np.exp(-loss), expected, rtol=1e-10 if x64 else 2e-5)
        if head.coherent:
            assert 10 < np.isposinf(loss).sum() < 60
        # What is fully known has the probability of that set.
        known = sets[log_probs.argmax(0)]
        np.testing.assert_allclose(
            loss_of(dist, jnp.asarray(known, jnp.float32)), -log_probs.max(0), rtol=1e-5, atol=2e-6
        )


@every_head
@on_forest_and_dag
def test_gradients_with_unknown_labels_equal_finite_differences(name, options, forest):
    with jax.enable_x64(True):
        hierarchy = hierarchies(forest)[1]
        rng = np.random.default_rng(2)
        head = make_head(name, options, hierarchy)
        if not head.unknown_labels:
            return
        scores = random_scores(head, hierarchy, 12, 3, dtype=jnp.float64)
        labels = leaf_closures(rng, hierarchy, 12).astype(np.float64)
        labels[rng.random(labels.shape) < 0.5] = np.nan
        if head.soft_labels:
            labels *= rng.choice([0.3, 1.0], labels.shape)
        labels[0] = np.nan
        root, child = hierarchy.parents[0], hierarchy.children[0]
        labels[1, root], labels[1, child] = 0, 1  # impossible under a hierarchy
        labels = jnp.asarray(labels)

        def losses(scores):
            return distribution(head, scores).loss(labels, label_loss())

        def total(scores):
            loss = losses(scores)
            return loss.sum(), loss

        (_, loss), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(scores)
        assert not jnp.isnan(loss).any()
        assert loss[0] == 0
        assert (gradient[0] == 0).all()
        if head.coherent and not head.soft_labels:
            assert loss[1] == jnp.inf
            assert (gradient[1] == 0).all()
        # One label of all rows at once: what one row is given changes the loss of no other.
        steps = 1e-6 * jnp.eye(hierarchy.num_labels)[:, None, :, None]
        above, below = jax.jit(
            lambda scores: (jax.lax.map(losses, scores + steps), jax.lax.map(losses, scores - steps))
        )(scores)
        differences = jnp.where(jnp.isfinite(loss), above - below, 0.0) / 2e-6
        np.testing.assert_allclose(gradient.sum(-1), differences.T, rtol=1e-5, atol=1e-6)


@every_head
@on_forest_and_dag
def test_extreme_scores_give_no_nan(name, options, forest):
    rng = np.random.default_rng(4)
    hierarchy = random_dag(rng, 14, forest=forest, density=0.2)
    head = make_head(name, options, hierarchy)
    if not head.unknown_labels:
        return
    loss_and_gradient = jax.jit(
        jax.value_and_grad(lambda scores, labels: distribution(head, scores).loss(labels, label_loss()).sum())
    )
    for scale in (1.0, 30.0, 300.0, 1e4):
        scores = random_scores(head, hierarchy, 33, 8, scale=scale)
        scores = scores.at[0].set(-scale).at[1].set(scale).at[2].set(0)
        labels = leaf_closures(rng, hierarchy, 33).astype(np.float32)
        labels[rng.random(labels.shape) < rng.random((33, 1))] = np.nan
        loss, gradient = loss_and_gradient(scores, jnp.asarray(labels))
        assert jnp.isfinite(loss)
        assert jnp.isfinite(gradient).all()
        anything = rng.choice([0, 1, np.nan], labels.shape).astype(np.float32)
        loss, gradient = loss_and_gradient(scores, jnp.asarray(anything))
        assert not jnp.isnan(loss)
        assert jnp.isfinite(gradient).all()


@every_head
@on_forest_and_dag
def test_labels_that_are_on_or_off_have_one_loss_in_both_forms(name, options, forest):
    hierarchy = hierarchies(forest)[0]
    head = make_head(name, options, hierarchy)
    scores = random_scores(head, hierarchy, 8, 5)
    dist = distribution(head, scores)
    labels = jnp.asarray(leaf_closures(np.random.default_rng(5), hierarchy, 8))
    expected = loss_of(dist, labels)
    np.testing.assert_allclose(loss_of(dist, labels.astype(jnp.float32)), expected, rtol=1e-5, atol=2e-6)
    if not head.unknown_labels:
        unknown = labels.astype(jnp.float32).at[3, 2].set(jnp.nan)
        assert np.flatnonzero(np.isnan(loss_of(dist, unknown))).tolist() == [3]  # seen at once, were it not refused


def test_one_unknown_label_does_not_change_the_loss_of_other_examples():
    """Of sets that flat_softmax cannot give, empty ones and such with several branches, it learns what it can."""
    hierarchy = hierarchies(True)[0]
    head = make_head("flat_softmax", {}, hierarchy)
    dist = distribution(head, random_scores(head, hierarchy, 40, 5))
    rng = np.random.default_rng(5)
    size = hierarchy.num_labels
    chosen = [hierarchy.close(rng.choice(size, rng.integers(4))) for _ in range(40)]
    labels = np.stack([np.isin(np.arange(size), closed) for closed in chosen])
    expected = loss_of(dist, jnp.asarray(labels))
    assert np.isfinite(expected).all()
    found = loss_of(dist, jnp.asarray(labels, jnp.float32).at[3, 2].set(jnp.nan))
    np.testing.assert_allclose(np.delete(found, 3), np.delete(expected, 3), rtol=1e-5, atol=2e-6)


def cross_entropy(logit, label):
    return -label * math.log(1 / (1 + math.exp(-logit))) - (1 - label) * math.log(1 / (1 + math.exp(logit)))


def random_values(rng, shape):
    """Labels of all kinds: off, on, soft and unknown."""
    return np.where(rng.random(shape) < 0.4, rng.random(shape), rng.choice([0, 1, np.nan], shape)).astype(np.float32)


def test_independent_sums_over_known_labels():
    hierarchy = hierarchies(True)[0]
    head = make_head("independent", {}, hierarchy)
    scores = random_scores(head, hierarchy, 50, 1)
    labels = random_values(np.random.default_rng(1), scores.shape[:2])
    expected = [
        sum(cross_entropy(logit, label) for logit, label in zip(*row, strict=True) if not math.isnan(label))
        for row in zip(scores[..., 0].tolist(), labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(loss_of(distribution(head, scores), jnp.asarray(labels)), expected, rtol=1e-5)


@on_forest_and_dag
def test_max_constraint_weighs_both_parts_of_a_soft_label(forest):
    for seed, hierarchy in enumerate(hierarchies(forest, count=2)):
        below = reach(hierarchy).T | np.eye(hierarchy.num_labels, dtype=bool)
        head = make_head("max_constraint", {}, hierarchy)
        scores = random_scores(head, hierarchy, 20, seed)
        labels = random_values(np.random.default_rng(seed), scores.shape[:2])
        expected = np.zeros(20)
        for row, label in itertools.product(range(20), range(hierarchy.num_labels)):
            value, logits = float(labels[row, label]), np.asarray(scores[row, :, 0], np.float64)
            if value > 0:  # not NaN
                expected[row] += value * cross_entropy(logits[below[label] & (labels[row] > 0)].max(), 1)
            if value < 1:
                expected[row] += (1 - value) * cross_entropy(logits[below[label]].max(), 0)
        np.testing.assert_allclose(loss_of(distribution(head, scores), jnp.asarray(labels)), expected, rtol=1e-5)


@every_head
@on_forest_and_dag
def test_heads_refuse_by_name_what_they_cannot_take(name, options, forest):
    head = make_head(name, options, hierarchies(forest)[0])
    check_label_values(head, name, has_soft=False, has_unknown=False)
    for takes, has, said in (
        (head.soft_labels, {"has_soft": True, "has_unknown": False}, "soft labels"),
        (head.unknown_labels, {"has_soft": False, "has_unknown": True}, "unknown labels"),
    ):
        assert isinstance(takes, bool)
        if takes:
            check_label_values(head, name, **has)
        else:
            with pytest.raises(UserError, match=rf"head '{name}' .*{said} .*'independent'"):
                check_label_values(head, name, **has)


def test_who_takes_what():
    forest, dag = hierarchies(True)[0], hierarchies(False)[0]
    taken = {
        (name, of): (head.soft_labels, head.unknown_labels)
        for name in ("independent", "max_constraint", "conditional", "flat_softmax")
        for of, hierarchy in (("forest", forest), ("dag", dag))
        for head in [make_head(name, {}, hierarchy)]
    }
    assert taken == {
        ("independent", "forest"): (True, True),
        ("independent", "dag"): (True, True),
        ("max_constraint", "forest"): (True, True),
        ("max_constraint", "dag"): (True, True),
        ("conditional", "forest"): (False, True),
        ("conditional", "dag"): (False, False),
        ("flat_softmax", "forest"): (False, True),
        ("flat_softmax", "dag"): (False, True),
    }


LABEL_SETS = LabelSets.from_rows([(0, 2, 3), (), (1,)], [(1.0, 0.25, np.nan), (), (0.75,)])
DENSE = np.array([[1, 0, 0.25, np.nan], [0, 0, 0, 0], [0, 0.75, 0, 0]], np.float32)


def test_a_batch_becomes_the_truth_of_every_label():
    rows = np.arange(3)
    ids, values = LABEL_SETS.take(rows, 4, 3), LABEL_SETS.take_values(rows, 3)
    np.testing.assert_array_equal(multi_hot(ids, values, 4), DENSE)
    listed = multi_hot(ids, None, 4)
    assert listed.dtype == bool
    np.testing.assert_array_equal(listed, DENSE != 0)


def test_scores_of_a_split_know_what_is_known():
    split = EncodedSplit(labels=LABEL_SETS, lengths=np.zeros(3, np.int32))
    batches = Batches(split, num_labels=4, batch_size=2, buckets=(8,))

    def score(batch):
        cells = jnp.full((1, 2, 4), math.log(0.4))  # one run
        return Scored(cells, {"mode": cells > 0}, jnp.ones((1, 2)))

    scored = score_split(score, batches, "validation", "abc")
    [[scores]] = scored
    np.testing.assert_array_equal(scores.labels, DENSE > 0.5)
    np.testing.assert_array_equal(scores.known, ~np.isnan(DENSE))
    [(found, _)] = evaluate_validation(scored, 1, None, Rules())
    metrics = found.metrics()
    assert metrics["loss"] == {"mean": 1}
    assert metrics["half"]["hamming_loss"] == 2 / 11  # two labels on of eleven known, none predicted


# Metrics

TOLERANCE = 1e-12
NAMES = ("precision", "recall", "f1")


def random_cells(seed, cases):
    """Yield (scores, preds, labels, known), with labels and examples of which nothing is known."""
    rng = np.random.default_rng(seed)
    for case in range(cases):
        shape = tuple(rng.integers(1, [14, 8]))
        scores = np.log(rng.integers(1, 6 if case % 2 else 1000, shape) / 1000).astype(np.float32)
        known = rng.random(shape) < rng.choice([0.2, 0.6, 0.95])
        known[:, rng.random(shape[1]) < 0.1] = False
        if known.any():
            yield scores, rng.random(shape) < 0.5, rng.random(shape) < rng.random(), known


def binary(labels, preds, zero_division):
    """Precision, recall and F1 of one list of cells by scikit-learn."""
    if not len(labels):
        return dict.fromkeys(NAMES, zero_division)
    values = precision_recall_fscore_support(labels, preds, labels=[True], zero_division=zero_division)
    return dict(zip(NAMES, (value[0] for value in values[:3]), strict=True))


def reference(scores, preds, labels, known):
    """Every metric from lists of known cells; examples without any are left out."""
    seen = known.any(axis=1)
    scores, preds, labels, known = scores[seen], preds[seen], labels[seen], known[seen]
    by_label = [binary(labels[of, at], preds[of, at], 0) for at, of in enumerate(known.T)]
    by_example = [binary(labels[at, of], preds[at, of], 0) for at, of in enumerate(known)]
    positives = (labels & known).sum(axis=0)
    expected = {
        "num_examples": len(labels),
        "num_labels_absent": (positives == 0).sum(),
        "label_cardinality": np.mean([row[of].sum() for row, of in zip(labels, known, strict=True)]),
        "predicted_cardinality": np.mean([row[of].sum() for row, of in zip(preds, known, strict=True)]),
        "hamming_loss": hamming_loss(labels[known], preds[known]),
        "subset_accuracy": np.mean([(labels[at, of] == preds[at, of]).all() for at, of in enumerate(known)]),
        "violation_rate": np.mean(preds[:, -1] & ~preds[:, 0]),
    }
    micro = binary(labels[known], preds[known], 0)
    for name in NAMES:
        values = np.array([label[name] for label in by_label])
        expected[f"micro_{name}"] = micro[name]
        expected[f"macro_{name}"] = values.mean()
        expected[f"macro_{name}_present"] = values[positives > 0].mean() if positives.any() else 0
        expected[f"weighted_{name}"] = np.average(values, weights=positives) if positives.any() else 0
        expected[f"example_{name}"] = np.mean([example[name] for example in by_example])
    expected["example_f1"] = np.mean([binary(labels[at, of], preds[at, of], 1)["f1"] for at, of in enumerate(known)])
    present = np.flatnonzero(positives)
    columns = [average_precision_score(labels[known[:, at], at], scores[known[:, at], at]) for at in present]
    expected["macro_average_precision"] = np.mean(columns) if columns else 0
    expected["weighted_average_precision"] = np.average(columns, weights=positives[present]) if columns else 0
    expected["micro_average_precision"] = average_precision_score(labels[known], scores[known]) if columns else 0
    for k in (1, 3, 5):
        shares = []
        for row_scores, row_labels, of in zip(scores, labels, known, strict=True):
            ranked = sorted(np.flatnonzero(of), key=lambda at, by=row_scores: (-by[at], at))
            if len(ranked) >= k:
                shares.append(sum(row_labels[at] for at in ranked[:k]) / k)
        if shares:
            expected[f"precision_at_{k}"] = np.mean(shares)
    # What is known of an example, as an example of fewer labels.
    blocks = [(scores[[at]][:, of], labels[[at]][:, of]) for at, of in enumerate(known) if of.any()]
    of_examples = [ExampleRanks.of(*block).compute() for block in blocks]
    for name in ("label_ranking_average_precision", "coverage_error", "ranking_loss", "r_precision"):
        if values := [values[name] for values in of_examples if name in values]:
            expected[name] = np.mean(values)
    apart = scores.astype(np.float64) - 1e-9 * np.arange(labels.shape[1])  # the first of equal scores goes first
    for k in (1, 3, 5):
        gains = [
            1.0 if of.sum() == 1 else ndcg_score(labels[[at]][:, of], apart[[at]][:, of], k=k)
            for at, of in enumerate(known)
            if (labels[at] & of).any()
        ]
        if k <= labels.shape[1] and gains:
            expected[f"ndcg_at_{k}"] = np.mean(gains)
    return expected


def edges_of(labels):
    return np.array([labels.shape[1] - 1]), np.array([0])


def test_metrics_equal_scikit_learn_on_known_cells():
    left_out = 0
    for scores, preds, labels, known in random_cells(1, 50):
        actual = split_metrics(scores, preds, labels, edges_of(labels), known)
        expected = reference(scores, preds, labels, known)
        assert actual == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
        left_out += not known.any(axis=1).all()
    assert left_out > 5


def test_what_stands_in_unknown_cells_does_not_matter():
    for scores, preds, labels, known in random_cells(2, 60):
        expected = split_metrics(scores, preds, labels, None, known)
        assert split_metrics(np.where(known, scores, 0), preds ^ ~known, labels ^ ~known, None, known) == expected


def test_all_known_is_the_same_as_no_word_of_it():
    for scores, preds, labels, _ in random_cells(3, 60):
        everything = np.ones(labels.shape, bool)
        expected = split_metrics(scores, preds, labels, edges_of(labels))
        assert split_metrics(scores, preds, labels, edges_of(labels), everything) == expected


@jax.jit
def count_on_device(preds, labels, mask, edges, known):
    return LabelCounts.of(preds, labels, mask, edges, known)


@given(
    cells=hnp.arrays(bool, (3, 12, 4)),
    scores=hnp.arrays(np.float32, (12, 4), elements=st.sampled_from([-np.inf, -2.0, -0.5, 0.0])),
    mask=hnp.arrays(bool, 12),
    cut=st.integers(0, 12),
)
def test_one_batch_equals_two(cells, scores, mask, cut):
    preds, labels, known = cells
    if not (known.any(axis=1) & mask).any():
        return
    edges = edges_of(labels)
    expected = split_metrics(scores[mask], preds[mask], labels[mask], edges, known[mask])
    parts = [slice(0, cut), slice(cut, 12)]
    one, two = (LabelCounts.of(preds[part], labels[part], mask[part], edges, known[part]) for part in parts)
    blocks = [(scores[part][mask[part]], labels[part][mask[part]], known[part][mask[part]]) for part in parts]
    blocks = [block for block in blocks if len(block[0])]
    kept = functools.reduce(Positives.merge, [Positives.of(*block) for block in blocks])
    ranks = functools.reduce(Ranks.merge, [Ranks.of(kept, *block) for block in blocks])
    tops = functools.reduce(ExampleRanks.merge, [ExampleRanks.of(*block) for block in blocks])
    merged = one.merge(two).compute() | ranks.compute() | tops.compute()
    assert merged == pytest.approx(expected, rel=TOLERANCE)
    on_device = count_on_device(*map(jnp.asarray, (preds, labels, mask)), tuple(map(jnp.asarray, edges)), known)
    expected = {name: value for name, value in expected.items() if name not in RANKING}
    assert on_device.compute() == pytest.approx(expected, rel=1e-6)


def test_nothing_known_is_nothing_to_evaluate():
    cells = np.zeros((2, 3), bool)
    with pytest.raises(UserError, match="none of its labels is known"):
        label_metrics(cells, cells, None, cells)


# Decisions


@pytest.mark.parametrize("metric", METRIC_SIGN)
def test_the_global_threshold_is_the_best_for_known_cells(metric):
    for scores, _, labels, known in random_cells(6, 25):
        counts = validation_counts(scores, labels, known, grid=(0.1, 0.3, 0.5, 0.7))
        decision = fit_global_threshold(counts, metric)
        values = [
            label_metrics(scores.astype(np.float64) > math.log(threshold), labels, None, known)[metric]
            for threshold in decision.grid
        ]
        assert decision.value == values[decision.grid.index(decision.threshold)]
        assert decision.value * METRIC_SIGN[metric] == max(value * METRIC_SIGN[metric] for value in values)


def test_label_thresholds_are_those_of_the_known_examples():
    for scores, _, labels, known in random_cells(7, 40):
        fitted = fit_label_thresholds(validation_counts(scores, labels, known))
        alone = [
            fit_label_thresholds(validation_counts(scores[of, at : at + 1], labels[of, at : at + 1])).log_thresholds[0]
            if of.any()
            else np.float32(math.log(0.5))
            for at, of in enumerate(known.T)
        ]
        np.testing.assert_allclose(fitted.log_thresholds, alone, rtol=1e-6)
