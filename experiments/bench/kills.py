"""What ``kill -9`` costs a sweep: ``python -m experiments.bench.kills [launcher] [seed]``, launcher inline or local.

A small study is swept undisturbed, and again while its launcher is killed at random moments and started again, until
it was killed ten times; local workers are killed with it every other time. A sweep that ends before is compared, and
another one begun. Printed are what each kill lost, in steps that were logged and in seconds since the last checkpoint,
and whether all sweeps made the same records and the same table.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlresearch.config import flatten

KILLS = 10
CHECKPOINT_SECONDS = 3.0

CONFIG = f"""
from mlresearch.config import base_config

def get_config():
    config = base_config()
    config.data.name = "synthetic/features"
    config.data.synthetic.num_train = 5000
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 128
    config.train.num_epochs = 120.0
    config.train.log_every_steps = 50
    config.train.checkpoint_every_seconds = {CHECKPOINT_SECONDS}
    return config
"""

SWEEP = '''
"""Does a killed sweep end like an undisturbed one?"""

from mlresearch.study import ablate, cross, grid, seeds

CONFIG = "{config}"

def runs():
    last = cross([{{"head.name": "independent"}}], grid({{"optim.learning_rate": [1e-3, 3e-3]}}), seeds(2))
    chosen = {{"evaluate.every_epochs": 20.0, "train.select": "mode.micro_f1", "train.refit": True}}
    yield from last
    yield from cross([chosen | {{"head.name": "conditional"}}], seeds(2))
'''


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One study, its folder and that of its runs, and how it is launched."""

    root: Path
    launcher: str

    def write(self) -> None:
        """Write the study."""
        (self.root / "study").mkdir(parents=True)
        (self.root / "config.py").write_text(CONFIG)
        (self.root / "study" / "sweep.py").write_text(SWEEP.format(config=self.root / "config.py"))

    def start(self) -> subprocess.Popen[bytes]:
        """Launch it, in a session of its own, that can be killed as a whole."""
        words = ["sweep", f"{self.root}/study", f"--workdir={self.root}/runs", f"--launcher={self.launcher}"]
        command = [sys.executable, "-c", "from mlresearch.cli import run; run()", *words]
        environment = os.environ | {"MLRESEARCH_DATA_DIR": str(self.root.parent / "data")}
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints of its runs."""
        return [path for path in self.root.glob("runs/*/*checkpoints/*") if path.name.isdigit()]

    def records(self) -> dict[str, dict[str, float]]:
        """The metrics of its records, by run id and then by place."""
        found = [json.loads(path.read_text()) for path in (self.root / "study" / "records").glob("*.json")]
        return {
            record["run_id"]: {place: value for place, value in flatten(record["metrics"]).items() if value is not None}
            for record in found
        }

    def table(self) -> str:
        """Its table."""
        command = [sys.executable, "-c", "from mlresearch.cli import run; run()", "table", f"{self.root}/study"]
        return subprocess.run([*command, "--format=csv"], capture_output=True, text=True, check=True).stdout

    def lost(self, since: float, until: float) -> list[str]:
        """Say what runs lost that took steps in a launch, by the seconds when it began and when it was killed."""
        lines = []
        for log in sorted(self.root.glob("runs/*/*metrics.jsonl")):
            logged = [
                json.loads(line)["step"] for line in log.read_text().splitlines(keepends=True) if line[-1] == "\n"
            ]
            status = json.loads((log.parent / "run.json").read_text())["status"]
            if log.stat().st_mtime < since or not logged or status != "running":
                continue
            phase = log.name.removesuffix("metrics.jsonl")
            kept = [path for path in self.checkpoints() if path.parent == log.parent / f"{phase}checkpoints"]
            if phase == "" and (log.parent / "refit_metrics.jsonl").exists():
                continue
            step = max([int(path.name) for path in kept], default=0)
            saved = max([path.stat().st_mtime for path in kept], default=0.0)
            ago = f"{until - saved:.1f} s since its checkpoint" if saved > since else "no checkpoint since its start"
            lines.append(
                f"{log.parent.name} at {phase}{max(logged)}, kept {step}: {max(max(logged) - step, 0)} steps, {ago}"
            )
        return lines


def main(launcher: str = "inline", seed: str = "0") -> None:
    """Sweep undisturbed, and disturbed until it was killed `KILLS` times, and compare."""
    rng = random.Random(int(seed))
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    whole = Sweep(root / "whole", launcher)
    whole.write()
    began = time.time()
    process = whole.start()
    while not whole.checkpoints() and process.poll() is None:
        time.sleep(0.05)
    first = time.time() - began
    assert process.wait() == 0, (whole.root / "log").read_text()
    print(f"undisturbed, {launcher}: {time.time() - began:.0f} s, the first checkpoint after {first:.0f} s", flush=True)

    kills = 0
    while kills < KILLS:
        killed = Sweep(root / f"killed after {kills}", launcher)
        killed.write()
        while kills < KILLS and kill(killed, rng.uniform(0, 1.5 * first), alone=launcher == "local" and kills % 2 == 1):
            kills += 1
        assert killed.start().wait() == 0, (killed.root / "log").read_text()
        print(f"left to end, after {kills} kills in all")
        one, other = whole.records(), killed.records()
        assert one.keys() == other.keys()
        print(f"{sum(one[run] == other[run] for run in one)} of {len(one)} records have the same metrics, bit for bit")
        apart = [abs(one[run][place] - other[run][place]) for run in one for place in one[run]]
        print(f"the largest difference of any of {len(apart)} numbers is {max(apart):.2g}")
        print(f"the tables are {'the same' if whole.table() == killed.table() else 'not the same'}", flush=True)
    shutil.rmtree(root)


def kill(sweep: Sweep, after: float, *, alone: bool) -> bool:
    """Launch a sweep and kill it so many seconds later, its launcher alone or all; False where it ended before."""
    began = time.time()
    process = sweep.start()
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = time.time()
    print(f"killed{', the launcher alone,' * alone} after {ended - began:.1f} s", flush=True)
    for line in sweep.lost(began, ended):
        print(f"  {line}")
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
