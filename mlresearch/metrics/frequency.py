"""What is said of labels by how often they are on in training: macro-F1 by frequency, and propensities."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from mlresearch.label_space import Frequencies
from mlresearch.metrics.counts import LabelCounts, precision_recall_f1

BINS = ("head", "middle", "tail")
"""Parts of the labels, the most frequent first."""

A, B = 0.55, 1.5
"""The constants of `inverse_propensities`."""


def frequency_bins(frequencies: Frequencies) -> dict[str, Int[np.ndarray, "_"]]:
    """Return the ids of the labels of each of `BINS`, by name.

    Labels that are on in training, sorted by how often (a probability counts as that share of an example), are cut into
    three parts of equal numbers of labels; of numbers that 3 does not divide the first parts have one more. Equally
    frequent labels stand in the order of the label space. Labels that are never on in training are in no part.
    """
    order = np.argsort(-frequencies.on, kind="stable")
    occurring = order[: np.count_nonzero(frequencies.on > 0)]
    return dict(zip(BINS, np.array_split(occurring, len(BINS)), strict=True))


def macro_f1_in_bins(counts: LabelCounts, bins: Mapping[str, Int[np.ndarray, "_"]]) -> dict[str, Any]:
    """Return ``macro_f1_head``, ``macro_f1_middle``, ``macro_f1_tail``: the mean F1 of a bin's labels, [*stack].

    F1 is that of `LabelCounts.compute`, 0 where a label is neither true nor predicted. A bin without labels is left
    out. Many-, medium- and few-shot labels are told apart so by Liu et al., "Large-Scale Long-Tailed Recognition in an
    Open World", 2019, there by numbers of examples.
    """
    f1 = precision_recall_f1(counts.tp, counts.fp, counts.fn)["f1"]
    return {f"macro_f1_{name}": f1[..., ids].mean(-1) for name, ids in bins.items() if len(ids)}


def inverse_propensities(frequencies: Frequencies) -> Float64[np.ndarray, "labels"]:
    """Return 1 / p of each label, p the probability that an annotator finds it where it holds.

    1 / p = 1 + C · (n + B)^−A with C = (log N − 1) · (B + 1)^A, A = 0.55 and B = 1.5, for a label that is on in n of
    the N training examples in which it is known; C is at least 0, which it is of any N ≥ 3.

    Source: Jain, Prabhu & Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other
    Missing Label Applications", 2016.
    """
    c = np.maximum(np.log(np.maximum(frequencies.known, 1)) - 1, 0) * (B + 1) ** A
    return 1 + c * (frequencies.on + B) ** -A
