"""Scores that say of every label what the training split says, whatever the input: where a model may begin.

Probabilities are estimated with half an example more on either side (Jeffreys' prior), so that none is 0 or 1.
"""

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float64, Int

from mlresearch.label_space import LabelSets


def log_odds_of(labels: LabelSets, num_labels: int) -> Float64[np.ndarray, "labels"]:
    """Return the log-odds of each label among the examples in which it is known."""
    return _log_odds(labels.counts(num_labels), labels.frequencies(num_labels).known)


def log_odds_given_parents(
    labels: LabelSets, num_labels: int, children: Int[np.ndarray, "edges"], parents: Int[np.ndarray, "edges"]
) -> Float64[np.ndarray, "labels"]:
    """Return the log-odds of each label among the examples in which it is known and all its parents are on.

    children, parents: the hierarchy's edges.
    """
    num_on = labels.counts(num_labels)
    num_unknown = len(labels) - labels.frequencies(num_labels).known
    num_free = _num_free(labels, num_labels, children, parents)
    return _log_odds(num_on, np.maximum(num_free - num_unknown, num_on))


def log_odds_of_hurdle(
    labels: LabelSets,
    num_labels: int,
    family: Int[np.ndarray, "labels"],
    parent: Int[np.ndarray, "families"],
) -> tuple[Float64[np.ndarray, "labels"], Float64[np.ndarray, "families"]]:
    """Return scores of labels of a forest, and of families, under the rule ``hurdle`` of siblings.

    family: of each label, 0 of the roots; parent: of each family. A family's score are the log-odds that some of its
    labels are on, given its parent. A label's probability σ(s) is c r, with r how often it is on where some of its
    family are, and the c for which c = 1 − Π (1 − c r), so that r is P(on | some on). Where siblings exclude each other
    only 0 is such a c, and 0.001 is taken.
    """
    num_families = len(parent)
    rows, ids = labels.sparse(num_labels).nonzero()
    families_on = scipy.sparse.csr_array((np.ones(len(ids), bool), (rows, family[ids])), (len(labels), num_families))
    num_some = np.bincount(families_on.nonzero()[1], minlength=num_families)
    num_on = np.bincount(ids, minlength=num_labels)
    num_free = np.where(np.arange(num_families) == 0, len(labels), num_on[parent])
    share = (num_on + 0.5) / (num_some[family] + 1.0)
    low, high = np.full(num_families, 1e-3), np.ones(num_families)
    for _ in range(40):
        middle = (low + high) / 2
        log_none = np.bincount(family, np.log1p(-middle[family] * share), num_families)
        larger = 1 - np.exp(log_none) > middle
        low, high = np.where(larger, middle, low), np.where(larger, high, middle)
    probability = low[family] * share
    return np.log(probability) - np.log1p(-probability), _log_odds(num_some, np.maximum(num_free, num_some))


def log_share_among_siblings(
    labels: LabelSets,
    num_labels: int,
    children: Int[np.ndarray, "edges"],
    parents: Int[np.ndarray, "edges"],
    *,
    rest: bool,
) -> Float64[np.ndarray, "labels"]:
    """Return the logarithm of how often each label of a forest is on, half an example more; roots are siblings.

    rest: less that of how often its parent is on and none of its siblings, nor itself.
    """
    num_on = labels.counts(num_labels)
    if not rest:
        return np.log(num_on + 0.5)
    family = np.full(num_labels, num_labels)  # the parent of each label, one number more for that of the roots
    family[children] = parents
    num_below = np.bincount(family, num_on, num_labels + 1)[family]
    num_free = _num_free(labels, num_labels, children, parents)
    return np.log(num_on + 0.5) - np.log(np.maximum(num_free - num_below, 0) + 0.5)


def log_share_most_specific(
    labels: LabelSets, num_labels: int, children: Int[np.ndarray, "edges"], parents: Int[np.ndarray, "edges"]
) -> Float64[np.ndarray, "labels"]:
    """Return the logarithm of how often each label is on and none of its children, half an example more."""
    on = labels.sparse(num_labels)
    upwards = scipy.sparse.csr_array((np.ones(len(children), np.int64), (children, parents)), (num_labels, num_labels))
    above = on.multiply(on @ upwards > 0)
    return np.log(on.sum(0) - above.sum(0) + 0.5)


def _num_free(
    labels: LabelSets, num_labels: int, children: Int[np.ndarray, "edges"], parents: Int[np.ndarray, "edges"]
) -> Int[np.ndarray, "labels"]:
    """Return in how many examples all parents of each label are on."""
    edges = scipy.sparse.csr_array((np.ones(len(children), np.int64), (parents, children)), (num_labels, num_labels))
    parents_on = (labels.sparse(num_labels) @ edges).tocoo()  # how many, of an example and a child
    num_parents = np.bincount(children, minlength=num_labels)
    free = np.bincount(parents_on.col[parents_on.data == num_parents[parents_on.col]], minlength=num_labels)
    return np.where(num_parents == 0, len(labels), free)


def _log_odds(num_on: Int[np.ndarray, "labels"], num: Int[np.ndarray, "labels"]) -> Float[np.ndarray, "labels"]:
    return np.log((num_on + 0.5) / (num - num_on + 0.5))
