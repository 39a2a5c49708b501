"""Where a grid will not do: what a search may try, and what it is judged by. The ``SEARCH`` of a study's `sweep.py`::

    SEARCH = Search(
        space={"optim.learning_rate": log(1e-4, 1e-1), "encoder.mlp.dim": choice([128, 256, 512])},
        metric="mode.micro_f1",
        trials=50,
        base={"evaluate.every_epochs": 1.0},
    )

A trial is a run like any other: ``base`` and a value of each setting, suggested from what the trials before it came to
(`mlresearch.trials`). Trials are judged by the validation split alone. The test split is scored once at the end of each
finished run, as always, and stands in its record; no part of a search reads it, and the study's table shows the
validation split unless told otherwise: choosing a trial by test numbers would make them worthless.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mlresearch.definitions import WATCHED, check_place, direction
from mlresearch.errors import UserError

Number = int | float

Value = int | float | str | bool
"""Of a setting that is searched."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both among them; log: spread evenly over orders of magnitude; whole: integers."""

    low: Number
    high: Number
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise UserError(f"from {self.low} to {self.high} is no range{' of positive numbers' * self.log}")
        if self.whole and not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise UserError(f"integers({self.low}, {self.high}): both ends are integers")

    @property
    def examples(self) -> tuple[Value, ...]:
        """Its ends."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of `values`, between which there is no order."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        odd = [value for value in self.values if not isinstance(value, Value)]
        if odd or len(set(self.values)) < max(len(self.values), 2):
            raise UserError(f"choice({list(self.values)}): name two or more numbers, words or switches, each once")

    @property
    def examples(self) -> tuple[Value, ...]:
        """All of them."""
        return self.values


def between(low: Number, high: Number) -> Range:
    """Return all numbers between two."""
    return Range(float(low), float(high))


def log(low: Number, high: Number) -> Range:
    """Return all numbers between two, spread evenly over orders of magnitude."""
    return Range(float(low), float(high), log=True)


def integers(low: int, high: int) -> Range:
    """Return the integers from `low` to `high`."""
    return Range(low, high, whole=True)


def choice(values: Sequence[Any]) -> Choice:
    """Return a choice of values."""
    return Choice(tuple(values))


@dataclasses.dataclass(frozen=True)
class Search:
    """A search: which settings, judged by which number.

    space: a `Range` or a `Choice` by the dotted key of each setting. metric: a place within the validation split, such
    as "mode.micro_f1" or "loss.mean"; which way is better is known (`mlresearch.definitions`). trials: how many, those
    included that are pruned or fail; a search that has ended goes on where there are to be more. base: overrides that
    all trials share. seed: of the suggestions; the runs' own is an override. prune_after: once so many trials are
    finished, others are stopped where they are below the median of these at the same validation, from the second
    validation on; None: never. Pruning needs ``evaluate.every_epochs``.
    """

    space: Mapping[str, Any]
    metric: str
    trials: int
    base: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    prune_after: int | None = 5

    def __post_init__(self) -> None:
        odd = [key for key, values in self.space.items() if not isinstance(values, Range | Choice)]
        if odd or not self.space:
            where = f", {odd[0]!r}" if odd else ""
            raise UserError(f"Search(space=…){where}: give each setting log(…), between(…), integers(…) or choice(…)")
        twice = [key for key in self.space if key in self.base]
        if twice:
            raise UserError(f"Search: {twice[0]!r} is both in the space and in the base")
        if self.metric.partition(".")[0] not in WATCHED:
            raise UserError(f"Search(metric={self.metric!r}): it begins with {', '.join(WATCHED)}, and a dot")
        try:
            check_place(f"validation.{self.metric}")
        except UserError as error:
            raise UserError(f"Search(metric={self.metric!r}): {error}") from None
        if direction(self.metric) == 0:
            raise UserError(f"Search(metric={self.metric!r}): neither more nor less of it is better")
        if self.trials < 1 or self.seed < 0 or (self.prune_after is not None and self.prune_after < 1):
            raise UserError("Search: there is a trial, the seed is not negative, and one or more finish before pruning")

    def overrides(self, number: int, values: Mapping[str, Value]) -> dict[str, Any]:
        """Return the overrides of trial `number`, whose row of the table names it and the values."""
        last = collections.Counter(key.rpartition(".")[2] for key in self.space)
        names = {key: key if last[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in self.space}
        words = [
            f"{names[key]}={values[key]:.3g}" if isinstance(values[key], float) else f"{names[key]}={values[key]}"
            for key in self.space
        ]
        chosen = {key: values[key] for key in self.space}
        return {**self.base, **chosen, "row": f"trial {number}: {', '.join(words)}"}
