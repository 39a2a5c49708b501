"""What every data set is, whatever it was read from: examples, labels, hierarchy, and where they come from."""

import dataclasses
import functools
from typing import Any

import numpy as np

from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets, LabelSpace

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Examples: texts, numeric features and / or categorical columns, label sets, and where each comes from.

    features: float32 [examples, num_features], NaN = missing. categories: one tuple of strings a column, "" = missing.
    labels: closed under the hierarchy. evidence: for each example int32 [n, 3] of (label id, first character, end) in
    its text.
    """

    labels: LabelSets
    keys: tuple[str, ...]
    texts: tuple[str, ...] | None = None
    features: np.ndarray | None = None
    categories: tuple[tuple[str, ...], ...] | None = None
    evidence: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Records":
        """Return the examples of `rows`, in their order."""

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows.tolist())

        return Records(
            labels=self.labels.select(rows),
            keys=pick(self.keys),
            texts=None if self.texts is None else pick(self.texts),
            features=None if self.features is None else self.features[rows],
            categories=None if self.categories is None else tuple(pick(column) for column in self.categories),
            evidence=None if self.evidence is None else pick(self.evidence),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRecords(Records):
    """The training split: what is learnt from data (tokenizers, scalers, vocabularies, statistics) is learnt from it.

    Functions that learn take this type and nothing else of a data set. Only `Dataset.train` makes it, so that to learn
    from another split is a type error and, at run time, a `TypeError` (`require_training`).
    """

    feature_names: tuple[str, ...] = ()
    category_names: tuple[str, ...] = ()
    num_labels: int = 0


def require_training(records: Records) -> None:
    """Raise `TypeError` unless the records are the training split."""
    if not isinstance(records, TrainingRecords):
        raise TypeError(f"learnt from TrainingRecords only, not from {type(records).__name__}: see Dataset.train")


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """All splits of a data set, its labels and their hierarchy.

    parents: int32 [edges, 2] of (child, parent) label ids, None where labels are flat. fingerprint: hexadecimal SHA-256
    over examples, splits, labels and hierarchy. notes: what was dropped and the like, JSON-able. truth: parameters of
    the distribution that the labels were drawn from, JSON-able, where it is known. about: description, citation,
    homepage, license and version, as the source states them.
    """

    name: str
    splits: dict[str, Records]
    label_space: LabelSpace
    parents: np.ndarray | None
    fingerprint: str
    notes: dict[str, Any]
    feature_names: tuple[str, ...] = ()
    category_names: tuple[str, ...] = ()
    truth: dict[str, Any] | None = None
    about: dict[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def train(self) -> TrainingRecords:
        """The training split."""
        records = {field.name: getattr(self.splits["train"], field.name) for field in dataclasses.fields(Records)}
        return TrainingRecords(
            **records,
            feature_names=self.feature_names,
            category_names=self.category_names,
            num_labels=self.label_space.num_labels,
        )

    @functools.cached_property
    def hierarchy(self) -> LabelHierarchy | None:
        """The hierarchy of the labels, None where they are flat."""
        return None if self.parents is None else LabelHierarchy.from_edges(self.label_space.names, self.parents)
