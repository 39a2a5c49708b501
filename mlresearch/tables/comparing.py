"""The comparisons of one table: every row with the best of its column and with the baseline, paired, all at once."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mlresearch.definitions import title
from mlresearch.errors import UserError
from mlresearch.progress import track
from mlresearch.resampling import Outcomes, agrees, draw_weights
from mlresearch.tables import Column, Table
from mlresearch.tables.results import Result, by_cell
from mlresearch.tables.significance import bootstrap, holm, least_p, seeds_needed, wilcoxon

Values = Mapping[tuple[str, Column], Mapping[int, float]]
"""Numbers by row and column, and by seed."""

Pair = tuple[Column, str, str]
"""Two rows of a column, in alphabetical order."""

ReadOutcomes = Callable[[Result, Sequence[str]], Outcomes]
"""What a run's predictions got right, for the places asked; a `UserError` where they are not at hand."""

HOW = {
    "wilcoxon of seeds": "Wilcoxon's signed-rank test of differences paired by seed, exact where it can be",
    "bootstrap of seeds": "Bootstrap of differences paired by seed",
    "bootstrap of examples": "Bootstrap of test examples, the same for all rows, of the mean over a row's models",
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A test of two rows in a column.

    adjusted: the p-value after Holm's correction. possible: whether it could have been small enough to be significant.
    """

    adjusted: float
    possible: bool


@dataclasses.dataclass(frozen=True)
class Comparisons:
    """What was tested in a table.

    best: the first of the rows with the best mean, by column. unit: that of the tests, and fallback: why it is not the
    table's. made: the tests; untested: pairs that have none.
    """

    table: Table
    best: Mapping[Column, str]
    unit: str
    fallback: str
    made: Mapping[Pair, Comparison]
    untested: tuple[Pair, ...]

    def with_best(self, row: str, column: Column) -> Comparison | None:
        """Return the test of a row against the best one, None where there is none."""
        return self.made.get(_pair(column, row, self.best.get(column, row)))

    def with_baseline(self, row: str, column: Column) -> Comparison | None:
        """Return the test of a row against the baseline, None where there is none."""
        return self.made.get(_pair(column, row, self.table.baseline or row))

    def significant(self, comparison: Comparison | None) -> bool:
        """Return whether two rows were told apart."""
        return comparison is not None and comparison.adjusted <= self.table.alpha

    def notes(self) -> Iterator[str]:
        """Yield what was tested and how, and what was not."""
        table = self.table
        if self.fallback:
            yield f"The unit of the tests should be the test example; it is the seed, because {self.fallback}."
        level = f"α = {table.alpha:g} after Holm's correction over all comparisons of this table ({len(self.made)})"
        if not self.made and self.unit == "seeds" and self.untested:
            yield "No rows are compared: there are no two seeds that they have in common."
            return
        if table.tested:
            yield f"Rows are compared by {', '.join(map(title, table.tested))} alone."
        elif any(column.place not in table.tested_places for column in self.best):
            yield "Rows are compared by columns of the test split alone."
        possible = {pair for pair, comparison in self.made.items() if comparison.possible}
        if possible:
            against = f"; *: different from the baseline {table.baseline!r}" if table.baseline else ""
            drawn = (
                f" ({table.resamples:,} resamples, drawn with seed {table.seed})" if table.test == "bootstrap" else ""
            )
            yield (
                f"†: not significantly different from the best{against}. {HOW[f'{table.test} of {self.unit}']}{drawn}; "
                f"the unit is the {'seed' if self.unit == 'seeds' else 'test example'}; two-sided, {level}."
            )
        elif self.made:
            few = table.test == "bootstrap" and len(self.made) > table.alpha * (1 + table.resamples)
            units = "resamples" if few else f"seeds; it takes {seeds_needed(len(self.made), table.alpha)}"
            yield f"Nothing is marked as tied or different: no p-value can be below {level}, with so few {units}."
        if possible:
            yield from _listed("Not marked, for few common seeds", [pair for pair in self.made if pair not in possible])
        if self.unit == "examples":
            titles = dict.fromkeys(column.title for column, *_ in self.untested)
            if titles:
                yield f"Not tested, since stored predictions do not give it example by example: {', '.join(titles)}."
        else:
            yield from _listed("Not tested, for fewer than two common seeds", self.untested)


def _listed(what: str, pairs: Sequence[Pair]) -> Iterator[str]:
    names = dict.fromkeys(f"{first} and {second}" for _, first, second in pairs)
    if names:
        yield f"{what}: {'; '.join(names)}."


def _pair(column: Column, *rows: str) -> Pair:
    first, second = sorted(rows)
    return column, first, second


def compare_rows(
    table: Table,
    columns: Sequence[Column],
    values: Values,
    runs: Sequence[Result],
    barred: Sequence[tuple[str, str]] = (),
    outcomes: ReadOutcomes | None = None,
) -> Comparisons:
    """Test what is to be tested in a table.

    runs: those that the values are of. barred: (row, data set) that enter no test. outcomes: needed where the unit is
    the example; where it fails with a `UserError`, the unit is the seed.
    """
    unit, fallback = table.unit, ""
    resampled: dict[tuple[str, Column], np.ndarray] = {}
    if unit == "examples":
        try:
            if outcomes is None:
                raise UserError("predictions of runs were not looked for")
            comparable = [run for run in runs if (run.row, run.data) not in barred]
            resampled = _resample(table, columns, comparable, outcomes)
        except UserError as error:
            unit, fallback = "seeds", str(error)

    best: dict[Column, str] = {}
    pairs: dict[Pair, None] = {}
    for column in columns:
        signed = {
            row: column.direction * float(np.mean(list(numbers.values())))
            for (row, other), numbers in values.items()
            if other == column and numbers
        }
        if not column.direction or len(signed) < 2:
            continue
        best[column] = max(signed, key=signed.__getitem__)
        if column.place not in table.tested_places:
            continue
        for against in (table.baseline, best[column]):
            if against in signed:
                pairs |= {_pair(column, row, against): None for row in signed if row != against}

    tests: dict[Pair, tuple[float, float]] = {}
    for column, *rows in pairs:
        keys = [(row, column) for row in rows]
        if any((row, column.data) in barred for row in rows):
            continue
        if unit == "seeds":
            test = _test_seeds(table, *(values[key] for key in keys))
        else:
            test = _test_examples(table, *(resampled.get(key) for key in keys))
        if test is not None:
            tests[_pair(column, *rows)] = test
    adjusted, least = holm([p for p, _ in tests.values()]), holm([least for _, least in tests.values()])
    made = {
        pair: Comparison(after, floor <= table.alpha) for pair, after, floor in zip(tests, adjusted, least, strict=True)
    }
    return Comparisons(table, best, unit, fallback, made, tuple(pair for pair in pairs if pair not in made))


def _test_seeds(table: Table, first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float] | None:
    """Return the p-value of two rows' seeds and the least that it could be, None of fewer than two common seeds."""
    common = sorted(first.keys() & second.keys())
    if len(common) < 2:
        return None
    differences = np.array([first[seed] - second[seed] for seed in common])
    least = least_p(len(common))
    if table.test == "wilcoxon":
        return wilcoxon(differences), least
    least = max(least, 1 / (1 + table.resamples))
    blocks = [weights @ differences for weights in draw_weights(len(common), table.resamples, table.seed)]
    return bootstrap(float(differences.mean()), np.concatenate(blocks) / len(common), least), least


def _test_examples(table: Table, first: np.ndarray | None, second: np.ndarray | None) -> tuple[float, float] | None:
    """Return the p-value of two rows' examples and the least that it could be, None where one has no resamples.

    first, second: the row's number on all examples, and then on each resample.
    """
    if first is None or second is None:
        return None
    difference = first - second
    return bootstrap(float(difference[0]), difference[1:]), 1 / (1 + table.resamples)


def _resample(
    table: Table, columns: Sequence[Column], runs: Sequence[Result], outcomes: ReadOutcomes
) -> dict[tuple[str, Column], np.ndarray]:
    """Return means over a row's runs, on all examples and then on each resample, float [1 + resamples].

    All runs on a data set meet the same resamples. A column is left out for a row if the predictions of one of its runs
    do not give what the record says. Predictions that are not at hand are a `UserError`.
    """
    resampled: dict[tuple[str, Column], np.ndarray] = {}
    sizes: dict[str, int] = {}
    cells = by_cell(runs)
    for (row, data), own in track(cells.items(), "resample", len(cells)):
        wanted = {
            column.place: column
            for column in columns
            if column.data == data and column.direction and column.place in table.tested_places
        }
        numbers: dict[str, list[np.ndarray]] = {place: [] for place in wanted}
        for run in own:
            given = outcomes(run, list(wanted))
            if sizes.setdefault(data, given.num_examples) != given.num_examples:
                raise UserError(f"{run.folder} holds predictions of {given.num_examples} examples, others do not")
            observed = given.metrics(list(wanted), np.ones((1, given.num_examples), np.int64))
            agreeing = [place for place, number in observed.items() if agrees(run.value(place), float(number[0]))]
            weights = draw_weights(given.num_examples, table.resamples, table.seed, given.width)
            blocks = [observed, *(given.metrics(agreeing, block) for block in weights)]
            for place in agreeing:
                numbers[place].append(np.concatenate([block[place] for block in blocks]))
        resampled |= {
            (row, wanted[place]): np.mean(parts, axis=0) for place, parts in numbers.items() if len(parts) == len(own)
        }
    return resampled
