"""`make bench-peers`: our speed and torchTextClassifiers', measured one after the other, and their ratios.

It is installed in an environment of its own, ``runs/bench-peers``, the first time; nothing else needs it. Both sides
read the same made texts (`experiments.bench.texts`), and are measured in processes of their own: once with the threads
that they choose, and once on one core, where no thread spins while it waits for another. Linux alone pins processes.
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path("runs/bench-peers")
PACKAGES = (
    "torchtextclassifiers==2.0.0",
    "scikit-learn==1.9.1",  # which it imports, but does not ask for
    "torch==2.13.0",
)
MODELS = ("bag", "text_transformer")
FORMS = ("shipped", "float32", "loop")
MEASURES = ("training", "inference")
MEMORY_GOAL = 600  # megabytes, of bag


def install() -> Path:
    """Return the Python of the peers' environment, made if need be; ends with a sentence where that fails."""
    python = (FOLDER / "bin" / "python").absolute()
    done = FOLDER / "installed.json"
    if done.exists() and json.loads(done.read_text()) == list(PACKAGES):
        return python
    print(f"installing {', '.join(PACKAGES)} in {FOLDER}", flush=True)
    venv.create(FOLDER, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        sys.exit(f"torchTextClassifiers could not be installed in {FOLDER}, which takes a package index: {reason}")
    done.write_text(json.dumps(list(PACKAGES)))
    return python


def measure(python: str | Path, module: str, *arguments: str, cores: set[int]) -> dict[str, float]:
    """Run a module on some cores in a process of its own and return the numbers that it prints last."""
    ran = subprocess.run(
        [str(python), "-m", f"experiments.bench.{module}", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        sys.exit(f"{module} {' '.join(arguments)} failed: {reason}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure everything and print a table."""
    peer = install()
    every = os.sched_getaffinity(0)
    for cores in (every, {min(every)}) if len(every) > 1 else (every,):
        title = "all cores" if cores == every else "one core"
        print(f"\nsamples a CPU-second, {title} ({len(cores)})\n")
        print(f"{'model':18} {'':34} {'training':>10} {'inference':>10} {'peak MB':>8}")
        for model in MODELS:
            rows = {}
            for form in FORMS:
                rows[form] = measure(peer, "torch_text_classifiers", model, form, cores=cores)
                print(line(model, f"torchTextClassifiers, {form}", rows[form]), flush=True)
            best = {name: max(row[name] for row in rows.values()) for name in MEASURES}
            for dropout in ("0.1", "0.0"):  # the peer has none
                ours = measure(sys.executable, "throughput", model, dropout, cores=cores)
                print(line(model, f"mlresearch, dropout {dropout}", ours), flush=True)
                ratios = "".join(f" {ours[name] / best[name]:9.2f}×" for name in MEASURES)
                over = " over the goal" if model == "bag" and ours["megabytes"] > MEMORY_GOAL else ""
                print(f"{'':18} {'  to the best of the above':34}{ratios} {over}", flush=True)


def line(model: str, name: str, row: dict[str, float]) -> str:
    """Return a line of the table."""
    return f"{model:18} {name:34} {row['training']:10,.0f} {row['inference']:10,.0f} {row['megabytes']:8,.0f}"


if __name__ == "__main__":
    main()
