"""Your own table: JSON Lines, CSV or TSV, an example a row. Everything about it is stated; nothing is guessed.

**Files.** `format`, or else the suffix, says what a file is: ``.jsonl`` and ``.ndjson`` hold a JSON object a line,
``.csv`` and ``.tsv`` a header and rows. CSV is that of RFC 4180: cells with commas, quotes or line breaks stand in
double quotes. In TSV quotes are characters like any other, and a cell holds neither tab nor line break. All are UTF-8,
with or without a byte order mark, lines end in LF or CRLF, and blank lines are skipped. What leaves the meaning open
is an error that names file and line: keys or columns that stand twice, NaN and infinity in JSON, rows of too many or
too few cells, a last row that breaks off.

**Paths** are taken from the working directory, and where there is no such file, from `manual_dir`.

**Columns.** An option that names several columns takes them with commas between, ``title,abstract``; a name that holds
a comma stands in double quotes. ``emb_*`` names all columns that begin with ``emb_``, of which there must be the same
ones in every row. Every column that is named must stand in every row.

| in a row | JSON | cell of CSV and TSV | missing |
|---|---|---|---|
| text | string | any | never, but may be empty |
| feature | number within float32 | number | null; an empty cell or NaN |
| category | string, or an integer that stands for its digits | any | null, "" |
| key, group | string, or an integer | any | never |

**Labels**, by `form`, in the column `labels`:

- ``ragged``: JSON: a list of names, or of ids, which are places in the file `label_names`. Cell: names with `separator`
  between; outer spaces do not count, and an empty cell has no labels.
- ``multihot``: 0 or 1 a label, or that it is unknown, as a missing feature is written. JSON: an object by name, where
  what is not named is 0; or a list in the order of the file `label_names`. With several columns, or a prefix as in
  ``label_*``, a column a label, in JSON as well; the prefix is not part of its name. In CSV and TSV there is always a
  column a label, even if it is one.
- ``soft``: likewise, with probabilities from 0 to 1.

**Label space.** The file `label_names`, if given: a name a line, or name, tab, description. Else all names in the file
`parents`: parents before children, and but for that in order of appearance. Else all names that rows or label columns
of any split have, sorted.

**Hierarchy.** The file `parents` has a line ``child<tab>parent`` for each edge; a name alone on its line states a
label. Or, with `hierarchy_separator` "::", the label "a::b" stands under "a", which becomes a label if it is none. Else
labels are flat.
"""

import csv
import math
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import SPLITS, Source
from mlresearch.data.label_files import parents_by_separator, read_label_names, read_parents
from mlresearch.data.reading import LARGEST_FLOAT32, MAX_DIGITS, read_csv, read_jsonl
from mlresearch.errors import UserError, quote, suggest
from mlresearch.label_space import LabelForm, LabelReader, LabelSpace

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
INPUTS = ("text", "features", "categories")
FILES = (*SPLITS, "label_names", "parents")
"""Options that name files."""

MAX_NAME = 60  # characters of a column's name that a message suggests
MAX_KNOWN = 50  # names in one message
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
DESCRIPTION = "A table of one's own."


