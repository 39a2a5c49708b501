"""Upstream files as bytes, text and rows, with errors that name file and line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlresearch.errors import UserError

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; a `UserError` says why there is none."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL within the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path} cannot be read: {reason}") from None


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Return the content of a file, with line feeds for line ends; a byte that is no text is a `UserError`."""
    content = read_bytes(path)
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not {encoding.removesuffix('-sig').upper()} text") from None


def read_rows(path: Path, num_fields: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of each row of a tab-separated file ("FILE, line 3") and its fields, none of them empty."""
    lines = read_text(path).split("\n")
    if not lines[-1]:
        del lines[-1]
    # Only a line feed ends a row: texts hold other characters that Unicode counts as line ends.
    for number, line in enumerate(lines, 1):
        where, fields = f"{path}, line {number}", line.split("\t")
        if len(fields) != num_fields:
            raise UserError(f"{where}: {len(fields)} fields between tabs, expected {num_fields}")
        if not all(field.strip() for field in fields):
            empty = next(place for place, field in enumerate(fields, 1) if not field.strip())
            raise UserError(f"{where}: field {empty} is empty")
        yield where, fields
