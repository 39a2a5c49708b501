"""Sums, maxima and minima along a hierarchy, as gathers of rows and scatters into them.

Arrays are ``[labels, batch]``: reading whole rows is what processors do well. A few gathers whose results are combined
at once become one loop that reads rows and writes their sum, many times cheaper than a segment reduction; a scatter
takes the results where they belong. Levels are walked one by one, by a loop where they are many. Index arrays are
arguments, never constants: large constants make XLA fold them at compile time. ``experiments/bench/README.md`` has what
was tried and what it cost.
"""

import functools
import itertools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.pytree import pytree_dataclass

T = TypeVar("T")
L = TypeVar("L", "Lists", "LevelEdges")

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


def walk(levels: tuple[L, ...], carry: T, step: Callable[[T, L], T]) -> T:
    """Return what `step` makes of `carry`, level by level."""
    for level in levels:
        if level.targets.ndim == 1:
            carry = step(carry, level)
        else:
            carry, _ = jax.lax.scan(lambda carry, level: (step(carry, level), None), carry, level)
    return carry


def take(
    x: Shaped[Array, "labels batch"], rows: Int[Array, "rows"], fill: float | None = None
) -> Shaped[Array, "rows batch"]:
    """Return rows of x; for one past the last, `fill`, or the last where what is taken does not matter."""
    return x.at[rows].get(mode="clip") if fill is None else x.at[rows].get(mode="fill", fill_value=fill)


def total(terms: list[Array]) -> Array:
    """Return the sum of arrays, from the first to the last."""
    return functools.reduce(jnp.add, terms)


def apart(x: Shaped[Array, "labels batch"], index: HierarchyIndex) -> Shaped[Array, "labels batch"]:
    """Return x, computed before it is gathered.

    XLA would compute x anew for every gather of it, in the same loop as these, but for a scatter in between: one into a
    row that is none, which XLA cannot know. It costs no copy where x is computed.
    """
    return x.at[index.outside].set(0, mode="drop")


def add_lists(x: Float[Array, "labels batch"], lists: Lists) -> Float[Array, "labels batch"]:
    """Add to each target the sum of its members."""
    sums = total([take(x, slot, 0.0) for slot in lists.members])
    return x.at[lists.targets].add(sums, indices_are_sorted=True)


def max_lists(x: Float[Array, "labels batch"], lists: Lists) -> Float[Array, "labels batch"]:
    """Raise each target to the maximum of its members."""
    maxima = functools.reduce(jnp.maximum, [take(x, slot, -jnp.inf) for slot in lists.members])
    return x.at[lists.targets].max(maxima, indices_are_sorted=True)


def min_lists(x: Float[Array, "labels batch"], lists: Lists) -> Float[Array, "labels batch"]:
    """Lower each target to the minimum of its members."""
    minima = functools.reduce(jnp.minimum, [take(x, slot, jnp.inf) for slot in lists.members])
    return x.at[lists.targets].min(minima, indices_are_sorted=True)