class Builder(Source):
    """The data set ``table``; the top of this file states what files may hold.

    train: the file of training rows. validation, test: those of the other splits; "" has the loader draw them. format:
    "jsonl", "csv" or "tsv"; "" goes by suffix. All three have the same.

    text, features, categories: the columns of texts (several are joined by a blank line, empty ones left out), of
    numbers and of categories; at least one of them. labels, form: the column of labels, and how it states them.
    separator: between label names in a cell. label_names, parents, hierarchy_separator: see the top of this file; only
    one of the last two. unknown_labels: what to do with labels of rows that the files do not name: "error", or "drop",
    counted in the notes (``dropped_labels``).

    key: the column that names a row; "" names it by file and line. group: the column whose values keep rows together
    where splits are drawn. group_pattern: a regular expression; what it matches first in a value (its first group, if
    it has one) stands for the value, as in ``(?s).{1,80}`` for texts that differ only behind 80 characters. A value
    without a match stands for itself, and a row whose value is empty is a group of its own.
    """

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "": (
            *(*FILES, "format", "text", "features", "categories", "labels", "form", "separator"),
            *("hierarchy_separator", "key", "group", "group_pattern"),
        )
    }

    def __init__(
        self,
        *,
        data_dir: str | Path,
        manual_dir: str,
        unknown_labels: str,
        train: str = "",
        validation: str = "",
        test: str = "",
        format: str = "",
        text: str | Sequence[str] = "",
        features: str | Sequence[str] = "",
        categories: str | Sequence[str] = "",
        labels: str | Sequence[str] = "",
        form: str = "",
        separator: str = ";",
        label_names: str = "",
        parents: str = "",
        hierarchy_separator: str = "",
        key: str = "",
        group: str = "",
        group_pattern: str = "",
    ) -> None:
        options: dict[str, Any] = {"train": train, "validation": validation, "test": test, "label_names": label_names}
        options |= {"parents": parents, "manual_dir": manual_dir, "unknown_labels": unknown_labels, "format": format}
        options |= {"text": text, "features": features, "categories": categories, "labels": labels, "form": form}
        options |= {"separator": separator, "hierarchy_separator": hierarchy_separator, "key": key, "group": group}
        options |= {"group_pattern": group_pattern}
        forms = get_args(LabelForm)
        if form not in forms:
            hint = suggest(form, forms) if form else f": {', '.join(forms)}"
            raise UserError(f"table: form is {form!r}; state how rows give their labels{hint}")
        if not separator.strip():
            raise UserError(f"table: separator is {separator!r}; something but spaces must stand between label names")
        if parents and hierarchy_separator:
            raise UserError("table: parents and hierarchy_separator both say which label stands under which; give one")
        if group_pattern and not group:
            raise UserError("table: group_pattern is given, but not the column that it searches; set group")
        self.form, self.unknown_labels = form, unknown_labels
        self.separator, self.hierarchy_separator = separator, hierarchy_separator
        self.key, self.group, self.group_pattern = key, group, compile_pattern(group_pattern)
        paths = find_files(options)
        self.paths = {split: paths[split] for split in SPLITS if split in paths}
        self.stated_in = str(paths.get("label_names") or paths.get("parents") or "")
        self.format = file_format(self.paths.values(), format)
        self.named = {option: split_names(option, options[option]) for option in INPUTS}
        self.named |= {"labels": split_names("labels", labels)}
        self.named |= {"key": (key,) if key else (), "group": (group,) if group else ()}
        if not self.named["labels"]:
            raise UserError("table: labels is empty; name the column of labels")
        if not (text or features or categories):
            raise UserError("table: there is nothing to predict from; name columns in text, features or categories")
        several = len(self.named["labels"]) > 1 or self.named["labels"][0].endswith("*")
        if several and form == "ragged":
            raise UserError("table: labels names several columns; in the form 'ragged' one column holds all labels")
        self.column_a_label = several or (form != "ragged" and self.format != "jsonl")
        self.columns = self.find_columns()
        self.ordered = bool(label_names)
        self.label_space, self.edges = self.find_labels(paths.get("label_names"), paths.get("parents"))
        super().__init__(data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the files that are given, in the order of `FILES`."""
        return list(find_files(options).values())

    @classmethod
    def prepared(cls, subset: str, options: Mapping[str, Any], data_dir: Path) -> str | None:
        """Return None: what was prepared of a file that is gone may be that of another folder, of the same name."""
        return None

    def _info(self) -> tfds.core.DatasetInfo:
        return self.describe(
            label_space=self.label_space,
            parents=self.edges,
            description=DESCRIPTION,
            citation="",
            homepage="",
            license="",
            text=bool(self.columns["text"]),
            feature_names=list(self.columns["features"]) or None,
            category_names=list(self.columns["categories"]) or None,
            values=self.form != "ragged",
            groups=bool(self.group),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        notes: dict[str, Any] = {"files": {split: path.name for split, path in self.paths.items()}}
        # TFDS writes the metadata once all splits are read, so that what is counted by then is in them.
        self.info.metadata["notes"] = notes
        reader = LabelReader(self.label_space, self.form, self.unknown_labels, self.stated_in)
        return {split: self._generate_examples(path, reader, notes) for split, path in self.paths.items()}

    def _generate_examples(
        self, path: Path, reader: LabelReader, notes: dict[str, Any]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        lines: dict[str, int] = {}  # by key
        for number, (line, row) in enumerate(self.rows(path)):
            where = f"{path}, line {line}"
            record = self.record(row, f"{path.name}:{line}", where, reader)
            if lines.setdefault(record["key"], line) != line:
                first = lines[record["key"]]
                raise UserError(
                    f"{where}: the key {quote(record['key'])} stands on line {first}, too; it names one row"
                )
            yield number, record
        if self.unknown_labels == "drop":
            notes["dropped_labels"] = reader.dropped_note

    def record(self, row: Mapping[str, Any], place: str, where: str, reader: LabelReader) -> dict[str, Any]:
        """Return the record of one of `rows`; `place` is its key where no column is."""
        ids, values = reader.read(self.labels_of(row, where), where)
        record: dict[str, Any] = {"labels": ids, "key": read_name(row, self.key, where) if self.key else place}
        if self.form != "ragged":
            record["label_values"] = np.asarray([1.0] * len(ids) if values is None else values, np.float32)
        if columns := self.columns["text"]:
            record["text"] = "\n\n".join(text for column in columns if (text := read_text(row, column, where)))
        if columns := self.columns["features"]:
            numbers = [check_feature(self.number_of(row, column, where), column, where) for column in columns]
            record["features"] = np.array(numbers, np.float32)
        if columns := self.columns["categories"]:
            record["categories"] = ["" if row[name] is None else read_name(row, name, where) for name in columns]
        if self.group:
            record["group"] = search_group(self.group_pattern, read_name(row, self.group, where)) or place
        return record

    def labels_of(self, row: Mapping[str, Any], where: str) -> Any:
        """Return the labels of one of `rows`, as a `LabelReader` takes them."""
        if self.column_a_label:
            return {label: self.number_of(row, column, where) for column, label in self.columns["labels"].items()}
        value = row[self.named["labels"][0]]
        if self.format != "jsonl":
            return split_labels(value, self.separator, where)
        if isinstance(value, list) and not self.ordered:
            if self.form != "ragged" and value:
                hint = "; is the form 'ragged'?" if any(isinstance(entry, str) for entry in value) else ""
                raise UserError(
                    f"{where}: label values without names; give label_names, a file that orders the labels{hint}"
                )
            if any(isinstance(entry, int) and not isinstance(entry, bool) for entry in value):
                raise UserError(f"{where}: labels are ids; give label_names, a file that says what they stand for")
        return value

    def number_of(self, row: Mapping[str, Any], column: str, where: str) -> Any:
        """Return what JSON has, or would have, in place of a number; whatever that is."""
        return row[column] if self.format == "jsonl" else parse_number(row[column], column, where)

    def rows(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of the first line of each row and its cells; strings, where the format is not JSON.

        A file without rows, and a row whose columns are not those of the first training row, are `UserError`s.
        """
        checked: Collection[str] | None = None
        for line, row in read_rows(path, self.format):
            where = f"{path}, line {line}"
            if row.keys() != checked:
                for option, names in self.named.items():
                    odd = expand(option, names, row, where).keys() ^ self.columns[option].keys()
                    if odd:
                        raise UserError(
                            f"{where}: {option} is {', '.join(names)}, and the column {quote(min(odd))} does not "
                            f"stand in both this row and the first row of {self.paths['train']}"
                        )
                checked = set(row)
            yield line, row
        if checked is None:
            raise UserError(f"{path}: there are no rows in it")

    def find_columns(self) -> dict[str, dict[str, str]]:
        """Return the columns of each option by the first training row, and what each is called without its prefix."""
        line, row = next(read_rows(self.paths["train"], self.format), (1, None))
        if row is None:
            raise UserError(f"{self.paths['train']}: there are no rows in it")
        where = f"{self.paths['train']}, line {line}"
        columns = {option: expand(option, names, row, where) for option, names in self.named.items()}
        called: dict[str, str] = {}
        for column, label in columns["labels"].items():
            for option in INPUTS:
                if column in columns[option]:
                    raise UserError(f"table: the column {column!r} is among both labels and {option}")
            if label in called:
                raise UserError(f"{where}: the columns {called[label]!r} and {column!r} are of one label, {label!r}")
            called[label] = column
        return columns

    def find_labels(
        self, names_path: Path | None, parents_path: Path | None
    ) -> tuple[LabelSpace, list[tuple[int, int]] | None]:
        """Return the label space and the edges from child to parent, None where labels are flat."""
        stated = None if names_path is None else read_label_names(names_path)
        edges: list[tuple[str, str]] | None = None
        if parents_path is not None:
            names, edges = read_parents(parents_path, None if stated is None else stated.index)
        elif stated is None:
            names = self.names_in_rows()
        if stated is not None:
            names = list(stated.names)
        if self.hierarchy_separator:
            known, edges = parents_by_separator(names, self.hierarchy_separator)
            if stated is None:
                names = known
            elif added := [name for name in known if name not in stated.index]:
                raise UserError(f"{names_path}: the label {added[0]!r} is missing, though labels stand under it")
        label_space = stated or LabelSpace(tuple(names), tuple(names))
        index = label_space.index
        return label_space, None if edges is None else [(index[child], index[parent]) for child, parent in edges]

    def names_in_rows(self) -> list[str]:
        """Return all label names that the rows of any split have, sorted."""
        if self.column_a_label:
            return sorted(self.columns["labels"].values())
        reader = LabelReader(LabelSpace((), ()), self.form, "drop")  # all that there is, is unknown
        for path in self.paths.values():
            for line, row in self.rows(path):
                where = f"{path}, line {line}"
                reader.read(self.labels_of(row, where), where)
        return sorted(reader.dropped)


def find_files(options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the path of each file that the options of `FILES` name; a missing one is a `UserError`."""
    if not options["train"]:
        raise UserError("table: train is empty; name the file of training rows")
    paths: dict[str, Path] = {}
    manual_dir = options["manual_dir"] or os.environ.get("MLRESEARCH_MANUAL_DIR", "")
    for option in FILES:
        if not options[option]:
            continue
        given = os.path.expanduser(options[option])
        places = [Path(given).absolute()]
        if manual_dir and not os.path.isabs(given):
            places.append(Path(os.path.expanduser(manual_dir)).absolute() / given)
        found = next((place for place in places if os.path.isfile(place)), None)
        if found is None:
            also = "" if manual_dir else "; --manual_dir or MLRESEARCH_MANUAL_DIR names another folder to look in"
            raise UserError(f"table: {option}: there is no file {' nor '.join(map(str, places))}{also}")
        for other in SPLITS:
            if option in SPLITS and paths.get(other) == found:
                raise UserError(f"table: {other} and {option} are one file, {found}")
        paths[option] = found
    return paths


def file_format(paths: Iterable[Path], stated: str) -> str:
    """Return the format of the files of all splits: the one that is stated, or the one that their suffixes say."""
    known = sorted(set(FORMATS.values()))
    if stated:
        if stated not in known:
            raise UserError(f"table: format is {stated!r}{suggest(stated, known)}")
        return stated
    formats: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise UserError(f"table: {path} ends in none of {', '.join(FORMATS)}; set format: {', '.join(known)}")
        formats[FORMATS[path.suffix.lower()]] = path
    if len(formats) > 1:
        raise UserError(f"table: {' and '.join(map(str, formats.values()))} differ in format; give the splits alike")
    return next(iter(formats))


def split_names(option: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the column names of an option: those of a sequence, or of a string with commas, quoted as in CSV."""
    names = tuple(value) if not isinstance(value, str) else ()
    if isinstance(value, str) and value:
        try:
            names = tuple(next(csv.reader([value], strict=True, skipinitialspace=True)))
        except csv.Error as error:
            raise UserError(f"table: {option} is {value!r}: {error}") from None
    for place, name in enumerate(names):
        if not name or name in names[:place]:
            raise UserError(f"table: {option} is {value!r}: {f'{name!r} stands twice' if name else 'a name is empty'}")
    return names


def expand(option: str, names: Sequence[str], columns: Iterable[str], where: str) -> dict[str, str]:
    """Return the columns that names and prefixes ("label_*") stand for, and what each is called without its prefix."""
    columns = list(columns)
    found: dict[str, str] = {}
    for name in names:
        prefix = name.removesuffix("*") if name.endswith("*") and option not in ("key", "group") else None
        matches = [column for column in columns if column == name or (prefix is not None and column.startswith(prefix))]
        if not matches:
            known = [column for column in columns if len(column) <= MAX_NAME][:MAX_KNOWN]
            hint = "; cells stand between commas, or in a .tsv between tabs" if len(columns) == 1 else ""
            raise UserError(f"{where}: there is no column {name!r} ({option}){suggest(name, known)}{hint}")
        for column in matches:
            if column in found:
                raise UserError(f"table: {option} names the column {quote(column)} twice")
            found[column] = column[len(prefix or "") :]
    return found


def read_rows(path: Path, format: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of the first line of each row, and its cells by column."""
    return read_jsonl(path) if format == "jsonl" else read_csv(path, format)


def parse_number(cell: str, column: str, where: str) -> float | None:
    """Return the number of a cell, None where it is empty or NaN."""
    cell = cell.strip()
    if not cell or cell.lower() == "nan":
        return None
    if len(cell) > MAX_DIGITS or not NUMBER.fullmatch(cell):
        raise UserError(f"{where}: column {column!r} holds {quote(cell)}, not a number (empty or NaN if missing)")
    return float(cell)


def split_labels(cell: str, separator: str, where: str) -> list[str]:
    """Return the label names of a cell, without outer spaces."""
    if not cell.strip():
        return []
    names = [name.strip() for name in cell.split(separator)]
    if "" in names:
        raise UserError(f"{where}: a label name is missing beside a {separator!r} in {quote(cell)}")
    return names


def read_text(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text of a cell."""
    if not isinstance(row[column], str):
        raise UserError(f'{where}: column {column!r} holds {_kind(row[column])}, not a text ("" is an empty one)')
    return row[column]


def read_name(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the string of a cell, or the digits of its integer."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: column {column!r} holds {_kind(value)}, not a string or an integer")
    return str(value)


def check_feature(value: Any, column: str, where: str) -> float:
    """Return a number, NaN for null; anything else, or a number outside of float32, is a `UserError`."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: column {column!r} holds {_kind(value)}, not a number or null")
    if abs(value) > LARGEST_FLOAT32:
        raise UserError(
            f"{where}: column {column!r} holds a number beyond ±{LARGEST_FLOAT32:.4g}, the range of float32"
        )
    return float(value)


def _kind(value: Any) -> str:
    """Return what JSON calls a value."""
    kinds = {bool: "true or false", str: "a string", int: "a number", float: "a number", list: "a list"}
    kinds |= {dict: "an object"}
    return kinds.get(type(value), "null")


def compile_pattern(pattern: str) -> re.Pattern[str] | None:
    """Return a regular expression, None for an empty one; a wrong one is a `UserError`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return re.compile(pattern) if pattern else None
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"table: group_pattern is {pattern!r}, which is no regular expression: {error}") from None


def search_group(pattern: re.Pattern[str] | None, value: str) -> str:
    """Return what `pattern` matches first in `value`, or its first group; the value itself if there is no match."""
    if pattern is None:
        return value
    match = pattern.search(value)
    if match is None:
        return value
    return match[1] if pattern.groups and match[1] is not None else match[0]
