import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets


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


SEEDS = st.integers(0, 2**32 - 1)


def random_case(seed, soft):
    """A hierarchy and random label sets over it: values of every kind where `soft`, else none."""
    rng = np.random.default_rng(seed)
    hierarchy = random_dag(rng, rng.integers(1, 9), forest=rng.random() < 0.5)
    rows = [np.flatnonzero(rng.random(hierarchy.num_labels) < 0.4).tolist() for _ in range(rng.integers(0, 6))]
    values = [rng.choice([np.nan, 0.25, 0.5, 0.75, 1.0], len(row)).tolist() for row in rows] if soft else None
    return hierarchy, LabelSets.from_rows(rows, values)


def as_dicts(sets):
    """The rows of label sets as {label: value}."""
    values = np.ones(len(sets.ids), np.float32) if sets.values is None else sets.values
    found = [{} for _ in range(len(sets))]
    for row, label, value in zip(sets.rows.tolist(), sets.ids.tolist(), values.tolist(), strict=True):
        found[row][label] = value
    return found


def closed_by_hand(row, above):
    """The values of a row and of all that stands above its labels, by the words of `close_sets`."""
    closed = {}
    for label in range(len(above)):
        below = [value for other, value in row.items() if above[other, label]]
        if label not in row and not below:
            continue
        values = [*below, row.get(label, 0.0)]
        largest = max([value for value in values if not np.isnan(value)], default=0.0)
        own_is_known = label in row and not np.isnan(row[label])
        unknown = any(np.isnan(value) for value in values) and not own_is_known and largest < 1
        closed[label] = np.nan if unknown else largest
    return closed


@given(SEEDS, st.booleans())
def test_closed_sets_are_those_by_hand(seed, soft):
    hierarchy, sets = random_case(seed, soft)
    above = reach(hierarchy)
    closed = hierarchy.close_sets(sets)
    assert len(closed) == len(sets)
    assert closed.ids.dtype == np.int32
    assert (closed.values is None) == (sets.values is None)
    assert closed.values is None or closed.values.dtype == np.float32
    expected = [closed_by_hand(row, above) for row in as_dicts(sets)]
    assert repr(as_dicts(closed)) == repr(expected)
    for row in range(len(closed)):
        assert (np.diff(closed.row(row)) > 0).all()


@given(SEEDS, st.booleans())
def test_closed_sets_stay_as_they_are(seed, soft):
    hierarchy, sets = random_case(seed, soft)
    closed = hierarchy.close_sets(sets)
    again = hierarchy.close_sets(closed)
    assert repr(as_dicts(again)) == repr(as_dicts(closed))
    assert hierarchy.first_unclosed(closed) is None


@given(SEEDS, st.booleans())
def test_the_first_unclosed_row_is_found(seed, soft):
    hierarchy, sets = random_case(seed, soft)
    edges = list(zip(hierarchy.children.tolist(), hierarchy.parents.tolist(), strict=True))
    wrong = [
        (number, child, parent)
        for number, row in enumerate(as_dicts(sets))
        for child, parent in edges
        if child in row and (parent not in row or row[parent] < row[child])
    ]
    assert hierarchy.first_unclosed(sets) == (wrong[0] if wrong else None)
    if sets.values is None:  # on hard labels, closed means that closing adds nothing
        assert (not wrong) == np.array_equal(hierarchy.close_sets(sets).ids, sets.ids)


def test_closing_sets_without_labels_or_rows():
    hierarchy = LabelHierarchy.from_edges(names(3), np.array([(1, 0), (2, 1)]))
    for rows in ([], [[]], [[], []]):
        for values in (None, rows):
            closed = hierarchy.close_sets(LabelSets.from_rows(rows, values))
            assert len(closed) == len(rows)
            assert not len(closed.ids)
            assert hierarchy.first_unclosed(closed) is None


def test_closing_many_sets_makes_no_dense_array():
    # 100,000 labels in chains of 10, 100,000 rows of one: a dense array would have 10¹⁰ cells.
    num_labels = 100_000
    child = np.flatnonzero(np.arange(num_labels) % 10)
    hierarchy = LabelHierarchy.from_edges(names(num_labels), np.stack([child, child - 1], 1))
    sets = LabelSets(np.arange(num_labels, dtype=np.int32), np.arange(num_labels + 1, dtype=np.int64))
    closed = hierarchy.close_sets(sets)
    np.testing.assert_array_equal(np.diff(closed.offsets), np.arange(num_labels) % 10 + 1)
    assert hierarchy.first_unclosed(closed) is None
    assert hierarchy.first_unclosed(sets) == (1, 1, 0)
