"""Every formulation of the constraint operations against plain loops over labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hierarchy import names, random_dag

from mlresearch import hierarchy_index
from mlresearch.families import group_families
from mlresearch.heads.conditional import BayesianNetwork
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import index_hierarchy
from mlresearch.logspace import log_sigmoids
from mlresearch.propagation import batch_first, descendant_maximum, keep_with_parents, parent_minimum, path_sum, settle

FORMULATIONS = {
    "paths gathered, levels unrolled": {},
    "levels unrolled": {"PATH_SLOTS": 0},
    "paths gathered, levels looped": {"UNROLLED_LEVELS": 0},
    "levels looped": {"PATH_SLOTS": 0, "UNROLLED_LEVELS": 0},
    "lists cut": {"PATH_SLOTS": 0, "LIST_SLOTS": 2, "SCATTER_COST": 1000},
    "edge by edge": {"PATH_SLOTS": 0, "UNROLLED_LEVELS": 0, "LIST_SLOTS": 1},
}


def from_parents(parent, rng=None):
    """A forest from each label's parent, −1 for a root, with the labels in a random order."""
    child = np.flatnonzero(np.asarray(parent) >= 0)
    edges = np.stack([child, np.asarray(parent)[child]], 1)
    if rng is not None:
        edges = rng.permutation(len(parent))[edges]
    return LabelHierarchy.from_edges(names(len(parent)), edges)


def chain(length, rng=None):
    return from_parents(np.arange(length) - 1, rng)


def star(num_children, rng=None):
    return from_parents(np.append(-1, np.zeros(num_children, int)), rng)


def hierarchies():
    rng = np.random.default_rng(0)
    broom = np.concatenate([np.arange(12) - 1, np.full(40, 11), rng.integers(0, 52, 30)])
    return {
        "one label": from_parents([-1]),
        "labels without edges": from_parents([-1] * 5),
        "forest of several roots": random_dag(rng, 40, forest=True),
        "broom": from_parents(broom, rng),
        "DAG": random_dag(rng, 30, density=0.1),
        "dense DAG": random_dag(rng, 25, density=0.5),
    }


HIERARCHIES = hierarchies()

every_hierarchy = pytest.mark.parametrize("hierarchy", HIERARCHIES.values(), ids=HIERARCHIES)


def by_level(hierarchy):
    """Edges (child, parent), those of the highest parents first."""
    order = np.argsort(hierarchy.levels[hierarchy.parents], kind="stable")
    return list(zip(hierarchy.children[order].tolist(), hierarchy.parents[order].tolist(), strict=True))


def plain_maximum(x, hierarchy):
    maximum = x.copy()
    for child, parent in reversed(by_level(hierarchy)):
        maximum[parent] = np.maximum(maximum[parent], maximum[child])
    return maximum


def plain_maximum_gradient(x, cotangent, hierarchy):
    """Top down, every label divides what arrives among itself and its children, where its maximum is found."""
    maximum = plain_maximum(x, hierarchy)
    places = (x == maximum).astype(float)
    for child, parent in by_level(hierarchy):
        places[parent] += maximum[child] == maximum[parent]
    arrived = cotangent.astype(float)
    for label in np.argsort(hierarchy.levels, kind="stable"):
        for child in hierarchy.children[hierarchy.parents == label]:
            arrived[child] += np.where(maximum[child] == maximum[label], arrived[label] / places[label], 0)
    return np.where(x == maximum, arrived / places, 0)


def plain_sums(x, hierarchy):
    """From the roots down on a forest, one addition after the other; over all ancestors in float64 on a DAG."""
    if not hierarchy.is_forest:
        above = [hierarchy.close(np.array([label])) for label in range(hierarchy.num_labels)]
        return np.stack([x[labels].astype(float).sum(0) for labels in above])
    sums = x.copy()
    for child, parent in by_level(hierarchy):
        sums[child] = sums[parent] + x[child]
    return sums


def plain_minimum(x, hierarchy):
    minimum = x.copy()
    for child, parent in by_level(hierarchy):
        minimum[child] = np.minimum(minimum[child], minimum[parent])
    return minimum


@jax.jit
def everything(x, cotangent, index):
    maximum, maximum_gradient = jax.vjp(lambda x: descendant_maximum(x, index), x)
    sums, sums_gradient = jax.vjp(lambda x: path_sum(x, index), x)
    settled, settled_gradient = jax.vjp(lambda x: settle(x, index), x)
    return {
        "maximum": maximum,
        "gradient of maximum": maximum_gradient(cotangent)[0],
        "sums": sums,
        "gradient of sums": sums_gradient(cotangent)[0],
        "minimum": parent_minimum(x, index),
        "settled": settled,
        "gradient of settled": settled_gradient(cotangent)[0],
        "kept": keep_with_parents(x > -0.5, index),
    }


