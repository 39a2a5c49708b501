"""The one exception whose message is written for the person who ran the command."""

import difflib
from collections.abc import Iterable

MAX_QUOTED = 60  # characters


class UserError(Exception):
    """A mistake in what the user gave: the message says what was wrong, where, and what to do.

    Commands print the message without a traceback and exit with status 2.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def quote(value: object) -> str:
    """Return how a message shows a value from outside: as Python writes it, cut to what fits a line."""
    if isinstance(value, str):
        return repr(value if len(value) <= MAX_QUOTED else value[: MAX_QUOTED - 3] + "...")
    if isinstance(value, int) and abs(value) >= 10**50:
        return f"an integer of {value.bit_length()} bits"
    return repr(value) if isinstance(value, int | float | None) else type(value).__name__
