"""Dropout and noise: drawn by example, alike in every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlresearch.dropout import Dropout, Noise
from mlresearch.step import dropout_keys


def test_dropout_bits_are_those_of_a_run_alone():
    seeds, rates = jnp.array([3, 4, 1 << 31], jnp.uint32), jnp.array([0.1, 0.5, 0.9])
    x, rows = jnp.ones((5, 40)), np.arange(5) + 7

    def drop(seed, rate):
        layer = Dropout(0.5, site=2)
        layer.rate[...] = rate
        return layer(x, dropout_keys(seed, jnp.int32(11), rows))

    together = jax.jit(jax.vmap(drop))(seeds, rates)
    for run in range(3):
        assert np.array_equal(together[run], jax.jit(drop)(seeds[run], rates[run]))
        share = float((together[run] == 0).mean())
        assert share == pytest.approx(float(rates[run]), abs=4 * (0.25 / 200) ** 0.5)


def test_noise_of_an_example_is_its_own():
    noise, x = Noise(2.0, site=3), jnp.zeros((5, 7))
    keys = jax.random.split(jax.random.key(0), 5)
    np.testing.assert_array_equal(noise(x, keys)[3:4], noise(x[:1], keys[3:4]))
    assert not np.any(noise(x, keys) == Noise(2.0, site=4)(x, keys))
    assert noise(x, None) is x
    assert Noise(0.0, site=3)(x, keys) is x
