"""Numeric and categorical columns as model inputs: imputed, scaled and numbered as the training split says."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Int32
from scipy import special

from mlresearch.data.reading import LARGEST_FLOAT32
from mlresearch.data.records import Records, TrainingRecords, require_training
from mlresearch.errors import UserError

Scale = Literal["standard", "quantile", "none"]
SCALES: tuple[Scale, ...] = get_args(Scale)

MAX_QUANTILES = 1000
"""Quantiles that are kept of a column."""


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """How the columns of a data set become inputs, learnt from its training split.

    A missing number becomes the column's mean, whatever the scale. Then, by `scale`, a number x stays as it is (none),
    or becomes ``(x − mean) / deviation`` (standard) or the standard normal's quantile at the rank of x (quantile; see
    `normal_quantiles`), linear between the values that are kept and constant beyond them. A category becomes its place
    in the column's vocabulary, from 1; a missing value, and one not in the vocabulary, 0.

    means, deviations: float64 [num_features]; the mean of a column without numbers is 0, the deviation of a constant
    one 1. quantiles: `normal_quantiles` of each column with the scale quantile, empty with another.
    """

    feature_names: tuple[str, ...]
    means: Float[np.ndarray, "features"]
    deviations: Float[np.ndarray, "features"]
    scale: Scale
    quantiles: tuple[Float[np.ndarray, "2 _"], ...]
    category_names: tuple[str, ...]
    vocabularies: tuple[tuple[str, ...], ...]

    @classmethod
    def learn(cls, training: TrainingRecords, *, scale: Scale, min_count: int) -> "Columns":
        """Learn from training records; others are a `TypeError`.

        min_count: a category that fewer training rows have counts as one never seen.
        """
        require_training(training)
        num_features = len(training.feature_names)
        means, deviations = np.zeros(num_features), np.ones(num_features)
        quantiles = []
        if training.features is not None:
            features = training.features.astype(np.float64)
            known = ~np.isnan(features)
            counts = np.maximum(known.sum(0), 1)
            means = np.where(known, features, 0).sum(0) / counts
            deviations = np.sqrt((np.where(known, features - means, 0) ** 2).sum(0) / counts)
            # What rounding leaves of a constant column is not a deviation.
            deviations = np.where(deviations <= 1e-9 * np.abs(means), 1.0, deviations)
            if scale == "quantile":
                quantiles = [normal_quantiles(features[known[:, place], place]) for place in range(num_features)]
        vocabularies = []
        for column in training.categories or ():
            times = collections.Counter(column)
            vocabularies.append(tuple(sorted(value for value in times if value and times[value] >= min_count)))
        names = training.feature_names, training.category_names
        return cls(names[0], means, deviations, scale, tuple(quantiles), names[1], tuple(vocabularies))

    @property
    def category_sizes(self) -> tuple[int, ...]:
        """Number of ids of each categorical column, 0 included."""
        return tuple(len(vocabulary) + 1 for vocabulary in self.vocabularies)

    def features(self, records: Records) -> Float32[np.ndarray, "examples features"] | None:
        """Return the numbers of examples as inputs without NaN; None where there are no numeric columns."""
        if records.features is None:
            return None
        numbers = np.where(np.isnan(records.features), self.means, records.features.astype(np.float64))
        if self.scale == "standard":
            numbers = (numbers - self.means) / self.deviations
        for place, (values, quantiles) in enumerate(self.quantiles):
            numbers[:, place] = np.interp(numbers[:, place], values, quantiles)
        return np.clip(numbers, -LARGEST_FLOAT32, LARGEST_FLOAT32).astype(np.float32)

    def categories(self, records: Records) -> Int32[np.ndarray, "examples columns"] | None:
        """Return the ids of examples' categories; None where there are no categorical columns."""
        if records.categories is None:
            return None
        ids = np.zeros((len(records), len(self.vocabularies)), np.int32)
        for place, (column, vocabulary) in enumerate(zip(records.categories, self.vocabularies, strict=True)):
            number = {value: position for position, value in enumerate(vocabulary, 1)}
            ids[:, place] = [number.get(value, 0) for value in column]
        return ids

    def to_json(self) -> dict[str, Any]:
        """Return everything in JSON's types; float64 values come back bit for bit."""
        return {
            "feature_names": list(self.feature_names),
            "means": self.means.tolist(),
            "deviations": self.deviations.tolist(),
            "scale": self.scale,
            "quantiles": [known.tolist() for known in self.quantiles],
            "category_names": list(self.category_names),
            "vocabularies": [list(vocabulary) for vocabulary in self.vocabularies],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Columns":
        """Inverse of `to_json`; anything else is a `UserError`."""
        try:
            scale = stored["scale"]
            if scale not in SCALES:
                raise ValueError(f"scale is {scale!r}")
            columns = cls(
                tuple(stored["feature_names"]),
                np.asarray(stored["means"], np.float64).reshape(-1),
                np.asarray(stored["deviations"], np.float64).reshape(-1),
                scale,
                tuple(np.asarray(known, np.float64).reshape(2, -1) for known in stored["quantiles"]),
                tuple(stored["category_names"]),
                tuple(tuple(vocabulary) for vocabulary in stored["vocabularies"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the columns' description is damaged: {error!r}") from None
        width = len(columns.feature_names)
        sizes = len(columns.means), len(columns.deviations), len(columns.quantiles), len(columns.vocabularies)
        if sizes != (width, width, width if scale == "quantile" else 0, len(columns.category_names)):
            raise UserError("the columns' description is damaged: its lists differ in length")
        return columns


def normal_quantiles(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, "2 kept"]:
    """Return kept training values, ascending and each once, and below them ``Φ⁻¹((#smaller + #not greater) / 2n)``.

    All of n values are kept where there are no more than `MAX_QUANTILES`, else so many, evenly by rank, the smallest
    and the largest among them. Ranks are always those among all n, counted from ½, and equal values share the mean of
    theirs; so the quantiles are finite, and that of a constant is 0. No values count as a constant.
    """
    ordered = np.sort(values) if len(values) else np.zeros(1)
    kept = np.unique(ordered[np.linspace(0, len(ordered) - 1, min(len(ordered), MAX_QUANTILES), dtype=int)])
    twice_ranks = np.searchsorted(ordered, kept, "left") + np.searchsorted(ordered, kept, "right")
    return np.stack([kept, special.ndtri(twice_ranks / (2 * len(ordered)))])
