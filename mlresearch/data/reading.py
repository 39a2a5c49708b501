"""Files as bytes, text, lines and rows, with errors that name file and line."""

import codecs
import collections
import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mlresearch.errors import UserError, quote

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
MAX_CELL = 2**31 - 1  # characters; the csv module's own limit, 131,072, is no long text
MAX_DIGITS = 400  # of a number; the largest float64 has 309
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
CSV_ERRORS = {
    "unexpected end of data": "a quote that opens in this row is never closed",
    "new-line character seen in unquoted field": "a carriage return within a row; lines end in LF or CRLF",
}


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


def read_fields(path: Path, num_fields: int) -> Iterator[tuple[str, list[str]]]:
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


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file, numbered from 1, with their ends but without a byte order mark."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode()
                except UnicodeDecodeError as error:
                    where = f"{path}, line {number}, byte {error.start + 1}"
                    raise UserError(f"{where}: this is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, and the line of each; blank lines are skipped."""
    for number, line in read_lines(path):
        if line.strip(" \t\r\n"):
            yield number, parse_json(line, f"{path}, line {number}")


def parse_json(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line; anything else, or what leaves its meaning open, is a `UserError`."""
    try:
        row = _DECODER.decode(line)
        if SURROGATE.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no JSON at character {error.pos + 1} ({error.msg})") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: half of a surrogate pair, \\ud800 to \\udfff, is no character") from None
    except RecursionError:
        raise UserError(f"{where}: lists or objects are nested too deeply") from None
    except ValueError as error:  # of the functions that _DECODER calls
        raise UserError(f"{where}: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row is a JSON object, {{...}}, not {quote(line.strip())}")
    return row


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        [(repeated, _)] = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {quote(repeated)} stands twice in one object")
    return row


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {quote(digits)} is too large")
    return number


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {quote(digits)} is too large")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON; write null for what is missing")


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_float=_float, parse_int=_int, parse_constant=_constant)


def read_csv(path: Path, format: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the first line of each row of a CSV or TSV file below its header, and its cells by column, all strings."""
    csv.field_size_limit(MAX_CELL)
    if format == "csv":
        reader = csv.reader(_lines_without_nul(path), strict=True)
    else:
        reader = csv.reader(_lines_without_nul(path), strict=True, delimiter="\t", quoting=csv.QUOTE_NONE)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{path}, line {line}: {CSV_ERRORS.get(str(error).partition(' - ')[0], error)}") from None
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = cells
            for place, name in enumerate(header):
                if name in header[:place]:
                    raise UserError(f"{path}, line {line}: two columns are named {quote(name)}")
        elif len(cells) != len(header):
            raise UserError(f"{path}, line {line}: a row of {len(cells)} cells, where the header has {len(header)}")
        else:
            yield line, dict(zip(header, cells, strict=True))
    if header is None:
        raise UserError(f"{path} is empty; its first line must be a header")


def _lines_without_nul(path: Path) -> Iterator[str]:
    for number, line in read_lines(path):
        if "\0" in line:
            raise UserError(f"{path}, line {number}: a NUL character; is this a text in UTF-8?")
        yield line
