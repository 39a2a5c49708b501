"""Mergeable states → every reported number.

Three states cover a split: `LabelCounts` sums what predictions got right and wrong, `ExampleRanks` where the true
labels of each example rank among its others, and `Ranks` counts how many scores are no less than each of the
`Positives`, which have to be known first. All are made of a few examples at a time and merged, so that no matrix of a
whole split is ever needed: they hold O(labels + positives) numbers.

A cell is a label of an example. All of them take `known`: whether the truth of each cell is known, None where all
of it is. Unknown cells are left out; what labels and predictions hold there is not looked at, except that
``violation_rate`` is about predictions as they are. An example of which no label is known counts nowhere. Of soft
labels the truth is a probability over ½. Any strictly increasing function of the scores gives the same rankings.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Complex64, Float, Float32, Int

from mlresearch.errors import UserError

Edges = tuple[Int[Array | np.ndarray, "edges"], Int[Array | np.ndarray, "edges"]]
"""Label ids of the children and of the parents of a hierarchy, edge by edge."""

PRECISION_AT = (1, 3, 5)
"""The k of the reported `precision_at_<k>`."""

NO_EXAMPLES = "no examples to evaluate: the split is empty, every row of it is padding, or none of its labels is known"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelCounts:
    """What binary predictions got right and wrong: counts a label and sums over examples.

    tp, fp, fn: true positives, false positives and false negatives a label [labels]. known: examples in which the
    label is known [labels]. examples: examples seen; exact: those with every known label right; checked: those
    whose hierarchy was checked; violations: those of them with a child predicted without one of its parents.
    example_precision, example_recall, example_f1: sums over examples.

    The same code runs on JAX arrays (int32 and float32, inside `jit`) and on NumPy arrays (int64 and float64
    after `to_host`). Merging is associative: exactly so for the counts, to float32's rounding for the three
    sums while they stay on the device. Stacked states, as `scan` and `pmap` return them, have leading axes,
    which `to_host` adds up.
    """

    # `Any`: JAX also builds states from abstract values, which have a shape and a dtype but are no arrays.
    tp: Int[Any, "*stack labels"]
    fp: Int[Any, "*stack labels"]
    fn: Int[Any, "*stack labels"]
    known: Int[Any, "*stack labels"]
    examples: Int[Any, "*stack"]
    exact: Int[Any, "*stack"]
    checked: Int[Any, "*stack"]
    violations: Int[Any, "*stack"]
    example_precision: Float[Any, "*stack"]
    example_recall: Float[Any, "*stack"]
    example_f1: Float[Any, "*stack"]

    @classmethod
    def zeros(cls, num_labels: int) -> "LabelCounts":
        """Return the state of no examples: merging it, on the device or on the host, changes nothing."""
        by_label = np.zeros(num_labels, np.int32)
        count, total = np.zeros((), np.int32), np.zeros((), np.float32)
        return cls(by_label, by_label, by_label, by_label, count, count, count, count, total, total, total)

    @classmethod
    def of(
        cls,
        preds: Bool[Array | np.ndarray, "batch labels"],
        labels: Bool[Array | np.ndarray, "batch labels"],
        mask: Bool[Array | np.ndarray, "batch"],
        edges: Edges | None,
        known: Bool[Array | np.ndarray, "batch labels"] | None = None,
    ) -> "LabelCounts":
        """Count one batch; rows whose `mask` is False count nowhere, whatever they hold.

        edges: int32 child ids and int32 parent ids, or None where there is no hierarchy to check.
        """
        xp = preds.__array_namespace__()
        if known is not None:
            mask = mask & xp.any(known, axis=1)
        preds, labels = preds & mask[:, None], labels & mask[:, None]
        orphaned = known_by_label = None
        if edges is not None:
            children, parents = edges
            orphaned = xp.any(preds[:, children] & ~preds[:, parents], axis=1)
        if known is not None:
            preds, labels = preds & known, labels & known
            known_by_label = xp.sum(known & mask[:, None], axis=0, dtype=xp.int32)
        hits = preds & labels
        by_label, by_example = (
            (
                xp.sum(hits, axis=axis, dtype=xp.int32),
                xp.sum(preds, axis=axis, dtype=xp.int32),
                xp.sum(labels, axis=axis, dtype=xp.int32),
            )
            for axis in (0, 1)
        )
        return cls.from_sums(by_label, by_example, mask, orphaned, known_by_label)

    @classmethod
    def from_sums(
        cls,
        by_label: tuple[
            Int[Array | np.ndarray, "labels"],
            Int[Array | np.ndarray, "labels"],
            Int[Array | np.ndarray, "labels"],
        ],
        by_example: tuple[
            Int[Array | np.ndarray, "batch"],
            Int[Array | np.ndarray, "batch"],
            Int[Array | np.ndarray, "batch"],
        ],
        mask: Bool[Array | np.ndarray, "batch"],
        orphaned: Bool[Array | np.ndarray, "batch"] | None,
        known: Int[Array | np.ndarray, "labels"] | None = None,
    ) -> "LabelCounts":
        """Make a state from numbers of (hits, predicted labels, true labels), by label and by example.

        Rows whose `mask` is False hold zeros. orphaned: examples with a child predicted without one of its
        parents, or None where there is no hierarchy to check. known: examples in which each label is known, None
        where all labels are.
        """
        hits, predicted, true = by_example
        xp = hits.__array_namespace__()
        checked = violations = xp.zeros((), xp.int32)
        if orphaned is not None:
            checked, violations = xp.sum(mask, dtype=xp.int32), xp.sum(orphaned, dtype=xp.int32)
        examples = xp.sum(mask, dtype=xp.int32)
        values = ExampleValues.of(hits, predicted, true, mask)
        return cls(
            tp=by_label[0],
            fp=by_label[1] - by_label[0],
            fn=by_label[2] - by_label[0],
            known=xp.full_like(by_label[0], examples) if known is None else known,
            examples=examples,
            exact=xp.sum(values.exact, dtype=xp.int32),
            checked=checked,
            violations=violations,
            example_precision=xp.sum(values.precision),
            example_recall=xp.sum(values.recall),
            example_f1=xp.sum(values.f1),
        )

    def merge(self, other: "LabelCounts") -> "LabelCounts":
        """Return the state of both states' examples together."""
        return jax.tree.map(lambda left, right: left + right, self, other)

    @property
    def predicted_share(self) -> float:
        """The share of known cells that are predicted on."""
        return float((self.tp + self.fp).sum() / self.known.sum())

    def to_host(self) -> "LabelCounts":
        """Return the state in NumPy's int64 and float64, with leading axes added up.

        A loop over many batches merges these, which neither overflows nor loses digits.
        """
        stack = tuple(range(np.ndim(self.examples)))

        def widen(field: Any) -> Any:
            field = np.asarray(field)
            return field.sum(axis=stack, dtype=np.int64 if field.dtype.kind == "i" else np.float64)

        return jax.tree.map(widen, self)

    def compute(self) -> dict[str, float]:
        """Return every metric of binary predictions; a state without examples is a `UserError`.

        With hits TP, false alarms FP and misses FN: precision = TP / (TP + FP), recall = TP / (TP + FN) and
        F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen, "Information Retrieval", 1979). Each of them as

        - ``micro_*``: TP, FP and FN summed over labels first (Yang, "An Evaluation of Statistical Approaches
          to Text Categorization", 1999); `zero_division` 0.
        - ``macro_*``: the mean over all labels; `zero_division` 0. ``macro_f1`` is the mean of the labels'
          F1, not the F1 of mean precision and mean recall (Opitz & Burst, "Macro F1 and Macro F1", 2019).
        - ``macro_*_present``: the mean over labels with at least one positive in the split (`labels=` of
          these); `zero_division` 0, and 0 where there is no such label. ``num_labels_absent`` counts the
          labels left out.
        - ``weighted_*``: the mean over labels weighted by their positives; `zero_division` 0.
        - ``example_*``: the mean over examples of the example's own value, `average="samples"` (Godbole &
          Sarawagi, "Discriminative Methods for Multi-labeled Classification", 2004). ``example_f1`` has
          `zero_division` 1: to predict nothing where nothing is true is right (Dembczyński et al., "An Exact
          Algorithm for F-Measure Maximization", 2011). ``example_precision`` and ``example_recall`` have
          `zero_division` 0.

        Furthermore:

        - ``hamming_loss``: share of wrong cells (FP + FN) / (known cells), which are examples · labels where all
          are known (Schapire & Singer, "BoosTexter: A Boosting-based System for Text Categorization", 2000).
        - ``subset_accuracy``: share of examples with every known label right, scikit-learn's `accuracy_score`
          (Ghamrawi & McCallum, "Collective Multi-Label Classification", 2005).
        - ``violation_rate``: share of examples with at least one child predicted without one of its parents;
          left out where there is no hierarchy. It is 0 where the hierarchy constraint holds (Giunchiglia &
          Lukasiewicz, "Coherent Hierarchical Multi-Label Classification Networks", 2020).
        - ``label_cardinality``, ``predicted_cardinality``: mean number of true and of predicted labels an
          example, among its known ones (Tsoumakas & Katakis, "Multi-Label Classification: An Overview", 2007).
        - ``num_examples``: examples counted.

        TP, FP and FN count known cells, and what is said of an example is said of its known labels. A label that is
        known nowhere has no positive.
        """
        counts = self.to_host()
        tp, fp, fn = counts.tp, counts.fp, counts.fn
        examples = int(counts.examples)
        if examples == 0:
            raise UserError(NO_EXAMPLES)
        present = tp + fn > 0
        num_present = max(int(present.sum()), 1)
        metrics = {
            "num_examples": float(examples),
            "num_labels_absent": float((~present).sum()),
            "label_cardinality": (tp + fn).sum() / examples,
            "predicted_cardinality": (tp + fp).sum() / examples,
            "hamming_loss": (fp + fn).sum() / counts.known.sum(),
            "subset_accuracy": counts.exact / examples,
            "example_precision": counts.example_precision / examples,
            "example_recall": counts.example_recall / examples,
            "example_f1": counts.example_f1 / examples,
        }
        if counts.checked:
            metrics["violation_rate"] = counts.violations / counts.checked
        totals = _precision_recall_f1(tp.sum(), fp.sum(), fn.sum())
        for name, by_label in _precision_recall_f1(tp, fp, fn).items():
            metrics[f"micro_{name}"] = totals[name]
            metrics[f"macro_{name}"] = by_label.mean()
            metrics[f"macro_{name}_present"] = by_label[present].sum() / num_present
            metrics[f"weighted_{name}"] = by_label @ (tp + fn) / max((tp + fn).sum(), 1)
        return {name: float(value) for name, value in metrics.items()}


