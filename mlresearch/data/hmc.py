"""Hierarchical multi-label classification in the ARFF form of Clus: gene function, diatoms, mail, X-ray images.

Named data sets are read from ``MANUAL_DIR/hmc``: genes of yeast with FunCat (``cellcycle_FUN`` and six more) and with
Gene Ontology terms (``cellcycle_GO`` and five more), ``diatoms``, ``enron`` and ``imclef07d``. The data set ``hmc``
reads files of one's own in the same form, ``arff_train`` and, if there are, ``arff_validation`` and ``arff_test``. All
files of a data set must declare the same attributes and classes. `mlresearch.data.arff` says how a file is read and
what becomes of nominal and missing values.

**Labels** are what the one attribute of the type ``hierarchical`` declares, in one of two forms:

- edges ``parent/child``, if some entry begins with ``root/``: a name is a node, and ``root`` stands for no label. Then
  all entries must be a parent and a child, every node must be some entry's child, and there must be no cycle.
- paths ``a/b/c``, if none does: every prefix of an entry is a node too, named by its whole path, below its own prefix.

Which form it is depends on the declaration alone. The name ``root`` is reserved for it: a file of paths that begins
some with ``root/`` is refused at its first entry that is no edge, or at its first row. An entry that repeats another is
dropped and counted. Parents stand before their children, and labels otherwise in the order of the declaration.

**Rows** list labels separated by ``@``, by the names that nodes have; ancestors may be left out.

The notes say which labels are the roots of the ontologies (in the form of edges: the children of ``root``). Every gene
has them, and published figures on Gene Ontology leave them out: with ``ontology_roots = "drop"`` they are no labels,
and their children are roots.

Sources: Vens, Struyf, Schietgat, Džeroski and Blockeel, "Decision trees for hierarchical multi-label classification",
2008 (genes); Dimitrovski, Kocev, Loskovska and Džeroski, "Hierarchical classification of diatom images using ensembles
of predictive clustering trees", 2012; Klimt and Yang, "The Enron corpus", 2004; Dimitrovski, Kocev, Loskovska and
Džeroski, "Hierarchical annotation of medical images", 2011 (ImCLEF07D).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

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
from mlresearch.errors import UserError, quote
from mlresearch.hierarchy import CycleError, parents_first
from mlresearch.label_space import LabelReader, LabelSpace
from mlresearch.progress import track

ROOT = "root"
MAX_DEPTH = 50  # every prefix of a path is a label: a path of n names may stand for n² / 2 letters
MAX_LENGTH = 1000

FUNCAT = ("church", "cellcycle", "derisi", "eisen", "gasch1", "gasch2", "pheno")
GENE_ONTOLOGY = ("cellcycle", "derisi", "eisen", "gasch1", "gasch2", "pheno")


def _gene_files(folder: str, name: str) -> dict[str, str]:
    return {
        split: f"{folder}/{name}.{suffix}.arff"
        for split, suffix in (("train", "train"), ("validation", "valid"), ("test", "test"))
    }


# The file of each split, below MANUAL_DIR/hmc.
FILES: Mapping[str, Mapping[str, str]] = {
    **{f"{name}_FUN": _gene_files("funcat", f"{name}_FUN") for name in FUNCAT},
    **{f"{name}_GO": _gene_files("go", f"{name}_GO") for name in GENE_ONTOLOGY},
    "diatoms": {"train": "other/Diatoms_train.arff", "test": "other/Diatoms_test.arff"},
    "enron": {"train": "other/Enron_corr_trainvalid.arff", "test": "other/Enron_corr_test.arff"},
    "imclef07d": {"train": "other/ImCLEF07D_Train.arff", "test": "other/ImCLEF07D_Test.arff"},
}

DESCRIPTION = """\
Hierarchical multi-label classification data in the ARFF form of Clus: numeric and nominal features, and labels in a
tree (paths) or a directed acyclic graph (edges)."""
CITATION = """\
@article{vens2008decision,
  title = {Decision trees for hierarchical multi-label classification},
  author = {Vens, Celine and Struyf, Jan and Schietgat, Leander and D{\\v{z}}eroski, Sa{\\v{s}}o and Blockeel, Hendrik},
  journal = {Machine Learning},
  volume = {73},
  number = {2},
  pages = {185--214},
  year = {2008}
}"""
HOMEPAGE = "https://dtai.cs.kuleuven.be/clus/hmcdatasets/"
LICENSE = "Not stated for the data."


class Classes(NamedTuple):
    """What a class declaration holds: label names, pairs of (child, parent) ids, the form, and how much was dropped."""

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    form: Literal["paths", "edges"]
    repeated: int


class Builder(Source):
    """The data sets ``hmc/cellcycle_FUN`` and so on, and ``hmc``: files of one's own.

    unknown_labels: a label in a row that is not declared is an error ("error"), or is left out and counted ("drop").
    ontology_roots: whether the children of ``root`` are labels ("keep") or not ("drop"), which acts on the form of
    edges alone.
    """

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        name: () if name in FILES and not name.endswith("_GO") else ("ontology_roots",) for name in ("", *FILES)
    }

    def __init__(
        self,
        *,
        subset: str,
        data_dir: str | Path,
        manual_dir: str = "",
        unknown_labels: Literal["error", "drop"] = "error",
        ontology_roots: Literal["keep", "drop"] = "keep",
        arff_train: str = "",
        arff_validation: str = "",
        arff_test: str = "",
    ) -> None:
        options = {
            "manual_dir": manual_dir,
            "unknown_labels": unknown_labels,
            "ontology_roots": ontology_roots,
            "arff_train": arff_train,
            "arff_validation": arff_validation,
            "arff_test": arff_test,
        }
        self.unknown_labels = unknown_labels
        self.ontology_roots = ontology_roots
        self.tables = read_splits(split_files(subset, options))
        first = next(iter(self.tables.values()))
        self.place = find_classes(first)
        self.features = [place for place in range(len(first.attributes)) if place != self.place]
        if not feature_names(first.attributes[place] for place in self.features):
            raise UserError(f"{first.path}: no numeric or nominal attribute, expected at least one feature")
        self.classes = read_classes(first.attributes[self.place].values, first.where_declared(self.place))
        super().__init__(subset=subset, data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the ARFF files of the splits."""
        return tuple(split_files(subset, options).values())

    def _info(self) -> tfds.core.DatasetInfo:
        first = next(iter(self.tables.values()))
        return self.describe(
            label_space=LabelSpace(self.kept.names, self.kept.names),
            parents=self.kept.edges,
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            feature_names=feature_names(first.attributes[place] for place in self.features),
        )

    @property
    def kept(self) -> Classes:
        """The classes that are labels; nothing describes them."""
        drop = self.ontology_roots == "drop" and self.classes.form == "edges"
        return drop_roots(self.classes) if drop else self.classes

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        declared, kept = self.classes.names, {name: label for label, name in enumerate(self.kept.names)}
        reader = LabelReader(LabelSpace(declared, declared), "ragged", self.unknown_labels)
        labels = {
            split: [
                [kept[declared[label]] for label in row if declared[label] in kept]
                for row in read_labels(table, self.place, reader)
            ]
            for split, table in self.tables.items()
        }
        roots = [declared[label] for label in root_classes(self.classes)]
        self.info.metadata["notes"] = {
            **describe_tables(self.tables, self.features),
            "class_form": self.classes.form,
            "repeated_class_entries": self.classes.repeated,
            "dropped_labels": reader.dropped_note,
        } | ({"ontology_roots": roots} if self.classes.form == "edges" else {})
        return {split: self._generate_examples(split, table, labels[split]) for split, table in self.tables.items()}

    def _generate_examples(self, split: str, table: Arff, labels: Sequence[list[int]]) -> Iterator[tuple[int, dict]]:
        features = feature_matrix(table, self.features)
        for row in track(range(len(table)), f"prepare {split}", len(table)):
            yield row, {"features": features[row], "labels": labels[row], "key": table.key(row)}


