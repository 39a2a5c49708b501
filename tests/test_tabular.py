"""Columns as vectors: rows of categories, what is dropped to unknown, groups of features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlresearch.encoders import Inputs, InputSpec
from mlresearch.tabular import CategoryEmbedding, FeatureGroups, TabularTokens


def test_categories_read_the_rows_of_their_column():
    """Id 0, which is missing or unseen, has one in each column, and so has whatever is out of range."""
    embedding = CategoryEmbedding(
        (3, 2), 1, category_dropout=0.5, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    embedding.table[...] = jnp.array([[10.0], [11], [12], [20], [21]])
    categories = jnp.array([[2, 1], [0, 0], [1, 0], [3, 2], [-1, 10**6]])
    expected = [[12, 21], [10, 20], [11, 20], [10, 20], [10, 20]]
    np.testing.assert_array_equal(embedding(categories, None)[..., 0], expected)


def test_categories_are_dropped_to_unknown_by_example():
    rate, columns = 0.3, 50
    embedding = CategoryEmbedding(
        (2,) * columns, 1, category_dropout=rate, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    encode = jax.jit(lambda categories, keys: embedding(categories, keys)[..., 0])
    embedding.table[...] = jnp.arange(2.0 * columns)[:, None]  # row 2c is unknown, row 2c + 1 is what was given
    categories, keys = jnp.ones((40, columns), jnp.int32), jax.random.split(jax.random.key(0), 40)
    known = np.asarray(encode(categories, keys)) - 2 * np.arange(columns)
    assert set(np.unique(known)) == {0, 1}
    deviation = np.sqrt(rate * (1 - rate) / known.size)
    assert abs(1 - known.mean() - rate) < 4 * deviation
    assert len(np.unique(known, axis=0)) == 40  # no two examples alike
    assert len(np.unique(known, axis=1).T) == columns  # nor two columns
    np.testing.assert_array_equal(encode(categories[7:8], keys[7:8]), encode(categories, keys)[7:8])
    np.testing.assert_array_equal(encode(categories, None) % 2, 1)


def test_unknown_is_learned_where_nothing_is_missing():
    """Without `category_dropout`, row 0 of a column with no missing value would stay what it was at the start."""
    categories, keys = jnp.ones((64, 1), jnp.int32), jax.random.split(jax.random.key(0), 64)
    for rate in (0.0, 0.25):
        embedding = CategoryEmbedding(
            (2,), 3, category_dropout=rate, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
        gradient = nnx.grad(lambda module: module(categories, keys).sum())(embedding).table[...]
        assert np.any(gradient[0] != 0) == (rate > 0)
        assert gradient.sum() == 64 * 3  # each example reads one row, and nothing is scaled


def test_columns_start_about_as_long_as_tokens():
    """Standardised features, categories and subwords start alike, at a length near 1, whatever the numbers of them."""
    spec = InputSpec(num_features=300, category_sizes=(500,))
    tabular = TabularTokens(
        spec, 200, category_dropout=0.0, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    features = np.random.default_rng(0).normal(size=(500, 300)).astype("float32")
    lengths = jnp.linalg.norm(tabular(Inputs(features=features, categories=np.arange(500)[:, None]), None), axis=-1)
    np.testing.assert_allclose(lengths.mean(0), [1, 1], atol=0.05)


@pytest.mark.parametrize(
    ("number", "groups"), [(3, [3, 3, 1]), (7, [1] * 7), (20, [1] * 7), (1, [7]), (4, [2, 2, 2, 1])]
)
def test_groups_of_features_are_tokens(number, groups):
    """A group's token is moved by its own columns alone, by as much as its weights say."""
    made = FeatureGroups(7, number, 5, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    features = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
    tokens = made(jnp.asarray(features))
    assert tokens.shape == (2, len(groups), 5)
    start = 0
    for group, size in enumerate(groups):
        columns = features[:, start : start + size]
        expected = columns @ np.asarray(made.weights[...])[group, :size] + np.asarray(made.bias[...])[group]
        np.testing.assert_allclose(tokens[:, group], expected, rtol=1e-5, atol=1e-6)
        start += size
    assert start == 7
