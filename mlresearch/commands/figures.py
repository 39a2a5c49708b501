"""The figures of a study, or of runs."""

import dataclasses
import sys
from pathlib import Path

from absl import flags

from mlresearch.commands.arguments import parse, refuse_idle
from mlresearch.errors import UserError, suggest
from mlresearch.figures.drawing import KINDS, draw
from mlresearch.figures.style import save
from mlresearch.study import Study
from mlresearch.sweep import WORKDIR
from mlresearch.tables import Table
from mlresearch.tables.results import Results, read_runs, read_study
from mlresearch.tables.tabulate import FAULTS


def run(argv: list[str]) -> int:
    """Draw the figures of a study, or of runs, and say which were left out and why."""
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "Where to, if not figures/ in the study or run.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The folder of a study's runs, if not runs/STUDY.", flag_values=values)
    flags.DEFINE_list("only", list(KINDS), "Which figures.", flag_values=values)
    flags.DEFINE_multi_string("row", [], "A row to draw; all, or the first few, unless named.", flag_values=values)
    flags.DEFINE_list("allow", [], "Draw in spite of: missing, code, data.", flag_values=values)
    folders = [Path(word) for word in parse(values, argv)]
    for kind in values.only:
        if kind not in KINDS:
            raise UserError(f"--only={kind}: there is no such figure{suggest(kind, KINDS)}")
    studies = [folder for folder in folders if (folder / "sweep.py").exists()]
    if not folders or (studies and len(folders) > 1):
        raise UserError("name the folder of one study, or those of one or more runs")
    if studies:
        study = Study.load(folders[0])
        results, table = read_study(study, Path(values.workdir or WORKDIR / study.name)), study.table
        allow = values.allow
    else:
        refuse_idle(values, ["workdir", "allow"], "goes with a study")
        results, table, allow = read_runs(folders), Table(), tuple(FAULTS)
    for line in results.remarks:
        print(line, file=sys.stderr)
    if not results.runs:
        raise UserError("there is no finished run to draw")
    output = Path(values.output or (folders[0] / "figures" if len(folders) == 1 else "figures"))
    for drawing in draw(of_rows(results, values.row), table, values.only, allow):
        remark = f": {drawing.remark}" if drawing.remark else ""
        if drawing.figure is None:
            print(f"left out: {drawing.name}{remark}", file=sys.stderr)
            continue
        if remark:
            print(f"{drawing.name}{remark}", file=sys.stderr)
        for path in save(drawing.figure, output, drawing.name):
            print(path)
    return 0


def of_rows(results: Results, rows: list[str]) -> Results:
    """Return the results of some rows, in the order in which they are named, of all where none is."""
    known = dict.fromkeys(row for row, _, _ in results.expected)
    for row in rows:
        if row not in known:
            raise UserError(f"--row={row}: there is no such row{suggest(row, known)}")
    if not rows:
        return results
    expected = sorted((each for each in results.expected if each[0] in rows), key=lambda each: rows.index(each[0]))
    runs = sorted((run for run in results.runs if run.row in rows), key=lambda run: rows.index(run.row))
    return dataclasses.replace(results, expected=tuple(expected), runs=tuple(runs))
