"""Numeric and categorical columns as model inputs: imputed, scaled and numbered as the training split says."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32

from mlresearch.data.reading import LARGEST_FLOAT32
from mlresearch.data.records import Records, TrainingRecords, require_training
from mlresearch.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """How the columns of a data set become inputs, learnt from its training split.

    A missing number becomes the column's mean; with `standardise` a number x then becomes ``(x − mean) / scale``. A
    category becomes its place in the column's vocabulary, from 1; a missing value, and one not in the vocabulary, 0.

    means, scales: float64 [num_features]; the mean of a column without numbers is 0, the scale of a constant one 1.
    """

    feature_names: tuple[str, ...]
    means: Float[np.ndarray, "features"]
    scales: Float[np.ndarray, "features"]
    standardise: bool
    category_names: tuple[str, ...]
    vocabularies: tuple[tuple[str, ...], ...]

    @classmethod
    def learn(cls, training: TrainingRecords, *, standardise: bool, min_count: int) -> "Columns":
        """Learn from training records; others are a `TypeError`.

        min_count: a category that fewer training rows have counts as one never seen.
        """
        require_training(training)
        num_features = len(training.feature_names)
        means, scales = np.zeros(num_features), np.ones(num_features)
        if training.features is not None:
            features = training.features.astype(np.float64)
            known = ~np.isnan(features)
            counts = np.maximum(known.sum(0), 1)
            means = np.where(known, features, 0).sum(0) / counts
            deviations = np.sqrt((np.where(known, features - means, 0) ** 2).sum(0) / counts)
            # What rounding leaves of a constant column is not a scale.
            scales = np.where(deviations <= 1e-9 * np.abs(means), 1.0, deviations)
        vocabularies = []
        for column in training.categories or ():
            times = collections.Counter(column)
            vocabularies.append(tuple(sorted(value for value in times if value and times[value] >= min_count)))
        names = training.feature_names, training.category_names
        return cls(names[0], means, scales, standardise, names[1], tuple(vocabularies))

    @property
    def category_sizes(self) -> tuple[int, ...]:
        """Number of ids of each categorical column, 0 included."""
        return tuple(len(vocabulary) + 1 for vocabulary in self.vocabularies)

    def features(self, records: Records) -> Float32[np.ndarray, "examples features"] | None:
        """Return the numbers of examples as inputs without NaN; None where there are no numeric columns."""
        if records.features is None:
            return None
        numbers = np.where(np.isnan(records.features), self.means, records.features.astype(np.float64))
        if self.standardise:
            numbers = (numbers - self.means) / self.scales
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
            "scales": self.scales.tolist(),
            "standardise": self.standardise,
            "category_names": list(self.category_names),
            "vocabularies": [list(vocabulary) for vocabulary in self.vocabularies],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Columns":
        """Inverse of `to_json`; anything else is a `UserError`."""
        try:
            columns = cls(
                tuple(stored["feature_names"]),
                np.asarray(stored["means"], np.float64).reshape(-1),
                np.asarray(stored["scales"], np.float64).reshape(-1),
                bool(stored["standardise"]),
                tuple(stored["category_names"]),
                tuple(tuple(vocabulary) for vocabulary in stored["vocabularies"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the columns' description is damaged: {error!r}") from None
        sizes = {len(columns.feature_names), len(columns.means), len(columns.scales)}
        if len(sizes) != 1 or len(columns.category_names) != len(columns.vocabularies):
            raise UserError("the columns' description is damaged: its lists differ in length")
        return columns
