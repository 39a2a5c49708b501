"""Distributions tilted by factors of labels, and conditioned on known labels, against all label sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from test_heads import distribution, every_head, hierarchies, make_head, random_scores
from test_soft_unknown import enumerate_log_probs, on_forest_and_dag, random_evidence

from mlresearch.heads import NotTiltableError

ROWS = 60


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def example(name, options, forest):
    """A distribution of `ROWS` inputs, all label sets and their log-probabilities."""
    hierarchy = hierarchies(forest)[0]
    head = make_head(name, options, hierarchy)
    dist = distribution(head, random_scores(head, hierarchy, ROWS, 3, dtype=jnp.float64))
    if not dist.tiltable:
        with pytest.raises(NotTiltableError, match="tilting"):
            dist.tilt(jnp.zeros((ROWS, hierarchy.num_labels)))
        with pytest.raises(NotTiltableError, match="known"):
            dist.given(jnp.zeros((ROWS, hierarchy.num_labels)))
        pytest.skip("the head is not tilted exactly")
    return dist, *enumerate_log_probs(dist, ROWS, hierarchy.num_labels)


def log_marginals_of(sets, log_probs):
    """[batch, labels] from all label sets."""
    return np.stack([logsumexp(log_probs[sets[:, label]], axis=0) for label in range(sets.shape[1])], axis=1)


@every_head
@on_forest_and_dag
def test_tilted_probabilities_are_those_times_factors(name, options, forest):
    dist, sets, log_probs = example(name, options, forest)
    exponents = np.random.default_rng(forest).normal(scale=3, size=(ROWS, sets.shape[1]))
    exponents[0], exponents[1], exponents[2] = 0, 60, -60
    tilted, log_normaliser = jax.jit(lambda dist, by: dist.tilt(by))(dist, jnp.asarray(exponents))
    expected = log_probs + sets @ exponents.T
    total = logsumexp(expected, axis=0)
    np.testing.assert_allclose(log_normaliser, total, rtol=1e-9, atol=1e-9)
    found = enumerate_log_probs(tilted, ROWS, sets.shape[1])[1]
    likely = expected - total > -500  # below, one of many factors of 1 may count as that of a certain label
    np.testing.assert_allclose(found[likely], (expected - total)[likely], rtol=1e-8, atol=1e-8)
    assert (found[~likely] < -490).all()
    np.testing.assert_allclose(
        np.exp(tilted.log_marginals), np.exp(log_marginals_of(sets, expected - total)), rtol=1e-8, atol=1e-12
    )


@every_head
@on_forest_and_dag
def test_given_known_labels_the_others_follow_bayes_rule(name, options, forest):
    dist, sets, log_probs = example(name, options, forest)
    evidence = random_evidence(np.random.default_rng(forest), sets, log_probs)
    agrees = (np.isnan(evidence) | (evidence == sets[:, None])).all(-1)
    expected = np.where(agrees, log_probs, -np.inf)
    possible = np.isfinite(expected).any(0)
    with np.errstate(invalid="ignore"):
        expected -= logsumexp(expected, axis=0)
    conditioned = jax.jit(lambda dist, known: dist.given(known))(dist, jnp.asarray(evidence, jnp.float64))
    assert np.isfinite(conditioned.log_marginals).all()  # of impossible evidence, too
    found = enumerate_log_probs(conditioned, ROWS, sets.shape[1])[1]
    there = np.isfinite(expected) & possible
    np.testing.assert_allclose(found[there], expected[there], rtol=1e-9, atol=1e-9)
    assert (found[~there & possible] < -1e20).all()
    known = ~np.isnan(evidence) & possible[:, None]
    marginals = np.exp(conditioned.log_marginals)
    assert (marginals[known] == evidence[known]).all()
    np.testing.assert_allclose(
        marginals[possible], np.exp(log_marginals_of(sets, expected))[possible], rtol=1e-9, atol=1e-12
    )
    if conditioned.mode_is_exact:
        mode = np.asarray(conditioned.mode())
        of_mode = expected[(sets[:, None] == mode).all(-1).argmax(0), np.arange(ROWS)]
        np.testing.assert_allclose(of_mode[possible], expected.max(0)[possible], rtol=1e-9)
