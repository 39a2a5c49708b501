"""The tables of studies, or of runs."""

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

from absl import flags

from mlresearch import environment
from mlresearch.commands.arguments import parse, refuse_idle
from mlresearch.errors import UserError
from mlresearch.study import Study
from mlresearch.sweep import WORKDIR
from mlresearch.tables import Table
from mlresearch.tables.outcomes import OutcomeReader
from mlresearch.tables.results import read_runs, read_study
from mlresearch.tables.tabulate import FAULTS, tabulate
from mlresearch.tables.typeset import FORMATS


def run(argv: list[str]) -> int:
    """Print the tables of studies, or of runs."""
    values = flags.FlagValues()
    flags.DEFINE_enum("format", "markdown", ["markdown", "latex", "csv", "json"], "How to write.", flag_values=values)
    flags.DEFINE_list("allow", [], "Print in spite of: missing, code, data.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The folder of a study's runs, if not runs/STUDY.", flag_values=values)
    flags.DEFINE_string("baseline", None, "The row that the others are tested against.", flag_values=values)
    folders = [Path(word) for word in parse(values, argv)]
    if not folders:
        raise UserError("name the folders of one or more studies or runs")
    if not any((folder / "sweep.py").exists() for folder in folders):
        refuse_idle(values, ["workdir", "allow"], "goes with a study")

    reader = OutcomeReader()

    def compared(table: Table) -> Table:
        return table if values.baseline is None else dataclasses.replace(table, baseline=values.baseline)

    def say(lines: Iterable[str]) -> None:
        for line in lines:
            print(line, file=sys.stderr)

    sheets = []
    for folder in folders:
        if (folder / "sweep.py").exists():
            study = Study.load(folder)
            results = read_study(study, Path(values.workdir or WORKDIR / study.name))
            stale = results.stale(environment.code_hash(study.sources))
            say([*results.remarks, *([stale] if stale else [])])
            if not results.runs:
                raise UserError(f"{study.records} has no record of a run: 'mlresearch sweep {folder}' makes them")
            sheets += tabulate(results, compared(study.table), values.allow, reader.of)
    runs = [folder for folder in folders if not (folder / "sweep.py").exists()]
    if runs:
        results = read_runs(runs)
        say(results.remarks)
        if not results.runs:
            raise UserError("none of these runs is finished")
        sheets += tabulate(results, compared(Table()), tuple(FAULTS))
    print(FORMATS[values.format](sheets).rstrip("\n"))
    if values.format == "csv":  # which has no place for notes
        say(dict.fromkeys(note for sheet in sheets for note in sheet.notes))
    return 0