def segment_sum(
    x: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Float[Array, "segments batch"]:
    """Sum rows by ascending segment number."""
    return jax.ops.segment_sum(x, segments, num_segments, indices_are_sorted=True)


def segment_max(
    x: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Float[Array, "segments batch"]:
    """Maximum of rows by ascending segment number; −inf for a segment without rows."""
    return jax.ops.segment_max(x, segments, num_segments, indices_are_sorted=True)


def segment_logsumexp(
    x: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Float[Array, "segments batch"]:
    """Return log Σ eˣ of rows by ascending segment number; every segment must have a row with a finite value."""
    peak = jax.lax.stop_gradient(segment_max(x, segments, num_segments))
    return peak + jnp.log(segment_sum(jnp.exp(x - peak[segments]), segments, num_segments))


@jax.custom_vjp
def path_sum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the sum over each label and its ancestors, each once, on any DAG.

    On a forest it is taken from the root to the label: where x ≤ 0, a child's sum is never above its parent's, bit for
    bit, since rounding is monotone. On a DAG it is a path sum, too, of the forest in `Paths`, once each label has the
    sum of its other ancestors added; that rounds differently for child and parent, so `settle` it.
    """
    paths = index.paths
    if not len(paths.slots):
        return walk(paths.downward, add_lists(x, paths.others), add_lists)
    x = apart(x, index) if index.parent.size else add_lists(x, paths.others)
    return total([*(take(x, slot, 0.0) for slot in paths.slots), x])


def _path_sum_backward(
    index: HierarchyIndex, cotangent: Float[Array, "labels batch"]
) -> tuple[Float[Array, "labels batch"], None]:
    below = walk(index.paths.upward, cotangent, add_lists)
    return (below if index.parent.size else add_lists(below, index.paths.descendants)), None


path_sum.defvjp(lambda x, index: (path_sum(x, index), index), _path_sum_backward)


def parent_minimum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the minimum over each label and its ancestors: no child above any parent, bit for bit."""
    paths = index.paths
    if not len(paths.slots):
        return walk(paths.downward, min_lists(x, paths.others), min_lists)
    x = apart(x, index) if index.parent.size else min_lists(x, paths.others)
    return functools.reduce(jnp.minimum, [*(take(x, slot, jnp.inf) for slot in paths.slots), x])


@jax.custom_vjp
def settle(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Take `parent_minimum` to remove differences of rounding; the gradient is that of the identity.

    For values that are coherent in exact arithmetic, so that the correction is one of rounding alone.
    """
    return parent_minimum(x, index)


settle.defvjp(lambda x, index: (parent_minimum(x, index), None), lambda _, cotangent: (cotangent, None))


@jax.custom_vjp
def descendant_maximum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the maximum over each label and its descendants, on any DAG (a maximum may meet a value twice).

    The gradient goes to the label where the maximum was found; where a label and children of it tie, in equal parts to
    each of them, and on from there. It is written by hand, one pass from the roots down.
    """
    return walk(index.upward, x, max_lists)


def _descendant_maximum_forward(
    x: Float[Array, "labels batch"], index: HierarchyIndex
) -> tuple[Float[Array, "labels batch"], tuple[Array, Array, HierarchyIndex]]:
    maximum = descendant_maximum(x, index)
    return maximum, (x, maximum, index)


def _descendant_maximum_backward(
    residuals: tuple[Array, Array, HierarchyIndex], cotangent: Float[Array, "labels batch"]
) -> tuple[Float[Array, "labels batch"], None]:
    x, maximum, index = residuals
    families, inner = index.families, index.inner
    if not inner.size:
        return cotangent, None

    def row(labels: Int[Array, "some"]) -> Int[Array, "some"]:
        return index.row.at[labels].get(mode="fill", fill_value=len(inner))

    # In how many places, itself or a child, a label with children finds its maximum. NaN is equal to nothing.
    top = take(maximum, families.targets)
    found = total([(take(maximum, slot, jnp.nan) == top).astype(x.dtype) for slot in families.members])
    places = (take(x, inner) == take(maximum, inner)).astype(x.dtype)
    places = places.at[row(families.targets)].add(found, indices_are_sorted=True)

    def down_forest(share: Array, lists: Lists) -> Array:
        (parents,), labels = lists.members, lists.targets
        wins = take(maximum, labels) == take(maximum, parents)
        arrives = take(cotangent, labels) + jnp.where(wins, take(share, row(parents)), 0.0)
        return share.at[row(labels)].set(arrives / take(places, row(labels)), indices_are_sorted=True)

    def down(arrives: Array, lists: Lists) -> Array:
        top = take(maximum, lists.targets)
        shares = [
            jnp.where(take(maximum, slot, jnp.nan) == top, take(arrives, slot) / take(places, row(slot)), 0.0)
            for slot in lists.members
        ]
        return arrives.at[lists.targets].add(total(shares), indices_are_sorted=True)

    if index.parent.size:
        # Only labels with children have a share to hand on: the many without are left to the end, and to no scatter.
        share = walk(index.downward, take(cotangent, inner) / places, down_forest)
        wins = take(maximum, index.parent, jnp.nan) == maximum
        arrives = cotangent + jnp.where(wins, take(share, row(index.parent)), 0.0)
        kept = jnp.where((index.row < len(inner))[:, None], take(share, index.row), arrives)
    else:
        kept = walk(index.downward, cotangent, down) / take(places, index.row, 1.0)
    return jnp.where(x == maximum, kept, 0.0), None


descendant_maximum.defvjp(_descendant_maximum_forward, _descendant_maximum_backward)


def parents_on(on: Bool[Array, "labels batch"], index: HierarchyIndex) -> Bool[Array, "labels batch"]:
    """Return whether all parents of each label are on; True for a root."""
    num_off = jax.ops.segment_sum(
        (~on[index.edge_parents]).astype(jnp.int32),
        index.edge_children,
        on.shape[0],
        indices_are_sorted=True,
    )
    return num_off == 0


def keep_with_parents(on: Bool[Array, "labels batch"], index: HierarchyIndex) -> Bool[Array, "labels batch"]:
    """Switch off every label that has an ancestor off."""
    return parent_minimum(on.astype(jnp.float32), index) > 0
