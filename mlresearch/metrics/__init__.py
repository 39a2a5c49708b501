"""Mergeable states → every reported number.

One file a family; each number's definition and source stand in the docstring of what computes it:

- ``counts``: `LabelCounts`, what predictions got right and wrong, by label and by example.
- ``frequency``: macro-F1 of frequent and of rare labels; propensities.
- ``hierarchical``: `HierarchicalCounts`, predictions and truth compared with all of their ancestors.
- ``ranking``: `ExampleRanks`, where the true labels of each example rank among its others.
- ``average_precision``: `Ranks`, how many scores are no less than each of the `Positives`.
- ``probabilities``: `Reliability`, whether marginals are as large as labels are frequent.

All states are made of a few examples at a time and merged, in any order, so that no matrix of a whole split is ever
needed: they hold O(labels + positives) numbers.

A cell is a label of an example. All of them take `known`: whether the truth of each cell is known, None where all
of it is. Unknown cells are left out; what labels and predictions hold there is not looked at, except that
``violation_rate`` is about predictions as they are. An example of which no label is known counts nowhere. Of soft
labels the truth is a probability over ½. Any strictly increasing function of the scores gives the same rankings.
"""

from mlresearch.metrics.average_precision import Positives, Ranks
from mlresearch.metrics.counts import NO_EXAMPLES, Edges, ExampleValues, LabelCounts, precision_recall_f1
from mlresearch.metrics.frequency import BINS, frequency_bins, inverse_propensities, macro_f1_in_bins
from mlresearch.metrics.hierarchical import ExtendedTruth, HierarchicalCounts
from mlresearch.metrics.probabilities import NUM_BINS, Reliability
from mlresearch.metrics.ranking import PRECISION_AT, ExampleRanks, rank_examples

__all__ = [
    "BINS",
    "NO_EXAMPLES",
    "NUM_BINS",
    "PRECISION_AT",
    "Edges",
    "ExampleRanks",
    "ExampleValues",
    "ExtendedTruth",
    "HierarchicalCounts",
    "LabelCounts",
    "Positives",
    "Ranks",
    "Reliability",
    "frequency_bins",
    "inverse_propensities",
    "macro_f1_in_bins",
    "precision_recall_f1",
    "rank_examples",
]
