"""Splits that upstream does not give: taken from the training examples, by a seed or by place, alike everywhere."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlresearch.errors import UserError, suggest
from mlresearch.label_space import LabelSets

MOST_CELLS = 1 << 31
"""Examples times labels that stratification may look at; it keeps a byte for each and reads them once a label."""


@dataclasses.dataclass(frozen=True)
class Splitting:
    """How missing splits are drawn.

    method: "stratified", so that every label is as frequent in each split as it can be (iterative stratification);
    "random"; or "last", the last examples as they stand, for files whose neighbours are alike (mails of one thread,
    records of one day): drawn at random, a split would hold what training has all but seen. Where examples have groups,
    whole groups are drawn at random under each. test_share, validation_share: of the examples that are divided; for a
    missing validation split these are the given training examples. With "last", test is behind validation.
    """

    method: str = "stratified"
    validation_share: float = 0.1
    test_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        known = ("stratified", "random", "last")
        if self.method not in known:
            raise UserError(f"config.data.split.method is {self.method!r}{suggest(self.method, known)}")
        for name in ("validation_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"config.data.split.{name} is {getattr(self, name)}; it is a share between 0 and 1")
        if self.validation_share + self.test_share >= 1:
            raise UserError("config.data.split: validation_share and test_share leave nothing to train on")
        if not 0 <= self.seed < 1 << 32:
            raise UserError(f"config.data.split.seed is {self.seed}; it must be from 0 to below 2³²")

    def describe(self, grouped: bool) -> dict[str, Any]:
        """Return the settings in JSON's types, as they act."""
        return dataclasses.asdict(self) | ({"method": "grouped"} if grouped else {})


def draw_splits(
    labels: LabelSets, num_labels: int, groups: Sequence[str] | None, missing: Sequence[str], splitting: Splitting
) -> dict[str, np.ndarray]:
    """Divide examples between "train" and the `missing` splits; returns ascending rows of each.

    The same examples and settings give the same rows on every machine: of random numbers only uniform doubles are
    drawn, or the library's own from NumPy's legacy stream, which is frozen. Too few examples are a `UserError`.

    Source: Sechidis, Tsoumakas & Vlahavas, "On the Stratification of Multi-Label Data", 2011.
    """
    total = len(labels)
    remaining = np.arange(total)
    drawn = {}
    for number, split in enumerate(sorted(missing)):  # test before validation
        size = max(round(getattr(splitting, f"{split}_share") * total), 1)
        seed = [splitting.seed, number]
        if len(remaining) <= size:
            raise UserError(f"{total} rows are too few to draw {' and '.join(missing)} from; give the splits")
        if groups is not None:
            further = len(missing) - number  # splits that must have a group left: the others missing, and train
            taken = _whole_groups([groups[row] for row in remaining.tolist()], size, further, seed)
        elif splitting.method == "last":
            taken = np.arange(len(remaining) - size, len(remaining))
        elif splitting.method == "random":
            taken = np.argsort(_uniform(seed, len(remaining)), kind="stable")[:size]
        else:
            taken = _stratified(labels.select(remaining), num_labels, size, seed)
        drawn[split] = np.sort(remaining[taken])
        remaining = np.delete(remaining, taken)
    return {"train": remaining} | drawn


def _uniform(seed: Sequence[int], size: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(list(seed))).random(size)


def _whole_groups(groups: Sequence[str], size: int, further: int, seed: Sequence[int]) -> np.ndarray:
    """Return rows of whole groups, in random order of groups, each taken that fits into `size`.

    If none fits it is the smallest; at least `further` groups are left.
    """
    numbers = {name: number for number, name in enumerate(sorted(set(groups)))}
    group = np.array([numbers[name] for name in groups])
    counts = np.bincount(group)
    if len(counts) <= further:
        raise UserError(
            f"{len(counts)} groups of rows, such as {groups[0]!r:.60}, are too few: no split can be drawn without "
            "dividing one; name another group column or none, or give the splits"
        )
    taken: list[int] = []
    left = size
    for number in np.argsort(_uniform(seed, len(counts)), kind="stable").tolist():
        if counts[number] <= left and len(counts) - len(taken) > further:
            taken.append(number)
            left -= counts[number]
    return np.flatnonzero(np.isin(group, taken or [int(counts.argmin())]))


def _stratified(labels: LabelSets, num_labels: int, size: int, seed: Sequence[int]) -> np.ndarray:
    if len(labels) * num_labels > MOST_CELLS:
        raise UserError(
            f"{len(labels)} rows of {num_labels} labels are too many to stratify; config.data.split.method = 'random'"
        )
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit  # scikit-learn takes 120 MB

    # The library takes one integer; this one differs between the splits of one seed.
    state = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
    splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=state)
    present = labels.counts(num_labels) > 0
    multi_hot = labels.multi_hot(num_labels)[:, present]
    if multi_hot.shape[1] < 2:  # what the library would not take for multi-label
        multi_hot = np.column_stack([multi_hot, *[np.zeros(len(labels), bool)] * (2 - multi_hot.shape[1])])
    [(_, taken)] = splitter.split(np.zeros(len(labels)), multi_hot)
    # The algorithm only aims at the size: with many rare labels it may take no row at all.
    order = np.argsort(_uniform([*seed, 1], len(labels)), kind="stable")
    inside = np.isin(order, taken)
    return np.concatenate([order[inside], order[~inside]])[:size]
