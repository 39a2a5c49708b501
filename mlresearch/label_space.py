"""Which labels there are, in which order, and label sets in one form."""

import collections
import dataclasses
import difflib
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.sparse
from jaxtyping import Float64, Int64

from mlresearch.errors import UserError, quote, suggest


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
            check_label_name(name, f"label {position}")
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


class Frequencies(NamedTuple):
    """In how many examples each label is on, where a probability counts as that share of one, and in how many known."""

    on: Float64[np.ndarray, "labels"]
    known: Int64[np.ndarray, "labels"]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSets:
    """One label set an example: the ids of row i are ``ids[offsets[i] : offsets[i + 1]]``, ascending.

    ids: int32 [total]; offsets: int64 [examples + 1]. values: float32 [total], the probability of each listed label,
    in (0, 1], or NaN where it is unknown whether the label is on; None where all are 1. Labels not listed are off.
    """

    ids: np.ndarray
    offsets: np.ndarray
    values: np.ndarray | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]], values: Iterable[Sequence[float]] | None = None) -> "LabelSets":
        """Build from one sequence of label ids an example, and of their values; a repeated id is a `UserError`."""
        flat: list[int] = []
        flat_values: list[float] = []
        offsets = [0]
        row_values = itertools.repeat(None) if values is None else values
        for number, (row, own) in enumerate(zip(rows, row_values, strict=values is not None)):
            order = sorted(range(len(row)), key=row.__getitem__)
            ids = [row[place] for place in order]
            for left, right in itertools.pairwise(ids):
                if left == right:
                    raise UserError(f"row {number}: label id {left} occurs twice")
            flat.extend(ids)
            if own is not None:
                if len(own) != len(row) or any(value <= 0 or value > 1 for value in own):
                    raise ValueError(f"row {number}: values {own!r:.60} of the label ids {row!r:.60}")
                flat_values.extend(own[place] for place in order)
            offsets.append(len(flat))
        stored = None if values is None else np.asarray(flat_values, np.float32)
        return cls(np.asarray(flat, np.int32), np.asarray(offsets, np.int64), stored)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> np.ndarray:
        """Label ids of one example, ascending."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    def take(self, rows: np.ndarray, pad: int, width: int) -> np.ndarray:
        """Gather the ids of `rows` into an int32 matrix [rows, width], filled up with `pad`."""
        return self._gather(self.ids, rows, pad, width)

    def take_values(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Gather the values of `rows` into a float32 matrix [rows, width], filled up with 0."""
        values = np.ones(len(self.ids), np.float32) if self.values is None else self.values
        return self._gather(values, rows, 0, width)

    def select(self, rows: np.ndarray) -> "LabelSets":
        """Return the label sets of `rows`, in their order."""
        sizes = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], sizes)
        return LabelSets(self.ids[at], offsets, None if self.values is None else self.values[at])

    def join(self, other: "LabelSets") -> "LabelSets":
        """Return these label sets and, after them, others."""
        ids, offsets = np.concatenate([self.ids, other.ids]), np.append(self.offsets, other.offsets[1:] + len(self.ids))
        if self.values is None and other.values is None:
            return LabelSets(ids, offsets)
        parts = [np.ones(len(of.ids), np.float32) if of.values is None else of.values for of in (self, other)]
        return LabelSets(ids, offsets, np.concatenate(parts))

    def _gather(self, flat: np.ndarray, rows: np.ndarray, pad: int, width: int) -> np.ndarray:
        start, stop = self.offsets[rows], self.offsets[rows + 1]
        columns = np.arange(width)
        inside = columns < (stop - start)[:, None]
        at = np.where(inside, start[:, None] + columns, 0)
        gathered = flat[at] if len(flat) else np.zeros(at.shape, flat.dtype)
        return np.where(inside, gathered, pad).astype(flat.dtype)

    @functools.cached_property
    def width(self) -> int:
        """Number of labels listed in the longest row."""
        return int(np.diff(self.offsets).max(initial=0))

    @property
    def rows(self) -> np.ndarray:
        """The example of each listed id, int64 [total]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def on(self) -> np.ndarray:
        """Whether each listed label is on, bool [total]: a probability over ½ is, an unknown label is not."""
        return np.ones(len(self.ids), bool) if self.values is None else self.values > 0.5

    @property
    def num_on(self) -> np.ndarray:
        """Number of labels that are `on` in each example, int64 [examples]."""
        return np.diff(np.concatenate([[0], np.cumsum(self.on)])[self.offsets])

    @property
    def has_soft(self) -> bool:
        """Whether there is a probability that is not 1."""
        return self.values is not None and bool((self.values < 1).any())

    @property
    def has_unknown(self) -> bool:
        """Whether there is a label of which it is not known whether it is on."""
        return self.values is not None and bool(np.isnan(self.values).any())

    def counts(self, num_labels: int) -> np.ndarray:
        """Examples in which each label is on, int64 [labels]."""
        return np.bincount(self.ids[self.on], minlength=num_labels)

    def frequencies(self, num_labels: int) -> Frequencies:
        """Return how often each label is on and how often it is known."""
        values = np.ones(len(self.ids)) if self.values is None else self.values
        unknown = np.isnan(values)
        on = np.bincount(self.ids, np.where(unknown, 0.0, values), minlength=num_labels)
        on = on.astype(np.float64)  # of no ids they are integers
        return Frequencies(on, len(self) - np.bincount(self.ids[unknown], minlength=num_labels))

    def multi_hot(self, num_labels: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Boolean [examples, labels] matrix of the labels that are `on`, of all examples or of `rows`."""
        return self._scatter(num_labels, rows, lambda values: values > 0.5)

    def known(self, num_labels: int, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Boolean [examples, labels] matrix of the labels that are not unknown; None where there is no such label."""
        return ~self._scatter(num_labels, rows, np.isnan) if self.has_unknown else None

    def sparse(self, num_labels: int) -> scipy.sparse.csr_array:
        """Sparse int64 [examples, labels] matrix that is 1 where a label is `on`."""
        offsets = np.concatenate([[0], np.cumsum(self.on)])[self.offsets]
        ones = np.ones(int(offsets[-1]), np.int64)
        return scipy.sparse.csr_array((ones, self.ids[self.on], offsets), shape=(len(self), num_labels))

    def _scatter(self, num_labels: int, rows: np.ndarray | None, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        rows = np.arange(len(self)) if rows is None else rows
        width = max(self.width, 1)
        ids = self.take(rows, num_labels, width)
        if self.values is not None:
            ids = np.where(of(self.take_values(rows, width)), ids, num_labels)
        dense = np.zeros((len(rows), num_labels + 1), bool)
        np.put_along_axis(dense, ids, True, axis=1)
        return dense[:, :num_labels]


LabelForm = Literal["ragged", "multihot", "soft"]
"""How a row states its labels: a list of names or ids; 0 or 1 for every label; a probability for every label."""

MAX_DROPPED_NAMES = 20  # of dropped labels, that a note lists
MAX_MISSPELT = 200  # characters of an unknown label's name that are looked at and kept


class LabelReader:
    """Reads the labels of a row in a stated form; nothing about the form is guessed.

    - ``ragged``: a list of label names, or of label ids.
    - ``multihot``: a list of 0, 1 or null (unknown), one a label in the order of the label space; or an object of label
      names and such values, where labels that are not named are off.
    - ``soft``: likewise, with probabilities.

    NaN is null. unknown: what to do with a label name that is not in the label space: "error", or "drop", which keeps
    the name in `dropped` and counts how often it is on, soft or unknown, but not how often it is 0. stated_in: the file
    that states the label space, if one does; for errors.
    """

    def __init__(self, label_space: LabelSpace, form: str, unknown: str = "error", stated_in: str = "") -> None:
        if form not in (forms := get_args(LabelForm)):
            raise UserError(f"there is no label form {form!r}{suggest(form, forms)}")
        if unknown not in ("error", "drop"):
            raise UserError(f"unknown_labels is {unknown!r}{suggest(unknown, ('error', 'drop'))}")
        self.label_space, self.form, self.unknown, self.stated_in = label_space, form, unknown, stated_in
        self.dropped: collections.Counter[str] = collections.Counter()

    @property
    def dropped_note(self) -> dict[str, Any]:
        """How many labels were dropped, and the most frequent of their names with their counts, in JSON's types."""
        names = {name[:MAX_MISSPELT]: count for name, count in self.dropped.most_common(MAX_DROPPED_NAMES) if count}
        return {"total": self.dropped.total(), "names": names}

    def read(self, value: Any, where: str) -> tuple[list[int], list[float] | None]:
        """Return the ids of the labels listed in a row, ascending, and their values (None where all are 1).

        Values are those of float32, so that what is listed is never 0. where: names the row in errors. Anything but the
        stated form, an unknown name, an id out of range, a label named twice, a number outside 0..1 are `UserError`s.
        """
        if self.form == "ragged":
            return self._ragged(value, where), None
        if isinstance(value, Mapping):
            listed = sorted(self._named(value, where))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            listed = self._ordered(value, where)
        else:
            raise UserError(f"{where}: {self.form!r} labels are a list or an object, not {quote(value)}")
        values = None if all(number == 1 for _, number in listed) else [number for _, number in listed]
        return [label for label, _ in listed], values

    def _ragged(self, value: Any, where: str) -> list[int]:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            hint = "; is the form 'soft' or 'multihot'?" if isinstance(value, Mapping) else ""
            raise UserError(f"{where}: 'ragged' labels are a list of names or ids, not {quote(value)}{hint}")
        ids = sorted(label for entry in value if (label := self._listed(entry, where)) is not None)
        for left, right in itertools.pairwise(ids):
            if left == right:
                name = quote(self.label_space.names[left])
                hint = "; is the form 'multihot'?" if len(value) > 2 and set(value) <= {0, 1} else ""
                raise UserError(f"{where}: label {name} ({left}) is given twice{hint}")
        return ids

    def _listed(self, entry: Any, where: str) -> int | None:
        """Return the id that a name or an id stands for; None where it is dropped."""
        if isinstance(entry, str):
            return self._id(entry, 1, where)
        if isinstance(entry, bool) or not isinstance(entry, int):
            raise UserError(f"{where}: {quote(entry)} is neither a label name nor a label id")
        if not 0 <= entry < self.label_space.num_labels:
            raise UserError(f"{where}: label id {quote(entry)} is outside 0..{self.label_space.num_labels - 1}")
        return entry

    def _named(self, value: Mapping[Any, Any], where: str) -> Iterator[tuple[int, float]]:
        for name, entry in value.items():
            if not isinstance(name, str):
                raise UserError(f"{where}: {quote(name)} is no label name")
            number = self._number(entry, name, where)
            label = self._id(name, number != 0, where)
            if label is not None and number != 0:
                yield label, number

    def _ordered(self, value: Sequence[Any], where: str) -> list[tuple[int, float]]:
        names = self.label_space.names
        if len(value) != len(names):
            hint = "; is the form 'ragged'?" if len(value) < len(names) else ""
            raise UserError(f"{where}: {len(value)} label values for {len(names)} labels{hint}")
        numbers = (self._number(entry, name, where) for entry, name in zip(value, names, strict=True))
        return [(label, number) for label, number in enumerate(numbers) if number != 0]

    def _id(self, name: str, count: int, where: str) -> int | None:
        """Return the id of a name; None where it is dropped, which then counts `count`."""
        if name in self.label_space.index:
            return self.label_space.index[name]
        check_label_name(name, where)
        if self.unknown == "drop":
            self.dropped[name] += count
            return None
        known = self.label_space.names if len(name) <= MAX_MISSPELT else ()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {quote(near[0])}?" if near else ""
        place = f", which {self.stated_in} does not have" if self.stated_in else ""
        raise UserError(
            f"{where}: unknown label {quote(name)}{place}{hint} (to leave it out: data.unknown_labels = 'drop')"
        )

    def _number(self, value: Any, name: str, where: str) -> float:
        """Return the value of a label as float32 has it, NaN where it is unknown."""
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}: the value of label {quote(name)} is {quote(value)}, not a number or null")
        if isinstance(value, float) and math.isnan(value):
            return math.nan
        if not 0 <= value <= 1:
            known = "0, 1 or null" if self.form == "multihot" else "a probability (0 to 1) or null"
            raise UserError(f"{where}: the value of label {quote(name)} is {quote(value)}, not {known}")
        if value in (0, 1):
            return float(value)
        if self.form == "multihot":
            raise UserError(
                f"{where}: the value of label {quote(name)} is {value}, not 0, 1 or null; is the form 'soft'?"
            )
        return float(np.float32(value))


def check_label_name(name: str, where: str) -> None:
    """Raise `UserError` for a name that is empty, has outer spaces, or holds a tab or a line break."""
    if not name or name != name.strip() or "\n" in name or "\r" in name or "\t" in name:
        raise UserError(f"{where}: the label name {quote(name)} is empty or holds outer spaces, a tab or a line break")
