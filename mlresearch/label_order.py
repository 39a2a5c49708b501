"""An order of labels, and for each of them the ancestors that it waits for: what a loop over labels goes by."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class LabelOrder:
    """Labels one after another; what later ones need to know of those with children is kept in slots.

    labels: label ids in the order; places: the place of each label. ancestors: for each place the slots of the label's
    ancestors, filled up with slot 0, which stands for a label that is always on. slot: for each place where to keep
    what those below will ask for, past the last slot for a label without children. A slot is free again after the last
    descendant, so that a loop carries `num_slots` labels and not all.
    """

    labels: Int[Array, "labels"]
    places: Int[Array, "labels"]
    ancestors: Int[Array, "labels ancestors"]
    slot: Int[Array, "labels"]
    num_slots: int = dataclasses.field(metadata={"static": True})


def order_labels(labels: np.ndarray, hierarchy: LabelHierarchy | None) -> LabelOrder:
    """Return the order of label ids; with a hierarchy, in which parents must stand before children.

    Without one no label has ancestors. Memory is labels × the most ancestors that a label has.
    """
    num_labels = len(labels)
    places = np.argsort(labels)
    if hierarchy is None:
        ancestors, slot, num_slots = np.zeros((num_labels, 0), np.int32), np.ones(num_labels, np.int32), 1
    else:
        ancestors, slot, num_slots = _deal_slots(labels, places, hierarchy)

    def indices(x: np.ndarray) -> Int[Array, "..."]:
        return jnp.asarray(x, jnp.int32)

    return LabelOrder(indices(labels), indices(places), indices(ancestors), indices(slot), num_slots)


def _deal_slots(
    labels: np.ndarray, places: np.ndarray, hierarchy: LabelHierarchy
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the slots of each place's ancestors, its own slot, and how many slots there are."""
    closure = hierarchy.ancestors
    last = np.full(len(labels), -1)  # the place of each label's last descendant
    np.maximum.at(last, closure.ids, places[closure.rows])
    ancestors = np.zeros((len(labels), closure.width), np.int32)
    slots = np.full(len(labels), -1, np.int32)  # by label
    free: list[int] = []
    num_slots = 1
    for place, label in enumerate(labels.tolist()):
        above = closure.row(label)
        assert (places[above] < place).all(), "parents stand before children"
        ancestors[place, : len(above)] = slots[above]
        free += slots[above[last[above] == place]].tolist()
        if last[label] >= 0:
            if not free:
                free.append(num_slots)
                num_slots += 1
            slots[label] = free.pop()
    return ancestors, np.where(slots < 0, num_slots, slots)[labels], num_slots
