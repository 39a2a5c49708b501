"""Which labels there are, in which order, and label sets in one form."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from mlresearch.errors import UserError, suggest


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSpace:
    """Ordered, distinct label names, and a line that describes each (equal to the name where nothing is known)."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.descriptions) != len(self.names):
            raise UserError(f"{len(self.names)} label names but {len(self.descriptions)} descriptions")
        seen: set[str] = set()
        for position, name in enumerate(self.names):
            if not name or name != name.strip() or "\n" in name or "\t" in name:
                raise UserError(f"label {position}: {name!r} is empty or holds outer spaces, a tab or a line break")
            if name in seen:
                raise UserError(f"label {position}: the name {name!r} occurs twice")
            seen.add(name)

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.names)

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """Label id by name."""
        return {name: position for position, name in enumerate(self.names)}

    @functools.cached_property
    def hash(self) -> str:
        """Hexadecimal SHA-256 of the ordered names: two runs with the same hash speak of the same labels."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def id(self, name: str) -> int:
        """Return the id of `name`; an unknown name is a `UserError` that suggests the nearest."""
        try:
            return self.index[name]
        except KeyError:
            raise UserError(f"unknown label {name!r}{suggest(name, self.names)}") from None


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSets:
    """One label set an example: the ids of row i are ``ids[offsets[i] : offsets[i + 1]]``, ascending.

    ids: int32 [total]; offsets: int64 [examples + 1].
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]]) -> "LabelSets":
        """Build from one sequence of label ids an example; a repeated id within a row is a `UserError`."""
        flat: list[int] = []
        offsets = [0]
        for number, row in enumerate(rows):
            ids = sorted(row)
            for left, right in itertools.pairwise(ids):
                if left == right:
                    raise UserError(f"row {number}: label id {left} occurs twice")
            flat.extend(ids)
            offsets.append(len(flat))
        return cls(np.asarray(flat, np.int32), np.asarray(offsets, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> np.ndarray:
        """Label ids of one example, ascending."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    def take(self, rows: np.ndarray, pad: int, width: int) -> np.ndarray:
        """Gather `rows` into an int32 matrix [rows, width], filled up with `pad`."""
        start, stop = self.offsets[rows], self.offsets[rows + 1]
        columns = np.arange(width)
        inside = columns < (stop - start)[:, None]
        at = np.where(inside, start[:, None] + columns, 0)
        gathered = self.ids[at] if len(self.ids) else np.zeros(at.shape, np.int32)
        return np.where(inside, gathered, pad).astype(np.int32)

    @functools.cached_property
    def width(self) -> int:
        """Size of the largest label set."""
        return int(np.diff(self.offsets).max(initial=0))

    def counts(self, num_labels: int) -> np.ndarray:
        """Examples in which each label is on, int64 [labels]."""
        return np.bincount(self.ids, minlength=num_labels)

    def multi_hot(self, num_labels: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Boolean [examples, labels] matrix, of all examples or of `rows`."""
        rows = np.arange(len(self)) if rows is None else rows
        dense = np.zeros((len(rows), num_labels + 1), bool)
        np.put_along_axis(dense, self.take(rows, num_labels, max(self.width, 1)), True, axis=1)
        return dense[:, :num_labels]
