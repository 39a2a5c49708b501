"""Predictions and truth compared with all of their ancestors: hierarchical F1 and CoPHE."""

import dataclasses

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Int32

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.metrics.counts import precision_recall_f1


@dataclasses.dataclass(frozen=True)
class HierarchicalCounts:
    """Sums over examples of `ExtendedTruth.compare`: of extended label sets, and of their counts.

    hits: labels that are on in both; predicted, true: in either. count_hits: Σ min(predicted count, true count);
    predicted_count, true_count: the sums of either.
    """

    hits: int
    predicted: int
    true: int
    count_hits: int
    predicted_count: int
    true_count: int

    def merge(self, other: "HierarchicalCounts") -> "HierarchicalCounts":
        """Return the state of both states' examples together."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return HierarchicalCounts(*(mine + its for mine, its in pairs))

    def compute(self) -> dict[str, float]:
        """Return precision, recall and F1 of label sets and of counts that `ExtendedTruth` defines; 0/0 is 0.

        - ``hierarchical_*``: of extended sets P and T, Σ |P ∩ T| / Σ |P|, Σ |P ∩ T| / Σ |T| and 2 Σ |P ∩ T| /
          (Σ |P| + Σ |T|), the sums over examples, the root in neither set (Kiritchenko, Matwin & Famili, "Functional
          Annotation of Genes Using Hierarchical Text Categorization", 2005; Kosmopoulos et al., "Evaluation Measures
          for Hierarchical Classification: A Unified View and Novel Approaches", 2015).
        - ``cophe_*``: the same of counts p and t, with TP = min(p, t), FP = max(p − t, 0) and FN = max(t − p, 0) of a
          label and an example, summed over examples and over all labels but the root, most specific ones and ancestors
          together (Falis et al., "CoPHE: A Count-Preserving Hierarchical Evaluation Metric in Large-Scale Multi-Label
          Text Classification", 2021).
        """
        of_sets = (self.hits, self.predicted - self.hits, self.true - self.hits)
        of_counts = (self.count_hits, self.predicted_count - self.count_hits, self.true_count - self.count_hits)
        return {
            f"{kind}_{name}": float(value)
            for kind, sums in (("hierarchical", of_sets), ("cophe", of_counts))
            for name, value in precision_recall_f1(*sums).items()
        }


@dataclasses.dataclass(frozen=True, eq=False)
class ExtendedTruth:
    """The truth of some examples with all ancestors of what is on, which predictions are compared with.

    A label set is extended by all ancestors of its labels. Its most specific labels are those without a descendant in
    it. A label's count is how many of these stand at it or below, each once however many ways lead up, be the hierarchy
    a tree or not; so the counts of a set and of its extension are equal, and a label is in the extension where its
    count is not 0. What CoPHE calls the prediction level are thus the most specific labels, each of which counts 1 at
    itself, and a label that is on beside a descendant adds nothing.

    A label of which every other one is a descendant, the root, counts nowhere; the top labels of a forest do count.

    Unknown cells are taken out of both sets before they are extended. A label counts in an example where it is known,
    or where it follows from a label that is on.

    counts: the count of each label that counts, −1 of one that does not. sums: Σ of the labels that are on, and of
    their counts.
    """

    hierarchy: LabelHierarchy
    known: Bool[np.ndarray, "examples labels"] | None
    counts: Int32[np.ndarray, "examples labels"]
    sums: tuple[int, int]

    @classmethod
    def of(
        cls,
        labels: Bool[np.ndarray, "examples labels"],
        hierarchy: LabelHierarchy,
        known: Bool[np.ndarray, "examples labels"] | None = None,
    ) -> "ExtendedTruth":
        """Extend the labels of some examples."""
        counts = np.zeros(labels.shape, np.int32)
        if known is not None:
            counts[~known] = -1
        cells, values = _counts(labels if known is None else labels & known, hierarchy)
        if hierarchy.root is not None:
            counts[:, hierarchy.root] = -1
            inner = cells % hierarchy.num_labels != hierarchy.root
            cells, values = cells[inner], values[inner]
        counts.ravel()[cells] = values
        return cls(hierarchy, known, counts, (len(cells), int(values.sum(dtype=np.int64))))

    def compare(self, preds: Bool[np.ndarray, "examples labels"]) -> HierarchicalCounts:
        """Return what predictions got right: O(cells + predicted labels · their ancestors)."""
        cells, values = _counts(preds if self.known is None else preds & self.known, self.hierarchy)
        true = self.counts.ravel()[cells]
        counted = true >= 0
        true, values = true[counted], values[counted]
        return HierarchicalCounts(
            hits=int((true > 0).sum()),
            predicted=len(true),
            true=self.sums[0],
            count_hits=int(np.minimum(values, true).sum(dtype=np.int64)),
            predicted_count=int(values.sum(dtype=np.int64)),
            true_count=self.sums[1],
        )


def _counts(on: Bool[np.ndarray, "examples labels"], hierarchy: LabelHierarchy) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of extended label sets, as places in the raveled matrix, and their counts."""
    cells, values = _sums_above(np.flatnonzero(on), hierarchy, len(on))
    specific = cells[(values == 1) & on.ravel()[cells]]  # alone among what is on at it or below
    return _sums_above(specific, hierarchy, len(on))


def _sums_above(cells: np.ndarray, hierarchy: LabelHierarchy, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for what stands at or above any of `cells`, its cell and how many of `cells` stand at it or below."""
    num_labels = hierarchy.num_labels
    offsets = np.searchsorted(cells, np.arange(num_examples + 1) * num_labels)
    rows = scipy.sparse.csr_array(
        (np.ones(len(cells), np.int32), cells % num_labels, offsets), shape=(num_examples, num_labels)
    )
    sums = rows @ hierarchy.closure
    at = np.repeat(np.arange(num_examples) * num_labels, np.diff(sums.indptr)) + sums.indices
    return at, sums.data
