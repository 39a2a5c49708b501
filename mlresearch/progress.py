"""How far a long step is, and how long it will still take."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress

Item = TypeVar("Item")

LINE_SECONDS = 15.0
"""Seconds between lines where there is no terminal to draw a bar on."""


class Bar:
    """Progress on standard error: a bar on a terminal, else a line every `LINE_SECONDS`."""

    def __init__(self, description: str, total: int, start: int = 0) -> None:
        self._description, self._total, self._start, self._done = description, total, start, 0
        self._began = self._said = time.monotonic()
        console = rich.console.Console(stderr=True)
        self._progress = None
        if console.is_terminal:
            columns = (
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
                rich.progress.TextColumn("left"),
                rich.progress.TimeRemainingColumn(),
            )
            self._progress = rich.progress.Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task(description, total=total, completed=start)
            self._progress.start()

    def advance(self, count: int) -> None:
        """Say that `count` more are done."""
        self._done += count
        if self._progress is not None:
            self._progress.advance(self._task, count)
            return
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            at = self._start + self._done
            left = (now - self._began) / self._done * (self._total - at)
            print(f"{self._description}: {at}/{self._total}, {left:.0f} s left", file=sys.stderr, flush=True)
            self._said = now

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()


def track(items: Iterable[Item], description: str, total: int, start: int = 0) -> Iterator[Item]:
    """Yield `items`, the first of which is number `start` of `total`, and show progress on standard error."""
    with contextlib.closing(Bar(description, total, start)) as bar:
        for item in items:
            yield item
            bar.advance(1)
