"""The labels of a forest, grouped by their parent: families of siblings."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.logspace import log1mexp, log_softplus
from mlresearch.propagation import segment_logsumexp, segment_sum
from mlresearch.pytree import pytree_dataclass

Siblings = Literal["any", "some", "one", "at_most_one", "hurdle"]
"""How many children of a label that is on may be on: any number, at least one, exactly one, at most one; ``hurdle``:
any number, of which none has a probability of its own."""


@pytree_dataclass
class Families:
    """The labels grouped by their parent, on a forest; family 0 holds the roots, whose parent is always on.

    members: label ids by family. segments: the family of each member, ascending. family: the family of each label.
    parent: the parent of each family, 0 standing in for that of the roots. below: the family of a label's children,
    0 where it has none. starts: where each family's members begin, and after the last where they end.
    """

    members: Int[Array, "labels"]
    segments: Int[Array, "labels"]
    family: Int[Array, "labels"]
    parent: Int[Array, "families"]
    below: Int[Array, "labels"]
    starts: Int[Array, "starts"]


def group_families(hierarchy: LabelHierarchy) -> Families:
    """Return the families of a forest."""
    parent_of = np.full(hierarchy.num_labels, -1)
    parent_of[hierarchy.children] = hierarchy.parents
    parents, family = np.unique(np.concatenate([[-1], parent_of]), return_inverse=True)
    family = family[1:]
    below = np.zeros(hierarchy.num_labels, np.int64)
    below[parents[1:]] = np.arange(1, len(parents))
    starts = np.searchsorted(np.sort(family), np.arange(len(parents) + 1))
    members = np.argsort(family, kind="stable")
    arrays = (members, family[members], family, np.maximum(parents, 0), below, starts)
    return Families(*(jnp.asarray(array, jnp.int32) for array in arrays))


def log_normaliser(
    scores: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int, *, rest: bool
) -> Float[Array, "segments batch"]:
    """Return log Σ eˢ of rows by ascending segment number; with `rest` log(1 + Σ eˢ), one more choice of score 0."""
    total = segment_logsumexp(scores, segments, num_segments)
    return jnp.logaddexp(total, 0.0) if rest else total


def log_at_least_one(
    scores: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Float[Array, "segments batch"]:
    """Return log(1 − Π σ(−s)) of rows by ascending segment number: of independent labels at least one is on.

    With t = Σ log(1 + eˢ) it is log(1 − e⁻ᵗ); where t would underflow, its series about log t is taken.
    """
    log_t = segment_logsumexp(log_softplus(scores), segments, num_segments)
    small = log_t < -10.0
    t = segment_sum(jax.nn.softplus(scores), segments, num_segments)
    series = log_t - t / 2 + jnp.square(t) / 24  # the next term, t⁴ / 2880, is below float64's rounding
    return jnp.where(small, series, log1mexp(-jnp.where(small, 1.0, t)))
