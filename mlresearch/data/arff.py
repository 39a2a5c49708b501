r"""ARFF, the attribute-relation file format, dense and sparse: read into one float matrix, with what each column means.

Source: Witten, Frank, Hall and Pal, "Data Mining: Practical Machine Learning Tools and Techniques", 4th ed., 2016,
section 2.4. Files in use stray from it, and so:

- Bytes are UTF-8, with or without a byte order mark, else Latin-1. Lines end in LF, CR LF or CR. Control characters
  but the tab are refused. Keywords are in any case.
- A comment is a line that begins with ``%``, or what follows a whole declaration after ``%``. Within a name, ``%`` is a
  letter (gasch2 has such names).
- Names and values may stand in single or double quotes, where a backslash takes the next character as it is (``\n``,
  ``\t`` and ``\r`` are a line feed, a tab and a return). Unquoted ``?`` is a missing value.
- Values of a row are separated by commas; by tabs in a row that holds no comma. In a sparse row ``{index value, ...}``
  what is left out is 0, the first value of a nominal attribute, or a missing string.
- An attribute name that stood before becomes ``name (2)``, and so on: see `Arff.renamed`.
- Numbers are finite in float32: ``nan``, ``inf`` and ``1e999`` are refused. So are weights ``{w}`` after a row, since
  nothing here would weigh by them, and attributes of the type ``relational``.
- ``hierarchical a,a/b,...`` (Clus) is a type whose entries are kept as they are, and its cells as texts.

All that is malformed is a `UserError` that begins with ``FILE, line N:``. Time is linear in the size of the file and of
the matrix.
"""

import array
import codecs
import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from mlresearch.data import SPLITS
from mlresearch.data.reading import LARGEST_FLOAT32, read_bytes
from mlresearch.errors import UserError, quote

Kind = Literal["numeric", "nominal", "string", "hierarchical"]

TYPES: Mapping[str, Kind] = {
    "numeric": "numeric",
    "real": "numeric",
    "integer": "numeric",
    "string": "string",
    "date": "string",
    "hierarchical": "hierarchical",
}
MAX_CELLS = 2**31  # 8 GiB in float32: a longer sparse file would rather fill the memory than end
BLANK = " \t"
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

# Possessive quantifiers (++, *+) never give back what they took, so that no input takes more than linear time.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
QUOTED = r"""'(?P<single>(?:[^'\\]++|\\.)*+)'|"(?P<double>(?:[^"\\]++|\\.)*+)\""""
ANY_QUOTED = re.compile(QUOTED)
WORD = re.compile(rf"(?:{QUOTED}|(?P<plain>(?!['\"])[^ \t{{]++))[ \t]*+")


def _value(before: str, ends: str) -> re.Pattern[str]:
    """Pattern of `before` and a value, up to one of the characters `ends` or the end of the line."""
    plain = rf"(?P<plain>(?!['\"])[^{ends}]*+)"
    blank = " " if "\t" in ends else BLANK
    return re.compile(rf"[{blank}]*+{before}(?:{QUOTED}|{plain})[{blank}]*+(?P<end>[{ends}]|\Z)")


DOMAIN_VALUE = _value("", ",}")
COMMA_VALUE = _value("", ",")
TAB_VALUE = _value("", "\t")
SPARSE_VALUE = _value(r"(?P<index>[^ \t,}]++)[ \t]++", ",}")


@dataclasses.dataclass(frozen=True)
class Attribute:
    """A column: its name, made distinct, its type, and the line that declares it.

    declared: the name as the file has it. values: the domain of a nominal attribute, the entries of a hierarchical one.
    """

    name: str
    declared: str
    kind: Kind
    values: tuple[str, ...]
    line: int

    @property
    def is_binary(self) -> bool:
        """Whether it is nominal with the values 0 and 1."""
        return self.kind == "nominal" and sorted(self.values) == ["0", "1"]


