"""What large pages that are kept are worth: the same training steps in processes with them and without, in turn."""

import json
import os
import statistics
import subprocess
import sys

from configs.hmc import get_config
from experiments.bench.constraints import FUNCAT_LEVELS, GO_LEVELS, GO_SECOND_PARENTS, random_hierarchy
from experiments.bench.replicas import runner
from mlresearch.allocator import VARIABLE, settings
from mlresearch.config import resolve

CASES = (("cellcycle_FUN", 1), ("cellcycle_FUN", 10), ("cellcycle_GO", 1))
"""Settings by `configs.hmc`, and runs in one program; the head `conditional`."""

CHUNK = 20
REPEATS = 2


def bench_pages() -> None:
    """Print milliseconds a step and a run without and with, and their ratio."""
    without, with_ = zip(*[(_measured(""), _measured(settings())) for _ in range(REPEATS)], strict=True)
    print(
        f"large pages, kept: ms a step and a run\n{'settings':14} {'runs':>5} {'without':>9} {'with':>9} {'ratio':>6}"
    )
    for (name, count), *taken in zip(CASES, zip(*without, strict=True), zip(*with_, strict=True), strict=True):
        before, after = (1e3 * statistics.mean(values) / count for values in taken)
        print(f"{name:14} {count:5} {before:9.2f} {after:9.2f} {before / after:6.2f}", flush=True)
    print()


def _measured(tunables: str) -> list[float]:
    """Return the seconds a step of each case, measured by a process of its own."""
    command = [sys.executable, "-m", "experiments.bench.pages"]
    answer = subprocess.run(command, env=os.environ | {VARIABLE: tunables}, capture_output=True, text=True, check=True)
    taken: list[float] = json.loads(answer.stdout)
    return taken


def _take() -> list[float]:
    hierarchies = {"FUN": random_hierarchy(FUNCAT_LEVELS, 0.0), "GO": random_hierarchy(GO_LEVELS, GO_SECOND_PARENTS)}
    taken = []
    for name, count in CASES:
        config = get_config(name)
        config.model.prior = False  # there are no training labels to begin with
        hierarchy = hierarchies[name.partition("_")[2]]
        taken.append(runner(resolve(config), hierarchy.num_labels, hierarchy, count, CHUNK)())
    return taken


if __name__ == "__main__":
    print(json.dumps(_take()))
