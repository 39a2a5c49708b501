"""Index arrays of a hierarchy: what `mlresearch.propagation` gathers and scatters by.

Lists of rows have as many slots as make gathers and scatters cost least; many levels become steps of a loop. Everything
is made once, on the host, in memory O(labels + edges + closure pairs).
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.pytree import pytree_dataclass

UNROLLED_LEVELS = 32
"""More levels than these are walked by a loop: compiling takes longer with every operation of a program."""

PATH_SLOTS = 8
"""Paths of at most so many ancestors are gathered at once; longer ones are walked level by level."""

LIST_SLOTS = 16
"""Lists of more members than these are cut."""

SCATTER_COST = 6
"""What scattering a row costs, in gathers of one."""


@pytree_dataclass
class Lists:
    """Lists of label ids, each to be reduced into its target; a long list is cut into several rows.

    targets: ascending label ids. members: where a row has fewer than others, ids past the last label. Lists that are
    walked by a loop lead with its steps; a step with fewer rows has targets past the last label.
    """

    targets: Int[Array, "*steps rows"]
    members: Int[Array, "*steps slots rows"]


@pytree_dataclass
class LevelEdges:
    """The edges into the targets of one level: rows `sources` reduce by `segments` into rows `targets`.

    `segments` is ascending and counts the targets from 0; `targets` are ascending label ids. Levels that are walked by
    a loop lead with its steps, filled up with edges into targets past the last label.
    """

    sources: Int[Array, "*steps level_edges"]
    segments: Int[Array, "*steps level_edges"]
    targets: Int[Array, "*steps level_labels"]


@pytree_dataclass
class Paths:
    """A forest that spans the hierarchy, and for each label the ancestors that a path in it leaves out.

    slots: the ancestors of each label on its path, the root first, ids past the last label before it; none where a path
    has more than `PATH_SLOTS`. downward: else, the forest's edges by level. upward: the same the other way.
    others: of each label the ancestors that are neither its parent in the forest nor above that. Then a label's
    ancestors are those on its path and the others of all of these, each once. descendants: `others` the other way.
    """

    slots: Int[Array, "slots labels"]
    downward: tuple[Lists, ...]
    upward: tuple[Lists, ...]
    others: Lists
    descendants: Lists


@pytree_dataclass
class HierarchyIndex:
    """A hierarchy's index arrays.

    upward: the children of each parent, deepest parents first. families: the same, all at once. downward: the parents
    of each child, highest children first; on a forest, of children that have children. parent: on a forest the parent
    of each label, an id past the last for a root; else empty. inner: the labels with children. row: the place of each
    label among these, past the last where it has none. levels: on a forest, `upward` as edges. edge_children,
    edge_parents: all edges by child. closure_members, closure_owners: every label with itself and each of its ancestors
    once, by owner; empty where `index_hierarchy` was told to leave them out. outside: an id past the last label.
    parents_first: all labels, by level.
    """

    upward: tuple[Lists, ...]
    families: Lists
    downward: tuple[Lists, ...]
    parent: Int[Array, "labels_of_forest"]
    inner: Int[Array, "inner"]
    row: Int[Array, "labels"]
    paths: Paths
    levels: tuple[LevelEdges, ...]
    edge_children: Int[Array, "edges"]
    edge_parents: Int[Array, "edges"]
    closure_owners: Int[Array, "pairs"]
    closure_members: Int[Array, "pairs"]
    outside: Int[Array, "1"]
    parents_first: Int[Array, "labels"]


def index_hierarchy(hierarchy: LabelHierarchy, *, closure: bool) -> HierarchyIndex:
    """Return the index arrays of `hierarchy`; the closure lists only if asked for, being the largest."""
    num_labels, children, parents = hierarchy.num_labels, hierarchy.children, hierarchy.parents
    owners = members = np.zeros(0, np.int32)
    if closure:
        everyone = np.arange(num_labels, dtype=np.int32)
        owners = np.concatenate([everyone, np.repeat(everyone, np.diff(hierarchy.ancestors.offsets))])
        members = np.concatenate([everyone, hierarchy.ancestors.ids])
        order = np.argsort(owners, kind="stable")
        owners, members = owners[order], members[order]
    upward = _by_level(parents, children, -hierarchy.levels[parents], num_labels)
    families = _lists(parents, children, num_labels)
    inner = np.flatnonzero(hierarchy.num_children)
    row = np.full(num_labels, len(inner), np.int32)
    row[inner] = np.arange(len(inner))
    parent = np.zeros(0, np.int32)
    if hierarchy.is_forest:
        parent = _parent_of(hierarchy)
        children = inner[parent[inner] < num_labels]
        parents = parent[children]
    return HierarchyIndex(
        upward=upward,
        families=families,
        downward=_by_level(children, parents, hierarchy.levels[children], num_labels),
        parent=jnp.asarray(parent),
        inner=jnp.asarray(inner, jnp.int32),
        row=jnp.asarray(row),
        paths=_paths(hierarchy, upward),
        levels=_level_edges(hierarchy) if hierarchy.is_forest else (),
        edge_children=jnp.asarray(hierarchy.children),
        edge_parents=jnp.asarray(hierarchy.parents),
        closure_owners=jnp.asarray(owners),
        closure_members=jnp.asarray(members),
        outside=jnp.asarray([num_labels], jnp.int32),
        parents_first=jnp.asarray(np.argsort(hierarchy.levels, kind="stable"), jnp.int32),
    )


def _parent_of(forest: LabelHierarchy) -> np.ndarray:
    parent = np.full(forest.num_labels, forest.num_labels, np.int32)
    parent[forest.children] = forest.parents
    return parent


def _paths(hierarchy: LabelHierarchy, upward: tuple[Lists, ...]) -> Paths:
    num_labels = hierarchy.num_labels
    forest, owners, others = hierarchy, np.zeros(0, np.int64), np.zeros(0, np.int32)
    if not hierarchy.is_forest:
        # Of several parents, that with the most ancestors leaves the fewest others.
        num_ancestors = np.diff(hierarchy.ancestors.offsets)
        by_child = np.lexsort((-num_ancestors[hierarchy.parents], hierarchy.children))
        children, first = np.unique(hierarchy.children[by_child], return_index=True)
        forest = LabelHierarchy(hierarchy.names, children, hierarchy.parents[by_child][first])
        owners, others = np.repeat(np.arange(num_labels), num_ancestors), hierarchy.ancestors.ids
        parent = _parent_of(forest)[owners]
        above_parent = np.isin(parent.astype(np.int64) * num_labels + others, owners * num_labels + others)
        left_out = (others != parent) & ~above_parent
        owners, others = owners[left_out], others[left_out]
        upward = _by_level(forest.parents, forest.children, -forest.levels[forest.parents], num_labels)
    depth = int(forest.levels.max(initial=0))
    slots = np.zeros((depth if depth <= PATH_SLOTS else 0, num_labels), np.int32)
    above = parent = np.append(_parent_of(forest), num_labels)
    for slot in slots[::-1]:
        slot[:] = above[:-1]
        above = parent[above]
    downward = _by_level(forest.children, forest.parents, forest.levels[forest.children], num_labels)
    return Paths(
        slots=jnp.asarray(slots),
        downward=() if len(slots) else downward,
        upward=upward,
        others=_lists(owners, others, num_labels),
        descendants=_lists(others, owners, num_labels),
    )


def _lists(targets: np.ndarray, members: np.ndarray, num_labels: int) -> Lists:
    """Return the lists of members of each target, from pairs in any order."""
    return Lists(*map(jnp.asarray, _cut(targets, members, num_labels, _best_width(targets))))


def _best_width(targets: np.ndarray) -> int:
    """Return how many slots lists should have, such that gathers and scatters cost least."""
    sizes = np.unique(targets, return_counts=True)[1]
    widths = range(1, LIST_SLOTS + 1)
    return min(widths, key=lambda width: (width + SCATTER_COST) * int((-(-sizes // width)).sum()))


def _cut(targets: np.ndarray, members: np.ndarray, num_labels: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets and members of `Lists` with `width` slots."""
    order = np.argsort(targets, kind="stable")
    targets, members = targets[order], members[order]
    slot = (np.arange(len(targets)) - np.searchsorted(targets, targets)) % width
    row = np.cumsum(slot == 0) - 1
    table = np.full((width, int((slot == 0).sum())), num_labels, np.int32)
    table[slot, row] = members
    return targets[slot == 0].astype(np.int32), table