def numpy_of(tree):
    return jax.tree.map(np.asarray, tree)


@every_hierarchy
@pytest.mark.parametrize("constants", FORMULATIONS.values(), ids=FORMULATIONS)
def test_every_formulation_equals_plain_loops(hierarchy, constants, monkeypatch):
    for name, value in constants.items():
        monkeypatch.setattr(hierarchy_index, name, value)
    index = index_hierarchy(hierarchy, closure=False)
    rng = np.random.default_rng(1)
    shape = (hierarchy.num_labels, 6)
    cotangent = rng.normal(size=shape).astype(np.float32)
    scales = np.array([1, 1, 1, 1e4, 1e-4, 30])
    x = (rng.normal(size=shape) * scales).astype(np.float32)
    x[:, :2] = rng.integers(-2, 2, (hierarchy.num_labels, 2))  # so that many tie
    found = numpy_of(everything(x, cotangent, index))
    np.testing.assert_array_equal(found["maximum"], plain_maximum(x, hierarchy))
    expected = plain_maximum_gradient(x, cotangent, hierarchy)
    np.testing.assert_allclose(found["gradient of maximum"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["minimum"], plain_minimum(x, hierarchy))
    np.testing.assert_array_equal(found["settled"], found["minimum"])
    np.testing.assert_array_equal(found["gradient of settled"], cotangent)
    np.testing.assert_array_equal(found["kept"], plain_minimum((x > -0.5).astype(float), hierarchy) > 0)
    sums = plain_sums(x, hierarchy)
    if hierarchy.is_forest:
        np.testing.assert_array_equal(found["sums"], sums)
    else:
        np.testing.assert_allclose(found["sums"] / scales, sums / scales, rtol=1e-5, atol=1e-5)
    # Sums are linear: their gradient is the transposed operation.
    left = (found["gradient of sums"].astype(float) * x).sum(0)
    np.testing.assert_allclose(left / scales, (cotangent * sums).sum(0) / scales, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 5, 40])
def test_a_turn_of_its_own_is_a_transposition(batch):
    index = index_hierarchy(HIERARCHIES["DAG"], closure=False)
    x, cotangent = (np.random.default_rng(seed).normal(size=(30, batch)).astype(np.float32) for seed in (0, 1))
    turned, backward = jax.vjp(jax.jit(lambda x: batch_first(x, index)), jnp.asarray(x))
    np.testing.assert_array_equal(turned, x.T)
    np.testing.assert_array_equal(*backward(jnp.asarray(cotangent.T)), cotangent)


@every_hierarchy
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_no_child_is_above_a_parent(hierarchy, scale):
    x = -scale * np.random.default_rng(2).exponential(size=(hierarchy.num_labels, 64)).astype(np.float32)
    index = index_hierarchy(hierarchy, closure=False)
    sums = jax.jit(path_sum)(x, index)
    if not hierarchy.is_forest:
        sums = jax.jit(settle)(sums, index)
    sums = np.asarray(sums)
    assert (sums[hierarchy.children] <= sums[hierarchy.parents]).all()


def comb(length, rng):
    """A chain whose every label has a leaf besides, and the last of them a thousand."""
    handle, leaves = np.arange(length) - 1, np.arange(length)
    return from_parents(np.concatenate([handle, leaves, np.full(1000, length - 1)]), rng)


