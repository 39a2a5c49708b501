"""An order of labels, and for each of them the parents that it waits for: what a loop over labels goes by."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class LabelOrder:
    """Labels one after another; what later ones need to know of those with children is kept in slots.

    labels: label ids in the order; places: the place of each label. parents: for each place the slots of the label's
    parents, filled up with slot 0, which stands for a label that is always on. slot: for each place where to keep what
    children will ask for, past the last slot for a label without any. A slot is free again after the last child, so
    that a loop carries `num_slots` labels and not all.
    """

    labels: Int[Array, "labels"]
    places: Int[Array, "labels"]
    parents: Int[Array, "labels parents"]
    slot: Int[Array, "labels"]
    num_slots: int = dataclasses.field(metadata={"static": True})


def order_labels(labels: np.ndarray, hierarchy: LabelHierarchy | None) -> LabelOrder:
    """Return the order of label ids; with a hierarchy, in which parents must stand before children.

    Without one no label has parents. Memory is labels × the most parents that a label has.
    """
    num_labels = len(labels)
    places = np.argsort(labels)
    if hierarchy is None:
        parents, slot, num_slots = np.zeros((num_labels, 0), np.int32), np.ones(num_labels, np.int32), 1
    else:
        parents, slot, num_slots = _deal_slots(labels, places, hierarchy)

    def indices(x: np.ndarray) -> Int[Array, "..."]:
        return jnp.asarray(x, jnp.int32)

    return LabelOrder(indices(labels), indices(places), indices(parents), indices(slot), num_slots)


def _deal_slots(
    labels: np.ndarray, places: np.ndarray, hierarchy: LabelHierarchy
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the slots of each place's parents, its own slot, and how many slots there are."""
    last_child = np.full(len(labels), -1)
    np.maximum.at(last_child, hierarchy.parents, places[hierarchy.children])
    start = np.concatenate([[0], np.cumsum(hierarchy.num_parents)])
    parents = np.zeros((len(labels), hierarchy.num_parents.max(initial=0)), np.int32)
    slots = np.full(len(labels), -1, np.int32)  # by label
    free: list[int] = []
    num_slots = 1
    for place, label in enumerate(labels.tolist()):
        above = hierarchy.parents[start[label] : start[label + 1]]
        assert (places[above] < place).all(), "parents stand before children"
        parents[place, : len(above)] = slots[above]
        free += slots[above[last_child[above] == place]].tolist()
        if last_child[label] >= 0:
            if not free:
                free.append(num_slots)
                num_slots += 1
            slots[label] = free.pop()
    return parents, np.where(slots < 0, num_slots, slots)[labels], num_slots
