"""Hierarchical F1 and CoPHE against plain sets of labels and numbers worked by hand."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.metrics import ExtendedTruth, HierarchicalCounts

NUM_LABELS = 6


def make_hierarchy(parents):
    """A hierarchy of names and their parents."""
    names = list(parents)
    edges = [(names.index(child), names.index(parent)) for child, of in parents.items() for parent in of.split()]
    return LabelHierarchy.from_edges(names, np.array(edges))


def rows(hierarchy, *sets):
    """Label sets of names as a matrix."""
    return np.array([[name in labels.split() for name in hierarchy.names] for labels in sets])


def compare(hierarchy, preds, labels, known=None):
    return ExtendedTruth.of(labels, hierarchy, known).compare(preds)


CODES = {
    "364": "",
    "364.1": "364",
    "364.2": "364",
    "364.3": "364",
    "364.11": "364.1",
    "364.21": "364.2",
    "364.22": "364.2",
    "401": "",
}
"""A family of codes of the worked example of CoPHE's authors, and a code beside it, so that no label is the root."""


@pytest.mark.parametrize("root", [False, True])
def test_the_example_of_cophe_s_authors(root):
    # Predicted 364.11, 364.21 and 364.3, true 364.11 and 364.22.
    #                       predicted  true   TP FP FN
    #   364.11                      1     1    1  0  0
    #   364.21                      1     0    0  1  0
    #   364.22                      0     1    0  0  1
    #   364.1                       1     1    1  0  0
    #   364.2                       1     1    1  0  0
    #   364.3                       1     0    0  1  0
    #   364                         3     2    2  1  0
    #   sum                         8     6    5  3  1
    parents = {name: above or "all" for name, above in CODES.items()} | {"all": ""} if root else CODES
    hierarchy = make_hierarchy(parents)
    assert hierarchy.root == (len(CODES) if root else None)
    found = compare(hierarchy, rows(hierarchy, "364.11 364.21 364.3"), rows(hierarchy, "364.11 364.22"))
    assert found == HierarchicalCounts(hits=4, predicted=6, true=5, count_hits=5, predicted_count=8, true_count=6)
    assert found.compute() == pytest.approx(
        {
            "hierarchical_precision": 4 / 6,
            "hierarchical_recall": 4 / 5,
            "hierarchical_f1": 8 / 11,
            "cophe_precision": 5 / 8,
            "cophe_recall": 5 / 6,
            "cophe_f1": 10 / 14,
        }
    )


def test_on_a_dag_a_label_counts_once_however_many_ways_lead_up():
    # d is a child of b and of c, which are children of a; e stands alone.      a b c d
    #   predicted: d, the only most specific label                              1 1 1 1
    #   true: b and c                                                           2 1 1 0
    #   the smaller of both                                                     1 1 1 0
    hierarchy = make_hierarchy({"a": "", "b": "a", "c": "a", "d": "b c", "e": ""})
    found = compare(hierarchy, rows(hierarchy, "d"), rows(hierarchy, "b c"))
    assert found == HierarchicalCounts(hits=3, predicted=4, true=3, count_hits=3, predicted_count=4, true_count=4)


def test_what_is_unknown_is_not_looked_at_unless_the_truth_implies_it():
    # b, a child of a, and d, a child of c. b is on, so a is, though it is unknown; d and c are unknown.
    hierarchy = make_hierarchy({"a": "", "b": "a", "c": "", "d": "c"})
    labels, known = rows(hierarchy, "b c"), rows(hierarchy, "b")
    found = compare(hierarchy, rows(hierarchy, "b d"), labels, known)
    assert found == HierarchicalCounts(2, 2, 2, 2, 2, 2)
    known[0, 3] = True  # d is known to be off: predicted it is wrong, and c, which would follow, still unknown
    found = compare(hierarchy, rows(hierarchy, "b d"), labels, known)
    assert found == HierarchicalCounts(2, 3, 2, 2, 3, 2)


def test_where_nothing_counts_everything_is_0():
    hierarchy = make_hierarchy({"root": "", "a": "root"})
    found = compare(hierarchy, rows(hierarchy, "root"), rows(hierarchy, "root"))
    assert found == HierarchicalCounts(0, 0, 0, 0, 0, 0)
    assert set(found.compute().values()) == {0}
    alone = LabelHierarchy.from_edges("a", np.zeros((0, 2)))
    assert alone.root is None
    assert compare(alone, np.ones((1, 1), bool), np.ones((1, 1), bool)).compute()["cophe_f1"] == 1


def by_sets(hierarchy, preds, labels, known):
    """The same sums by plain sets."""
    edges = list(zip(hierarchy.children.tolist(), hierarchy.parents.tolist(), strict=True))
    size = hierarchy.num_labels

    def above(label):
        return {label}.union(*(above(parent) for child, parent in edges if child == label))

    up = [above(label) for label in range(size)]
    is_root = [size > 1 and all(label in each for each in up) for label in range(size)]
    total = np.zeros(6, int)
    for row_preds, row_labels, row_known in zip(preds, labels, known, strict=True):
        counts = []
        for on in (row_preds & row_known, row_labels & row_known):
            chosen = set(np.flatnonzero(on).tolist())
            specific = [label for label in chosen if not any(label in up[other] for other in chosen - {label})]
            counts.append([sum(label in up[leaf] for leaf in specific) for label in range(size)])
            extended = set().union(*(up[label] for label in chosen))
            assert extended == {label for label in range(size) if counts[-1][label]}
        kept = [
            (predicted, true)
            for label, (predicted, true) in enumerate(zip(*counts, strict=True))
            if not is_root[label] and (row_known[label] or true)
        ]
        for predicted, true in kept:
            total += [predicted > 0 < true, predicted > 0, true > 0, min(predicted, true), predicted, true]
    return HierarchicalCounts(*total.tolist())


@given(
    dag=hnp.arrays(bool, (NUM_LABELS, NUM_LABELS)),
    order=st.permutations(range(NUM_LABELS)),
    examples=hnp.arrays(bool, st.tuples(st.just(3), st.integers(1, 5), st.just(NUM_LABELS))),
    all_known=st.booleans(),
    data=st.data(),
)
def test_sums_are_those_of_sets_whatever_the_batches(dag, order, examples, all_known, data):
    place = np.array(order)
    edges = place[np.argwhere(np.tril(dag, -1))]  # of no cycle, under labels in any order
    hierarchy = LabelHierarchy.from_edges([str(label) for label in range(NUM_LABELS)], edges)
    preds, labels, known = examples
    known = np.ones_like(known) if all_known else known
    given_known = None if all_known else known
    expected = by_sets(hierarchy, preds, labels, known)
    assert compare(hierarchy, preds, labels, given_known) == expected
    rows_in_order = data.draw(st.permutations(range(len(preds))))
    parts = [
        compare(hierarchy, preds[[row]], labels[[row]], None if all_known else known[[row]]) for row in rows_in_order
    ]
    assert functools.reduce(HierarchicalCounts.merge, parts) == expected
    if all_known:  # what follows is implied already
        closed = hierarchy.close_rows(preds, up=True)
        assert compare(hierarchy, closed, hierarchy.close_rows(labels, up=True)) == expected
