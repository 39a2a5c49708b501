"""Which figures a study, or some runs, have the data for, and these figures."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from mlresearch.config import flatten
from mlresearch.figures import of_runs, style
from mlresearch.figures.critical_difference import draw_critical_difference
from mlresearch.figures.metrics import Line, common_title, draw_against, draw_metrics
from mlresearch.figures.style import Drawing, slug
from mlresearch.tables import Table
from mlresearch.tables.results import Results
from mlresearch.tables.tabulate import FAULTS, Sheet, rank_rows, tabulate

OF_RECORDS = ("metrics", "critical_difference")
KINDS = (*OF_RECORDS, *of_runs.KINDS)
"""Figures by name: those that records are enough for, and those that need the runs' folders."""

MIN_DATA_SETS = 5
"""Of fewer data sets there is no critical-difference diagram."""


def draw(results: Results, table: Table, only: Sequence[str] = KINDS, allow: Sequence[str] = ()) -> Iterator[Drawing]:
    """Yield the figures of results, and the names of those that are left out.

    only: which of `KINDS`. allow: as `tabulate` takes it. See `of_runs.draw_runs` on those that need the runs' folders.
    Without matplotlib, a `UserError`.
    """
    with style.styled():  # without matplotlib nothing is left out one by one
        pass
    if set(only) & set(OF_RECORDS):
        shown = _shown(table)
        sheets = tabulate(results, shown, allow)
        if "metrics" in only:
            yield from _draw_metrics(results, shown, sheets)
        if "critical_difference" in only:
            yield from _draw_ranks(results, shown, sheets, allow)
    if set(only) & set(of_runs.KINDS):
        for data in dict.fromkeys(run.data for run in results.runs):
            yield from of_runs.draw_runs(data, [run for run in results.runs if run.data == data], only)


def _shown(table: Table) -> Table:
    """Return the table of what is drawn: the columns that rows are compared by, or all where none is."""
    columns = [place for place in table.places if place in table.tested_places] or list(table.places)
    places = ("source", *Table(columns).places)
    published = {
        data: {row: {key: value for key, value in own.items() if key in places} for row, own in rows.items()}
        for data, rows in table.published.items()
    }
    return dataclasses.replace(
        table,
        columns=columns,
        tested=(),
        unit="seeds",
        by="metric" if table.against else table.by,
        published=published,
        tolerance={},
    )


def _draw_metrics(results: Results, table: Table, sheets: Sequence[Sheet]) -> Iterator[Drawing]:
    for sheet in sheets:
        name = f"metrics-{_about(table, sheet)}"
        if not sheet.columns:
            yield Drawing(name, None, "no run has a number")
        elif table.against:
            yield _draw_against(results, table.against, sheet, name)
        else:
            marks = {mark for row in sheet.rows for cell in row.cells for mark in cell.marks}
            faults = [text for text in FAULTS.values() if text[0] in marks]
            yield Drawing(name, draw_metrics(sheet), "; ".join(f"hollow points, {text}" for text in faults))


def _about(table: Table, sheet: Sheet) -> str:
    """Return what a sheet is about, as a part of a file's name: a place, or a data set."""
    return slug(sheet.columns[0].place if table.by == "metric" and sheet.columns else sheet.about)


def _draw_against(results: Results, setting: str, sheet: Sheet, name: str) -> Drawing:
    """Draw a sheet of one metric against a setting in which its data sets differ."""
    groups: dict[str, dict[str, float]] = {}  # of data sets that differ in the setting alone: its values
    bounds = {run.row for run in results.runs if run.record["name"] == "truth"}
    for data in dict.fromkeys(run.data for run in results.runs):
        config = next((run.config for run in results.runs if run.data == data), None)
        settings = {} if config is None else flatten(config.to_dict())
        value = settings.get(setting)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Drawing(name, None, f"config.{setting}, which Table(against=…) names, is no number of {data}")
        others = {key: of for key, of in settings.items() if key.startswith("data.") and key != setting}
        groups.setdefault(repr(sorted(others.items())), {})[data] = float(value)
    panels: dict[str, dict[str, Line]] = {}
    for group in groups.values():
        at = {column.data: place for place, column in enumerate(sheet.columns)}
        data_sets = sorted((data for data in group if data in at), key=group.__getitem__)
        lines = {}
        for row in sheet.rows:
            cells = [(group[data], cell) for data in data_sets if (cell := row.cells[at[data]]).mean is not None]
            if cells:
                numbers = [(value, cell.mean, math.nan if cell.sd is None else cell.sd) for value, cell in cells]
                settings, means, deviations = np.array(numbers, np.float64).T
                lines[row.name] = Line(settings, means, deviations, row.name in bounds)
        panels[common_title(list(group), setting.rpartition(".")[2])] = lines
    drawn = dict.fromkeys(row for lines in panels.values() for row in lines)
    kept = [*[row for row in drawn if row in bounds], *[row for row in drawn if row not in bounds][: len(style.LOOKS)]]
    panels = {title: {row: line for row, line in lines.items() if row in kept} for title, lines in panels.items()}
    figure = draw_against(panels, sheet.about, setting.rpartition(".")[2].replace("_", " "), results.name)
    return Drawing(name, figure, style.of_many(len(drawn), len(kept)))


def _draw_ranks(results: Results, table: Table, sheets: Sequence[Sheet], allow: Sequence[str]) -> Iterator[Drawing]:
    data_sets = {data for _, data, _ in results.expected}
    if len(data_sets) < MIN_DATA_SETS:
        few = f"it is for {MIN_DATA_SETS} data sets or more, not for {len(data_sets)}"
        yield Drawing("critical_difference", None, few)
        return
    if table.by == "data":
        table = dataclasses.replace(table, by="metric")
        sheets = tabulate(results, table, allow)
    for sheet in sheets:
        name = f"critical_difference-{_about(table, sheet)}"
        found = rank_rows(table, sheet.columns, sheet.rows) if sheet.columns else None
        if found is None:
            yield Drawing(name, None, "it is of three rows or more that have a number on all data sets")
        elif found.num_data_sets < MIN_DATA_SETS:
            few = f"it is for {MIN_DATA_SETS} data sets or more, not for {found.num_data_sets}"
            yield Drawing(name, None, few)
        else:
            own = [row.name for row in sheet.rows if row.source is None and row.name not in found.ranks]
            remark = f"without a number on every data set, and left out: {', '.join(own)}" if own else ""
            heading = f"{results.name}: {sheet.about}, mean ranks over {found.num_data_sets} data sets"
            yield Drawing(name, draw_critical_difference(found, heading), remark)
