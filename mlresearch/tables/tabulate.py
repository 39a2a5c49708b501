"""Results → finished tables: means, marks of faults, paired tests, and notes to be read under them."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlresearch.config import flatten
from mlresearch.definitions import OTHERS, define, title
from mlresearch.errors import UserError, suggest
from mlresearch.tables import Column, Table
from mlresearch.tables.comparing import Comparisons, ReadOutcomes, compare_rows
from mlresearch.tables.outcomes import SPLIT
from mlresearch.tables.ranking import MeanRanks, mean_ranks
from mlresearch.tables.results import Result, Results

FAULTS = {
    "missing": "m: of some of the cell's runs there is no record",
    "code": "c: made by another version of the code than most of the table",
    "data": "d: made on other data than most of the column, and not tested",
}
"""What a table is refused for unless it is allowed, and how cells are marked then, by the first letter."""

SEARCHED = "s: the most probable label set is searched for, and may be missed"
"""How cells of the head's own decision are marked where the mode is not exact, by the first letter."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row's number in a column: the mean over its runs.

    values: by seed. published: a number that stands elsewhere, and then there are no values. marks: first letters of
    `FAULTS` and `SEARCHED`. best: of the column's means. p_best, p_baseline: adjusted p-values against the best row and
    the baseline, None where they were not tested. tied: could have been told apart from the best, and was not. differs:
    from the baseline, significantly.
    """

    values: Mapping[int, float]
    published: float | None = None
    marks: str = ""
    best: bool = False
    p_best: float | None = None
    p_baseline: float | None = None
    tied: bool = False
    differs: bool = False

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """The mean over runs, or the published number; None where there is neither."""
        return float(np.mean(list(self.values.values()))) if self.values else self.published

    @property
    def sd(self) -> float | None:
        """The sample standard deviation, n − 1 in the denominator; None of fewer than two runs."""
        return float(np.std(list(self.values.values()), ddof=1)) if self.n > 1 else None


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a sheet; source: where its numbers were published, None for runs of one's own."""

    name: str
    cells: tuple[Cell, ...]
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A finished table: what it is about, its columns and rows, and notes to be read under it.

    decimals: at least so many. num_comparisons: those that Holm's correction was made for.
    """

    name: str
    about: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    decimals: int
    num_comparisons: int


def tabulate(
    results: Results, table: Table, allow: Sequence[str] = (), outcomes: ReadOutcomes | None = None
) -> list[Sheet]:
    """Return the tables of results.

    Missing runs, several versions of the code within a table and several fingerprints of a data set are a `UserError`,
    unless their names (`FAULTS`) are among `allow`. So are a baseline, a place or a data set that there is not.
    """
    for fault in allow:
        if fault not in FAULTS:
            raise UserError(f"there is nothing to allow called {fault!r}{suggest(fault, FAULTS)}")
    data_sets = list(dict.fromkeys(data for _, data, _ in results.expected))
    parts = [[data] for data in data_sets] if table.by == "data" else [data_sets]
    marks: dict[tuple[str, str], str] = {}
    refused: list[str] = []
    for part in parts:
        for fault, cells, line in _faults(results, part):
            refused += [] if fault in allow else [f"{fault}: {line}"]
            marks |= {cell: marks.get(cell, "") + fault[0] for cell in cells}
    if refused:
        names = ",".join(dict.fromkeys(line.partition(":")[0] for line in refused))
        raise UserError(
            f"{results.name}: there is something wrong with the records:\n  " + "\n  ".join(refused) + f"\n"
            f"mend it, or print the table all the same, with these cells marked: --allow={names}"
        )
    places = _present(results, table)
    rows = [row for row, _, _ in results.expected]
    if table.baseline is not None and table.baseline not in rows:
        raise UserError(f"the baseline {table.baseline!r} names no row{suggest(table.baseline, rows)}")
    for data in table.published:
        if data not in data_sets:
            raise UserError(f"Table(published=…) names no data set of the study: {data!r}{suggest(data, data_sets)}")
    if table.by == "data":
        columns = [(data, [Column(place, data, title(place)) for place in places]) for data in data_sets]
    else:
        columns = [(title(place), [Column(place, data, data) for data in data_sets]) for place in places]
    return [_sheet(results, table, about, wanted, marks, outcomes) for about, wanted in columns]


def _present(results: Results, table: Table) -> list[str]:
    """Return the places of which any run has a number; one that no run could have is a `UserError`."""
    known = {place for run in results.runs for place in flatten(dict(run.record["metrics"]))}
    groups = {place.rpartition(".")[0] for place in known}
    for place in table.places:
        if results.runs and place not in OTHERS and place.rpartition(".")[0] not in groups:
            raise UserError(f"there is no {place!r} in the records{suggest(place, known)}")
    return [place for place in table.places if any(run.value(place) is not None for run in results.runs)]


def _faults(results: Results, data_sets: Sequence[str]) -> Iterator[tuple[str, set[tuple[str, str]], str]]:
    """Yield what is wrong with the records of these data sets: its name, the cells (row, data set), and a line."""
    missing = [run for run in results.missing if run[1] in data_sets]
    if missing:
        cells: dict[tuple[str, str], list[int]] = {}
        for row, data, seed in missing:
            cells.setdefault((row, data), []).append(seed)
        listed = "; ".join(
            f"{row} on {data}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            for (row, data), seeds in cells.items()
        )
        total = sum(data in data_sets for _, data, _ in results.expected)
        yield "missing", set(cells), f"{len(missing)} of {total} runs have no record: {listed}"
    runs = [run for run in results.runs if run.data in data_sets]
    yield from _mixed("code", runs, lambda run: run.record["code_hash"], f"the records of {', '.join(data_sets)}")
    for data in data_sets:
        own = [run for run in runs if run.data == data]
        yield from _mixed("data", own, lambda run: run.record["data"]["fingerprint"], f"the records of {data}")


def _mixed(
    fault: str, runs: Sequence[Result], of: Callable[[Result], str], whose: str
) -> Iterator[tuple[str, set[tuple[str, str]], str]]:
    counts = collections.Counter(map(of, runs))
    if len(counts) > 1:
        (most, _), *others = counts.most_common()
        odd = [run for run in runs if of(run) != most]
        what = {"code": "versions of the code", "data": "forms of the data"}[fault]
        hashes = ", ".join(f"{value[:12]} ({count} runs)" for value, count in counts.most_common())
        files = ", ".join(str(run.file) for run in odd[:3]) + (", …" if len(odd) > 3 else "")
        line = f"{whose} were made with {len(others) + 1} {what}: {hashes}; the odd ones: {files}"
        yield fault, {(run.row, run.data) for run in odd}, line


def _sheet(
    results: Results,
    table: Table,
    about: str,
    wanted: Sequence[Column],
    marks: Mapping[tuple[str, str], str],
    outcomes: ReadOutcomes | None,
) -> Sheet:
    """Return one table: cells, comparisons, what they mean for the cells, and notes."""
    data_sets = dict.fromkeys(column.data for column in wanted)
    names = list(dict.fromkeys(row for row, data, _ in results.expected if data in data_sets))
    runs = [run for run in results.runs if run.data in data_sets]
    cells: dict[tuple[str, Column], Cell] = {}
    for name, column in itertools.product(names, wanted):
        own = [run for run in runs if (run.row, run.data) == (name, column.data)]
        values = {run.seed: run.value(column.place) for run in sorted(own, key=lambda run: run.seed)}
        given = {seed: value for seed, value in values.items() if value is not None}
        letters = marks.get((name, column.data), "")
        if ".mode." in column.place and any(run.record.get("mode_is_exact") is False for run in own):
            letters += SEARCHED[0]
        # A number that some of the runs do not have, such as an infinite loss, has no mean.
        cells[name, column] = Cell(given if len(given) == len(own) else {}, None, letters)
    run_on = {run.data for run in runs}
    columns = tuple(
        column for column in wanted if column.data not in run_on or any(cells[name, column].n for name in names)
    )
    barred = [cell for cell, letters in marks.items() if "d" in letters]
    numbers = {key: cell.values for key, cell in cells.items()}
    comparisons = compare_rows(table, columns, numbers, runs, barred, outcomes)
    for name, column in itertools.product(names, columns):
        cell, best = cells[name, column], comparisons.best.get(column)
        with_best, with_baseline = comparisons.with_best(name, column), comparisons.with_baseline(name, column)
        is_best = best is not None and cell.mean == cells[best, column].mean
        told_apart = comparisons.significant(with_best)
        cells[name, column] = dataclasses.replace(
            cell,
            best=is_best,
            p_best=None if with_best is None else with_best.adjusted,
            p_baseline=None if with_baseline is None else with_baseline.adjusted,
            tied=with_best is not None and with_best.possible and not told_apart and not is_best,
            differs=comparisons.significant(with_baseline),
        )
    rows = [Row(name, tuple(cells[name, column] for column in columns)) for name in names]
    rows += _published(table, columns)
    return Sheet(
        name=results.name,
        about=about,
        columns=columns,
        rows=tuple(rows),
        notes=(*_notes(table, columns, rows, runs, comparisons), *_ranked(table, columns, rows)),
        decimals=table.decimals,
        num_comparisons=len(comparisons.made),
    )


def _published(table: Table, columns: Sequence[Column]) -> list[Row]:
    """Return the rows of numbers that stand elsewhere."""
    numbers: dict[tuple[str, str], dict[Column, float]] = {}
    for column in columns:
        for name, values in table.published.get(column.data, {}).items():
            if column.place in values:
                key = (f"{name} (published)", str(values["source"]))
                numbers.setdefault(key, {})[column] = float(values[column.place])
    return [
        Row(name, tuple(Cell({}, own.get(column)) for column in columns), source)
        for (name, source), own in numbers.items()
    ]


def _notes(
    table: Table, columns: Sequence[Column], rows: Sequence[Row], runs: Sequence[Result], comparisons: Comparisons
) -> Iterator[str]:
    """Yield what is to be read under a table."""
    single = " A row of one seed has no deviation." if any(cell.n == 1 for row in rows for cell in row.cells) else ""
    yield f"Mean ± sample standard deviation (n − 1 in the denominator) over n runs that differ in their seed.{single}"
    if comparisons.best:
        yield "Bold: the best mean of a column, of the runs made here; ↑ more is better, ↓ less is."
    yield from comparisons.notes()
    if table.baseline is not None and table.baseline not in [row.name for row in rows]:
        yield f"The baseline {table.baseline!r} has no runs here."
    marks = {mark for row in rows for cell in row.cells for mark in cell.marks}
    for text in (*FAULTS.values(), SEARCHED):
        if text[0] in marks:
            yield f"{text}."
    if any(cell.mean is None for row in rows for cell in row.cells):
        yield "—: no number: no run, a loss that is infinite, or nothing published."
    for row in rows:
        if row.source is not None:
            yield f"{row.name}: {row.source}; not run here, and in no comparison."
    for data in dict.fromkeys(run.data for run in runs):
        yield _about_data(data, next(run.record for run in runs if run.data == data))
    yield from define(list(dict.fromkeys(column.place for column in columns)))


def rank_rows(table: Table, columns: Sequence[Column], rows: Sequence[Row]) -> MeanRanks | None:
    """Return the mean ranks of the rows of one's own that have a number on every data set; None where they say nothing.

    columns: the same place on several data sets.
    """
    if len({column.place for column in columns}) != 1 or not columns[0].direction:
        return None
    means = {row.name: [cell.mean for cell in row.cells] for row in rows if row.source is None}
    whole = {name: [mean for mean in own if mean is not None] for name, own in means.items() if None not in own}
    return mean_ranks(whole, better=columns[0].direction, alpha=table.alpha)


def _ranked(table: Table, columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """Yield what mean ranks over data sets say, if they do."""
    found = rank_rows(table, columns, rows)
    if found is not None:
        ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in found.ranks.items())
        p_value = "p < .0001" if found.p_value < 1e-4 else f"p = {found.p_value:.2g}"
        yield (
            f"Mean ranks of the rows that have a number on all {found.num_data_sets} data sets, 1 the best: {ranks}. "
            f"Friedman's test that they are alike: {p_value} (F of Iman and Davenport). At {found.alpha:g}, Nemenyi's "
            f"test tells rows apart whose mean ranks differ by {found.critical_difference:.2f}."
        )


def _about_data(data: str, record: Mapping[str, Any]) -> str:
    """Return the sizes of a data set, as a record has them."""
    sizes = ", ".join(f"{count} {split}" for split, count in record.get("examples", {}).items())
    labels = record.get("label_space", {}).get("num_labels")
    absent = record["metrics"].get(SPLIT, {}).get("mode", {}).get("num_labels_absent")
    dropped = record["data"].get("notes", {}).get("dropped_labels", {}).get("total", 0)
    parts = [
        f"{sizes} examples" if sizes else "",
        f"{labels} labels" if labels else "",
        f"{absent:.0f} of them without a positive in the test split" if absent is not None else "",
        f"{dropped} labels of examples dropped, which are not in the label space" if dropped else "",
    ]
    return f"{data}: {', '.join(part for part in parts if part)}."
