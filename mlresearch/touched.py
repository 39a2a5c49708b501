"""The likelihood of `heads.conditional` on a forest, from the scores of those labels alone that it touches.

The probability of a label set has a factor for each family, the children of one label, whose parent is on; all other
labels are off for certain. Of 98,505 labels of ICD-10-CM an example touches some hundred.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.families import Families, Siblings, log_at_least_one, log_normaliser
from mlresearch.label_space import LabelSets
from mlresearch.logspace import log_sigmoids
from mlresearch.propagation import segment_sum
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class Touched:
    """The labels that each example's likelihood touches: the roots, and the children of labels that are on.

    labels: their ids, 0 where `inside` is False, which fills up an example's row. on: whether they are on. families:
    which family of its example each belongs to, ascending. given: which families there are; the others are empty.
    numbers: which of all families they are. coherent: whether all parents of labels that are on are on.
    """

    labels: Int[Array, "batch some"]
    inside: Bool[Array, "batch some"]
    on: Bool[Array, "batch some"]
    families: Int[Array, "batch some"]
    given: Bool[Array, "batch families"]
    numbers: Int[Array, "batch families"]
    coherent: Bool[Array, "batch"]


def count_touched(labels: LabelSets, families: Families) -> int:
    """Return how many labels the likelihood of an example touches, at most, among all examples."""
    sizes, below = np.diff(np.asarray(families.starts)), np.asarray(families.below)
    of_label = np.where(below > 0, sizes[below], 0)
    return int(sizes[0] + np.bincount(labels.rows, of_label[labels.ids], len(labels)).max(initial=0))


def touched_labels(label_ids: Int[Array, "batch width"], families: Families, count: int) -> Touched:
    """Return the labels that a batch touches, at most `count` an example.

    label_ids: of the labels that are on; those not less than the number of labels fill up rows.
    """
    num_labels = families.family.shape[0]
    listed = label_ids < num_labels
    ids = jnp.where(listed, label_ids, 0)
    # The first family of an example is that of the roots, which is always there.
    family = jnp.pad(jnp.where(listed, families.below[ids], 0), ((0, 0), (1, 0)))
    given = (family > 0).at[:, 0].set(True)
    sizes = jnp.where(given, families.starts[family + 1] - families.starts[family], 0)
    ends = jnp.cumsum(sizes, axis=1, dtype=jnp.int32)
    place = jnp.arange(count, dtype=jnp.int32)
    inside = place < ends[:, -1:]
    slot = jax.vmap(lambda row: jnp.searchsorted(row, place, side="right"))(ends).astype(jnp.int32)
    own = jnp.minimum(slot, family.shape[1] - 1)
    starts = families.starts[family] - (ends - sizes)
    member = jnp.take_along_axis(starts, own, axis=1) + place
    labels = jnp.where(inside, families.members[jnp.where(inside, member, 0)], 0)

    def is_on(asked: Int[Array, "batch some"]) -> Bool[Array, "batch some"]:
        return (asked[:, :, None] == label_ids[:, None, :]).any(-1)

    of_listed = families.family[ids]
    parent_on = (of_listed == 0) | is_on(families.parent[of_listed])
    return Touched(labels, inside, is_on(labels) & inside, slot, given, family, (parent_on | ~listed).all(-1))


def log_prob_touched(
    scores: Float[Array, "batch some"],
    touched: Touched,
    siblings: Siblings,
    family_scores: Float[Array, "all_families"] | None = None,
) -> Float[Array, "batch"]:
    """Return log p(labels | input) from the scores of the labels that are touched; −inf for an impossible set.

    family_scores: of all families, under ``hurdle``.
    """
    batch, num_families = touched.given.shape
    # One more family takes what fills up rows.
    segments = (touched.families + jnp.arange(batch, dtype=jnp.int32)[:, None] * (num_families + 1)).reshape(-1)
    count = batch * (num_families + 1)

    def by_family(x: Float[Array, "segments 1"]) -> Float[Array, "batch families"]:
        return x.reshape(batch, num_families + 1)[:, :num_families]

    column = jnp.where(touched.inside, scores, 0.0).reshape(-1, 1)
    num_on = by_family(segment_sum(touched.on.astype(scores.dtype).reshape(-1, 1), segments, count))
    possible = touched.coherent
    if siblings in ("one", "at_most_one"):
        rest = siblings == "at_most_one"
        normaliser = by_family(log_normaliser(column, segments, count, rest=rest))
        total = jnp.where(touched.on, scores, 0.0).sum(-1) - jnp.where(touched.given, normaliser, 0.0).sum(-1)
        possible &= (~touched.given | (num_on == 1) | (rest & (num_on == 0))).all(-1)
    else:
        factors = jnp.where(touched.on, jax.nn.log_sigmoid(scores), jax.nn.log_sigmoid(-scores))
        if siblings == "any":
            total = jnp.where(touched.inside, factors, 0.0).sum(-1)
            return jnp.where(possible, total, -jnp.inf)
        some_on = num_on > 0
        own = jnp.minimum(touched.families, num_families - 1)
        counted = touched.inside & jnp.take_along_axis(some_on, own, axis=1)
        total = jnp.where(counted, factors, 0.0).sum(-1)
        of_family = -by_family(log_at_least_one(column, segments, count))
        if family_scores is None:
            possible &= (~touched.given | some_on).all(-1)
        else:
            log_some, log_none = log_sigmoids(family_scores[touched.numbers])
            of_family = jnp.where(some_on, log_some + of_family, log_none)
        total += jnp.where(touched.given, of_family, 0.0).sum(-1)
    return jnp.where(possible, total, -jnp.inf)
