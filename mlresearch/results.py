"""Run records of a study or of some folders, what their table is to show, and whether they agree with others."""

import collections
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from mlresearch.config import identity
from mlresearch.definitions import OTHERS, check_place, direction, title
from mlresearch.errors import UserError, suggest
from mlresearch.significance import TESTS
from mlresearch.workdir import read_config, read_record

if TYPE_CHECKING:
    from mlresearch.study import Study

COLUMNS = (
    "test.mode.hamming_loss",
    "test.mode.micro_f1",
    "test.mode.macro_f1",
    "test.mode.macro_f1_present",
    "test.mode.subset_accuracy",
    "test.ranking.macro_average_precision",
    "test.ranking.precision_at_1",
    "test.mode.violation_rate",
    "validation.mode.subset_accuracy",
)
"""Places of a table's columns unless it says otherwise; ``mode`` is the head's own decision."""

TOLERANCES = {"hamming_loss": 0.0005, "mean": 0.05}
"""By how much a mean may differ when a study is made again, by metric; `TOLERANCE` for the others."""

TOLERANCE = 0.005


@dataclasses.dataclass(frozen=True)
class Table:
    """What the table of a study shows.

    columns: places of numbers (`mlresearch.definitions`); macro-F1 is always given over all labels and over those that
    are present. baseline: the row that the others are tested against. tested: places that rows are compared by, all of
    the test split if none is named; the fewer, the less Holm's correction takes. test: "wilcoxon" or "bootstrap". unit:
    "seeds", or "examples" of the test split (bootstrap only; it needs the runs' predictions). alpha: the chance of any
    false call in a table. by: "data", a table a data set; "metric", a table a column with the data sets side by side.
    published: numbers by data set, row and place, and under "source" where they stand; they enter no comparison.
    decimals: at least so many, more where a column's numbers are small. resamples, seed: of the bootstrap. tolerance:
    by how much a mean may differ when the study is made again, by place, instead of `TOLERANCES`.
    """

    columns: Sequence[str] = COLUMNS
    baseline: str | None = None
    tested: Sequence[str] = ()
    test: str = "wilcoxon"
    unit: str = "seeds"
    alpha: float = 0.05
    by: str = "data"
    published: Mapping[str, Mapping[str, Mapping[str, float | str]]] = dataclasses.field(default_factory=dict)
    decimals: int = 3
    resamples: int = 10_000
    seed: int = 0
    tolerance: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {"test": TESTS, "unit": ("seeds", "examples"), "by": ("data", "metric")}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"Table({name}={value!r}){suggest(str(value), known)}")
        if self.unit == "examples" and self.test != "bootstrap":
            raise UserError("Table(unit='examples') goes with test='bootstrap'")
        if not 0 < self.alpha < 1 or self.decimals < 0 or self.resamples < 1:
            raise UserError("Table: alpha is between 0 and 1, decimals are not negative, and there is a resample")
        if isinstance(self.columns, str) or not self.columns:
            raise UserError("Table(columns=…) is a list of places such as 'test.mode.micro_f1'")
        for place in self.columns:
            check_place(place)
        for option, places in (("tested", self.tested), ("tolerance", self.tolerance)):
            for place in places:
                if place not in self.places:
                    raise UserError(f"Table({option}=…): there is no column {place!r}{suggest(place, self.places)}")
        for data, rows in self.published.items():
            for row, values in rows.items():
                where = f"Table(published=…), {data}, {row}"
                if not isinstance(values.get("source"), str):
                    raise UserError(f"{where}: say under 'source' where the numbers stand")
                for place, value in values.items():
                    if place != "source" and place not in self.places:
                        raise UserError(f"{where}: there is no column {place!r}{suggest(place, self.places)}")
                    if place != "source" and not isinstance(value, int | float):
                        raise UserError(f"{where}, {place}: {value!r} is not a number")

    @functools.cached_property
    def places(self) -> tuple[str, ...]:
        """The columns' places, each once, with the second form of macro-F1 beside the first."""
        places: dict[str, None] = {}
        for place in self.columns:
            stem = place.removesuffix("_present")
            pair = stem.endswith(".macro_f1")
            places |= dict.fromkeys((stem, f"{stem}_present") if pair else (place,))
        return tuple(places)

    @property
    def tested_places(self) -> tuple[str, ...]:
        """The places that rows are compared by."""
        return tuple(self.tested) or tuple(place for place in self.places if place.startswith("test."))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: the place of its numbers, their data set, and its heading."""

    place: str
    data: str
    title: str

    @property
    def direction(self) -> int:
        """1 where more is better, −1 where less is, 0 where neither is."""
        return direction(self.place)


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run of a table.

    row: of the table. record: the run record, read from `file`. folder: where the run lies, if that is known. config:
    the run's, if that is known.
    """

    row: str
    record: Mapping[str, Any]
    file: Path
    folder: Path | None = None
    config: ConfigDict | None = None

    @property
    def data(self) -> str:
        """The name of its data set."""
        return self.record["data"]["name"]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.record["seed"]

    def value(self, place: str) -> float | None:
        """Return the number at a place, None where there is none."""
        value: Any = self.record if place in OTHERS else self.record["metrics"]
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return None if value is None else float(value)


