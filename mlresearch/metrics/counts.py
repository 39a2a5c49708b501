"""What binary predictions got right and wrong, label by label and example by example."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.errors import UserError

Edges = tuple[Int[Array | np.ndarray, "edges"], Int[Array | np.ndarray, "edges"]]
"""Label ids of the children and of the parents of a hierarchy, edge by edge."""

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
            orphaned = xp.any(xp.take(preds, children, axis=1) & ~xp.take(preds, parents, axis=1), axis=1)
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
        if not counts.examples:
            raise UserError(NO_EXAMPLES)
        return {name: float(value) for name, value in counts.each().items()}

    def each(self) -> dict[str, Any]:
        """Return the metrics of `compute` of each of stacked states, float64 [*stack]; all have examples."""
        tp, fp, fn = self.tp, self.fp, self.fn
        positives, predicted, examples = tp + fn, tp + fp, self.examples
        present = positives > 0
        metrics = {
            "num_examples": examples.astype(np.float64),
            "num_labels_absent": (~present).sum(-1).astype(np.float64),
            "label_cardinality": positives.sum(-1) / examples,
            "predicted_cardinality": predicted.sum(-1) / examples,
            "hamming_loss": (fp + fn).sum(-1) / self.known.sum(-1),
            "subset_accuracy": self.exact / examples,
            "example_precision": self.example_precision / examples,
            "example_recall": self.example_recall / examples,
            "example_f1": self.example_f1 / examples,
        }
        if self.checked.all():
            metrics["violation_rate"] = self.violations / self.checked
        totals = precision_recall_f1(tp.sum(-1), fp.sum(-1), fn.sum(-1))
        for name, by_label in precision_recall_f1(tp, fp, fn).items():
            metrics[f"micro_{name}"] = totals[name]
            metrics[f"macro_{name}"] = by_label.mean(-1)
            metrics[f"macro_{name}_present"] = (by_label * present).sum(-1) / np.maximum(present.sum(-1), 1)
            metrics[f"weighted_{name}"] = (by_label * positives).sum(-1) / np.maximum(positives.sum(-1), 1)
        return metrics


def precision_recall_f1(tp: Any, fp: Any, fn: Any) -> dict[str, Any]:
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
