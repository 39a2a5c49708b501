"""CodiEsp: Spanish clinical cases with the ICD-10 codes of their diagnoses, and where in the text they stand.

``codiesp/spanish`` has the cases as written and the evidence of each code; ``codiesp/english`` has their machine
translations, to which the places of the evidence do not apply. Splits are upstream's (its "dev" is "validation").
Diagnoses alone are read (``*D.tsv``: document and code; ``*X.tsv``: what the codes stand on), procedures are not.

**Labels** are the diagnosis codes that any split has, 2,557, and all that is above them in ICD-10-CM
(`mlresearch.data.icd10cm`): chapters, blocks, categories and codes. Labels are named as there; the files write codes in
lower case. Rows list codes alone: the loader adds what is above them.

The codes are those of CIE-10-ES, the Spanish edition of ICD-10-CM, in 2018; the list read here is ICD-10-CM of April
2026. A code that the list lacks is a label of its own below the longest of its beginnings that the list has, and is
described by the title of that. There are 98 such codes, all of one kind: the seventh character, which tells the
encounter, is left out, but the letters X that fill up the places before it stand there, as in S02.0XX, here below
S02.0. A code without such a beginning, or of another form than a code, is an unknown label (`unknown_labels`); upstream
has none. Some codes have others below them: closed label sets do not tell whether a document lists such a code itself.

**Evidence** is each piece of the text that a code is founded on, with the label of the code: first character and end in
the Spanish text (in characters, byte order mark and carriage returns not counted). A mention in several pieces is
several rows. The notes count where the text differs from what upstream says stands there, and pieces of no length,
which are left out.

Source: Miranda-Escalada, Gonzalez-Agirre, Armengol-Estapé and Krallinger, "Overview of automatic clinical coding:
annotations, guidelines, and solutions for non-English clinical cases at CodiEsp track of CLEF eHealth 2020", 2020.
"""

import collections
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source, manual_folder
from mlresearch.data.icd10cm import Node, path_to_root, read_tabular_list
from mlresearch.data.reading import read_fields, read_text
from mlresearch.errors import UserError
from mlresearch.label_space import LabelReader, LabelSpace
from mlresearch.progress import track

FOLDERS = {"train": "train", "validation": "dev", "test": "test"}
TEXTS = {"spanish": "text_files", "english": "text_files_en"}
DIAGNOSIS, PROCEDURE = "DIAGNOSTICO", "PROCEDIMIENTO"
CODE = re.compile(r"[A-Z][0-9][0-9A-Z](?:\.[0-9A-Z]{1,4})?")
CODE_KINDS = ("category", "code", "extension")
SPAN = re.compile(r"([0-9]{1,9}) ([0-9]{1,9})")
EVIDENCE_COUNTS = (
    "mentions",
    "mentions_in_several_pieces",
    "pieces_of_no_length",
    "pieces_given_before",
    "mentions_that_differ_from_the_text",
)

DESCRIPTION = """\
Clinical cases published in Spanish, or their machine translations into English, with the ICD-10 codes that clinical
coders gave to their diagnoses."""
CITATION = """\
@inproceedings{mirandaescalada2020codiesp,
  title = {Overview of automatic clinical coding: annotations, guidelines, and solutions for non-{English} clinical
           cases at {CodiEsp} track of {CLEF eHealth} 2020},
  author = {Miranda-Escalada, Antonio and Gonzalez-Agirre, Aitor and Armengol-Estap{\\'e}, Jordi and
            Krallinger, Martin},
  booktitle = {Working Notes of Conference and Labs of the Evaluation (CLEF) Forum},
  year = {2020}
}"""
HOMEPAGE = "https://temu.bsc.es/codiesp/"
LICENSE = "CC BY 4.0; cite Miranda-Escalada et al., 2020"


class Diagnosis(NamedTuple):
    """A row of ``*D.tsv``: its place in the files, the document and the code, in upper case."""

    where: str
    document: str
    code: str


class Evidence(NamedTuple):
    """A row of ``*X.tsv``: its place, the document, the code in upper case, the text and where its pieces stand."""

    where: str
    document: str
    code: str
    text: str
    spans: tuple[tuple[int, int], ...]