@dataclasses.dataclass(frozen=True, eq=False)
class Arff:
    """What an ARFF file holds.

    cells: float32 [rows, attributes]: a number, or the position of a nominal value in its domain; NaN where the value
    is missing and throughout the columns of strings and of hierarchical attributes, whose texts (None = missing) are in
    `texts`, by the position of the attribute. relation_line, lines: the line of the relation, and int64 [rows] those of
    the rows.
    """

    path: Path
    relation: str
    relation_line: int
    attributes: tuple[Attribute, ...]
    cells: np.ndarray
    texts: Mapping[int, Sequence[str | None]]
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def renamed(self) -> dict[str, str]:
        """Declared name by the name of each attribute whose declared name is not its own."""
        return {
            attribute.name: attribute.declared for attribute in self.attributes if attribute.name != attribute.declared
        }

    def where(self, row: int) -> str:
        """How an error names a row."""
        return f"{self.path}, line {self.lines[row]}"

    def where_declared(self, place: int) -> str:
        """How an error names an attribute."""
        return f"{self.path}, line {self.attributes[place].line}"

    def key(self, row: int) -> str:
        """How a record names a row: file and line."""
        return f"{self.path.name}:{self.lines[row]}"


def read_arff(path: Path) -> Arff:
    """Return what the file holds; one that cannot be read, or is no ARFF file, is a `UserError`."""
    try:
        return parse_arff(read_bytes(path), path)
    except MemoryError:
        raise UserError(f"{path} does not fit into the memory") from None


def parse_arff(content: bytes, path: Path) -> Arff:
    """Return what the bytes of an ARFF file hold; `path` names it in errors."""
    lines = _decode(content, path).split("\n")
    numbered = iter(enumerate(lines, 1))
    relation, relation_line, attributes = _parse_header(numbered, path)
    cells, texts, row_lines = _parse_rows(numbered, len(lines), attributes, path)
    return Arff(path, relation, relation_line, attributes, cells, texts, row_lines)


