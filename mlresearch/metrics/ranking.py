"""Where the true labels of each example rank among its others."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from mlresearch.metrics.average_precision import sort_keys

PRECISION_AT = (1, 3, 5)
"""The k of the reported `precision_at_<k>`."""


class _Places(NamedTuple):
    """Where the true labels of some examples rank among the known ones of their example.

    Of each true label: rows, columns: its cell; no_less, true_no_less: how many labels, and how many true ones, score
    no less; place: how many go before it, where of equal scores the label that comes first in the label space does.
    num_known, num_true: labels of each example.
    """

    rows: Int[np.ndarray, "true"]
    columns: Int[np.ndarray, "true"]
    no_less: Int[np.ndarray, "true"]
    true_no_less: Int[np.ndarray, "true"]
    place: Int[np.ndarray, "true"]
    num_known: Int[np.ndarray, "examples"]
    num_true: Int[np.ndarray, "examples"]
    num_labels: int

    @classmethod
    def of(
        cls,
        scores: Float[np.ndarray, "examples labels"],
        labels: Bool[np.ndarray, "examples labels"],
        known: Bool[np.ndarray, "examples labels"] | None,
    ) -> "_Places":
        """Rank some examples: O(cells), sort what scores no less than a true label, and O(labels) a tie."""
        num_labels = labels.shape[1]
        known = np.ones(labels.shape, bool) if known is None else known
        true = labels & known
        num_known, num_true = known.sum(axis=1), true.sum(axis=1)
        rows, columns = np.nonzero(true)
        lowest = np.full(len(labels), np.inf, scores.dtype)
        np.fmin.at(lowest, rows, scores[rows, columns])
        rival = known & (scores >= lowest[:, None])  # the others go before no true label
        num_rivals = rival.sum(axis=1)
        ranked = np.full((len(labels), num_rivals.max(initial=0)), np.inf, scores.dtype)
        ranked[np.arange(ranked.shape[1]) < num_rivals[:, None]] = scores[rival]
        ranked.sort(axis=1)
        rivals, cells = (
            sort_keys(np.arange(len(labels))[:, None], ranked).ravel(),
            sort_keys(rows, scores[rows, columns]),
        )
        stop = rows * ranked.shape[1] + num_rivals[rows]  # where a row has fewer rivals, infinity stands last
        # NaN is no rival, not even its own: its place means nothing, but must be one.
        no_less, place = (np.maximum(stop - np.searchsorted(rivals, cells, side=side), 0) for side in ("left", "right"))
        true_no_less = np.cumsum(num_true)[rows] - np.searchsorted(np.sort(cells), cells)
        for cell in np.flatnonzero(no_less - place > 1).tolist():
            row, column = rows[cell], columns[cell]
            place[cell] += (known[row, :column] & (scores[row, :column] == scores[row, column])).sum()
        return cls(rows, columns, no_less, true_no_less, place, num_known, num_true, num_labels)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of each example's true labels' values."""
        return np.bincount(self.rows, values, minlength=len(self.num_true))

    def by_example(self) -> dict[str, Float[np.ndarray, "examples"]]:
        """Return what `rank_examples` does."""
        discounts = 1 / np.log2(np.arange(self.num_labels) + 2)
        best = np.concatenate([[0.0], np.cumsum(discounts)])
        metrics = {}
        for k in self.cut:
            within = self.place < k
            metrics[f"precision_at_{k}"] = np.where(self.num_known >= k, self.total(within) / k, np.nan)
            gain = self.total(within * discounts[self.place]) / best[np.clip(self.num_true, 1, k)]
            metrics[f"ndcg_at_{k}"] = np.where(self.num_true > 0, gain, np.nan)
        some = np.maximum(self.num_true, 1)
        found = self.total(self.place < self.num_true[self.rows]) / some
        metrics["r_precision"] = np.where(self.num_true > 0, found, np.nan)
        in_order = (self.num_true == 0) | (self.num_true == self.num_known)
        precision = np.where(in_order, 1.0, self.total(self.true_no_less / np.maximum(self.no_less, 1)) / some)
        reach = np.zeros(len(self.num_true))
        np.maximum.at(reach, self.rows, self.no_less)
        pairs = self.num_true * (self.num_known - self.num_true)
        wrong = self.total(self.no_less - self.true_no_less) / np.maximum(pairs, 1)
        of_all = {"label_ranking_average_precision": precision, "coverage_error": reach, "ranking_loss": wrong}
        return metrics | {name: np.where(self.num_known > 0, values, np.nan) for name, values in of_all.items()}

    def gains(self, weights: Float64[np.ndarray, "labels"]) -> dict[str, tuple[float, float]]:
        """Return ``propensity_precision_at_<k>`` of these examples as a sum and the largest that it could be."""
        own = weights[self.columns]
        first = np.cumsum(self.num_true) - self.num_true
        heaviest = np.lexsort((-own, self.rows))  # by example, as before, and the largest weights first
        order = np.arange(len(own)) - first[self.rows]
        gains = {}
        for k in self.cut:
            kept = self.num_known[self.rows] >= k
            gain, best = own[kept & (self.place < k)].sum(), own[heaviest][kept & (order < k)].sum()
            gains[f"propensity_precision_at_{k}"] = float(gain), float(best)
        return gains

    @property
    def cut(self) -> tuple[int, ...]:
        """Return those k of `PRECISION_AT` that there are labels for."""
        return tuple(k for k in PRECISION_AT if k <= self.num_labels)


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
    scikit-learn's.
    """
    return _Places.of(scores, labels, known).by_example()


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleRanks:
    """Where true labels stand among the known ones of their example: by metric, a sum and what it is divided by.

    Of the metrics of `rank_examples` the sum over examples and their number; of propensity-scored precision the sum of
    what is gained and the largest that it could be.
    """

    sums: Mapping[str, float]
    divisors: Mapping[str, float]

    @classmethod
    def of(
        cls,
        scores: Float[np.ndarray, "examples labels"],
        labels: Bool[np.ndarray, "examples labels"],
        known: Bool[np.ndarray, "examples labels"] | None = None,
        weights: Float64[np.ndarray, "labels"] | None = None,
    ) -> "ExampleRanks":
        """Sum over some examples; weights: `inverse_propensities`, None where there are none."""
        places = _Places.of(scores, labels, known)
        values = places.by_example()
        gains = {} if weights is None else places.gains(weights)
        return cls(
            {name: float(np.nansum(each)) for name, each in values.items()}
            | {name: gain for name, (gain, _) in gains.items()},
            {name: float((~np.isnan(each)).sum()) for name, each in values.items()}
            | {name: best for name, (_, best) in gains.items()},
        )

    def merge(self, other: "ExampleRanks") -> "ExampleRanks":
        """Return the state of both states' examples together."""
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        return ExampleRanks(sums, {name: value + other.divisors[name] for name, value in self.divisors.items()})

    def compute(self) -> dict[str, float]:
        """Return the mean of every metric of `rank_examples` over the examples that it does not leave out, if any.

        And ``propensity_precision_at_<k>``, k = 1, 3, 5: Σ 1 / p over the true labels among the k of highest score, p a
        label's propensity (`inverse_propensities`), summed over examples and divided by what this sum is where each
        example's true labels of the smallest propensities come first, as it is commonly reported: a ratio of two sums,
        no mean of ratios. Examples with fewer than k known labels are left out; it is left out where nothing is true
        (Jain, Prabhu & Varma, 2016; its normalised form is that of Bhatia et al., "The Extreme Classification
        Repository: Multi-label Datasets and Code", 2016).
        """
        return {name: value / self.divisors[name] for name, value in self.sums.items() if self.divisors[name]}
