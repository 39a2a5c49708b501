"""What is done to the examples of every source alike: closed label sets, missing splits, overlaps between splits."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from mlresearch.data.records import SPLITS, Dataset, Records
from mlresearch.data.splits import Splitting, draw_splits
from mlresearch.errors import UserError, suggest

VERSION = 2
"""Of what is stored of a settled data set: another number where that changes, so that nothing stored before is read."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to the examples of every source.

    closure: "up" adds the ancestors of what a row lists; "check" makes a row that lacks one a `UserError`.
    overlaps: inputs that stand in two splits are counted in any case; "drop" drops them from the earlier of the two
    (train, validation, test), so that what is tested stays as it was. splitting: how missing splits are drawn.
    """

    closure: str = "up"
    overlaps: str = "keep"
    splitting: Splitting = dataclasses.field(default_factory=Splitting)

    def __post_init__(self) -> None:
        for name, known in (("closure", ("up", "check")), ("overlaps", ("keep", "drop"))):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"config.data.{name} is {value!r}{suggest(value, known)}")


def settle(name: str, dataset: Dataset, groups: Mapping[str, Sequence[str]], preparation: Preparation) -> Dataset:
    """Return a data set with closed label sets, all three splits, and its overlaps counted (and dropped).

    groups: the group of each example, by split; empty where examples have none. What was done and found stands in the
    notes. Splits without rows, and what `Preparation` and `draw_splits` refuse, are `UserError`s.
    """
    for split in dataset.splits or ("train",):
        if not len(dataset.splits.get(split, ())):
            raise UserError(f"data set {name!r}: the split {split!r} has no rows")
    notes = dict(dataset.notes)
    splits = {split: _close(name, split, records, dataset, preparation) for split, records in dataset.splits.items()}
    if dataset.hierarchy is not None:
        notes["ancestors_added"] = {
            split: len(splits[split].labels.ids) - len(records.labels.ids) for split, records in dataset.splits.items()
        }
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        notes["splits"] = {"given": list(splits), "drawn": preparation.splitting.describe(bool(groups))}
        pool, own = splits["train"], groups.get("train")
        drawn = draw_splits(pool.labels, dataset.label_space.num_labels, own, missing, preparation.splitting)
        splits |= {split: pool.take(rows) for split, rows in drawn.items()}
        if own is not None:
            groups = {**groups, **{split: [own[row] for row in rows.tolist()] for split, rows in drawn.items()}}
    if groups:
        notes["groups_in_two_splits"] = {
            f"{later} and {earlier}": len(set(groups[later]) & set(groups[earlier]))
            for earlier, later in itertools.combinations(SPLITS, 2)
        }
    if preparation.overlaps == "drop":
        _, repeated = find_overlaps(splits)
        notes["dropped_overlaps"] = {split: int(rows.sum()) for split, rows in repeated.items()}
        for split, rows in repeated.items():
            if rows.all():
                raise UserError(f"data set {name!r}: every row of {split!r} stands in a later split, too")
            splits[split] = splits[split].take(np.flatnonzero(~rows))
    notes["overlaps"], _ = find_overlaps(splits)
    notes["overlaps_with_equal_labels"] = _count_overlaps({split: row_digests(splits[split]) for split in SPLITS})
    notes["unlabelled_rows"] = {split: int((splits[split].labels.num_on == 0).sum()) for split in SPLITS}
    return dataclasses.replace(dataset, name=name, splits={split: splits[split] for split in SPLITS}, notes=notes)


def _close(name: str, split: str, records: Records, dataset: Dataset, preparation: Preparation) -> Records:
    """Return records with closed label sets, or as they are if they must be closed already."""
    hierarchy = dataset.hierarchy
    if hierarchy is None:
        return records
    if preparation.closure == "up":
        return dataclasses.replace(records, labels=hierarchy.close_sets(records.labels))
    found = hierarchy.first_unclosed(records.labels)
    if found is not None:
        row, child, parent = found
        raise UserError(
            f"data set {name!r}, {split}, row {row} ({records.keys[row]}): label {hierarchy.names[child]!r} without "
            f"its parent {hierarchy.names[parent]!r}; config.data.closure = 'up' adds ancestors"
        )
    return records


def find_overlaps(splits: Mapping[str, Records]) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Count the inputs that stand in two splits, and find the rows whose input stands in a later split.

    Inputs are the same if their texts are, but for case and spaces, and their features and categories. The counts are
    of rows of the later split: ``{"test in train": 3, ...}``.
    """
    digests = {split: input_digests(records) for split, records in splits.items()}
    repeated = {
        split: np.isin(digests[split], np.concatenate([digests[split][:0], *(digests[other] for other in SPLITS[at:])]))
        for at, split in enumerate(SPLITS, 1)
    }
    return _count_overlaps(digests), repeated


def _count_overlaps(digests: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {
        f"{later} in {earlier}": int(np.isin(digests[later], digests[earlier]).sum())
        for earlier, later in itertools.combinations(SPLITS, 2)
    }


def row_digests(records: Records) -> np.ndarray:
    """Return 16 bytes for each example that are equal where inputs and labels are: ``V16`` [examples]."""
    inputs, labels = input_digests(records), records.labels
    values = np.ones(len(labels.ids), np.float32) if labels.values is None else labels.values
    listed = np.stack([labels.ids, values.view(np.int32)], 1)
    digests = [
        hashlib.blake2b(inputs[row].tobytes() + listed[start:stop].tobytes(), digest_size=16).digest()
        for row, (start, stop) in enumerate(itertools.pairwise(labels.offsets.tolist()))
    ]
    return np.array(digests, "V16")


def input_digests(records: Records) -> np.ndarray:
    """Return 16 bytes for each example that are equal where inputs are: ``V16`` [examples]."""
    digests = []
    for row in range(len(records)):
        digest = hashlib.blake2b(digest_size=16)
        if records.texts is not None:
            digest.update(" ".join(records.texts[row].casefold().split()).encode() + b"\0")
        if records.features is not None:
            digest.update((records.features[row] + 0).tobytes())  # -0 is 0
        for column in records.categories or ():
            digest.update(column[row].encode() + b"\0")
        digests.append(digest.digest())
    return np.array(digests, "V16")