def _decode(content: bytes, path: Path) -> str:
    """Return the text, with line feeds for line ends."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path}, line 1: the file is in UTF-16, expected UTF-8 or Latin-1")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        text = content.removeprefix(codecs.BOM_UTF8).decode("latin-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    control = CONTROL.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise UserError(
            f"{path}, line {line}: the control character {control[0]!r}, expected text: is this an ARFF file?"
        )
    return text


def _unquote(match: re.Match[str]) -> str | None:
    """Return the value that a pattern found; None where it is missing."""
    if match["plain"] is not None:
        plain = match["plain"].strip(BLANK)
        return None if plain == "?" else plain
    quoted = match["single"] if match["single"] is not None else match["double"]
    return re.sub(r"\\(.)", lambda escape: ESCAPES.get(escape[1], escape[1]), quoted) if "\\" in quoted else quoted


# The header.


def _parse_header(numbered: Iterator[tuple[int, str]], path: Path) -> tuple[str, int, tuple[Attribute, ...]]:
    """Read up to the line ``@data``: the name of the relation, its line, and the attributes."""
    relation: str | None = None
    relation_line = 0
    declared: list[Attribute] = []
    number = 0
    for number, line in numbered:
        text = line.strip(BLANK)
        if not text or text.startswith("%"):
            continue
        where = f"{path}, line {number}"
        keyword, *rest = re.split(r"[ \t]+", text, maxsplit=1)
        keyword = keyword.lower()
        body = rest[0] if rest else ""
        if keyword == "@relation" and relation is None:
            relation, relation_line = _parse_relation(body, where), number
        elif relation is None:
            raise UserError(f"{where}: {quote(text)}, expected '@relation NAME' first: is this an ARFF file?")
        elif keyword == "@attribute":
            declared.append(_parse_attribute(body, number, where))
        elif keyword == "@data":
            if not _is_rest(body):
                raise UserError(f"{where}: {quote(body)} after @data, expected the first row on the next line")
            if not declared:
                raise UserError(f"{where}: @data without any attribute, expected '@attribute NAME TYPE' before it")
            names = distinct(attribute.declared for attribute in declared)
            pairs = zip(declared, names, strict=True)
            attributes = tuple(dataclasses.replace(attribute, name=name) for attribute, name in pairs)
            return relation, relation_line, attributes
        else:
            raise UserError(f"{where}: {quote(text)}, expected '@attribute NAME TYPE' or '@data'")
    raise UserError(
        f"{path}, line {number}: the file ends without @data, expected @relation, @attribute ..., @data, rows"
    )


def _is_rest(text: str) -> bool:
    """Whether nothing but a comment stands there."""
    text = text.strip(BLANK)
    return not text or text.startswith("%")


def _parse_relation(body: str, where: str) -> str:
    if not body.startswith(("'", '"')):
        return body
    match = ANY_QUOTED.match(body)
    if not match or not _is_rest(body[match.end() :]):
        raise UserError(
            f"{where}: the relation's name {quote(body)} opens a quote, expected its end at the end of the line"
        )
    return match["single"] if match["single"] is not None else match["double"]


def _parse_attribute(body: str, line: int, where: str) -> Attribute:
    match = WORD.match(body)
    if not match:
        raise UserError(f"{where}: {quote(body)}, expected '@attribute NAME TYPE', a name with blanks in quotes")
    name = _unquote(match) or ("?" if match["plain"] else "")
    if not name or name != name.strip() or "\n" in name or "\t" in name:
        shown = quote(name)
        raise UserError(f"{where}: the attribute's name {shown} is empty or holds outer blanks, a tab or a line feed")
    body = body[match.end() :]
    if body.startswith("{"):
        return Attribute(name, name, "nominal", _parse_domain(body, name, where), line)
    word, *rest = re.split(r"[ \t]+", body, maxsplit=1)
    kind = TYPES.get(word.lower())
    if kind is None:
        known = "; a type is numeric, real, integer, string, date, hierarchical or {value, ...}"
        raise UserError(f"{where}: attribute {quote(name)} has the type {quote(word)}, which cannot be read{known}")
    after = rest[0] if rest else ""
    if kind == "hierarchical":
        return Attribute(name, name, kind, tuple(entry.strip(BLANK) for entry in after.split(",")), line)
    if word.lower() != "date" and not _is_rest(after):  # a date may be followed by its format
        raise UserError(f"{where}: {quote(after)} after the type of attribute {quote(name)}, expected nothing")
    return Attribute(name, name, kind, (), line)


def _parse_domain(body: str, name: str, where: str) -> tuple[str, ...]:
    values: list[str] = []
    position, end = 1, ","
    while end == ",":
        match = DOMAIN_VALUE.match(body, position)
        if not match or not match["end"]:
            raise UserError(
                f"{where}: the values of attribute {quote(name)} break off at {quote(body[position:])}, "
                "expected {value, ...} with quotes in pairs"
            )
        value = _unquote(match)
        if value is None:
            raise UserError(f"{where}: '?' among the values of attribute {quote(name)}, expected none: it is no value")
        if not value and match["plain"] is not None:
            raise UserError(f"{where}: attribute {quote(name)} has an empty value, expected {{value, ...}}")
        values.append(value)
        position, end = match.end(), match["end"]
    if not _is_rest(body[position:]):
        after = quote(body[position:].strip(BLANK))
        raise UserError(f"{where}: {after} after the values of attribute {quote(name)}, expected nothing")
    if len(set(values)) < len(values):
        repeated = next(value for value, count in collections.Counter(values).items() if count > 1)
        raise UserError(f"{where}: attribute {quote(name)} lists the value {quote(repeated)} twice, expected once")
    return tuple(values)


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, where those that stood before become ``name (2)``, ``name (3)``, and so on."""
    given = list(names)
    taken = set(given)
    count: dict[str, int] = {}
    made: list[str] = []
    for name in given:
        number = count.get(name, 0) + 1
        new = name
        while number > 1 and (new := f"{name} ({number})") in taken:
            number += 1
        count[name] = number
        taken.add(new)
        made.append(new)
    return made


# The rows.


class _Numbers(dict[str | None, float]):
    """Number by its text: checked and converted once."""

    def __missing__(self, text: str) -> float:
        if not NUMBER.fullmatch(text) or not abs(number := float(text)) <= LARGEST_FLOAT32:
            raise KeyError(text)
        self[text] = number
        return number


class _Texts(dict[str | None, float]):
    """No number for any text."""

    def __missing__(self, text: str | None) -> float:
        return math.nan


