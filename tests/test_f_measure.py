"""The set of the largest expected F1 against all label sets, and its integrals against sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_heads import all_sets, distribution, enumerate_log_probs, every_head, hierarchies, make_head, random_scores
from test_soft_unknown import on_forest_and_dag

from mlresearch import f_measure
from mlresearch.f_measure import NUM_SAMPLES, best_of_gains, f1_gains, largest_expected_f1, quadrature
from mlresearch.heads.independent import ProductOfBernoullis

ROWS = 12


def f1_matrix(sets, of_empty):
    """[sets, sets] F1 of each prediction and each truth."""
    overlap = sets.astype(float) @ sets.T
    total = sets.sum(1)[:, None] + sets.sum(1)
    return np.where(total == 0, of_empty, 2 * overlap / np.maximum(total, 1))


def probabilities(dist, num_labels):
    """[sets, batch] of what the gains are of: the joint distribution, or the samples', or that of the marginals."""
    batch = dist.log_marginals.shape[0]
    if not dist.normalised:
        dist = ProductOfBernoullis(dist.logits)
    if dist.tiltable:
        sets, log_probs = enumerate_log_probs(dist, batch, num_labels)
        return sets, np.exp(log_probs)
    sets = all_sets(num_labels)

    @jax.jit
    @jax.vmap
    def draw(row):
        return dist.take(row[None]).sample(jax.random.key(0), NUM_SAMPLES)[:, 0]

    drawn = np.asarray(draw(jnp.arange(batch)))
    return sets, (drawn[None] == sets[:, None, None]).all(-1).mean(-1)


@every_head
@on_forest_and_dag
@pytest.mark.parametrize("of_empty", [1.0, 0.0])
def test_no_label_set_has_a_larger_expected_f1(name, options, forest, of_empty):
    hierarchy = hierarchies(forest)[0]
    head = make_head(name, options, hierarchy)
    num_labels = hierarchy.num_labels
    with jax.enable_x64(True):
        dist = distribution(head, random_scores(head, hierarchy, ROWS, 7, dtype=jnp.float64))
        sets, probs = probabilities(dist, num_labels)
        empty = None if dist.tiltable or not dist.normalised else probs[0]
        for most in (num_labels + 2, 2):
            if empty is None:
                found = jax.jit(largest_expected_f1, static_argnames=("most", "of_empty"))(
                    dist, most=most, of_empty=of_empty
                )
            else:  # of the samples, all of it
                gains = jax.jit(f1_gains, static_argnums=1)(dist, min(most, num_labels))
                found = best_of_gains(gains, jnp.asarray(of_empty * empty))
            found = np.asarray(found)
            expected = f1_matrix(sets, of_empty) @ probs
            small = sets.sum(1) <= most
            of_found = expected[(sets[:, None] == found).all(-1).argmax(0), np.arange(ROWS)]
            assert found.sum(1).max() <= most
            np.testing.assert_allclose(of_found, expected[small].max(0), rtol=1e-9)
            if head.coherent:
                child, parent = hierarchy.children, hierarchy.parents
                assert not (found[:, child] & ~found[:, parent]).any()


def test_gains_are_expectations():
    with jax.enable_x64(True):
        dist = ProductOfBernoullis(jnp.asarray(np.random.default_rng(0).normal(scale=4, size=(3, 9))))
        sets, log_probs = enumerate_log_probs(dist, 3, 9)
        sizes = np.arange(1, 10)
        shares = 2 / (sets.sum(1)[:, None] + sizes)
        expected = np.einsum("sb,sl,sk->blk", np.exp(log_probs), sets, shares)
        np.testing.assert_allclose(f1_gains(dist, 9), expected, rtol=1e-12)


def test_the_quadrature_is_exact_to_rounding_of_float32():
    for degree in (1, 2, 5, 31, 100, 399, 2500, 20_000):
        nodes, weights = quadrature(degree)
        powers = np.arange(degree + 1) if degree < 1000 else np.unique(np.geomspace(1, degree, 200).astype(int))
        found = (weights[:, None] * nodes[:, None] ** powers).sum(0)
        np.testing.assert_allclose(found, 1 / (powers + 1), rtol=3e-8)
        assert ((nodes > 0) & (nodes < 1) & (weights > 0)).all()


def test_many_labels_agree_with_the_poisson_binomial():
    """Of independent labels the number of others that are on follows a Poisson-binomial law, here by convolution."""
    rng = np.random.default_rng(1)
    num_labels, most = 300, 6
    scores = rng.normal(-3, 2, (2, num_labels)).astype(np.float32)
    found = f1_gains(ProductOfBernoullis(jnp.asarray(scores)), most)
    on = 1 / (1 + np.exp(-scores.astype(np.float64)))
    for row in range(2):
        for label in (0, 17, 299):
            law = np.ones(1)
            for other in np.delete(on[row], label):
                law = np.convolve(law, [1 - other, other])
            sizes = 1 + np.arange(len(law))
            expected = [on[row, label] * (law * 2 / (sizes + k)).sum() for k in range(1, most + 1)]
            np.testing.assert_allclose(found[row, label], expected, rtol=2e-5)


def test_parts_of_a_batch_choose_as_the_whole(monkeypatch):
    dist = ProductOfBernoullis(jnp.asarray(np.random.default_rng(2).normal(size=(11, 6)), jnp.float32))
    whole = largest_expected_f1(dist, 4)
    monkeypatch.setattr(f_measure, "CELLS", 6 * 4 * 3)
    np.testing.assert_array_equal(largest_expected_f1(dist, 4), whole)
    assert not largest_expected_f1(ProductOfBernoullis(jnp.full((1, 6), -1e4)), 4).any()
    assert largest_expected_f1(ProductOfBernoullis(jnp.full((1, 6), 1e4)), 6).all()


def test_labels_that_tie_come_with_their_parents():
    gains = jnp.zeros((1, 3, 3)).at[:, :, 0].set(0.8)
    chosen = best_of_gains(gains, jnp.zeros(1), jnp.asarray([2, 0, 1]))
    np.testing.assert_array_equal(chosen, [[False, False, True]])