def _by_level(targets: np.ndarray, members: np.ndarray, level: np.ndarray, num_labels: int) -> tuple[Lists, ...]:
    """Return the lists of each level, lowest number first; of many levels, as steps of a loop, of equal size."""
    order = np.argsort(level, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(level[order])) + 1) if len(order) else []
    if len(pieces) <= UNROLLED_LEVELS:
        return tuple(_lists(targets[piece], members[piece], num_labels) for piece in pieces)
    width = _best_width(targets)
    cut = [_cut(targets[piece], members[piece], num_labels, width) for piece in pieces]
    size = -(-sum(len(rows) for rows, _ in cut) // len(cut))  # so that there are at most twice as many steps as levels

    def steps(rows: np.ndarray) -> np.ndarray:
        filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % size)), constant_values=num_labels)
        return filled.reshape(len(rows), -1, size).swapaxes(0, 1)

    return (
        Lists(
            jnp.asarray(np.concatenate([steps(rows[None])[:, 0] for rows, _ in cut])),
            jnp.asarray(np.concatenate([steps(table) for _, table in cut])),
        ),
    )


def _level_edges(forest: LabelHierarchy) -> tuple[LevelEdges, ...]:
    """Return a forest's edges by level, deepest parents first; of many levels, runs of similar size as loops."""
    by_parent = np.lexsort((forest.parents, -forest.levels[forest.parents]))
    level = forest.levels[forest.parents[by_parent]]
    pieces = np.split(by_parent, np.flatnonzero(np.diff(level)) + 1) if len(level) else []
    if len(pieces) <= UNROLLED_LEVELS:
        return tuple(LevelEdges(*map(jnp.asarray, _filled(forest, piece, 0, 0))) for piece in pieces)
    sizes = [(len(piece), len(np.unique(forest.parents[piece]))) for piece in pieces]
    size_class = [(int(edges).bit_length(), int(labels).bit_length()) for edges, labels in sizes]
    levels = []
    for _, same in itertools.groupby(range(len(pieces)), key=lambda piece: size_class[piece]):
        run = list(same)
        labels = max(sizes[piece][1] for piece in run)
        edges = max(sizes[piece][0] + labels - sizes[piece][1] for piece in run)
        filled = [_filled(forest, pieces[piece], edges, labels) for piece in run]
        levels.append(LevelEdges(*(jnp.asarray(np.stack(arrays)) for arrays in zip(*filled, strict=True))))
    return tuple(levels)


def _filled(forest: LabelHierarchy, edges: np.ndarray, num_edges: int, num_targets: int) -> tuple[np.ndarray, ...]:
    """Return the arrays of `LevelEdges`, filled up to so many edges and targets."""
    targets, segments = np.unique(forest.parents[edges], return_inverse=True)
    missing_edges, missing = max(num_edges - len(edges), 0), max(num_targets - len(targets), 0)
    # Every target that is made up gets an edge, since a reduction over nothing has no gradient; the rest get no target.
    made_up = len(targets) + np.minimum(np.arange(missing_edges), missing)
    return (
        np.append(forest.children[edges], np.zeros(missing_edges)).astype(np.int32),
        np.append(segments, made_up).astype(np.int32),
        np.append(targets, forest.num_labels + np.arange(missing)).astype(np.int32),
    )
