"""Average precision, exactly, over a split that is never held: the ranks of its positives.

`Ranks` counts how many scores are no less than each of the `Positives`, which have to be known first.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Complex64, Float32, Float64, Int


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
        return cls((sort_keys(cells[1], scores[cells]),))

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
        keys = sort_keys(np.arange(len(columns))[:, None], columns).ravel()
        start = positives.group * len(labels)
        stop = start + counted.sum(axis=0)[positives.group]
        at = np.searchsorted(keys, sort_keys(positives.group, positives.scores))
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

    @property
    def precision(self) -> Float64[np.ndarray, "positives"]:
        """The precision among what of each positive's label scores no less."""
        return self.hits / (self.hits + self.alarms)

    @property
    def by_label(self) -> Float64[np.ndarray, "labels"]:
        """The average precision of each label, NaN of one without a positive."""
        positives, values = self.positives, np.full(len(self.highest), np.nan)
        if len(positives.labels):
            values[positives.labels] = np.add.reduceat(self.precision, positives.first) / positives.count
        return values

    def compute(self) -> dict[str, float]:
        """Return average precision over all cells and by label.

        ``micro_average_precision``: all known cells ranked in one list. ``macro_average_precision``: the examples in
        which a label is known ranked, the mean over labels with at least one positive; the others are left out
        (`LabelCounts.compute` counts them as ``num_labels_absent``). ``weighted_average_precision``: the same, weighted
        by the labels' positives. Average precision is the mean over positives of the precision among the items that
        score no less, scikit-learn's `average_precision_score`: no interpolation, and a group of equal scores enters as
        one (Manning, Raghavan & Schütze, "Introduction to Information Retrieval", 2008; on hierarchies Vens et al.,
        "Decision Trees for Hierarchical Multi-label Classification", 2008, who call these the area under the average
        precision-recall curve and the average and the weighted average area under the curves). 0 where nothing is
        positive.
        """
        positives = self.positives
        if not len(positives.ranked):
            return {f"{mean}_average_precision": 0.0 for mean in ("micro", "macro", "weighted")}
        all_hits = len(positives.ranked) - np.searchsorted(positives.ranked, positives.ranked)
        return {
            "micro_average_precision": float(np.mean(all_hits / (all_hits + self.all_alarms))),
            "macro_average_precision": float(np.mean(self.by_label[positives.labels])),
            "weighted_average_precision": float(np.mean(self.precision)),
        }


def sort_keys(
    groups: Int[np.ndarray, "*#cells"], scores: Float32[np.ndarray, "*#cells"]
) -> Complex64[np.ndarray, "*cells"]:
    """Return numbers that are sorted by group and, within it, by score."""
    keys = np.empty(np.broadcast_shapes(groups.shape, scores.shape), np.complex64)
    keys.real, keys.imag = groups, scores
    return keys
