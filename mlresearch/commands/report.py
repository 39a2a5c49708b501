"""The page of a run or of a study."""

from pathlib import Path

from absl import flags

from mlresearch.commands.arguments import parse, refuse_idle
from mlresearch.definitions import SPLITS
from mlresearch.errors import UserError
from mlresearch.figures import of_runs
from mlresearch.figures.drawing import KINDS
from mlresearch.report.figures import page_figures
from mlresearch.report.page import write
from mlresearch.report.run import gather, run_page
from mlresearch.report.study import study_page
from mlresearch.study import Study
from mlresearch.sweep import WORKDIR
from mlresearch.tables import Table
from mlresearch.tables.outcomes import OutcomeReader
from mlresearch.tables.results import read_runs, read_study
from mlresearch.tables.tabulate import FAULTS, tabulate


def run(argv: list[str]) -> int:
    """Write the page of a run or of a study, and print its path."""
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "The file to write; report.html where runs lie.", flag_values=values)
    flags.DEFINE_enum("split", "test", list(SPLITS), "Of a run: whose examples and scores.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The folder of a study's runs, if not runs/STUDY.", flag_values=values)
    words = parse(values, argv)
    if len(words) != 1:
        raise UserError("name the folder of one run or study, such as runs/terms or experiments/demo")
    if values.output is not None and (not Path(values.output).parent.is_dir() or Path(values.output).is_dir()):
        raise UserError(f"--output={values.output} is no file in a folder that there is")

    folder = Path(words[0])
    if (folder / "sweep.py").exists():
        refuse_idle(values, ["split"], "goes with a run")
        study = Study.load(folder)
        where = Path(values.workdir or WORKDIR / study.name)
        results = read_study(study, where)
        sheets = tabulate(results, study.table, tuple(FAULTS), OutcomeReader().of)
        page = study_page(study, results, sheets, where, figures=page_figures(results, study.table, KINDS))
        where.mkdir(parents=True, exist_ok=True)
    else:
        refuse_idle(values, ["workdir"], f"goes with a study, and {folder} holds none")
        material = gather(folder, values.split)
        where, page = folder, run_page(material, page_figures(read_runs([folder]), Table(), of_runs.KINDS))
    path = Path(values.output or where / "report.html")
    write(page, path)
    print(path)
    return 0
