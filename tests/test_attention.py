"""Attention by itself: rotary positions, and nothing to attend to."""

import jax.numpy as jnp
import numpy as np

from mlresearch import attention


def test_rotation_is_relative():
    """Rotated by their positions, a query at i and a key at j meet in a product that only i − j decides."""
    random = np.random.default_rng(0)
    query, key = (jnp.asarray(np.tile(random.normal(size=8), (1, 9, 1, 1)), jnp.float32) for _ in range(2))
    products = np.asarray(attention.rotate(query)[0, :, 0] @ attention.rotate(key)[0, :, 0].T)
    for difference in range(-8, 9):
        np.testing.assert_allclose(np.diag(products, difference), np.diag(products, difference)[0], atol=1e-5)
    assert np.ptp(products[0]) > 0.1
    # One pair, position 1, angle 1: (1, 0) turns to (cos 1, sin 1).
    turned = attention.rotate(jnp.ones((1, 2, 1, 2)).at[..., 1].set(0))[0, :, 0]
    np.testing.assert_allclose(turned, [[1, 0], [np.cos(1), np.sin(1)]], rtol=1e-6)


def test_attention_to_nothing_is_zero():
    x = jnp.ones((2, 3, 1, 4))
    mask = jnp.array([[[True, False, True]], [[False] * 3]])
    np.testing.assert_array_equal(attention.attend(x, x, x, mask), x.at[1].set(0))