def _parse_rows(
    numbered: Iterator[tuple[int, str]],
    num_lines: int,
    attributes: tuple[Attribute, ...],
    path: Path,
) -> tuple[np.ndarray, dict[int, list[str | None]], np.ndarray]:
    """Read all rows; each attribute has a table from the text of a cell to its number."""
    numbers = _Numbers({None: math.nan})
    tables: list[dict[str | None, float]] = []
    for attribute in attributes:
        if attribute.kind == "numeric":
            tables.append(numbers)
        elif attribute.kind == "nominal":
            tables.append({None: math.nan} | {value: float(code) for code, value in enumerate(attribute.values)})
        else:
            tables.append(_Texts())
    texts: dict[int, list[str | None]] = {
        place: [] for place, attribute in enumerate(attributes) if attribute.kind in ("string", "hierarchical")
    }
    omitted = array.array("f", [math.nan if place in texts else 0 for place in range(len(attributes))]).tobytes()
    cells = array.array("f")
    row_lines: list[int] = []
    for number, line in numbered:
        text = line.strip(BLANK)
        if not text or text.startswith("%"):
            continue
        where = f"{path}, line {number}"
        if not row_lines and (num_lines - number) * len(attributes) > MAX_CELLS:
            raise UserError(
                f"{where}: {num_lines - number} lines of {len(attributes)} attributes follow, "
                f"expected at most {MAX_CELLS} cells"
            )
        split = _split_sparse if text.startswith("{") else _split_dense
        places, fields = split(text, len(attributes), where)
        start = len(cells)
        cells.frombytes(omitted)
        for place, field in zip(places, fields, strict=True):
            try:
                cells[start + place] = tables[place][field]
            except KeyError:
                _refuse_value(attributes[place], field, where)
        given = dict(zip(places, fields, strict=True)) if texts else {}
        for place, column in texts.items():
            column.append(given.get(place))
        row_lines.append(number)
    if not row_lines:
        raise UserError(f"{path}, line {num_lines}: no row after @data, expected at least one")
    matrix = np.frombuffer(cells, np.float32).reshape(len(row_lines), len(attributes))
    return matrix, texts, np.asarray(row_lines, np.int64)


def _split_dense(text: str, num_attributes: int, where: str) -> tuple[Sequence[int], Sequence[str | None]]:
    """Return the positions and the values of a row ``value, value, ...``; None where one is missing."""
    values: list[str | None] = []
    if "'" not in text and '"' not in text:
        for field in text.split("," if "," in text else "\t"):
            value = field.strip(BLANK)
            values.append(None if value == "?" else value)
    else:
        by_tabs = "\t" in text and "," not in ANY_QUOTED.sub("", text)
        pattern, ends = (TAB_VALUE, "\t") if by_tabs else (COMMA_VALUE, ",")
        position, end = 0, ends
        while end == ends:
            match = pattern.match(text, position)
            if not match:
                raise UserError(f"{where}: {quote(text[position:])}, expected its quote to close before the next value")
            values.append(_unquote(match))
            position, end = match.end(), match["end"]
    if len(values) != num_attributes:
        if len(values) == num_attributes + 1:
            _refuse_weight(values[-1] or "", where)
        raise UserError(f"{where}: {len(values)} values, expected {num_attributes}, one an attribute")
    return range(num_attributes), values


def _split_sparse(text: str, num_attributes: int, where: str) -> tuple[Sequence[int], Sequence[str | None]]:
    """Return the positions and the values that a row ``{index value, ...}`` lists."""
    values: dict[int, str | None] = {}
    empty = re.match(r"\{[ \t]*\}", text)
    position, end = (empty.end(), "}") if empty else (1, ",")
    while end == ",":
        match = SPARSE_VALUE.match(text, position)
        if not match or not match["end"]:
            raise UserError(f"{where}: {quote(text[position:])}, expected pairs 'index value' and a closing brace")
        index = match["index"]
        # A longer number is out of range at any rate, and Python would refuse thousands of digits.
        place = int(index) if len(index) < 10 and index.isascii() and index.isdecimal() else num_attributes
        if place >= num_attributes:
            raise UserError(f"{where}: the index {quote(index)}, expected one of 0..{num_attributes - 1}")
        if place in values:
            raise UserError(f"{where}: the index {place} stands twice, expected each at most once")
        values[place] = _unquote(match)
        position, end = match.end(), match["end"]
    if not _is_rest(text[position:]):
        after = text[position:].lstrip(BLANK + ",")
        _refuse_weight(after, where)
        raise UserError(f"{where}: {quote(after)} after the closing brace, expected the end of the line")
    return list(values), list(values.values())


def _refuse_weight(text: str, where: str) -> None:
    if re.fullmatch(r"\{[^{},]*\}", text):
        raise UserError(f"{where}: the row ends in the weight {quote(text)}, expected none: rows are not weighted here")


def _refuse_value(attribute: Attribute, field: str | None, where: str) -> NoReturn:
    """Raise the `UserError` of a value that its attribute cannot have."""
    expected = "a finite number in the range of float32, or ?"
    if attribute.kind == "nominal":
        shown = [quote(value) for value in attribute.values[:10]] + ["..."] * (len(attribute.values) > 10)
        expected = f"one of {', '.join(shown)}, or ?"
    raise UserError(
        f"{where}: attribute {quote(attribute.name)} is {quote('?' if field is None else field)}, expected {expected}"
    ) from None


