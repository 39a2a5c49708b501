"""How far a long step is, and how long it will still take."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress

Item = TypeVar("Item")

LINE_SECONDS = 15.0
"""Seconds between lines where there is no terminal to draw a bar on."""


def track(items: Iterable[Item], description: str, total: int, start: int = 0) -> Iterator[Item]:
    """Yield `items`, the first of which is number `start` of `total`, and show progress on standard error."""
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        yield from _lines(items, description, total, start)
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total, completed=start)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[Item], description: str, total: int, start: int) -> Iterator[Item]:
    began = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= LINE_SECONDS:
            left = (now - began) / done * (total - start - done)
            print(f"{description}: {start + done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)
            said = now
