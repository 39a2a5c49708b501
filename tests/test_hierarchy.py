import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy


def names(n):
    return [f"label{i}" for i in range(n)]


def random_dag(rng, num_labels, *, forest=False, density=0.3):
    """Random edges, child to parent, over a random order of the labels, so that ids say nothing of the level."""
    order = rng.permutation(num_labels)
    edges = []
    for position in range(1, num_labels):
        above = order[:position]
        if forest:
            chosen = rng.choice(above, 1) if rng.random() < 0.8 else []
        else:
            chosen = above[rng.random(position) < density]
        edges += [(order[position], parent) for parent in chosen]
    return LabelHierarchy.from_edges(names(num_labels), np.array(edges, np.int32).reshape(-1, 2))


def reach(hierarchy):
    """Ancestors by Warshall's algorithm on a dense matrix, which the code under test never makes."""
    above = np.zeros((hierarchy.num_labels,) * 2, bool)
    above[hierarchy.children, hierarchy.parents] = True
    for middle in range(hierarchy.num_labels):
        above |= above[:, [middle]] & above[[middle]]
    return above


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.booleans())
def test_closure_and_levels_equal_brute_force(num_labels, seed, forest):
    hierarchy = random_dag(np.random.default_rng(seed), num_labels, forest=forest)
    above = reach(hierarchy)
    for label in range(num_labels):
        assert hierarchy.ancestors.row(label).tolist() == np.flatnonzero(above[label]).tolist()
        parents = hierarchy.parents[hierarchy.children == label]
        expected = 1 + max(hierarchy.levels[parents]) if len(parents) else 0
        assert hierarchy.levels[label] == expected
    chosen = np.flatnonzero(np.random.default_rng(seed).random(num_labels) < 0.4)
    expected = set(chosen) | set(np.flatnonzero(above[chosen].any(0)))
    assert hierarchy.close(chosen).tolist() == sorted(expected)
    assert hierarchy.is_forest == (np.bincount(hierarchy.children, minlength=1).max() <= 1)


def test_cycle_is_printed():
    with pytest.raises(UserError, match=r"'label\d' -> 'label\d' -> 'label\d' -> 'label\d' form a cycle") as caught:
        LabelHierarchy.from_edges(names(6), np.array([(0, 1), (1, 2), (2, 3), (3, 1), (4, 0), (5, 2)]))
    cycle = str(caught.value)
    assert not any(outside in cycle for outside in ("label0", "label4", "label5"))


def test_self_loop_is_a_cycle():
    with pytest.raises(UserError, match="'label0' -> 'label0' form a cycle"):
        LabelHierarchy.from_edges(names(2), np.array([(0, 0)]))


def test_duplicate_edge_and_range():
    with pytest.raises(UserError, match="'label1' -> 'label0' occurs twice"):
        LabelHierarchy.from_edges(names(2), np.array([(1, 0), (1, 0)]))
    with pytest.raises(UserError, match=r"\(1, 2\) names a label outside 0\.\.1"):
        LabelHierarchy.from_edges(names(2), np.array([(1, 2)]))


def test_large_forest_needs_no_dense_array():
    rng = np.random.default_rng(0)
    num_labels = 100_000
    child = np.arange(1, num_labels)
    parent = (child * rng.random(num_labels - 1)).astype(np.int64)
    hierarchy = LabelHierarchy.from_edges(names(num_labels), np.stack([child, parent], 1))
    # The number of proper ancestors of a tree's node is its level.
    assert np.array_equal(np.diff(hierarchy.ancestors.offsets), hierarchy.levels)
