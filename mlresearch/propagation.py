"""Sums, maxima and minima along a hierarchy, as gathers and segment reductions over its edges.

Arrays are ``[labels, batch]``: gathering and reducing whole rows is what processors do well (for 98,505 labels and a
batch of 64, a reduction over all edges takes about as long as copying the array). Levels are walked one by one, each
in one vectorised step. Index arrays are arguments, never constants: large constants make XLA fold them at compile time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class LevelEdges:
    """The edges into the targets of one level: rows `sources` reduce by `segments` into rows `targets`.

    `segments` is ascending and counts the targets from 0; `targets` are ascending label ids.
    """

    sources: Int[Array, "level_edges"]
    segments: Int[Array, "level_edges"]
    targets: Int[Array, "level_labels"]


@pytree_dataclass
class HierarchyIndex:
    """A hierarchy's index arrays, in the order in which the functions below walk them.

    upward: from children into parents, deepest parents first. downward: from parents into children, highest children
    first. edge_children, edge_parents: all edges by child. closure_members, closure_owners: every label with itself
    and each of its ancestors once, by owner; empty where `index_hierarchy` was told to leave them out.
    """

    upward: tuple[LevelEdges, ...]
    downward: tuple[LevelEdges, ...]
    edge_children: Int[Array, "edges"]
    edge_parents: Int[Array, "edges"]
    closure_owners: Int[Array, "pairs"]
    closure_members: Int[Array, "pairs"]


def index_hierarchy(hierarchy: LabelHierarchy, *, closure: bool) -> HierarchyIndex:
    """Return the index arrays of `hierarchy`; the closure lists only if asked for, being the largest."""
    child_level = hierarchy.levels[hierarchy.children]
    parent_level = hierarchy.levels[hierarchy.parents]
    depth = int(hierarchy.levels.max(initial=0))
    owners = members = np.zeros(0, np.int32)
    if closure:
        everyone = np.arange(hierarchy.num_labels, dtype=np.int32)
        owners = np.concatenate([everyone, np.repeat(everyone, np.diff(hierarchy.ancestors.offsets))])
        members = np.concatenate([everyone, hierarchy.ancestors.ids])
        order = np.argsort(owners, kind="stable")
        owners, members = owners[order], members[order]
    return HierarchyIndex(
        upward=tuple(
            _level_edges(hierarchy.children, hierarchy.parents, parent_level == level)
            for level in reversed(range(depth))
        ),
        downward=tuple(
            _level_edges(hierarchy.parents, hierarchy.children, child_level == level) for level in range(1, depth + 1)
        ),
        edge_children=jnp.asarray(hierarchy.children),
        edge_parents=jnp.asarray(hierarchy.parents),
        closure_owners=jnp.asarray(owners),
        closure_members=jnp.asarray(members),
    )


def _level_edges(sources: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> LevelEdges:
    sources, targets = sources[chosen], targets[chosen]
    order = np.argsort(targets, kind="stable")
    distinct, segments = np.unique(targets[order], return_inverse=True)
    return LevelEdges(
        jnp.asarray(sources[order], jnp.int32),
        jnp.asarray(segments, jnp.int32),
        jnp.asarray(distinct, jnp.int32),
    )


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


def path_sum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the sum over each label and its ancestors, on a forest.

    One addition a level, from the roots down: where x ≤ 0, a child's sum is never above its parent's, bit for bit,
    since rounding is monotone.
    """
    for edges in index.downward:
        x = x.at[edges.targets].add(x[edges.sources], unique_indices=True, indices_are_sorted=True)
    return x


def closure_sum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the sum over each label and its ancestors, each once, on any DAG (by closure lists)."""
    return segment_sum(x[index.closure_members], index.closure_owners, x.shape[0])


def parent_minimum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the minimum over each label and its ancestors: no child above any parent, bit for bit."""
    for edges in index.downward:
        parents = -segment_max(-x[edges.sources], edges.segments, edges.targets.shape[0])
        x = x.at[edges.targets].min(parents, unique_indices=True, indices_are_sorted=True)
    return x


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
    each of them, and on from there. It is written by hand, one pass from the roots down: XLA's own, for a chain of
    segment maxima, took ten times as long.
    """
    for edges in index.upward:
        children = segment_max(x[edges.sources], edges.segments, edges.targets.shape[0])
        x = x.at[edges.targets].max(children, unique_indices=True, indices_are_sorted=True)
    return x


def _descendant_maximum_forward(
    x: Float[Array, "labels batch"], index: HierarchyIndex
) -> tuple[Float[Array, "labels batch"], tuple[Array, Array, HierarchyIndex]]:
    maximum = descendant_maximum(x, index)
    return maximum, (x, maximum, index)


def _descendant_maximum_backward(
    residuals: tuple[Array, Array, HierarchyIndex], cotangent: Float[Array, "labels batch"]
) -> tuple[Float[Array, "labels batch"], None]:
    x, maximum, index = residuals
    for edges in reversed(index.upward):  # parents before their children
        top = maximum[edges.targets]
        from_child = (maximum[edges.sources] == top[edges.segments]).astype(x.dtype)
        from_self = (x[edges.targets] == top).astype(x.dtype)
        ties = from_self + segment_sum(from_child, edges.segments, edges.targets.shape[0])
        share = cotangent[edges.targets] / ties
        cotangent = cotangent.at[edges.targets].set(share * from_self, unique_indices=True, indices_are_sorted=True)
        cotangent = cotangent.at[edges.sources].add(share[edges.segments] * from_child)
    return cotangent, None


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
