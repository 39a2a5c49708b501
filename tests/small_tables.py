"""Made-up records, results and studies, and what to read off tables of them."""

import json
from pathlib import Path

from mlresearch.study import Study
from mlresearch.tables import Table
from mlresearch.tables.results import Result, Results
from mlresearch.tables.tabulate import tabulate

ACCURACY, LOSS = "test.mode.subset_accuracy", "test.mode.hamming_loss"


def make_record(seed=0, data="tiny/paths", **changes):
    """A run record of which metrics are given by place, `code` and `fingerprint` by name, and all else is plausible."""
    metrics = {
        "test": {
            "mode": {"subset_accuracy": 0.5, "hamming_loss": 0.1, "num_labels_absent": 2.0},
            "ranking": {"precision_at_1": 0.7},
            "loss": {"mean": None},
        },
        "validation": {"mode": {"subset_accuracy": 0.5}},
    }
    record = {
        "status": changes.pop("status", "finished"),
        "name": changes.pop("name", "bag+linear+independent"),
        "code_hash": changes.pop("code", "c0de" * 16),
        "seed": seed,
        "data": {"name": data, "fingerprint": changes.pop("fingerprint", f"print of {data}"), "notes": {}},
        "inputs": {},
        "examples": {"train": 60, "validation": 20, "test": 30},
        "label_space": {"hash": "1ab5", "num_labels": 9},
        "num_parameters": 120,
        "num_steps": 7,
        "mode_is_exact": changes.pop("mode_is_exact", True),
        "seconds": {"train": 2.5, "evaluate": 0.5},
        "metrics": metrics,
    }
    for place, value in changes.items():
        split, group, metric = place.split(".")
        metrics[split].setdefault(group, {})[metric] = value
    return record


def make_results(values, place=ACCURACY, data="tiny/paths", expected=None, **changes):
    """Results of rows, each a list of numbers by seed or a dictionary of them."""
    rows = {name: row if isinstance(row, dict) else dict(enumerate(row)) for name, row in values.items()}
    runs = [
        Result(name, make_record(seed, data, **{place: value}, **changes), Path(f"{name}-{seed}.json"))
        for name, row in rows.items()
        for seed, value in row.items()
    ]
    wanted = [(run.row, run.data, run.seed) for run in runs] if expected is None else expected
    return Results("study", tuple(wanted), tuple(runs))


def only_sheet(results, table=None, **options):
    [sheet] = tabulate(results, table or Table(columns=[ACCURACY]), **options)
    return sheet


def cells_of(sheet):
    """The cells of the first column, by row."""
    return {row.name: row.cells[0] for row in sheet.rows}


def notes_of(sheet):
    return "\n".join(sheet.notes)


SWEEP = '''"""Does it matter?"""

from mlresearch.tables import Table
from mlresearch.study import cross, grid, seeds

CONFIG = "{config}"


def runs():
    yield from cross(grid({{"head.name": ["independent", "conditional"]}}), seeds({seeds}))


TABLE = Table(columns=["test.mode.subset_accuracy"], baseline="independent", {table})
'''

CONFIG = """
from mlresearch.config import base_config

def get_config():
    config = base_config()
    config.data.name = "tiny/paths"
    return config
"""


def write_study(folder, seeds=8, table="", code="c0de" * 16):
    """A study's folder with all its records: `conditional` better by 0.1 in all seeds."""
    folder.mkdir()
    (folder / "config.py").write_text(CONFIG)
    (folder / "sweep.py").write_text(SWEEP.format(config=folder / "config.py", seeds=seeds, table=table))
    study = Study.load(folder)
    (folder / "records").mkdir()
    for run in study.runs:
        value = 0.5 + 0.01 * run.seed + 0.1 * (run.row == "conditional")
        keys = {"run_id": run.run_id("p"), "config_hash": run.config_hash, "overrides": run.overrides, "row": run.row}
        content = json.dumps(make_record(run.seed, code=code, **{ACCURACY: value}) | keys)
        (folder / "records" / f"{run.run_id('p')}.json").write_text(content)
    return study
