"""The one exception whose message is written for the person who ran the command."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: the message says what was wrong, where, and what to do.

    Commands print the message without a traceback and exit with status 2.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, else the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
