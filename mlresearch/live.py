"""How far a sweep is, on the terminal: runs done, running and failed, the time left, the best so far."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.live
import rich.markup
import rich.table
import rich.text

from mlresearch.definitions import direction, title
from mlresearch.sweep import Failure, PlannedRun, done_runs
from mlresearch.workdir import checkpoint_steps

LINE_SECONDS = 15.0
"""Seconds between lines where there is no terminal to draw on."""

MOST_ROWS = 12
"""Running runs that are listed."""


class Live:
    """Shows where the runs of a sweep stand.

    place: where in a record the number stands that "best" is of.

    draw: redraw in place on a terminal; else, and elsewhere, a line now and then.
    """

    def __init__(self, planned: Sequence[PlannedRun], place: str, *, draw: bool) -> None:
        self._planned = planned
        self._place = place
        self._began = self._said = time.monotonic()
        done = {run.run_id for run in done_runs(planned)}
        self._before = {run.run_id: _kept(run) for run in planned if run.run_id not in done}
        console = rich.console.Console(stderr=True)
        self._live = rich.live.Live(console=console, auto_refresh=False) if draw and console.is_terminal else None
        if self._live is not None:
            self._live.start()

    def show(self, failures: Sequence[Failure]) -> None:
        """Look at the runs' folders and draw; failures: those of this launch."""
        now = time.monotonic()
        if self._live is None and now - self._said < LINE_SECONDS:
            return
        self._said = now
        done = done_runs(self._planned)
        over = {run.run_id for run in done} | {failure.run.run_id for failure in failures}
        left = [run for run in self._planned if run.run_id not in over]
        running = [run for run in left if run.is_held]
        steps = {run.run_id: _progress(run) for run in running}
        line = (
            f"{len(done)} of {len(self._planned)} runs done, {len(running)} running"
            + (f", {len(failures)} failed" if failures else "")
            + self._left(done, left, {run_id: step / max(of, 1) for run_id, (step, of) in steps.items()})
            + self._best(done)
        )
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
            return
        table = rich.table.Table(box=None, pad_edge=False, show_header=False)
        for run in running[:MOST_ROWS]:
            step, last = steps[run.run_id]
            bar = "━" * round(20 * step / max(last, 1))
            name = rich.markup.escape(f"{run.run.data}  {run.run.row}  seed {run.run.seed}")
            table.add_row(name, f"{bar:20}", f"{step}/{last}" if last else "preparing")
        if len(running) > MOST_ROWS:
            table.add_row(f"and {len(running) - MOST_ROWS} more")
        self._live.update(rich.console.Group(table, rich.text.Text(line)), refresh=True)

    def _left(self, done: Sequence[PlannedRun], left: Sequence[PlannedRun], shares: dict[str, float]) -> str:
        """Return the time for what is left at the pace so far; shares: of their steps that running runs have taken."""
        finished = {run.run_id: 1.0 for run in done if run.run_id in self._before}
        made = sum(share - self._before[run_id] for run_id, share in (finished | shares).items())
        rest = len(left) - sum(shares.values())
        if made < 0.02 or rest <= 0:
            return ""
        seconds = (time.monotonic() - self._began) / made * rest
        return f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"

    def _best(self, done: Sequence[PlannedRun]) -> str:
        """Return the best finished run by validation."""
        if not direction(self._place):
            return ""
        split, _, rest = self._place.partition(".")
        group, _, metric = rest.partition(".")
        values = []
        for run in done:
            numbers = json.loads(run.record_file.read_text())["metrics"].get(split, {}).get(group, {})
            if numbers.get(metric) is not None:
                values.append((direction(self._place) * numbers[metric], f"{run.run.data} {run.run.row}"))
        if not values:
            return ""
        value, name = max(values)
        return f"; best {title(self._place)} {direction(self._place) * value:.4f}: {name}"

    def close(self) -> None:
        """Leave what is drawn where it is."""
        if self._live is not None:
            self._live.stop()


def _progress(run: PlannedRun) -> tuple[int, int]:
    """Return the step that a run has logged last and how many it takes, 0 while that is not known."""
    try:
        steps = int(json.loads((run.folder / "run.json").read_text())["num_steps"] or 0)
        return _last_step(run.folder / "metrics.jsonl"), steps
    except (OSError, ValueError, KeyError):
        return 0, 0


def _kept(run: PlannedRun) -> float:
    """Return the share of a run's steps from which it will go on."""
    _, steps = _progress(run)
    return min(max(checkpoint_steps(run.folder), default=0) / max(steps, 1), 1.0)


def _last_step(path: Path) -> int:
    """Return the step of the last whole line of a log."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        lines = file.read().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"}\n") and line.startswith(b"{")]
    return int(json.loads(whole[-1])["step"]) if whole else 0