def _precision_recall_f1(tp: Any, fp: Any, fn: Any) -> dict[str, Any]:
    """Return precision, recall and F1 of hits, false alarms and misses; 0 where the denominator is 0."""
    return {
        "precision": tp / np.maximum(tp + fp, 1),
        "recall": tp / np.maximum(tp + fn, 1),
        "f1": 2 * tp / np.maximum(2 * tp + fp + fn, 1),
    }


class ExampleValues(NamedTuple):
    """What the metrics of examples are the means of: whether all known labels are right; precision, recall and F1."""

    exact: Bool[Array | np.ndarray, "batch"]
    precision: Float[Array | np.ndarray, "batch"]
    recall: Float[Array | np.ndarray, "batch"]
    f1: Float[Array | np.ndarray, "batch"]

    @classmethod
    def of(
        cls,
        hits: Int[Array | np.ndarray, "batch"],
        predicted: Int[Array | np.ndarray, "batch"],
        true: Int[Array | np.ndarray, "batch"],
        mask: Bool[Array | np.ndarray, "batch"],
    ) -> "ExampleValues":
        """Make them from numbers of labels an example; those whose `mask` is False have zeros, and get zeros."""
        xp = hits.__array_namespace__()
        # A denominator of zero comes with a numerator of zero: over 1 instead, the ratio is 0.
        f1 = xp.where(predicted + true == 0, 1.0, 2 * hits / xp.maximum(predicted + true, 1))
        return cls(
            exact=(hits == predicted) & (hits == true) & mask,
            precision=hits / xp.maximum(predicted, 1),
            recall=hits / xp.maximum(true, 1),
            f1=xp.where(mask, f1, 0.0),
        )