# What the sources make of it.


def given_files(source: str, train: str, validation: str, test: str) -> dict[str, Path]:
    """Return the file of each split that a user gave by ``arff_train`` and so on; a split without file is left out."""
    if not train:
        raise UserError(
            f"{source}: no training file; give --config.data.arff_train=FILE, and arff_test if there is one"
        )
    given = dict(zip(SPLITS, (train, validation, test), strict=True))
    paths = {split: Path(path).expanduser() for split, path in given.items() if path}
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise UserError(f"{source}: two splits are to be read from one file; leave one out, and it is drawn")
    return paths


def read_splits(paths: Mapping[str, Path]) -> dict[str, Arff]:
    """Read the file of each split; all must declare what the first does, else a `UserError` names the difference."""
    tables = {split: read_arff(path) for split, path in paths.items()}
    first, *others = tables.values()
    for other in others:
        _check_same(first, other)
    return tables


def _check_same(first: Arff, other: Arff) -> None:
    for left, right in zip(first.attributes, other.attributes, strict=False):
        here = f"{other.path}, line {right.line}"
        there = f"as in {first.path}, line {left.line}"
        if left.declared != right.declared:
            raise UserError(f"{here}: attribute {quote(right.declared)}, expected {quote(left.declared)} {there}")
        if left.kind != right.kind:
            raise UserError(f"{here}: attribute {quote(right.declared)} is {right.kind}, expected {left.kind} {there}")
        if left.values != right.values:
            pairs = itertools.zip_longest(right.values, left.values)
            place, (found, expected) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
            found, expected = ("none" if value is None else quote(value) for value in (found, expected))
            raise UserError(
                f"{here}: value {place} of attribute {quote(right.declared)} is {found}, expected {expected} {there}"
            )
    if len(first.attributes) != len(other.attributes):
        raise UserError(
            f"{other.path}, line {other.attributes[-1].line}: {len(other.attributes)} attributes, "
            f"expected {len(first.attributes)} as in {first.path}"
        )


def feature_names(attributes: Iterable[Attribute]) -> list[str]:
    """Return a name for each column of `feature_matrix`: ``attribute``, or ``attribute=value`` of a nominal one."""
    names: list[str] = []
    for attribute in attributes:
        if attribute.kind == "numeric" or attribute.is_binary:
            names.append(attribute.name)
        elif attribute.kind == "nominal":
            names.extend(f"{attribute.name}={value}" for value in attribute.values)
    return distinct(names)


def feature_matrix(table: Arff, places: Sequence[int]) -> np.ndarray:
    """Return the attributes at `places` as float32 [rows, features].

    A number is a column, NaN where it is missing. A nominal attribute is a column a value, 1 where the row has it, so
    that all are 0 where it is missing; but if its values are 0 and 1 it is that number. Strings are left out.
    """
    columns: list[np.ndarray] = []
    width = len(feature_names(table.attributes[place] for place in places))
    if width * len(table) > MAX_CELLS:
        raise UserError(f"{table.path}: {len(table)} rows of {width} features, expected at most {MAX_CELLS} cells")
    for place in places:
        attribute, column = table.attributes[place], table.cells[:, place]
        if attribute.kind == "numeric":
            columns.append(column)
        elif attribute.is_binary:
            columns.append(column if attribute.values[0] == "0" else 1 - column)
        elif attribute.kind == "nominal":
            columns.extend(column == code for code in range(len(attribute.values)))
    return np.stack(columns, 1, dtype=np.float32) if columns else np.zeros((len(table), 0), np.float32)


def describe_tables(tables: Mapping[str, Arff], places: Sequence[int]) -> dict[str, object]:
    """Return notes on the files: rows and missing feature values a split, attributes renamed and left out."""
    first = next(iter(tables.values()))
    strings = [attribute.name for attribute in first.attributes if attribute.kind == "string"]
    features = [place for place in places if first.attributes[place].kind in ("numeric", "nominal")]
    return {
        "rows": {split: len(table) for split, table in tables.items()},
        "missing_values": {split: int(np.isnan(table.cells[:, features]).sum()) for split, table in tables.items()},
        "renamed_attributes": first.renamed,
        "strings_left_out": strings,
    }
