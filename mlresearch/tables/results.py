"""Run records of a study or of some folders."""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from mlresearch.config import identity
from mlresearch.definitions import OTHERS
from mlresearch.errors import UserError
from mlresearch.workdir import read_config, read_record

if TYPE_CHECKING:
    from mlresearch.study import Study


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run of a table.

    row: of the table. record: the run record, read from `file`. folder: where the run lies, if that is known. config:
    the run's, if that is known. named: how the study names its data set, if it does.
    """

    row: str
    record: Mapping[str, Any]
    file: Path
    folder: Path | None = None
    config: ConfigDict | None = None
    named: str | None = None

    @property
    def data(self) -> str:
        """The name of its data set."""
        return self.named or self.record["data"]["name"]

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

    workdir: where the runs lie, a folder each named by its run id. A record belongs to the run of its settings. One of
    settings that the study does not have belongs to the run of its overrides, unless that has another: what the
    overrides leave open was different, or had no name yet, in the code that made it. Other records are left out. Two
    records of one run, and two runs of one row, data set and seed, are a `UserError`.
    """
    runs = {run.config_hash: run for run in study.runs}
    by_overrides = {json.dumps(run.overrides, sort_keys=True): run for run in study.runs}
    expected = [(run.row, run.data, run.seed) for run in study.runs]
    for each, count in collections.Counter(expected).items():
        if count > 1:
            raise UserError(
                "{}: the row {!r} has several runs on {} with seed {}: give them rows of their own by the override "
                "'row'".format(study.folder / "sweep.py", *each)
            )
    found: dict[str, Result] = {}
    remarks, strays = [], 0
    read = [(path, _read_record(path)) for path in sorted((records or study.records).glob("*.json"))]
    today = {record["config_hash"] for _, record in read} & runs.keys()
    for path, record in read:
        run = runs.get(record["config_hash"])
        if run is None:
            run = by_overrides.get(json.dumps(record.get("overrides"), sort_keys=True))
            run = None if run is None or run.config_hash in today else run
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
            found[run.config_hash] = Result(run.row, record, path, folder, run.config, run.data)
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
    """Return the results of runs' folders, and of folders with runs in them; each folder counts once.

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
    inside = sorted(folder.glob("*/run.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [folder] if (folder / "run.json").exists() or not inside else [path.parent for path in inside]