def rank_examples(
    scores: Float[np.ndarray, "examples labels"],
    labels: Bool[np.ndarray, "examples labels"],
    known: Bool[np.ndarray, "examples labels"] | None = None,
) -> dict[str, Float[np.ndarray, "examples"]]:
    """Return every metric of each example's ranking of its known labels, NaN where a metric leaves an example out.

    All of them leave out examples without a known label.

    - ``precision_at_<k>``, k = 1, 3, 5: share of true labels among the k known ones that score highest. Examples with
      fewer than k known labels are left out (Jain, Prabhu & Varma, "Extreme Multi-label Loss Functions for
      Recommendation, Tagging, Ranking & Other Missing Label Applications", 2016).
    - ``ndcg_at_<k>``: Σ 1 / log₂(place + 1) over the true labels among the first k places, divided by what it is where
      they come first. Examples without a true label are left out (Järvelin & Kekäläinen, "Cumulated Gain-based
      Evaluation of IR Techniques", 2002).
    - ``r_precision``: share of true labels among as many of highest score as there are true ones. Examples without a
      true label are left out (Manning, Raghavan & Schütze, "Introduction to Information Retrieval", 2008).
    - ``label_ranking_average_precision``: the mean over an example's true labels of the share of true ones among those
      that score no less; 1 where all labels or none are true (Schapire & Singer, "BoosTexter: A Boosting-based System
      for Text Categorization", 2000).
    - ``coverage_error``: how many labels score no less than the lowest true one; 0 where none is true (Tsoumakas,
      Katakis & Vlahavas, "Mining Multi-label Data", 2010).
    - ``ranking_loss``: share of pairs of a true and a false label in which the false one scores no less; 0 where there
      is none (Schapire & Singer, 2000).

    Of equal scores the label that comes first in the label space goes first in the first three; the others are
    scikit-learn's. O(cells · log(labels) + true labels · log(cells)), and O(labels) a tie.
    """
    num_labels = labels.shape[1]
    known = np.ones(labels.shape, bool) if known is None else known
    true = labels & known
    num_known, num_true = known.sum(axis=1), true.sum(axis=1)
    rows, columns = np.nonzero(true)
    cells = _keys(rows, scores[rows, columns])
    # Of each true label: how many labels, and how many true ones, score no less, and its place, from 0.
    rivals = _keys(np.arange(len(labels))[:, None], np.sort(np.where(known, scores, np.inf), axis=1)).ravel()
    stop = rows * num_labels + num_known[rows]  # what is unknown stands last
    no_less, place = (stop - np.searchsorted(rivals, cells, side=side) for side in ("left", "right"))
    true_no_less = np.cumsum(num_true)[rows] - np.searchsorted(np.sort(cells), cells)
    for cell in np.flatnonzero(no_less - place > 1).tolist():
        row, column = rows[cell], columns[cell]
        place[cell] += (known[row, :column] & (scores[row, :column] == scores[row, column])).sum()

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(rows, values, minlength=len(labels))

    discounts = 1 / np.log2(np.arange(num_labels) + 2)
    best = np.concatenate([[0.0], np.cumsum(discounts)])
    metrics = {}
    for k in PRECISION_AT:
        if k <= num_labels:
            within = place < k
            metrics[f"precision_at_{k}"] = np.where(num_known >= k, total(within) / k, np.nan)
            gain = total(within * discounts[place]) / best[np.clip(num_true, 1, k)]
            metrics[f"ndcg_at_{k}"] = np.where(num_true > 0, gain, np.nan)
    some = np.maximum(num_true, 1)
    metrics["r_precision"] = np.where(num_true > 0, total(place < num_true[rows]) / some, np.nan)
    in_order = (num_true == 0) | (num_true == num_known)
    average_precision = np.where(in_order, 1.0, total(true_no_less / np.maximum(no_less, 1)) / some)
    reach = np.zeros(len(labels))
    np.maximum.at(reach, rows, no_less)
    wrong = total(no_less - true_no_less) / np.maximum(num_true * (num_known - num_true), 1)
    of_all = {"label_ranking_average_precision": average_precision, "coverage_error": reach, "ranking_loss": wrong}
    return metrics | {name: np.where(num_known > 0, values, np.nan) for name, values in of_all.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleRanks:
    """Where true labels stand among the known ones of their example: sums and counts of `rank_examples`, by metric."""

    sums: Mapping[str, float]
    counts: Mapping[str, int]

    @classmethod
    def of(
        cls,
        scores: Float[np.ndarray, "examples labels"],
        labels: Bool[np.ndarray, "examples labels"],
        known: Bool[np.ndarray, "examples labels"] | None = None,
    ) -> "ExampleRanks":
        """Sum over some examples."""
        values = rank_examples(scores, labels, known)
        sums = {name: float(np.nansum(each)) for name, each in values.items()}
        return cls(sums, {name: int((~np.isnan(each)).sum()) for name, each in values.items()})

    def merge(self, other: "ExampleRanks") -> "ExampleRanks":
        """Return the state of both states' examples together."""
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        return ExampleRanks(sums, {name: count + other.counts[name] for name, count in self.counts.items()})

    def compute(self) -> dict[str, float]:
        """Return the mean of every metric of `rank_examples` over the examples that it does not leave out, if any."""
        return {name: value / self.counts[name] for name, value in self.sums.items() if self.counts[name]}


@dataclasses.dataclass(frozen=True, eq=False)
class Positives:
    """The scores of the cells that are known to be true.

    parts: of some examples each, complex64 [positives]: label id + i · score. Complex numbers are sorted by real part
    and then by imaginary part, so that one sort and one search do for all labels. Ids up to 2²⁴ are exact.
    """

    parts: tuple[Complex64[np.ndarray, "_"], ...] = ()

    @classmethod
    def of(
        cls,
        scores: Float32[np.ndarray, "examples labels"],
        labels: Bool[np.ndarray, "examples labels"],
        known: Bool[np.ndarray, "examples labels"] | None = None,
    ) -> "Positives":
        """Take those of some examples."""
        cells = np.nonzero(labels if known is None else labels & known)
        return cls((_keys(cells[1], scores[cells]),))

    def merge(self, other: "Positives") -> "Positives":
        """Return those of both."""
        return Positives(self.parts + other.parts)

    @functools.cached_property
    def by_label(self) -> Complex64[np.ndarray, "positives"]:
        """All of them, ascending; what is said of each positive is said in this order."""
        return np.sort(np.concatenate([np.zeros(0, np.complex64), *self.parts]))

    @property
    def scores(self) -> Float32[np.ndarray, "positives"]:
        """The score of each positive."""
        return self.by_label.imag

    @functools.cached_property
    def ranked(self) -> Float32[np.ndarray, "positives"]:
        """All scores, ascending, whatever their labels."""
        return np.sort(self.scores)

    @functools.cached_property
    def _groups(self) -> tuple[np.ndarray, ...]:
        found = np.unique(self.by_label.real, return_index=True, return_inverse=True, return_counts=True)
        return found[0].astype(np.int32), *found[1:]

    @property
    def labels(self) -> Int[np.ndarray, "present"]:
        """Ids of the labels that have a positive, ascending."""
        return self._groups[0]

    @property
    def first(self) -> Int[np.ndarray, "present"]:
        """Where the positives of each of `labels` begin."""
        return self._groups[1]

    @property
    def group(self) -> Int[np.ndarray, "positives"]:
        """The place of each positive's label among `labels`."""
        return self._groups[2]

    @property
    def count(self) -> Int[np.ndarray, "present"]:
        """Number of positives of each of `labels`."""
        return self._groups[3]

    @functools.cached_property
    def lower(self) -> Int[np.ndarray, "positives"]:
        """How many positives of each positive's label score lower."""
        return np.searchsorted(self.by_label, self.by_label) - self.first[self.group]


@dataclasses.dataclass(frozen=True, eq=False)
class Ranks:
    """What of the negatives ranks no lower than each positive; a negative is a cell that is known to be false.

    alarms: how many negatives of the positive's label score no less, int64 [positives]; below: the highest score of
    those that score less, −∞ where there are none. all_alarms: how many negatives of all labels score no less, for
    ``positives.ranked``. highest: score of each label, −∞ where it is nowhere known.
    """

    positives: Positives
    alarms: Int[np.ndarray, "positives"]
    below: Float32[np.ndarray, "positives"]
    all_alarms: Int[np.ndarray, "positives"]
    highest: Float32[np.ndarray, "labels"]

    @classmethod
    def of(
        cls,
        positives: Positives,
        scores: Float32[np.ndarray, "examples labels"],
        labels: Bool[np.ndarray, "examples labels"],
        known: Bool[np.ndarray, "examples labels"] | None = None,
    ) -> "Ranks":
        """Count some examples against the positives of all: O(cells · log(cells) + positives · log(cells))."""
        negative = ~labels if known is None else known & ~labels
        counted = negative[:, positives.labels]
        columns = np.where(counted, scores[:, positives.labels], np.inf).T.copy()
        columns.sort(axis=1)  # what is no negative stands last
        keys = _keys(np.arange(len(columns))[:, None], columns).ravel()
        start = positives.group * len(labels)
        stop = start + counted.sum(axis=0)[positives.group]
        at = np.searchsorted(keys, _keys(positives.group, positives.scores))
        # Negatives that score less than all positives need not be sorted.
        ranked = np.sort(scores[negative & (scores >= positives.ranked.min(initial=np.inf))])
        return cls(
            positives,
            alarms=stop - at,
            below=np.where(at > start, columns.ravel()[at - 1], np.float32(-np.inf)),
            all_alarms=len(ranked) - np.searchsorted(ranked, positives.ranked),
            highest=np.max(scores, axis=0, initial=-np.inf, where=True if known is None else known),
        )

    def merge(self, other: "Ranks") -> "Ranks":
        """Return the state of both states' examples together, which count against the same positives."""
        return Ranks(
            self.positives,
            self.alarms + other.alarms,
            np.maximum(self.below, other.below),
            self.all_alarms + other.all_alarms,
            np.maximum(self.highest, other.highest),
        )

    @property
    def hits(self) -> Int[np.ndarray, "positives"]:
        """How many positives of each positive's label score no less."""
        return self.positives.count[self.positives.group] - self.positives.lower

    @property
    def next_lower(self) -> Float32[np.ndarray, "positives"]:
        """The next lower score of each positive's label, −∞ where there is none."""
        positives = self.positives
        at = positives.first[positives.group] + positives.lower - 1  # of the next lower positive, if there is one
        return np.maximum(self.below, np.where(positives.lower > 0, positives.scores[at], np.float32(-np.inf)))

    def compute(self) -> dict[str, float]:
        """Return average precision over all cells and by label.

        ``micro_average_precision``: all known cells ranked in one list. ``macro_average_precision``: the examples in
        which a label is known ranked, the mean over labels with at least one positive; the others are left out
        (`LabelCounts.compute` counts them as ``num_labels_absent``). Average precision is the mean over positives of
        the precision among the items that score no less, scikit-learn's `average_precision_score`: no interpolation,
        and a group of equal scores enters as one (Manning, Raghavan & Schütze, "Introduction to Information
        Retrieval", 2008; on hierarchies Vens et al., "Decision Trees for Hierarchical Multi-label Classification",
        2008, who call the micro form the area under the average precision-recall curve). 0 where nothing is positive.
        """
        positives = self.positives
        if not len(positives.ranked):
            return {"micro_average_precision": 0.0, "macro_average_precision": 0.0}
        all_hits = len(positives.ranked) - np.searchsorted(positives.ranked, positives.ranked)
        by_label = np.add.reduceat(self.hits / (self.hits + self.alarms), positives.first) / positives.count
        return {
            "micro_average_precision": float(np.mean(all_hits / (all_hits + self.all_alarms))),
            "macro_average_precision": float(np.mean(by_label)),
        }


def _keys(
    groups: Int[np.ndarray, "*#cells"], scores: Float32[np.ndarray, "*#cells"]
) -> Complex64[np.ndarray, "*cells"]:
    """Return numbers that are sorted by group and, within it, by score."""
    keys = np.empty(np.broadcast_shapes(groups.shape, scores.shape), np.complex64)
    keys.real, keys.imag = groups, scores
    return keys
