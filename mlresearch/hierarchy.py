"""Which label implies which: a directed acyclic graph over labels, validated once and frozen.

An edge (child, parent) says that the child implies the parent: whoever has the child has the parent. A label may have
several parents. Everything is edges and closure lists; no ``[labels, labels]`` array is ever made.
"""

import dataclasses
import functools
import heapq
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.sparse

from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets


@dataclasses.dataclass(frozen=True, eq=False)
class LabelHierarchy:
    """Edges over named labels, sorted by (child, parent).

    names: label names, by label id. children, parents: int32 [edges].
    A label out of range, a duplicate edge or a cycle is a `UserError` that names it.
    """

    names: tuple[str, ...]
    children: np.ndarray
    parents: np.ndarray

    @classmethod
    def from_edges(cls, names: Iterable[str], edges: np.ndarray) -> "LabelHierarchy":
        """Build from an int [edges, 2] array of (child, parent) label ids in any order."""
        edges = np.asarray(edges, np.int32).reshape(-1, 2)
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        return cls(tuple(names), edges[:, 0].copy(), edges[:, 1].copy())

    def __post_init__(self) -> None:
        edges = np.stack([self.children, self.parents], 1)
        outside = (edges < 0) | (edges >= self.num_labels)
        if outside.any():
            row = int(np.flatnonzero(outside.any(1))[0])
            raise UserError(
                f"hierarchy: edge {tuple(edges[row].tolist())} names a label outside 0..{self.num_labels - 1}"
            )
        repeated = np.flatnonzero((edges[1:] == edges[:-1]).all(1))
        if len(repeated):
            child, parent = edges[repeated[0]]
            raise UserError(f"hierarchy: the edge {self.names[child]!r} -> {self.names[parent]!r} occurs twice")
        _ = self.levels  # a cycle shows here

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.names)

    @functools.cached_property
    def num_parents(self) -> np.ndarray:
        """Parents a label, int64 [labels]."""
        return np.bincount(self.children, minlength=self.num_labels)

    @functools.cached_property
    def num_children(self) -> np.ndarray:
        """Children a label, int64 [labels]."""
        return np.bincount(self.parents, minlength=self.num_labels)

    @functools.cached_property
    def is_forest(self) -> bool:
        """Whether no label has more than one parent."""
        return bool((self.num_parents <= 1).all())

    @functools.cached_property
    def levels(self) -> np.ndarray:
        """Length of the longest path from a root, int32 [labels]: every edge goes to a smaller level.

        Source: Kahn, "Topological sorting of large networks", 1962, whose waves these are.
        """
        by_parent = np.argsort(self.parents, kind="stable")
        start = np.concatenate([[0], np.cumsum(self.num_children)])
        missing = self.num_parents.copy()
        levels = np.full(self.num_labels, -1, np.int32)
        wave, level = np.flatnonzero(missing == 0), 0
        while len(wave):
            levels[wave] = level
            edges = by_parent[_ranges(start[wave], start[wave + 1])]
            reached, met = np.unique(self.children[edges], return_counts=True)
            missing[reached] -= met
            wave, level = reached[missing[reached] == 0], level + 1
        if (levels < 0).any():
            raise UserError(f"hierarchy: the labels {self._cycle(levels)} form a cycle; remove one of its edges")
        return levels

    def _cycle(self, levels: np.ndarray) -> str:
        """Return one cycle among the labels without a level, each of which has a parent without one."""
        stuck = levels < 0
        inner = stuck[self.children] & stuck[self.parents]
        parent_of = dict(zip(self.children[inner].tolist(), self.parents[inner].tolist(), strict=True))
        path = [int(np.flatnonzero(stuck)[0])]
        while path[-1] not in path[:-1]:
            path.append(parent_of[path[-1]])
        return " -> ".join(repr(self.names[label]) for label in path[path.index(path[-1]) :])

    @functools.cached_property
    def ancestors(self) -> LabelSets:
        """Proper ancestors of each label, each once, as one label set a label."""
        start = np.concatenate([[0], np.cumsum(self.num_parents)])
        pairs = self.children.astype(np.int64) * self.num_labels + self.parents
        found = [pairs]
        while len(pairs):  # one round a level: replace the ancestor of each pair by its parents
            owner, ancestor = np.divmod(pairs, self.num_labels)
            counts = self.num_parents[ancestor]
            further = self.parents[_ranges(start[ancestor], start[ancestor + 1])]
            pairs = np.unique(np.repeat(owner, counts) * self.num_labels + further)
            found.append(pairs)
        owner, ancestor = np.divmod(np.unique(np.concatenate(found)), self.num_labels)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=self.num_labels))])
        return LabelSets(ancestor.astype(np.int32), offsets)

    @functools.cached_property
    def closure(self) -> scipy.sparse.csr_array:
        """Sparse int32 [labels, labels]: row i is 1 at label i and at its ancestors."""
        ones = scipy.sparse.eye_array(self.num_labels, dtype=np.int32, format="csr")
        return scipy.sparse.csr_array(ones + self.ancestors.sparse(self.num_labels).astype(np.int32))

    @functools.cached_property
    def root(self) -> int | None:
        """The label of which every other one is a descendant, None where there is no such label or no other one."""
        below = np.bincount(self.ancestors.ids, minlength=self.num_labels)
        found = np.flatnonzero(below == self.num_labels - 1)
        return int(found[0]) if len(found) and self.num_labels > 1 else None

    def close(self, ids: np.ndarray) -> np.ndarray:
        """Return the given label ids and all their ancestors, each once, ascending, int32."""
        return np.unique(np.concatenate([ids, *(self.ancestors.row(label) for label in ids.tolist())])).astype(np.int32)

    def close_rows(self, on: np.ndarray, *, up: bool) -> np.ndarray:
        """Return bool [rows, labels] made coherent: with all ancestors of labels that are on, or without labels that
        miss one of theirs."""
        rows = scipy.sparse.csr_array(on.astype(np.int32))
        if up:
            return (rows @ self.closure).toarray() > 0
        return (rows @ self.closure.T).toarray() == self.closure.sum(axis=1)

    def close_sets(self, sets: LabelSets) -> LabelSets:
        """Return label sets with all ancestors of what they list.

        An ancestor takes the largest value among itself and the listed labels below it. It is unknown where a label
        below it is unknown, unless it is on all the same (value 1) or its own value is listed. What is not listed is
        taken for not stated: an ancestor of an unknown label that a row states to be off becomes unknown, too
        (`first_unclosed` finds such rows).
        """
        counts = np.diff(self.ancestors.offsets)[sets.ids]
        above = self.ancestors.ids[_ranges(self.ancestors.offsets[sets.ids], self.ancestors.offsets[sets.ids + 1])]
        keys = np.concatenate([sets.rows, np.repeat(sets.rows, counts)]) * self.num_labels
        keys += np.concatenate([sets.ids, above])
        if sets.values is None:
            return self._from_keys(np.unique(keys), len(sets), None)
        order = np.argsort(keys, kind="stable")  # what a row lists itself stands before what comes from below
        values = np.concatenate([sets.values, np.repeat(sets.values, counts)])[order]
        keys, starts = np.unique(keys[order], return_index=True)
        unknown = np.isnan(values)
        largest = np.maximum.reduceat(np.where(unknown, 0, values), starts) if len(starts) else values
        any_unknown = np.logical_or.reduceat(unknown, starts) if len(starts) else unknown
        listed = (order[starts] < len(sets.ids)) & ~unknown[starts]
        largest = np.where(any_unknown & ~listed & (largest < 1), np.float32(np.nan), largest)
        return self._from_keys(keys, len(sets), largest.astype(np.float32))

    def first_unclosed(self, sets: LabelSets) -> tuple[int, int, int] | None:
        """Return (row, child, parent) of the first row in which a parent is below its child, None if there is none.

        A parent is below its child where it is not listed, be the child on or unknown, and where it is less probable.
        """
        size = self.num_labels
        start = np.concatenate([[0], np.cumsum(self.num_parents)])  # edges stand by child
        counts = self.num_parents[sets.ids]
        parents = self.parents[_ranges(start[sets.ids], start[sets.ids + 1])].astype(np.int64)
        present = sets.rows * size + sets.ids
        needed = np.repeat(sets.rows, counts) * size + parents
        at = np.searchsorted(present, needed)
        found = np.append(present, -1)[at] == needed
        below = ~found
        if sets.values is not None:
            child = np.repeat(sets.values, counts)
            below |= np.where(found, np.append(sets.values, 1)[at], 0) < child  # never so where either is unknown
        wrong = np.flatnonzero(below)
        if not len(wrong):
            return None
        row, parent = divmod(int(needed[wrong[0]]), size)
        return row, int(np.repeat(sets.ids, counts)[wrong[0]]), parent

    def _from_keys(self, keys: np.ndarray, num_rows: int, values: np.ndarray | None) -> LabelSets:
        """Return the label sets of ascending keys ``row · num_labels + label``."""
        rows, ids = np.divmod(keys, self.num_labels)
        offsets = np.searchsorted(rows, np.arange(num_rows + 1))
        return LabelSets(ids.astype(np.int32), offsets.astype(np.int64), values)


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the concatenation of arange(start, stop) over all pairs."""
    counts = stops - starts
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


class CycleError(ValueError):
    """Edges that form a cycle: `cycle` holds its nodes, each followed by its parent, the last one by the first."""

    def __init__(self, cycle: Sequence[int]) -> None:
        super().__init__(f"the nodes {cycle} form a cycle")
        self.cycle = cycle


def parents_first(num_nodes: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Return all nodes such that parents stand before children; of those that may come next, the smallest comes.

    edges: pairs of child and parent. A cycle is a `CycleError`.

    Source: Kahn, "Topological sorting of large networks", 1962, with a heap for the order.
    """
    children: list[list[int]] = [[] for _ in range(num_nodes)]
    parents: list[list[int]] = [[] for _ in range(num_nodes)]
    for child, parent in edges:
        children[parent].append(child)
        parents[child].append(parent)
    missing = [len(above) for above in parents]
    ready = [node for node, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        node = heapq.heappop(ready)
        order.append(node)
        for child in children[node]:
            missing[child] -= 1
            if not missing[child]:
                heapq.heappush(ready, child)
    if len(order) < num_nodes:
        # Whoever still misses a parent has one that does: going up from there must come back.
        node = next(node for node, count in enumerate(missing) if count)
        path: dict[int, None] = {}
        while node not in path:
            path[node] = None
            node = next(parent for parent in parents[node] if missing[parent])
        raise CycleError(list(path)[list(path).index(node) :])
    return order
