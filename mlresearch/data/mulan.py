"""Multi-label data in the ARFF form of Mulan, with an XML list of the labels, and in that of MEKA, without one.

Named data sets are read from ``MANUAL_DIR/mulan``, a folder each. The data set ``mulan`` reads files of one's own:
``arff_train`` and, if there are, ``arff_test`` and ``arff_validation``, with ``arff_labels``, the XML file. All ARFF
files of a data set must declare the same attributes. `mlresearch.data.arff` says how one is read and what becomes of
nominal and missing values.

**Labels** are the names in the XML file, in its order, and are looked for among the attributes by name, wherever these
stand. A ``<label>`` within another is its child; where none is, labels are flat. Without an XML file the relation's
name must say, as MEKA writes it, that the first n attributes are the labels (``-C n``), or the last (``-C -n``). A
label is an attribute ``{0,1}``; ``?`` means that it is not known whether the label is on.

**An id** is no feature. The first attribute is one, unless it is a label, if it is a string or if it is nominal with at
least as many values as all files have rows; then it is the key of the examples. Other strings and dates are left out.

Sources: Tsoumakas, Spyromitros-Xioufis, Vilcek and Vlahavas, "Mulan: A Java library for multi-label learning", 2011;
Read, Reutemann, Pfahringer and Holmes, "MEKA: A multi-label/multi-target extension to WEKA", 2016.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn
from xml.parsers import expat

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source, manual_folder
from mlresearch.data.arff import (
    Arff,
    describe_tables,
    feature_matrix,
    feature_names,
    given_files,
    read_splits,
)
from mlresearch.data.reading import read_bytes
from mlresearch.errors import UserError, quote, suggest
from mlresearch.label_space import LabelSpace
from mlresearch.progress import track

# Training file, test file ("" = there is none) and XML file, below MANUAL_DIR/mulan.
FILES: Mapping[str, tuple[str, str, str]] = {
    **{
        name: (f"{name}/{name}-train.arff", f"{name}/{name}-test.arff", f"{name}/{name}.xml")
        for name in ("bibtex", "birds", "emotions", "enron", "flags", "genbase", "medical", "scene")
    },
    **{name: (f"{name}/{name}.arff", "", f"{name}/{name}.xml") for name in ("cal500", "foodtruck")},
    "corel5k": ("corel5k/Corel5k-train-sparse.arff", "corel5k/Corel5k-test-sparse.arff", "corel5k/Corel5k.xml"),
    "tmc2007": ("tmc2007/tmc2007-500-train.arff", "tmc2007/tmc2007-500-test.arff", "tmc2007/tmc2007-500.xml"),
}

LABEL_COUNT = re.compile(r"(?<![^\s:])-C\s++(-?[0-9]++)(?!\S)")

DESCRIPTION = """\
Multi-label data in the ARFF form of Mulan or MEKA: numeric and nominal features, and an attribute {0,1} a label."""
CITATION = """\
@article{tsoumakas2011mulan,
  title = {{MULAN}: A {J}ava Library for Multi-Label Learning},
  author = {Tsoumakas, Grigorios and Spyromitros-Xioufis, Eleftherios and Vilcek, Jozef and Vlahavas, Ioannis},
  journal = {Journal of Machine Learning Research},
  volume = {12},
  pages = {2411--2414},
  year = {2011}
}"""
HOMEPAGE = "https://mulan.sourceforge.net/datasets-mlc.html"
LICENSE = "Not stated for the data."


class ListedLabel(NamedTuple):
    """A label of the XML file: its name, the position of the label that encloses it, and its line."""

    name: str
    parent: int | None
    line: int


class Builder(Source):
    """The data sets ``mulan/bibtex`` and so on, and ``mulan``: files of one's own."""

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(["", *sorted(FILES)], ())

    def __init__(
        self,
        *,
        subset: str,
        data_dir: str | Path,
        manual_dir: str = "",
        arff_train: str = "",
        arff_validation: str = "",
        arff_test: str = "",
        arff_labels: str = "",
    ) -> None:
        options = {
            "manual_dir": manual_dir,
            "arff_train": arff_train,
            "arff_validation": arff_validation,
            "arff_test": arff_test,
            "arff_labels": arff_labels,
        }
        paths, xml = find_files(subset, options)
        self.tables = read_splits(paths)
        first = self.first = next(iter(self.tables.values()))
        if xml is None:
            self.labels = count_labels(first)
            self.parents = None
        else:
            listed = read_label_list(read_bytes(xml), xml)
            self.labels = match_labels(first, listed, xml)
            edges = [(label, entry.parent) for label, entry in enumerate(listed) if entry.parent is not None]
            self.parents = edges or None
        check_labels(first, self.labels)
        self.id_place = find_id(list(self.tables.values()), self.labels)
        taken = {*self.labels, self.id_place}
        self.features = [place for place in range(len(first.attributes)) if place not in taken]
        self.feature_names = feature_names(first.attributes[place] for place in self.features)
        if not self.feature_names:
            raise UserError(f"{first.path}: no numeric or nominal attribute besides the labels, expected a feature")
        self.values = {split: feature_matrix(table, self.labels) for split, table in self.tables.items()}
        super().__init__(subset=subset, data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the ARFF files of the splits and the XML file."""
        paths, xml = find_files(subset, options)
        return (*paths.values(), *([] if xml is None else [xml]))

    def _info(self) -> tfds.core.DatasetInfo:
        names = tuple(self.first.attributes[place].declared for place in self.labels)
        return self.describe(
            label_space=LabelSpace(names, names),
            parents=self.parents,
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            feature_names=self.feature_names,
            values=any(np.isnan(values).any() for values in self.values.values()),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        self.info.metadata["notes"] = {
            **describe_tables(self.tables, self.features),
            "unknown_label_values": {split: int(np.isnan(values).sum()) for split, values in self.values.items()},
            "id_attribute": None if self.id_place is None else self.first.attributes[self.id_place].name,
        }
        return {split: self._generate_examples(split, table) for split, table in self.tables.items()}

    def _generate_examples(self, split: str, table: Arff) -> Iterator[tuple[int, dict]]:
        features, values = feature_matrix(table, self.features), self.values[split]
        has_values = "label_values" in self.info.features
        for row in track(range(len(table)), f"prepare {split}", len(table)):
            labels = np.flatnonzero(values[row])  # NaN, which is unknown, counts as well
            key = row_key(table, row, self.id_place)
            record = {"features": features[row], "labels": labels.tolist(), "key": key}
            yield row, record | ({"label_values": values[row, labels]} if has_values else {})


def find_files(subset: str, options: Mapping[str, Any]) -> tuple[dict[str, Path], Path | None]:
    """Return the ARFF file of each split and the XML file: upstream's, or those that the options give."""
    names = ("arff_train", "arff_validation", "arff_test", "arff_labels")
    if not subset:
        train, validation, test, labels = (options[name] for name in names)
        return given_files("mulan", train, validation, test), Path(labels).expanduser() if labels else None
    for name in names:
        if options[name]:
            raise UserError(
                f"mulan/{subset} reads its own files; --config.data.{name}={options[name]} is for the data set 'mulan'"
            )
    train, test, labels = FILES[subset]
    folder = manual_folder(options["manual_dir"], "mulan", *filter(None, FILES[subset]))
    return {"train": folder / train} | ({"test": folder / test} if test else {}), folder / labels


def read_label_list(content: bytes, path: Path) -> list[ListedLabel]:
    """Return the labels of an XML file ``<labels><label name="..."/>...</labels>``, a label before those within it."""
    return _LabelList(path).parse(content)


class _LabelList:
    """What the XML parser has met: it tells each element where it begins and ends, and so the line of each label."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels: list[ListedLabel] = []
        self.names: set[str] = set()
        self.enclosing: list[int | None] = []  # positions of the labels around, after a None for <labels> itself
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.EntityDeclHandler = self.declare_entity

    def parse(self, content: bytes) -> list[ListedLabel]:
        try:
            self.parser.Parse(content, True)
        except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: there is no such encoding
            line = getattr(error, "lineno", self.parser.CurrentLineNumber)
            expected = "expected <labels><label name=...>..."
            raise UserError(f"{self.path}, line {line}: not XML ({error}), {expected}") from None
        if not self.labels:
            self.refuse("no label", "<label name=...> at least once")
        return self.labels

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(" ")[2]  # without the namespace
        if tag != ("label" if self.enclosing else "labels"):
            self.refuse(f"the element <{tag[:60]}>", "<label>" if self.enclosing else "<labels>")
        if not self.enclosing:
            self.enclosing.append(None)
            return
        name = attributes.get("name", "")
        if not name or name != name.strip() or "\t" in name or "\n" in name:
            self.refuse(f"a label with the name {quote(name)}", 'name="..." without outer blanks, tabs and line feeds')
        if name in self.names:
            self.refuse(f"the label {quote(name)} for a second time", "each once")
        self.names.add(name)
        self.labels.append(ListedLabel(name, self.enclosing[-1], self.parser.CurrentLineNumber))
        self.enclosing.append(len(self.labels) - 1)

    def end(self, tag: str) -> None:
        self.enclosing.pop()

    def declare_entity(self, *declaration: object) -> None:
        self.refuse("the declaration of an entity", "none, for entities may stand for texts of any length")

    def refuse(self, what: str, expected: str) -> NoReturn:
        raise UserError(f"{self.path}, line {self.parser.CurrentLineNumber}: {what}, expected {expected}")


def match_labels(table: Arff, listed: Sequence[ListedLabel], xml: Path) -> list[int]:
    """Return the position of the attribute of each label in the XML file."""
    places: dict[str, list[int]] = {}
    for place, attribute in enumerate(table.attributes):
        places.setdefault(attribute.declared, []).append(place)
    for label in listed:
        where = f"{xml}, line {label.line}"
        if label.name not in places:
            # Looking for what is near takes time that grows with the square of the names' lengths.
            near = suggest(label.name[:100], [name for name in list(places)[:10_000] if len(name) <= 100])
            raise UserError(f"{where}: the label {quote(label.name)} is no attribute of {table.path}{near[:200]}")
        if len(places[label.name]) > 1:
            raise UserError(
                f"{where}: the label {quote(label.name)}, expected one attribute of that name; "
                f"{table.where_declared(places[label.name][1])} declares a second"
            )
    return [places[label.name][0] for label in listed]


def count_labels(table: Arff) -> list[int]:
    """Return the positions of the labels that MEKA counts by ``-C n`` in the relation's name."""
    counts = {match[1] for match in LABEL_COUNT.finditer(table.relation)}
    if len(counts) != 1:
        found = f"-C {' and -C '.join(sorted(counts))}" if counts else "no -C"
        raise UserError(
            f"{table.path}, line {table.relation_line}: the relation {quote(table.relation)} has {found}, expected "
            "-C n, the number of labels, or else a file of labels: --config.data.arff_labels=FILE.xml"
        )
    written = counts.pop()
    size = len(table.attributes)
    number = int(written) if len(written) < 10 else size
    if not 0 < abs(number) < size:
        raise UserError(
            f"{table.path}, line {table.relation_line}: -C {written[:20]} labels, "
            f"expected from 1 to {size - 1} of the {size} attributes"
        )
    return list(range(number)) if number > 0 else list(range(size + number, size))


def check_labels(table: Arff, places: Sequence[int]) -> None:
    """Raise `UserError` unless all labels are attributes ``{0,1}``, with names that labels can have."""
    for place in places:
        attribute = table.attributes[place]
        if not attribute.is_binary:
            found = f"{{{', '.join(attribute.values[:5])}}}" if attribute.kind == "nominal" else attribute.kind
            raise UserError(
                f"{table.where_declared(place)}: the label {quote(attribute.name)} is {found}, expected {{0,1}}"
            )


def find_id(tables: Sequence[Arff], labels: Sequence[int]) -> int | None:
    """Return 0 if the first attribute is an id (see the top of this file), else None."""
    first = tables[0].attributes[0]
    many = first.kind == "nominal" and not first.is_binary and len(first.values) >= sum(map(len, tables))
    return 0 if 0 not in labels and (first.kind == "string" or many) else None


def row_key(table: Arff, row: int, id_place: int | None) -> str:
    """Return the id of a row; where there is none, its file and line."""
    if id_place is None:
        return table.key(row)
    if table.attributes[id_place].kind == "string":
        return table.texts[id_place][row] or table.key(row)
    code = table.cells[row, id_place]
    return table.key(row) if np.isnan(code) else table.attributes[id_place].values[int(code)]
