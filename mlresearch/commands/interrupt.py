"""Ctrl-C and SIGTERM."""

import signal
import sys
from collections.abc import Callable
from typing import Any


def stop_on_signal() -> Callable[[], bool]:
    """Return whether Ctrl-C or SIGTERM came: the first asks to stop after the step, the second stops at once.

    Stopping in the middle of a step, or while a checkpoint is being written, would lose what the first stop keeps.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return lambda: bool(asked)
