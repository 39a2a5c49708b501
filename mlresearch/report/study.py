"""The page of a study: its question, its tables, and how its runs stand."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mlresearch import workdir
from mlresearch.definitions import define
from mlresearch.inputs import dataset_key
from mlresearch.report.markup import Html, breakable, bullets, cell, facts, fold, join, paragraphs, table, tag
from mlresearch.report.page import Page, Section, figures_section
from mlresearch.study import Study
from mlresearch.tables.results import Result, Results
from mlresearch.tables.tabulate import Cell, Row, Sheet
from mlresearch.tables.typeset import ARROWS, decimals, marks_of, number_of_runs

DONE = "finished"

NAMED = 3
"""Up to so many data sets are named at the top."""


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a run of a study stands: its row, data set and seed, its status, and what was said where it failed.

    result: None where the run has no record.
    """

    row: str
    data: str
    seed: int
    status: str
    error: str = ""
    result: Result | None = None


def standings(study: Study, results: Results, folder: Path) -> list[Standing]:
    """Return how each run of a study stands, those without a record by their folders in `folder`, if there are any."""
    made = {(result.row, result.data, result.seed): result for result in results.runs}
    fingerprints = {
        dataset_key(result.config): result.record["data"]["fingerprint"]
        for result in results.runs
        if result.config is not None
    }
    found = []
    for run in study.runs:
        which = (run.row, run.data, run.seed)
        if which in made:
            found.append(Standing(*which, DONE, result=made[which]))
            continue
        fingerprint = fingerprints.get(dataset_key(run.config))
        own = folder / run.run_id(fingerprint) if fingerprint is not None else None
        if own is None or not (own / "run.json").exists():
            found.append(Standing(*which, "no record"))
            continue
        record = workdir.read_record(own)
        found.append(Standing(*which, record["status"], str(record.get("error", ""))))
    return found


def study_page(
    study: Study,
    results: Results,
    sheets: Sequence[Sheet],
    folder: Path,
    remarks: Sequence[str] = (),
    figures: Sequence[tuple[str, str]] = (),
) -> Page:
    """Return the page of a study; folder: where its runs lie. figures: pairs of a title and SVG."""
    standing = standings(study, results, folder)
    sections = [
        Section(f"table-{number}", sheet.about, _sheet(sheet))
        for number, sheet in enumerate(sheets, 1)
        if sheet.columns
    ]
    sections += figures_section(figures)
    sections.append(Section("runs", "Runs", _runs(standing)))
    return Page(f"{study.name}, a study", _lead(study, results, standing, remarks), tuple(sections), {})


def _lead(study: Study, results: Results, standing: Sequence[Standing], remarks: Sequence[str]) -> Html:
    done = sum(each.status == DONE for each in standing)
    none = [] if done else ["No run has a record: there is no table."]
    data_sets = list(dict.fromkeys(each.data for each in standing))
    hashes = dict.fromkeys(result.record["code_hash"][:12] for result in results.runs)
    pairs = [
        ("runs", f"{done} of {len(standing)} finished"),
        ("rows", str(len({each.row for each in standing}))),
        ("data sets", ", ".join(data_sets) if len(data_sets) <= NAMED else str(len(data_sets))),
        ("seeds", str(len({each.seed for each in standing}))),
        ("code", ", ".join(hashes)),
        ("command", tag("code", f"mlresearch sweep {study.folder}")),
    ]
    return join(
        [
            tag("p", "A study", attributes={"class": "kind"}),
            tag("h1", study.name),
            tag("div", paragraphs(study.question), attributes={"class": "question"}),
            facts((name, value) for name, value in pairs if value),
            bullets([*none, *remarks, *results.remarks], "remarks"),
        ]
    )


def _sheet(sheet: Sheet) -> Html:
    """Return a table as `mlresearch table` has it, with its notes, those that define what stands in it folded."""
    headings = [breakable(f"{column.title}{ARROWS[column.direction]}") for column in sheet.columns]
    rows = [[breakable(row.name), *_cells(sheet, row)] for row in sheet.rows]
    definitions = define(list(dict.fromkeys(column.place for column in sheet.columns)))
    return join(
        [
            table(f"{sheet.name}: {sheet.about}", ["row", *headings, "n"], rows, sortable=True),
            bullets(note for note in sheet.notes if note not in definitions),
            fold("Definitions", bullets(definitions)),
        ]
    )


def _cells(sheet: Sheet, row: Row) -> list[Html]:
    """Return the cells of a row and the number of its runs."""
    made = []
    for at, column in enumerate(sheet.columns):
        each = row.cells[at]
        made.append(cell(_text(each, decimals(sheet, column)), each.mean, _kind(each)))
    return [*made, cell(number_of_runs(row), max(each.n for each in row.cells) or None, "number")]


def _text(each: Cell, places: int) -> Html:
    number = "—" if each.mean is None else f"{each.mean:.{places}f}"
    spread = "" if each.sd is None else tag("small", f" ± {each.sd:.{places}f}")
    return join(
        [tag("b", number) if each.best else number, spread, tag("sup", marks_of(each)) if marks_of(each) else ""]
    )


def _kind(each: Cell) -> str:
    return "number best" if each.best else "number published" if each.published is not None else "number"


def _runs(standing: Sequence[Standing]) -> Html:
    rows = []
    for each in standing:
        record = {} if each.result is None else each.result.record
        seconds = sum(record.get("seconds", {}).values()) if record else None
        signs = {DONE: "✓", "failed": "✗"}
        rows.append(
            [
                breakable(each.row),
                cell(each.data),
                cell(str(each.seed), each.seed, "number"),
                cell(
                    f"{signs.get(each.status, '○')} {each.status}{f': {each.error}' if each.error else ''}",
                    kind="status",
                ),
                cell("—" if seconds is None else f"{seconds:,.1f}", seconds, "number"),
                cell(str(record.get("run_id", "—"))),
            ]
        )
    headings = ["row", "data set", "seed", "status", "seconds", "run"]
    content = table("Runs", headings, rows, sortable=True, low=True)
    remarks = {
        (each.row, each.data, each.seed): each.result.record.get("remarks", [])
        for each in standing
        if each.result is not None
    }
    lines = [f"{row}, {data}, seed {seed}: {remark}" for (row, data, seed), own in remarks.items() for remark in own]
    return join([content, fold(f"{len(lines)} remarks of runs", bullets(lines)) if lines else ""])
