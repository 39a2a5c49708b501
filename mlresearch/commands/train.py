"""Train, evaluate and record one run."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from mlresearch.baselines import train_baseline
from mlresearch.commands.arguments import define_workdir, read_workdir
from mlresearch.commands.config_arguments import names_config, parse_config
from mlresearch.commands.interrupt import stop_on_signal
from mlresearch.config import check_acting, replicas, resolve
from mlresearch.definitions import title
from mlresearch.errors import UserError
from mlresearch.tables import COLUMNS
from mlresearch.tables.results import Result
from mlresearch.tables.typeset import aligned
from mlresearch.train import train_replicas
from mlresearch.workdir import finished_record


def run(argv: list[str]) -> int:
    """Train, evaluate and record one run."""
    values = flags.FlagValues()
    define_workdir(values)
    config, given, _ = parse_config(values, argv)
    if not names_config(argv):
        raise UserError("--config is missing: name a config file, such as --config=configs/icd10cm_terms.py")

    check_acting(config, given)

    workdir, resolved = read_workdir(values), resolve(config)
    finished = all(finished_record(workdir / name) is not None for name, _ in replicas(resolved))
    if "baseline" in resolved:
        records = [train_baseline(resolved, workdir)]
    else:
        records = train_replicas(config, workdir, stop=stop_on_signal())
    if finished:
        print(f"{workdir}: the run was finished before; nothing was done", file=sys.stderr)
    print(aligned([row(record) for record in records]))
    for remark in dict.fromkeys(remark for record in records for remark in record.get("remarks", [])):
        print(remark)
    return 0


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
