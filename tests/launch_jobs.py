"""What the launchers' tests let other processes do, and a launcher that a test may kill."""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from mlresearch.launch import Local


def log_interval(path, name, seconds, *, stop):
    """Note when the call began and ended; the clock is the same for all processes."""
    began = time.monotonic()
    time.sleep(seconds)
    with Path(path).open("a") as file:
        file.write(f"{name} {began} {time.monotonic()}\n")


def fare(fate, *, stop):
    """Raise, be killed as by a lack of memory, or return."""
    print("about to", fate, flush=True)
    if fate == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate != "work":
        raise ArithmeticError(fate)


def tell_devices(path, *, stop):
    """Write what the process may use."""
    facts = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "XLA_CLIENT_MEM_FRACTION")}
    facts["cores"] = sorted(os.sched_getaffinity(0))
    Path(path).write_text(json.dumps(facts))
    time.sleep(1)  # so that the places are all taken at once


def count(folder, heeds, *, stop):
    """Count until the folder holds a file ``enough``; keep the count when asked to stop, and go on from it.

    heeds: whether it asks. ``starts`` has a line for each beginning, and nobody else may count in the folder meanwhile.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept = folder / "count"
        number = int(kept.read_text()) if kept.exists() else 0
        with (folder / "starts").open("a") as file:
            file.write(f"{number}\n")
        while not (folder / "enough").exists():
            time.sleep(0.05)
            number += 1
            if heeds and stop():
                kept.write_text(str(number))
                raise KeyboardInterrupt
        kept.write_text(str(number))


def main(folder, heeds, patience_s):
    """Count twice at once in `folder`; Ctrl-C and SIGTERM ask to stop."""
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: asked.append(number))
    work = {name: (f"{folder}/{name}", heeds == "True") for name in ("first", "second")}
    for tasks in Local(workers=2, patience_s=int(patience_s)).launch(
        count, work, Path(folder, "logs"), lambda: bool(asked)
    ):
        print(*(task.state for task in tasks), flush=True)
    return 0 if all(task.state == "done" for task in tasks) else 1


if __name__ == "__main__":
    import launch_jobs  # under the name by which the processes find it

    try:
        sys.exit(launch_jobs.main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
