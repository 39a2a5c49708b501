"""A study made anew, its table compared with the committed records, and the page of it."""

from absl import flags

from mlresearch.commands.sweep import define_sweep, parse_study, run_sweep, sweep_folder
from mlresearch.errors import UserError
from mlresearch.figures.drawing import KINDS
from mlresearch.report.figures import page_figures
from mlresearch.report.page import write
from mlresearch.report.study import study_page
from mlresearch.sweep import plan
from mlresearch.tables.agreement import compare
from mlresearch.tables.results import read_study
from mlresearch.tables.tabulate import FAULTS, tabulate
from mlresearch.tables.typeset import FORMATS


def run(argv: list[str]) -> int:
    """Make a study anew, compare its table with the committed records, and write its page.

    The exit status is 1 where the numbers differ.
    """
    values = flags.FlagValues()
    define_sweep(values)
    study = parse_study(values, argv)

    if not study.runs or not any(study.records.glob("*.json")):
        raise UserError(
            f"{study.records} holds no records to compare with: 'mlresearch sweep {study.folder}' makes them"
        )
    folder = sweep_folder(values, study)
    records = folder / "records"
    failed = run_sweep(values, study, plan(study, folder, records))
    made, committed = read_study(study, folder, records), read_study(study, folder)
    sheets = tabulate(made, study.table, tuple(FAULTS))
    print(FORMATS["markdown"](sheets).rstrip("\n"))
    lines = compare(made, committed, study.table)
    apart = [line for line in lines if not line.within]
    for line in apart:
        print(line)
    verdict = (
        f"{len(lines) - len(apart)} of {len(lines)} numbers agree with {study.records}, to within their tolerance or "
        "two standard errors, whichever is more"
    )
    path = folder / "report.html"
    figures = page_figures(made, study.table, KINDS)
    write(study_page(study, made, sheets, folder, [verdict, *map(str, apart)], figures), path)
    print(f"\n{verdict}\n\nThe page of all this: {path}")
    return 1 if failed or apart else 0