class Builder(Source):
    """The data sets ``codiesp/spanish`` and ``codiesp/english``."""

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {"spanish": (), "english": ()}

    def __init__(
        self, *, subset: str, data_dir: str | Path, manual_dir: str, unknown_labels: Literal["error", "drop"]
    ) -> None:
        self.subset = subset
        self.folder = manual_folder(manual_dir, "codiesp")
        self.diagnoses = {split: read_diagnoses(self.folder / _table(split, "D")) for split in FOLDERS}
        codes = {row.code for rows in self.diagnoses.values() for row in rows}
        self.label_space, self.parents, self.added = make_labels(codes, read_tabular_list())
        self.reader = LabelReader(self.label_space, "ragged", unknown_labels)
        options = {"manual_dir": manual_dir, "unknown_labels": unknown_labels}
        super().__init__(subset=subset, data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the tables of diagnoses, of evidence where the subset has it, and all texts."""
        tables = [_table(split, letter) for letter in ("DX" if subset == "spanish" else "D") for split in FOLDERS]
        folder = manual_folder(options["manual_dir"], "codiesp", *tables)
        texts = [path for name in FOLDERS.values() for path in list_texts(folder / name / TEXTS[subset])]
        return [*(folder / table for table in tables), *texts]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.describe(
            label_space=self.label_space,
            parents=self.parents,
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            text=True,
            evidence=self.subset == "spanish",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        examples, evidence_counts = {}, collections.Counter(dict.fromkeys(EVIDENCE_COUNTS, 0))
        for split, name in FOLDERS.items():
            texts = read_texts(self.folder / name / TEXTS[self.subset])
            labels = labels_by_document(self.diagnoses[split], texts, self.reader)
            evidence: dict[str, list[list[int]]] | None = None
            if self.subset == "spanish":
                rows = read_evidence(self.folder / _table(split, "X"))
                evidence, counts = place_evidence(rows, texts, labels, self.label_space)
                evidence_counts.update(counts)
            examples[split] = self._generate_examples(split, texts, labels, evidence)
        self.info.metadata["notes"] = self._count_codes()
        if self.subset == "spanish":
            self.info.metadata["notes"] |= {"evidence": dict(evidence_counts)}
        return examples

    def _count_codes(self) -> dict[str, Any]:
        rows = {split: {row[1:] for row in diagnoses} for split, diagnoses in self.diagnoses.items()}
        codes = {split: {code for _, code in pairs} for split, pairs in rows.items()}
        above = {self.label_space.names[parent] for _, parent in self.parents}
        return {
            "diagnoses": {split: len(pairs) for split, pairs in rows.items()},
            "rows_that_repeat_a_diagnosis": {split: len(self.diagnoses[split]) - len(rows[split]) for split in rows},
            "codes": {split: len(found) for split, found in codes.items()},
            "codes_of_all_splits": len(set().union(*codes.values())),
            "test_codes_not_in_train": len(codes["test"] - codes["train"]),
            "codes_with_labels_below_them": len(set().union(*codes.values()) & above),
            "codes_that_icd10cm_lacks": len(self.added),
            "diagnoses_that_icd10cm_lacks": sum(code in self.added for pairs in rows.values() for _, code in pairs),
            "dropped_labels": self.reader.dropped_note,
        }

    def _generate_examples(
        self,
        split: str,
        texts: Mapping[str, str],
        labels: Mapping[str, Set[int]],
        evidence: Mapping[str, Sequence[list[int]]] | None,
    ) -> Iterator[tuple[int, dict]]:
        for number, (document, text) in enumerate(track(texts.items(), f"prepare {split}", len(texts))):
            record: dict[str, Any] = {"text": text, "labels": sorted(labels[document]), "key": document}
            if evidence is not None:
                record["evidence"] = np.array(evidence[document], np.int32).reshape(-1, 3)
            yield number, record


def _table(split: str, letter: str) -> str:
    """Return the path of a table, such as ``dev/devD.tsv``."""
    return f"{FOLDERS[split]}/{FOLDERS[split]}{letter}.tsv"


def list_texts(folder: Path) -> list[Path]:
    """Return the files of texts in a folder, by name; a folder that is not there, or has none, is a `UserError`."""
    paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"codiesp: there are no texts, *.txt, in {folder}")
    return paths


def read_texts(folder: Path) -> dict[str, str]:
    """Return the texts of a folder by the names of their documents; an empty one is a `UserError`."""
    texts = {path.stem: read_text(path) for path in list_texts(folder)}
    for document, text in texts.items():
        if not text.strip():
            raise UserError(f"{folder / document}.txt has no text")
    return texts


def read_diagnoses(path: Path) -> list[Diagnosis]:
    """Return the rows of a table of documents and codes; a file without rows is a `UserError`."""
    rows = [Diagnosis(where, document, code.upper()) for where, (document, code) in read_fields(path, 2)]
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def read_evidence(path: Path) -> list[Evidence]:
    """Return the rows on diagnoses of a table of documents, kinds, codes, texts and places such as ``3 16;48 61``."""
    rows = []
    for where, (document, kind, code, text, places) in read_fields(path, 5):
        if kind not in (DIAGNOSIS, PROCEDURE):
            raise UserError(f"{where}: {kind!r:.60} is neither {DIAGNOSIS} nor {PROCEDURE}")
        if kind == DIAGNOSIS:
            spans = [SPAN.fullmatch(place) for place in places.split(";")]
            if not all(spans):
                raise UserError(f"{where}: {places!r:.60} are no places in a text, such as '307 316;348 361'")
            pieces = tuple((int(span[1]), int(span[2])) for span in spans if span)
            rows.append(Evidence(where, document, code.upper(), text, pieces))
    if not rows:
        raise UserError(f"{path} has no rows on diagnoses")
    return rows


def make_labels(
    codes: Iterable[str], nodes: Sequence[Node]
) -> tuple[LabelSpace, list[tuple[int, int]], dict[str, str]]:
    """Return the labels for codes, pairs of child and parent, and where the codes stand that are not in the list.

    Labels are entries of the list, in its order, then codes that it lacks and has the beginning of, in alphabetical
    order. The last result names that beginning for each of these. Other codes get no label.
    """
    places = {node.name: place for place, node in enumerate(nodes) if node.kind in CODE_KINDS}
    added = {code: beginning for code in sorted(codes) if code not in places and (beginning := _begin(code, places))}
    held = {places[code] for code in (*codes, *added.values()) if code in places}
    kept = sorted({above for place in held for above in path_to_root(nodes, place)})
    ids = {place: label for label, place in enumerate(kept)}
    names = [*(nodes[place].name for place in kept), *added]
    titles = [nodes[place].title for place in kept]
    titles += [f"{nodes[places[beginning]].title} ({code})" for code, beginning in added.items()]
    parents = [(ids[place], ids[parent]) for place in kept if (parent := nodes[place].parent) is not None]
    parents += [(label, ids[places[beginning]]) for label, beginning in enumerate(added.values(), len(kept))]
    return LabelSpace(tuple(names), tuple(titles)), parents, added


def _begin(code: str, places: Mapping[str, int]) -> str | None:
    """Return the longest beginning of a code that is in the list, None if there is none or it is no code."""
    if not CODE.fullmatch(code):
        return None
    beginnings = (code[:length].removesuffix(".") for length in range(len(code) - 1, 2, -1))
    return next((beginning for beginning in beginnings if beginning in places), None)


def labels_by_document(rows: Iterable[Diagnosis], texts: Mapping[str, str], reader: LabelReader) -> dict[str, set[int]]:
    """Return the label ids of each text's document; a document without a text is a `UserError`."""
    labels: dict[str, set[int]] = {document: set() for document in texts}
    for row in rows:
        if row.document not in texts:
            raise UserError(f"{row.where}: there is no text of the document {row.document!r:.60}")
        labels[row.document].update(reader.read([row.code], row.where)[0])
    return labels


def place_evidence(
    rows: Iterable[Evidence],
    texts: Mapping[str, str],
    labels: Mapping[str, Set[int]],
    label_space: LabelSpace,
) -> tuple[dict[str, list[list[int]]], dict[str, int]]:
    """Return [label id, first character, end] of the pieces of evidence in each document, and counts of oddities.

    Pieces ascend by label, then by place, and each occurs once. A place outside of the text, and a code that is no
    diagnosis of the document, are `UserError`s.
    """
    found: dict[str, set[tuple[int, int, int]]] = {document: set() for document in texts}
    counts = dict.fromkeys(EVIDENCE_COUNTS, 0)
    for row in rows:
        text = texts.get(row.document)
        if text is None:
            raise UserError(f"{row.where}: there is no text of the document {row.document!r:.60}")
        for start, stop in row.spans:
            if not start <= stop <= len(text):
                raise UserError(f"{row.where}: {start} to {stop} is no place in a text of {len(text)} characters")
        label = label_space.index.get(row.code)
        if label is None:  # a dropped code has no label that the evidence could be of
            continue
        if label not in labels[row.document]:
            raise UserError(f"{row.where}: {row.code!r:.60} is no diagnosis of the document {row.document!r:.60}")
        pieces = {(label, start, stop) for start, stop in row.spans if start < stop}
        counts["mentions"] += 1
        counts["mentions_in_several_pieces"] += len(row.spans) > 1
        counts["pieces_of_no_length"] += sum(start == stop for start, stop in row.spans)
        counts["pieces_given_before"] += len(pieces & found[row.document])
        counts["mentions_that_differ_from_the_text"] += " ".join(text[a:b] for a, b in row.spans) != row.text
        found[row.document] |= pieces
    return {document: [list(piece) for piece in sorted(pieces)] for document, pieces in found.items()}, counts
