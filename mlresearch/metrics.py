"""Mergeable states → every reported number.

Two states cover a split: `LabelCounts` sums what predictions got right and wrong, `ScoreTable` keeps the
scores that rankings need. Both count only the real examples of a padded batch, and one batch equals two.
`split_metrics` makes the whole dictionary of a split, `label_metrics` the part that depends on a decision.

A cell is a label of an example. All of them take `known`: whether the truth of each cell is known, None where all
of it is. Unknown cells are left out; what labels and predictions hold there is not looked at, except that
``violation_rate`` is about predictions as they are. An example of which no label is known counts nowhere. Of soft
labels the truth is a probability over ½.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.errors import UserError

Edges = tuple[Int[Array | np.ndarray, "edges"], Int[Array | np.ndarray, "edges"]]
"""Label ids of the children and of the parents of a hierarchy, edge by edge."""

PRECISION_AT = (1, 3, 5)
"""The k of the reported `precision_at_<k>`."""

BLOCK_ELEMENTS = 1 << 22
"""Elements of the blocks in which host arrays are walked, so that temporaries stay small."""

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
        # A denominator of zero comes with a numerator of zero: over 1 instead, the ratio is 0.
        f1 = xp.where(predicted + true == 0, 1.0, 2 * hits / xp.maximum(predicted + true, 1))
        return cls(
            tp=by_label[0],
            fp=by_label[1] - by_label[0],
            fn=by_label[2] - by_label[0],
            known=xp.full_like(by_label[0], examples) if known is None else known,
            examples=examples,
            exact=xp.sum((hits == predicted) & (hits == true) & mask, dtype=xp.int32),
            checked=checked,
            violations=violations,
            example_precision=xp.sum(hits / xp.maximum(predicted, 1)),
            example_recall=xp.sum(hits / xp.maximum(true, 1)),
            example_f1=xp.sum(xp.where(mask, f1, 0.0)),
        )

    def merge(self, other: "LabelCounts") -> "LabelCounts":
        """Return the state of both states' examples together."""
        return jax.tree.map(lambda left, right: left + right, self, other)

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


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores and labels of the real examples of a split, on the host.

    log_marginals: float [examples, labels]; labels: bool [examples, labels]; known: whether each label is known,
    bool [examples, labels], None where all are. Any strictly increasing function of the scores gives the same
    metrics. A NaN among the scores is a `UserError`.
    """

    log_marginals: Float[np.ndarray, "examples labels"]
    labels: Bool[np.ndarray, "examples labels"]
    known: Bool[np.ndarray, "examples labels"] | None = None

    def __post_init__(self) -> None:
        if np.isnan(self.log_marginals).any():
            row, label = np.argwhere(np.isnan(self.log_marginals))[0].tolist()
            raise UserError(
                f"the score of label {label} in example {row} is NaN; the model has diverged: see its losses"
            )

    @classmethod
    def of(
        cls,
        log_marginals: Float[Array | np.ndarray, "batch labels"],
        labels: Bool[Array | np.ndarray, "batch labels"],
        mask: Bool[Array | np.ndarray, "batch"],
        known: Bool[Array | np.ndarray, "batch labels"] | None = None,
    ) -> "ScoreTable":
        """Copy the rows of one batch whose `mask` is True to the host."""
        rows = np.asarray(mask)
        kept = None if known is None else np.asarray(known)[rows]
        return cls(np.asarray(log_marginals)[rows], np.asarray(labels)[rows], kept)

    @classmethod
    def concatenate(cls, tables: Iterable["ScoreTable"]) -> "ScoreTable":
        """Return the table of all examples, in the order given; merging many at once copies each row once."""
        tables = list(tables)
        if not tables:
            raise UserError(NO_EXAMPLES)
        return cls(
            np.concatenate([table.log_marginals for table in tables]),
            np.concatenate([table.labels for table in tables]),
            concatenate_known([table.known for table in tables], [table.labels for table in tables]),
        )

    def merge(self, other: "ScoreTable") -> "ScoreTable":
        """Return the table of both tables' examples, these first."""
        return self.concatenate([self, other])

    def compute(self) -> dict[str, float]:
        """Return every metric of rankings; a table without examples is a `UserError`.

        - ``micro_average_precision``: all known cells ranked in one list. ``macro_average_precision``: the examples in
          which a label is known ranked, the mean over labels with at least one positive; the others are left out
          (`LabelCounts.compute` counts them as ``num_labels_absent``). Average precision is the mean over
          positives of the precision among the items that score no less, scikit-learn's
          `average_precision_score`: no interpolation, and a group of equal scores enters as one (Manning,
          Raghavan & Schütze, "Introduction to Information Retrieval", 2008; on hierarchies Vens et al.,
          "Decision Trees for Hierarchical Multi-label Classification", 2008, who call the micro form the area
          under the average precision-recall curve). 0 where nothing is positive.
        - ``precision_at_<k>``, k = 1, 3, 5: mean over examples of the share of true labels among the k known ones
          that score highest; of equal scores the label that comes first in the label space goes first. Examples
          with fewer than k known labels are left out; where all have fewer, so is the metric (Jain, Prabhu &
          Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing Label
          Applications", 2016).

        Exact, from sorted scores: O(cells · log(cells)).
        """
        if len(self.labels) == 0:
            raise UserError(NO_EXAMPLES)
        by_label = [average_precision(*rank_positives(ranked, positives)) for _, ranked, positives in self.by_label()]
        metrics = {
            "micro_average_precision": self._micro_average_precision(),
            "macro_average_precision": float(np.mean(by_label)) if by_label else 0.0,
        }
        return metrics | self._precision_at()

    def by_label(self) -> Iterator[tuple[int, Float[np.ndarray, "examples"], Float[np.ndarray, "positives"]]]:
        """Yield (label, its known scores, its positives' scores), ascending, for labels that have a positive."""
        present = np.flatnonzero(self.positives.any(axis=0))
        width = max(BLOCK_ELEMENTS // max(len(self.labels), 1), 1)
        for start in range(0, len(present), width):
            block = present[start : start + width]
            scores = np.ascontiguousarray(self.log_marginals[:, block].T)
            positives = np.ascontiguousarray(self.positives[:, block].T)
            num_known = np.full(len(block), len(self.labels))
            if self.known is not None:
                known = self.known[:, block].T
                num_known = known.sum(axis=1)
                scores[~known] = np.nan  # sorted behind all numbers
            for row, ranked in enumerate(np.sort(scores, axis=1)):
                yield int(block[row]), ranked[: num_known[row]], np.sort(scores[row, positives[row]])

    @functools.cached_property
    def positives(self) -> Bool[np.ndarray, "examples labels"]:
        """The cells that are known to be true."""
        return self.labels if self.known is None else self.labels & self.known

    def _row_blocks(self) -> Iterator[slice]:
        """Yield slices of examples that together are all of them."""
        height = max(BLOCK_ELEMENTS // max(self.labels.shape[1], 1), 1)
        for start in range(0, len(self.labels), height):
            yield slice(start, start + height)

    def _micro_average_precision(self) -> float:
        """Return average precision over all cells; blocks sorted apart count the same as one long list."""
        positives = np.sort(self.log_marginals[self.positives])
        if not len(positives):
            return 0.0
        hits, at_least = rank_positives(positives, positives)[0], np.zeros(len(positives), np.int64)
        for block in self._row_blocks():
            scores = self.log_marginals[block]
            ranked = np.sort(scores if self.known is None else scores[self.known[block]], axis=None)
            at_least += rank_positives(ranked, positives)[1]
        return average_precision(hits, at_least)

    def _precision_at(self) -> dict[str, float]:
        """Return every ``precision_at_<k>``: one maximum a rank."""
        num_labels = self.labels.shape[1]
        depths = [k for k in PRECISION_AT if k <= num_labels]
        hits, seen = dict.fromkeys(depths, 0), dict.fromkeys(depths, 0)
        for block in self._row_blocks():
            labels = self.labels[block]
            num_known = np.full(len(labels), num_labels)
            # −∞ marks labels already taken, so a score of −∞ becomes the least finite one.
            scores = np.maximum(self.log_marginals[block], np.finfo(self.log_marginals.dtype).min)
            if self.known is not None:
                num_known = self.known[block].sum(axis=1)
                scores[~self.known[block]] = -np.inf
            true = np.zeros(len(labels), np.int64)  # among the labels taken
            for rank in range(max(depths, default=0)):
                best = scores.argmax(axis=1, keepdims=True)  # the first of equal scores
                true += np.take_along_axis(labels, best, axis=1)[:, 0]
                np.put_along_axis(scores, best, -np.inf, axis=1)
                if rank + 1 in depths:
                    enough = num_known > rank
                    hits[rank + 1] += int(true[enough].sum())
                    seen[rank + 1] += int(enough.sum())
        return {f"precision_at_{k}": hits[k] / (k * seen[k]) for k in depths if seen[k]}


def concatenate_known(known: Sequence[np.ndarray | None], labels: Sequence[np.ndarray]) -> np.ndarray | None:
    """Join what is known of a split's parts, given the labels of each; None says that all is known."""
    if all(part is None for part in known):
        return None
    parts = zip(known, labels, strict=True)
    return np.concatenate([np.ones_like(like) if part is None else part for part, like in parts])


def rank_positives(
    ranked: Float[np.ndarray, "items"], positives: Float[np.ndarray, "positives"]
) -> tuple[Int[np.ndarray, "positives"], Int[np.ndarray, "positives"]]:
    """Return, for each positive's score, how many positives and how many items score no less.

    ranked, positives: scores of all items and of the positive ones, both ascending. No permutation is needed,
    only sorted values, which is what makes this fast.
    """
    hits = len(positives) - np.searchsorted(positives, positives, side="left")
    at_least = len(ranked) - np.searchsorted(ranked, positives, side="left")
    return hits, at_least


def average_precision(hits: Int[np.ndarray, "positives"], at_least: Int[np.ndarray, "positives"]) -> float:
    """Return the mean of hits / at_least: each positive raises recall by 1 / positives at its precision."""
    return float(np.mean(hits / at_least))


def label_metrics(
    preds: Bool[np.ndarray, "examples labels"],
    labels: Bool[np.ndarray, "examples labels"],
    edges: Edges | None,
    known: Bool[np.ndarray, "examples labels"] | None = None,
) -> dict[str, float]:
    """Return what `LabelCounts.compute` reports, from predictions gathered on the host.

    edges: child ids and parent ids, or None where there is no hierarchy to check. known: whether each label is known,
    None where all are.
    """
    counts = LabelCounts.zeros(labels.shape[1])
    width = max(labels.shape[1], 0 if edges is None else len(edges[0]), 1)
    height = max(BLOCK_ELEMENTS // width, 1)
    for start in range(0, len(labels), height):
        rows = slice(start, start + height)
        mask = np.ones(len(labels[rows]), bool)
        known_rows = None if known is None else known[rows]
        counts = counts.merge(LabelCounts.of(preds[rows], labels[rows], mask, edges, known_rows).to_host())
    return counts.compute()


def split_metrics(
    log_marginals: Float[np.ndarray, "examples labels"],
    preds: Bool[np.ndarray, "examples labels"],
    labels: Bool[np.ndarray, "examples labels"],
    edges: Edges | None,
    known: Bool[np.ndarray, "examples labels"] | None = None,
) -> dict[str, float]:
    """Return every number reported of a split: `LabelCounts.compute` and `ScoreTable.compute` together."""
    return label_metrics(preds, labels, edges, known) | ScoreTable(log_marginals, labels, known).compute()
