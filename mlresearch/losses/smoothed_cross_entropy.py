"""Cross-entropy with targets that are a little in doubt, more so the more specific a label is."""

import functools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mlresearch.heads import Labels, Logits, Structure, labels_first
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import HierarchyIndex, Lists, index_hierarchy
from mlresearch.losses import Examples, Sides, both_sides, check, cross_entropy, number
from mlresearch.propagation import take, walk


class Loss(nnx.Module):
    """−Σᵢ tᵢ log σ(zᵢ) + (1 − tᵢ) log(1 − σ(zᵢ)) for logits z, with targets t that no hierarchy contradicts.

    - A label that is on and none of its children: 1 − ε. A label above others that are on is less in doubt: 1 − d times
      the least doubt of its children that are on.
    - A label that is off and none of its parents (a root, a flat label): ε. A label below others that are off: d times
      the least target of its parents that are off.
    - A soft label y: ε + (1 − 2ε) y, mixed towards ½ as labels that are on or off are where there is no hierarchy.

    So 1 − t is ε d^(h − 1) for the longest path down of h labels that are on, itself included, and t is ε d^(k − 1) for
    the longest path up of k labels that are off. A path goes on through labels that are unknown or soft. With ε ≤ ½,
    where the labels are coherent, the targets are: of a child and a parent that are on, the parent has the longer path
    down and the larger target; of two that are off, the child has the longer path up and the smaller target; of a
    parent that is on and a child that is off, t ≤ ε ≤ 1 − ε ≤ t; soft labels are between ε and 1 − ε, in their order.

    smoothing: ε. decay: d.

    Raises `UserError` for a `smoothing` that is not in [0, ½] and a `decay` that is not in (0, 1].

    Source: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer Vision",
    2016 (label smoothing, of flat labels).
    """

    def __init__(
        self, hierarchy: LabelHierarchy | None, num_labels: int, *, smoothing: float = 0.05, decay: float = 0.5
    ) -> None:
        del num_labels
        check("smoothed_cross_entropy.smoothing", smoothing, "it is a doubt, 0 to ½", holds=0 <= smoothing <= 0.5)
        check("smoothed_cross_entropy.decay", decay, "it is a share, above 0 to 1", holds=0 < decay <= 1)
        self.smoothing = number(smoothing)
        self.decay = number(decay)
        self.index = None if hierarchy is None else Structure(index_hierarchy(hierarchy, closure=False))

    def targets(self, sides: Sides) -> Float[Array, "batch labels"]:
        """Return the target of each label; those of unknown ones mean nothing."""
        dtype = sides.on.dtype
        smoothing, decay = (option[...].astype(dtype) for option in (self.smoothing, self.decay))
        is_on, is_off = sides.on == 1, sides.off == 1
        height = depth = jnp.ones_like(sides.on)
        if self.index is not None:
            on, off, index = labels_first(is_on), labels_first(is_off), self.index.get_value()
            height = labels_first(runs_below(on, off, index)).astype(dtype)
            depth = labels_first(runs_above(off, on, index)).astype(dtype)
        mixed = smoothing + (1 - 2 * smoothing) * sides.on
        surely_off = jnp.where(is_off, smoothing * decay ** (depth - 1), mixed)
        return jnp.where(is_on, 1 - smoothing * decay ** (height - 1), surely_off)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        targets, known = self.targets(sides), sides.on + sides.off
        return cross_entropy(sides._replace(on=known * targets, off=known * (1 - targets)))


def runs_below(
    member: Bool[Array, "labels batch"], other: Bool[Array, "labels batch"], index: HierarchyIndex
) -> Float[Array, "labels batch"]:
    """Return how many labels the longest path down from each has, itself included: from member to member.

    It goes through labels that are neither `member` nor `other`, but does not end there; 0 where there is none.
    """
    return _runs(member, other, index.upward)


def runs_above(
    member: Bool[Array, "labels batch"], other: Bool[Array, "labels batch"], index: HierarchyIndex
) -> Float[Array, "labels batch"]:
    """Return how many labels the longest path up from each has; see `runs_below`."""
    runs = _runs(member, other, index.downward)
    if not index.parent.size:
        return runs
    # On a forest the walk leaves out labels without children.
    return jnp.where(other, 0.0, jnp.maximum(runs, _longer(take(runs, index.parent, 0.0))))


def _runs(
    member: Bool[Array, "labels batch"], other: Bool[Array, "labels batch"], levels: tuple[Lists, ...]
) -> Float[Array, "labels batch"]:
    passes = (~other).astype(jnp.float32)

    def extend(runs: Float[Array, "labels batch"], lists: Lists) -> Float[Array, "labels batch"]:
        found = [take(runs, slot, 0.0) * take(passes, slot, 0.0) for slot in lists.members]
        return runs.at[lists.targets].max(_longer(functools.reduce(jnp.maximum, found)), indices_are_sorted=True)

    return walk(levels, member.astype(jnp.float32), extend) * passes


def _longer(runs: Float[Array, "some batch"]) -> Float[Array, "some batch"]:
    return jnp.where(runs > 0, runs + 1, 0.0)