def split_files(subset: str, options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the file of each split of a data set: upstream's, or those that the options give for ``hmc`` itself."""
    given = {name: options[name] for name in ("arff_train", "arff_validation", "arff_test")}
    if not subset:
        return given_files("hmc", *given.values())
    for name, path in given.items():
        if path:
            raise UserError(f"hmc/{subset} reads its own files; --config.data.{name}={path} is for the data set 'hmc'")
    folder = manual_folder(options["manual_dir"], "hmc", *FILES[subset].values())
    return {split: folder / name for split, name in FILES[subset].items()}


def find_classes(table: Arff) -> int:
    """Return the position of the one hierarchical attribute; none or several are a `UserError`."""
    places = [place for place, attribute in enumerate(table.attributes) if attribute.kind == "hierarchical"]
    if not places:
        raise UserError(
            f"{table.path}: no attribute of the type 'hierarchical', expected '@attribute class hierarchical a,a/b,...'"
        )
    if len(places) > 1:
        raise UserError(f"{table.where_declared(places[1])}: a second hierarchical attribute, expected one")
    return places[0]


def read_classes(entries: Sequence[str], where: str) -> Classes:
    """Return the labels and the hierarchy that the entries of a class declaration stand for.

    The form is that which the top of this file states. What does not fit it, a cycle and a node that no path leads to
    from the root are a `UserError` that begins with `where`.
    """
    distinct = dict.fromkeys(entries)
    split = {entry: entry.split("/") for entry in distinct}
    for entry, parts in split.items():
        if any(not part or part != part.strip() or "@" in part for part in parts):
            raise UserError(
                f"{where}: the class {quote(entry)} has an empty name, or one with outer blanks or '@', "
                "expected names separated by '/'"
            )
        if len(parts) > MAX_DEPTH or len(entry) > MAX_LENGTH:
            raise UserError(
                f"{where}: the class {quote(entry)} has {len(parts)} names and {len(entry)} letters, "
                f"expected at most {MAX_DEPTH} and {MAX_LENGTH}"
            )
    if any(parts[0] == ROOT and len(parts) > 1 for parts in split.values()):
        form: Literal["paths", "edges"] = "edges"
        pairs = _read_edges(split, where)
    else:
        form = "paths"
        pairs = _read_paths(split)
    nodes, edges = _sort_nodes(pairs, where)
    return Classes(nodes, edges, form, len(entries) - len(distinct))


def root_classes(classes: Classes) -> list[int]:
    """Return the ids of the classes without a parent."""
    children = {child for child, _ in classes.edges}
    return [label for label in range(len(classes.names)) if label not in children]


def drop_roots(classes: Classes) -> Classes:
    """Return the classes without those that have no parent; whose parents were all among these are roots then."""
    roots = set(root_classes(classes))
    kept = [label for label in range(len(classes.names)) if label not in roots]
    ids = {label: place for place, label in enumerate(kept)}
    names = tuple(classes.names[label] for label in kept)
    edges = tuple((ids[child], ids[parent]) for child, parent in classes.edges if parent in ids)
    return Classes(names, edges, classes.form, classes.repeated)


def _read_edges(split: Mapping[str, Sequence[str]], where: str) -> list[tuple[str, str | None]]:
    """Return (child, parent) for each entry ``parent/child``; the parent is None below the root."""
    pairs: list[tuple[str, str | None]] = []
    for entry, parts in split.items():
        if len(parts) != 2 or parts[1] == ROOT:
            raise UserError(
                f"{where}: the class {quote(entry)}, expected 'parent/child': there are edges from {ROOT!r}, "
                "which stands for no label"
            )
        pairs.append((parts[1], None if parts[0] == ROOT else parts[0]))
    children = {child for child, _ in pairs}
    for _, parent in pairs:
        if parent is not None and parent not in children:
            raise UserError(f"{where}: the class {quote(parent)} has no parent, expected a path to it from {ROOT!r}")
    return pairs


def _read_paths(split: Mapping[str, Sequence[str]]) -> list[tuple[str, str | None]]:
    """Return (child, parent) for each path and all its prefixes."""
    pairs: dict[tuple[str, str | None], None] = {}
    for entry, parts in split.items():
        child: str = entry
        for _ in parts:
            parent = child.rpartition("/")[0] or None
            if (child, parent) in pairs:
                break
            pairs[child, parent] = None
            child = parent or ""
    return list(pairs)


def _sort_nodes(
    pairs: Sequence[tuple[str, str | None]], where: str
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Order nodes with parents before children, and else by their first mention; return edges of ids as well."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair if name is not None))
    rank = {name: place for place, name in enumerate(names)}
    edges = [(rank[child], rank[parent]) for child, parent in pairs if parent is not None]
    try:
        order = parents_first(len(names), edges)
    except CycleError as error:
        cycle = [*error.cycle, error.cycle[0]][:10]
        shown = " -> ".join(quote(names[node]) for node in cycle)
        raise UserError(f"{where}: the classes {shown} form a cycle from child to parent, expected none") from None
    ids = {place: label for label, place in enumerate(order)}
    return tuple(names[place] for place in order), tuple(sorted((ids[child], ids[parent]) for child, parent in edges))


def read_labels(table: Arff, place: int, reader: LabelReader) -> list[list[int]]:
    """Return the label ids of each row; a label that is listed twice counts once."""
    rows = []
    for row, text in enumerate(table.texts[place]):
        names = [] if text is None else list(dict.fromkeys(name.strip(" \t") for name in text.split("@")))
        if not names or not all(names):
            shown = quote("?" if text is None else text)
            raise UserError(f"{table.where(row)}: the class {shown}, expected labels separated by '@'")
        rows.append(reader.read(names, table.where(row))[0])
    return rows