LARGE = {
    "chain of 10,000": functools.partial(chain, 10_000),
    "comb of 5,000": functools.partial(comb, 5_000),
    "star of 100,000": functools.partial(star, 100_000),
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_deep_and_wide_hierarchies(make):
    rng = np.random.default_rng(3)
    hierarchy = make(rng)
    index = index_hierarchy(hierarchy, closure=False)
    x = rng.normal(size=(hierarchy.num_labels, 2)).astype(np.float32)
    cotangent = np.ones_like(x)
    found = numpy_of(everything(x, cotangent, index))
    np.testing.assert_array_equal(found["maximum"], plain_maximum(x, hierarchy))
    np.testing.assert_array_equal(found["minimum"], plain_minimum(x, hierarchy))
    np.testing.assert_array_equal(found["sums"], plain_sums(x, hierarchy))
    # Every label's cotangent of 1 goes to one label in all, and to every label of its path.
    np.testing.assert_allclose(found["gradient of maximum"].sum(0), hierarchy.num_labels, rtol=1e-5)
    size = np.zeros(hierarchy.num_labels)
    for child, parent in reversed(by_level(hierarchy)):
        size[parent] += 1 + size[child]
    np.testing.assert_array_equal(found["gradient of sums"][:, 0], 1 + size)


def mode_of(scores, hierarchy, siblings):
    network = BayesianNetwork(
        jnp.asarray(scores), index_hierarchy(hierarchy, closure=False), group_families(hierarchy), siblings
    )
    return np.asarray(jax.jit(lambda network: network.mode())(network)).T


def plain_mode(scores, hierarchy):
    """Max-product where siblings are independent, label by label."""
    log_on, log_off = -np.logaddexp(0, -scores.astype(float)), -np.logaddexp(0, scores.astype(float))
    below = np.zeros(scores.shape)
    for child, parent in reversed(by_level(hierarchy)):
        below[parent] += np.maximum(log_on[child] + below[child], log_off[child])
    return plain_minimum((log_on + below > log_off).astype(float), hierarchy) > 0


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_mode_of_deep_and_wide_hierarchies(make):
    rng = np.random.default_rng(4)
    hierarchy = make(rng)
    # Most labels with children are on given their parents, so that sets reach far down, and not all the way.
    scores = rng.normal(np.where(hierarchy.num_children > 0, 7, -12)[:, None], 2, (hierarchy.num_labels, 3))
    found = mode_of(scores.astype(np.float32), hierarchy, "any")
    np.testing.assert_array_equal(found, plain_mode(scores.astype(np.float32), hierarchy))
    assert 0 < found.sum() < found.size


def test_sums_over_unknown_labels_of_a_deep_hierarchy():
    # Only the last leaf of a chain is known, to be on: its probability is that of its whole path.
    hierarchy = chain(2_000, np.random.default_rng(5))
    scores = np.full((2_000, 2), 6.0, np.float32)
    labels = np.full((2, 2_000), np.nan, np.float32)
    labels[1, np.argmax(hierarchy.levels)] = 1
    network = BayesianNetwork(
        jnp.asarray(scores), index_hierarchy(hierarchy, closure=False), group_families(hierarchy), "any"
    )
    found, gradient = jax.jit(
        jax.value_and_grad(
            lambda scores: (
                BayesianNetwork(scores, network.index, network.families, "any")
                .log_prob_known(jnp.asarray(labels))
                .sum()
            )
        )
    )(network.scores)
    assert found == pytest.approx(-2_000 * np.log1p(np.exp(-6)), rel=1e-4)
    np.testing.assert_allclose(gradient[:, 0], 0)
    np.testing.assert_allclose(gradient[:, 1], 1 / (1 + np.exp(6)), rtol=1e-4)


def equations(jaxpr):
    """The equations of a program, inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_programs_do_not_grow_with_depth_nor_arrays_with_its_square():
    counts, largest = [], []
    for length in (1_000, 4_000):
        index = index_hierarchy(comb(length, np.random.default_rng(6)), closure=False)
        x = jnp.zeros((2 * length + 1000, 2))
        program = list(equations(jax.make_jaxpr(everything)(x, x, index).jaxpr))
        counts.append(len(program))
        largest.append(max(out.aval.size for equation in program for out in equation.outvars))
        assert all(array.size < 40 * len(x) for array in jax.tree.leaves(index))
    assert max(counts) < 500  # of 4,000 levels
    assert largest[1] < 40 * len(x)


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_log_sigmoids_to_the_last_bits(x64):
    with jax.enable_x64(x64):
        s = jnp.concatenate([jnp.linspace(-90, 90, 20_001), jnp.array([-1e4, -1e-30, 0.0, 1e-30, 1e4])])
        found = np.asarray(jax.jit(log_sigmoids)(s))
        exact = np.asarray(s, np.longdouble)
        expected = np.stack([np.minimum(s, 0) - np.log1p(np.exp(-abs(s))) for s in (exact, -exact)])
        np.testing.assert_allclose(found, expected, rtol=3 * jnp.finfo(s.dtype).eps, atol=4 * jnp.finfo(s.dtype).tiny)
        slope = jax.jit(jax.vmap(jax.grad(lambda s: log_sigmoids(s)[0])))(s)
        np.testing.assert_allclose(slope, 1 / (1 + np.exp(exact)), rtol=1e-6, atol=4 * jnp.finfo(s.dtype).tiny)
