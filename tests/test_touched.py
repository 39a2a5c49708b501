"""The loss of `conditional` from the labels that it touches is the loss from all of them, in value and in gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_losses import label_loss
from test_heads import randomise
from test_hierarchy import names

from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads.conditional import Head
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets

SIBLINGS = ["any", "some", "one", "at_most_one", "hurdle"]


def random_forest(rng, num_labels):
    """A forest whose labels come in any order."""
    order = rng.permutation(num_labels)
    edges = [(order[place], order[rng.integers(place)]) for place in range(1, num_labels) if rng.random() < 0.85]
    return LabelHierarchy.from_edges(names(num_labels), np.array(edges, np.int32).reshape(-1, 2))


def make_head(hierarchy, siblings, **options):
    given = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    return randomise(Head(hierarchy, hierarchy.num_labels, 1, siblings=siblings, **options, **given))


def possible_sets(head, hierarchy, number, seed):
    """Label sets that the distribution of random scores gives."""
    scores = jnp.asarray(np.random.default_rng(seed).normal(size=(1, hierarchy.num_labels, 1)), jnp.float32)
    return np.asarray(distribution(head, scores).sample(jax.random.key(seed), number))[:, 0]


def distribution(head, scores):
    none = jnp.zeros((len(scores), 1))
    return head(scores, Encoded(none[:, None], jnp.ones((len(scores), 1), bool), none))


def sparse_losses(head, labels):
    """The loss of every row as a function of all scores, which takes those it touches."""
    sets = LabelSets.from_rows([np.flatnonzero(row).tolist() for row in labels])
    head.expect([sets])
    width = max(sets.width, 1) + 1  # rows are filled up
    ids = jnp.asarray(sets.take(np.arange(len(labels)), labels.shape[1], width))
    return lambda scores: head.sparse_loss(ids, lambda some: jnp.take_along_axis(scores, some[..., None], axis=1))


def dense_losses(head, labels):
    return lambda scores: distribution(head, scores).loss(jnp.asarray(labels), label_loss())


@pytest.mark.parametrize("siblings", SIBLINGS)
@pytest.mark.parametrize(("num_labels", "seed"), [(1, 0), (9, 0), (30, 1)])
def test_value_and_gradient_of_the_dense_loss(num_labels, seed, siblings):
    rng = np.random.default_rng(seed)
    hierarchy = random_forest(rng, num_labels)
    head = make_head(hierarchy, siblings, sparse=True)
    labels = possible_sets(head, hierarchy, 6, seed)
    with jax.enable_x64(True):
        scores = jnp.asarray(rng.normal(0, 3, (6, num_labels, 1)))

        def both(loss):
            return jax.jit(jax.vjp, static_argnums=0)(loss, scores)

        (values, pull), (expected, pull_expected) = both(sparse_losses(head, labels)), both(dense_losses(head, labels))
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(pull(values)[0], pull_expected(values)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("siblings", SIBLINGS)
def test_extreme_scores(siblings):
    hierarchy = random_forest(np.random.default_rng(1), 20)
    head = make_head(hierarchy, siblings, sparse=True)
    labels = possible_sets(head, hierarchy, 8, 1)
    for dtype, scale in [(jnp.float32, 1e4), (jnp.bfloat16, 1e4), (jnp.bfloat16, 1.0)]:
        scores = jnp.asarray(np.random.default_rng(2).normal(0, scale, (8, 20, 1)), dtype)
        loss = sparse_losses(head, labels)
        value, gradient = jax.value_and_grad(lambda scores, loss=loss: loss(scores).sum())(scores)
        expected = dense_losses(head, labels)(scores).sum()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.isfinite(np.asarray(gradient, np.float32)).all()


@pytest.mark.parametrize("siblings", SIBLINGS)
def test_impossible_sets_have_an_infinite_loss_as_in_the_dense_one(siblings):
    """All sets of labels of a small forest, coherent or not."""
    hierarchy = LabelHierarchy.from_edges(names(5), np.array([[0, 2], [3, 2], [1, 3]], np.int32))
    head = make_head(hierarchy, siblings, sparse=True)
    labels = np.array(np.unravel_index(np.arange(32), (2,) * 5)).T.astype(bool)
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(32, 5, 1)), jnp.float32)
    sparse, dense = (np.asarray(made(head, labels)(scores)) for made in (sparse_losses, dense_losses))
    np.testing.assert_allclose(sparse, dense, rtol=1e-5)
    assert 0 < np.isinf(dense).sum() < 32


def test_a_star_and_a_chain():
    star = LabelHierarchy.from_edges(names(1001), np.array([[child, 0] for child in range(1, 1001)], np.int32))
    chain = LabelHierarchy.from_edges(names(300), np.array([[child, child - 1] for child in range(1, 300)], np.int32))
    for hierarchy, on, touched in [(star, [0, 7], 1001), (star, [], 1), (chain, [*range(300)], 300), (chain, [0], 2)]:
        head = make_head(hierarchy, "any", sparse=True)
        labels = np.zeros((1, hierarchy.num_labels), bool)
        labels[:, on] = True
        scores = jnp.asarray(np.random.default_rng(0).normal(size=(1, hierarchy.num_labels, 1)), jnp.float32)
        expected = dense_losses(head, labels)(scores)
        np.testing.assert_allclose(sparse_losses(head, labels)(scores), expected, rtol=1e-5)
        assert head.num_touched == touched


def test_a_dag_is_refused():
    diamond = LabelHierarchy.from_edges(names(4), np.array([[1, 0], [2, 0], [3, 1], [3, 2]], np.int32))
    with pytest.raises(UserError, match=r"sparse = True needs one parent a label, but 'label3' has 2"):
        make_head(diamond, "any", sparse=True)