@dataclasses.dataclass(frozen=True)
class Results:
    """The runs of a study, or of some folders: those there are, and (row, data set, seed) of those there should be.

    name: of the study. remarks: what was left out and why.
    """

    name: str
    expected: tuple[tuple[str, str, int], ...]
    runs: tuple[Result, ...]
    remarks: tuple[str, ...] = ()

    @property
    def missing(self) -> list[tuple[str, str, int]]:
        """The runs that should be there and are not."""
        there = {(run.row, run.data, run.seed) for run in self.runs}
        return [run for run in self.expected if run not in there]

    def stale(self, code_hash: str) -> str | None:
        """Return a line where all records were made by one version of the code and that is not `code_hash`."""
        made = {run.record["code_hash"] for run in self.runs}
        if len(made) != 1 or code_hash in made:
            return None
        return f"{self.name}: all records are stale: made by the code {made.pop()[:12]}, today's is {code_hash[:12]}"


def by_cell(runs: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    """Return the runs of each (row, data set)."""
    cells: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        cells.setdefault((run.row, run.data), []).append(run)
    return cells


def read_study(study: "Study", workdir: Path | None = None, records: Path | None = None) -> Results:
    """Return the results of a study: its committed records, or those of another folder.

    workdir: where the runs lie, a folder each named by its run id. Records of runs that the study does not have are
    left out. Two records of one run, and two runs of one row, data set and seed, are a `UserError`.
    """
    runs = {run.config_hash: run for run in study.runs}
    expected = [(run.row, run.data, run.seed) for run in study.runs]
    for each, count in collections.Counter(expected).items():
        if count > 1:
            raise UserError(
                "{}: the row {!r} has several runs on {} with seed {}: give them rows of their own by the override "
                "'row'".format(study.folder / "sweep.py", *each)
            )
    found: dict[str, Result] = {}
    remarks, strays = [], 0
    for path in sorted((records or study.records).glob("*.json")):
        record = _read_record(path)
        run = runs.get(record["config_hash"])
        if run is None:
            strays += 1
        elif record["status"] != "finished":
            remarks.append(f"{path}: left out, the run is {record['status']}")
        elif run.config_hash in found:
            raise UserError(
                f"{found[run.config_hash].file} and {path} are records of one run: delete the one that is out of date"
            )
        else:
            folder = None if workdir is None else workdir / record["run_id"]
            found[run.config_hash] = Result(run.row, record, path, folder, run.config)
    if strays:
        remarks.append(f"{records or study.records}: {strays} records of runs that the study does not have, left out")
    ordered = tuple(found[key] for key in runs if key in found)
    return Results(study.name, tuple(expected), ordered, tuple(remarks))


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    needed = ("run_id", "config_hash", "status", "code_hash", "seed", "data")
    lacking = set(needed) - set(record) if isinstance(record, dict) else {"an object"}
    if lacking:
        raise UserError(f"{path} is damaged: it lacks {', '.join(sorted(lacking))}")
    return record


def read_runs(folders: Iterable[Path]) -> Results:
    """Return the results of runs' folders, and of folders whose `seed_*` are runs; each folder counts once.

    Runs that differ in their seed alone share a row. It is named after their model and, where that does not tell rows
    apart, after the folder of its first run too. A folder without a run is a `UserError`.
    """
    groups: dict[tuple[str, ...], list[tuple[Path, dict[str, Any], ConfigDict | None]]] = {}
    remarks = []
    for folder in dict.fromkeys(itertools.chain.from_iterable(map(_run_folders, folders))):
        record = read_record(folder)
        if record["status"] != "finished":
            remarks.append(f"{folder}: left out, the run is {record['status']}")
            continue
        config = read_config(folder) if (folder / "config.json").exists() else None
        settings = {} if config is None else identity(config)
        settings.pop("seed", None)
        key: tuple[str, ...] = (record["data"]["name"], record["name"], json.dumps(settings, sort_keys=True))
        if record["seed"] in [other["seed"] for _, other, _ in groups.get(key, [])]:
            key = (*key, str(folder))
        groups.setdefault(key, []).append((folder, record, config))
    names = collections.Counter(key[:2] for key in groups)
    runs = []
    for key, members in groups.items():
        row = key[1] if names[key[:2]] == 1 else f"{key[1]} ({members[0][0]})"
        runs += [Result(row, record, folder / "run.json", folder, config) for folder, record, config in members]
    return Results("runs", tuple((run.row, run.data, run.seed) for run in runs), tuple(runs), tuple(remarks))


def _run_folders(folder: Path) -> list[Path]:
    replicas = sorted(folder.glob("seed_*/run.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [folder] if (folder / "run.json").exists() or not replicas else [path.parent for path in replicas]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A mean made again beside the committed one, over the same `n` runs; None where there is no number.

    tolerance: by how much they may differ.
    """

    row: str
    data: str
    place: str
    made: float | None
    committed: float | None
    tolerance: float
    n: int

    @property
    def within(self) -> bool:
        """Whether the two agree."""
        if self.made is None or self.committed is None:
            return False
        return abs(self.made - self.committed) <= self.tolerance

    def __str__(self) -> str:
        made, committed = ("no number" if value is None else f"{value:.5f}" for value in (self.made, self.committed))
        verdict = "agrees" if self.within else "DIFFERS"
        runs = f"{self.n} run{'s' * (self.n != 1)}"
        return (
            f"{verdict:7} {self.data}, {self.row}, {title(self.place)}: {made} made again, {committed} committed, "
            f"tolerance {self.tolerance:.5f}, {runs}"
        )


def compare(made: Results, committed: Results, table: Table) -> list[Agreement]:
    """Return how the runs of `made` agree with the committed records of the same runs, a line a row and column.

    The tolerance is the larger of an absolute one (`Table.tolerance`, else `TOLERANCES`) and two standard errors of the
    committed mean, ``2 · sd / √n``, where n > 1. A run without a committed record agrees with nothing.
    Seconds are not compared.
    """
    of_run = {(run.row, run.data, run.seed): run for run in committed.runs}
    lines = []
    for (row, data), own in by_cell(made.runs).items():
        pairs = [(run, of_run.get((run.row, run.data, run.seed))) for run in own]
        for place in table.places:
            if place.startswith("seconds."):  # of another machine, or another day
                continue
            new = [run.value(place) for run in own]
            old = [None if other is None else other.value(place) for _, other in pairs]
            if all(value is None for value in (*new, *old)):
                continue
            made_mean, committed_mean = _mean(new), _mean(old)
            metric = place.rpartition(".")[2]
            tolerance = table.tolerance.get(place, TOLERANCES.get(metric, TOLERANCE))
            if len(old) > 1 and committed_mean is not None:
                deviation = np.std(np.array(old, np.float64), ddof=1)
                tolerance = max(tolerance, float(2 * deviation / np.sqrt(len(old))))
            lines.append(Agreement(row, data, place, made_mean, committed_mean, tolerance, len(own)))
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None


def row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's row: its parts, its steps, the metrics of `COLUMNS` and the seconds it took, as text.

    Where labels were dropped from its data set (``config.data.unknown_labels = "drop"``), their number is in the row.
    """
    cells = {"run": str(record["name"]), "steps": str(record.get("num_steps") or "")}
    result = Result(cells["run"], record, Path())
    for place in COLUMNS:
        value = result.value(place)
        cells[title(place)] = "" if value is None else f"{value:.4f}"
    dropped = record["data"]["notes"].get("dropped_labels", {}).get("total", 0)
    if dropped:
        cells["dropped labels"] = str(dropped)
    return cells | {"seconds": f"{sum(record['seconds'].values()):.0f}"}


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a Markdown table, padded to columns; a row is empty under a title that it does not have."""
    longest = max(rows, key=len)
    titles = [*longest, *{title: None for row in rows for title in row if title not in longest}]
    widths = [max(len(title), *(len(row.get(title, "")) for row in rows)) for title in titles]

    def line(cells: Iterable[str]) -> str:
        padded = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 2) if place == 0 else "-" * (width + 1) + ":" for place, width in enumerate(widths))
    return "\n".join([line(titles), f"|{rule}|", *(line(row.get(title, "") for title in titles) for row in rows)])
