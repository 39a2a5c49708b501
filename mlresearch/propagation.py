"""Sums, maxima and minima along a hierarchy, as gathers of rows and scatters into them.

Arrays are ``[labels, batch]``: reading whole rows is what processors do well. A few gathers whose results are combined
at once become one loop that reads rows and writes their sum, many times cheaper than a segment reduction; a scatter
takes the results where they belong. Levels are walked one by one, by a loop where they are many. Index arrays are
arguments, never constants: large constants make XLA fold them at compile time. ``experiments/bench/README.md`` has what
was tried and what it cost.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from mlresearch.hierarchy_index import HierarchyIndex, LevelEdges, Lists

T = TypeVar("T")
L = TypeVar("L", Lists, LevelEdges)


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


@jax.custom_vjp
def batch_first(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "batch labels"]:
    """Turn x, in a loop of its own, and the gradient too.

    In one loop with what comes before and after, XLA on CPU reads or writes column by column, in 10 to 20 times the
    time of a bare turn. Scatters that do nothing keep it apart, as in `apart`.
    """
    return apart(x, index).T.at[:, index.outside].set(0, mode="drop")


def _batch_first_backward(
    index: HierarchyIndex, cotangent: Float[Array, "batch labels"]
) -> tuple[Float[Array, "labels batch"], None]:
    return apart(cotangent.at[:, index.outside].set(0, mode="drop").T, index), None


batch_first.defvjp(lambda x, index: (batch_first(x, index), index), _batch_first_backward)


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


def segment_any(
    x: Bool[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Bool[Array, "segments batch"]:
    """Return whether any row is true by ascending segment number; false for a segment without rows."""
    return jax.ops.segment_max(x.astype(jnp.int32), segments, num_segments, indices_are_sorted=True) > 0


def segment_logsumexp(
    x: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Float[Array, "segments batch"]:
    """Return log Σ eˣ of rows by ascending segment number; every segment must have a row with a finite value."""
    peak = jax.lax.stop_gradient(segment_max(x, segments, num_segments))
    return peak + jnp.log(segment_sum(jnp.exp(x - peak[segments]), segments, num_segments))


def first_maximum(
    x: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Bool[Array, "rows batch"]:
    """Return for each column and segment which row holds its maximum, the first of those that tie."""
    largest = x == segment_max(x, segments, num_segments)[segments]
    place = jnp.arange(x.shape[0])[:, None]
    places = jnp.where(largest, place, x.shape[0])
    first = jax.ops.segment_min(places, segments, num_segments, indices_are_sorted=True)
    return place == first[segments]


def sum_before(x: Float[Array, "rows batch"], segments: Int[Array, "rows"]) -> Float[Array, "rows batch"]:
    """Return the sum of the rows of the same segment that come before, by a segmented scan (no differences)."""
    starts = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])[:, None]
    shifted = jnp.where(starts, 0.0, jnp.roll(x, 1, axis=0)).astype(x.dtype)

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(right[1], right[0], left[0] + right[0]), left[1] | right[1]

    return jax.lax.associative_scan(combine, (shifted, jnp.broadcast_to(starts, x.shape)))[0]


@jax.custom_vjp
def path_sum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the sum over each label and its ancestors, each once, on any DAG.

    On a forest it is taken from the root to the label: where x ≤ 0, a child's sum is never above its parent's, bit for
    bit, since rounding is monotone. On a DAG it is a path sum, too, of the forest in `Paths`, once each label has the
    sum of its other ancestors added; that rounds differently for child and parent, so `settle` it.
    """
    paths = index.paths
    x = apart(x, index)
    if not index.parent.size:
        x = add_lists(x, paths.others)
    if not len(paths.slots):
        return walk(paths.downward, x, add_lists)
    return apart(total([*(take(x, slot, 0.0) for slot in paths.slots), x]), index)


def _path_sum_backward(
    index: HierarchyIndex, cotangent: Float[Array, "labels batch"]
) -> tuple[Float[Array, "labels batch"], None]:
    below = walk(index.paths.upward, apart(cotangent, index), add_lists)
    return (below if index.parent.size else add_lists(below, index.paths.descendants)), None


path_sum.defvjp(lambda x, index: (path_sum(x, index), index), _path_sum_backward)


def parent_minimum(x: Float[Array, "labels batch"], index: HierarchyIndex) -> Float[Array, "labels batch"]:
    """Return the minimum over each label and its ancestors: no child above any parent, bit for bit."""
    paths = index.paths
    x = apart(x, index)
    if not index.parent.size:
        x = min_lists(x, paths.others)
    if not len(paths.slots):
        return walk(paths.downward, x, min_lists)
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
