"""Reuters-21578: newswire of 1987 with its topics, divided as ModApte divides it.

The 22 files ``reut2-000.sgm`` to ``reut2-021.sgm`` are SGML, not XML, and are read as the text they are. Of their
21,578 documents (the notes count each step):

1. ModApte takes those with the attribute TOPICS="YES": indexers have looked at them, whether or not they found a topic.
   Those with LEWISSPLIT="TRAIN" are for training, with LEWISSPLIT="TEST" for test; others ("NOT-USED") are left out.
2. Labels are the topics that at least one training and at least one test document has: 90. They are flat.
3. Documents without any of them are left out, and other topics of the rest are: 7,770 and 3,019 documents remain.

There is no validation split upstream. A topic that a document lists twice counts once.

**Texts** are title and body; date line, author and the desk's codes are left out. A document of the type BRIEF has a
title alone (what stands behind it is "Blah blah blah."), one of the type UNPROC has no parts, so all of its text is
taken. Entities (``&lt;``) become the characters that they stand for; control characters such as the one that ends
bodies are dropped, but for line feeds and tabs.

Source: Lewis, "Reuters-21578 text categorization test collection, distribution 1.0", 1997, whose notes define the
splits; Apté, Damerau and Weiss, "Automated learning of decision rules for text categorization", 1994.
"""

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source, manual_folder
from mlresearch.data.reading import read_text
from mlresearch.errors import UserError, suggest
from mlresearch.label_space import LabelSpace
from mlresearch.progress import track

FILES = tuple(f"reut2-{number:03}.sgm" for number in range(22))
TOPIC_LIST = "cat-descriptions_120396.txt"
NUM_DOCUMENTS = 21_578

SPLITS = {"TRAIN": "train", "TEST": "test", "NOT-USED": None}
INDEXED = {"YES": True, "NO": False, "BYPASS": False}
TYPES = {"<TEXT>": "NORM", '<TEXT TYPE="BRIEF">': "BRIEF", '<TEXT TYPE="UNPROC">': "UNPROC"}

ENTITY = re.compile(r"&(?:#([0-9]{1,7})|(lt|gt|amp|quot));")
CHARACTERS = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
NOT_BLANK = re.compile(r"\S")
TOPIC = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*+")

DESCRIPTION = """\
Stories of the Reuters newswire of 1987, each with the topics that its indexers gave it; the ModApte split, and the 90
topics that have a document on each side of it."""
CITATION = """\
@misc{lewis1997reuters,
  title = {{Reuters-21578} Text Categorization Test Collection, Distribution 1.0},
  author = {Lewis, David D.},
  year = {1997}
}"""
HOMEPAGE = "https://www.daviddlewis.com/resources/testcollections/reuters21578/"
LICENSE = "For research purposes only"


class Document(NamedTuple):
    """A document of the collection.

    key: its NEWID. split: "train", "test" or None (not used). indexed: TOPICS="YES". topics: as listed, distinct.
    num_repeated: topics listed again. kind: a value of `TYPES`.
    """

    key: str
    split: str | None
    indexed: bool
    topics: tuple[str, ...]
    num_repeated: int
    kind: str
    text: str


class Builder(Source):
    """The data set ``reuters21578``."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data_dir: str | Path, manual_dir: str) -> None:
        options = {"manual_dir": manual_dir}
        *files, topic_list = self.files("", options)
        documents = [document for path in files for document in parse_documents(read_text(path, "latin-1"), path)]
        if len(documents) != NUM_DOCUMENTS:
            raise UserError(
                f"{files[0].parent}: the {len(files)} files hold {len(documents)} documents, not {NUM_DOCUMENTS}; "
                "is one of them cut off, or does a document stand twice?"
            )
        self.documents, self.topics, self.notes = apply_modapte(documents)
        titles = parse_topic_list(read_text(topic_list, "latin-1"))
        self.titles = [titles.get(topic, topic) for topic in self.topics]
        super().__init__(data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the 22 files of documents and, last, the list of topics."""
        folder = manual_folder(options["manual_dir"], "reuters21578", *FILES, TOPIC_LIST)
        return [folder / name for name in (*FILES, TOPIC_LIST)]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.describe(
            label_space=LabelSpace(tuple(self.topics), tuple(self.titles)),
            parents=None,
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            text=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        self.info.metadata["notes"] = self.notes
        return {split: self._generate_examples(split, documents) for split, documents in self.documents.items()}

    def _generate_examples(self, split: str, documents: Sequence[Document]) -> Iterator[tuple[int, dict]]:
        ids = {topic: label for label, topic in enumerate(self.topics)}
        for number, document in enumerate(track(documents, f"prepare {split}", len(documents))):
            labels = sorted(ids[topic] for topic in document.topics if topic in ids)
            yield number, {"text": document.text, "labels": labels, "key": document.key}


def parse_documents(content: str, path: Path) -> list[Document]:
    """Return the documents of a file; `path` names it in errors.

    What is not as the collection writes it is a `UserError`: a document that does not end, a part that is missing,
    anything between documents.
    """
    documents = []
    position = _skip_blank(content, 0)
    if content.startswith("<!DOCTYPE", position):
        position = _skip_blank(content, content.find(">", position) + 1)
    line = content.count("\n", 0, position) + 1
    while position < len(content):
        where = f"{path}, line {line}"
        if not content.startswith("<REUTERS ", position):
            raise UserError(
                f"{where}: expected a document, '<REUTERS …>', not {content[position : position + 60]!r:.60}"
            )
        end = content.find("</REUTERS>", position)
        if end < 0 or content.find("<REUTERS ", position + 1, end) >= 0:
            raise UserError(f"{where}: the document that begins here has no '</REUTERS>'; is the file cut off?")
        documents.append(_parse_document(content[position:end], where))
        following = _skip_blank(content, end + len("</REUTERS>"))
        line += content.count("\n", position, following)
        position = following
    if not documents:
        raise UserError(f"{path} has no documents")
    return documents


def _skip_blank(content: str, position: int) -> int:
    """Return where the first character stands, from `position` on, that is not blank."""
    found = NOT_BLANK.search(content, position)
    return found.start() if found else len(content)


def _parse_document(content: str, where: str) -> Document:
    """Return what stands from ``<REUTERS`` up to ``</REUTERS>``."""
    header, _, parts = content.partition(">")
    attributes = {}
    for attribute in header.split()[1:]:
        name, _, value = attribute.partition("=")
        if len(value) < 2 or value[0] != '"' or value[-1] != '"':
            raise UserError(f'{where}: {attribute!r:.60} is not an attribute, such as NEWID="1"')
        attributes[name] = value[1:-1]
    key = attributes.get("NEWID", "")
    if not re.fullmatch(r"[0-9]{1,9}", key):
        raise UserError(f"{where}: the document has no number NEWID")
    where = f"{where}, document {key}"
    for name, known in (("LEWISSPLIT", SPLITS), ("TOPICS", INDEXED)):
        if attributes.get(name, "") not in known:
            raise UserError(f"{where}: {name} is {attributes.get(name, '')!r:.60}{suggest('', known)}")
    listed = _topics(_element(parts, "TOPICS", where), where)
    topics = tuple(dict.fromkeys(listed))
    kind, text = _text(parts, where)
    split, indexed = SPLITS[attributes["LEWISSPLIT"]], INDEXED[attributes["TOPICS"]]
    return Document(key, split, indexed, topics, len(listed) - len(topics), kind, text)


def _element(content: str, tag: str, where: str) -> str:
    """Return what stands between the one ``<tag>`` and its end."""
    parts = content.split(f"<{tag}>")
    if len(parts) != 2 or parts[1].count(f"</{tag}>") != 1:
        raise UserError(f"{where}: expected one '<{tag}>' with its end '</{tag}>'")
    return parts[1].partition(f"</{tag}>")[0]


def _topics(content: str, where: str) -> list[str]:
    """Return the names in ``<D>earn</D><D>acq</D>``."""
    *topics, rest = content.split("</D>")
    for topic in topics:
        if not topic.startswith("<D>") or not TOPIC.fullmatch(topic[3:]):
            raise UserError(f"{where}: {topic!r:.60} is not a topic, '<D>…'")
    if rest.strip():
        raise UserError(f"{where}: {rest!r:.60} is not a topic, '<D>…</D>'")
    return [topic[3:] for topic in topics]


def _text(parts: str, where: str) -> tuple[str, str]:
    """Return the type of a document and its text."""
    start = parts.find("<TEXT")
    tag = parts[start : parts.find(">", start) + 1] if start >= 0 else ""
    if tag not in TYPES:
        raise UserError(f"{where}: expected a text, '<TEXT>', not {tag!r:.60}")
    kind = TYPES[tag]
    content, end, _ = parts[start + len(tag) :].partition("</TEXT>")
    if not end:
        raise UserError(f"{where}: the text has no end '</TEXT>'")
    if kind == "UNPROC":
        pieces = [content]
    else:
        pieces = [_element(content, tag, where) for tag in ("TITLE", "BODY")[: 1 if kind == "BRIEF" else 2]]
    for piece in pieces:
        if "<" in piece:
            raise UserError(f"{where}: a tag within the text, {piece[piece.index('<') :]!r:.60}")
    cleaned = (CONTROL.sub("", ENTITY.sub(_character, piece)).strip() for piece in pieces)
    return kind, "\n".join(piece for piece in cleaned if piece)


def _character(entity: re.Match[str]) -> str:
    """Return the character that an entity stands for, nothing where there is none."""
    if entity[2]:
        return CHARACTERS[entity[2]]
    code = int(entity[1])
    return "" if code > 0x10FFFF or 0xD800 <= code < 0xE000 else chr(code)


def parse_topic_list(content: str) -> dict[str, str]:
    """Return the titles of topics, "Gross National/Domestic Product" of "gnp", off the list of categories.

    Commodities have none: their line is their name. Lists of organizations and the like, which follow, are left out.
    """
    topics = content.partition("****Subject Codes")[2].partition("______")[0]
    lines = (line.strip() for line in topics.split("\n"))
    entries = ((line[:-1].rpartition(" (")) for line in lines if line.endswith(")") and not line.startswith("*"))
    return {name.lower(): title.strip() for title, _, name in entries if title.strip() and title.isprintable()}


def apply_modapte(documents: Sequence[Document]) -> tuple[dict[str, list[Document]], list[str], dict[str, Any]]:
    """Return the documents of each split, the labels in alphabetical order, and notes of what is left out.

    A split without documents, which is one without a topic that both have, is a `UserError`.
    """
    indexed = {
        split: [document for document in documents if document.split == split and document.indexed]
        for split in ("train", "test")
    }
    held = {split: {topic for document in rows for topic in document.topics} for split, rows in indexed.items()}
    topics = held["train"] & held["test"]
    if not topics:
        raise UserError("reuters21578: no topic has both a training and a test document")
    kept = {split: [row for row in rows if not topics.isdisjoint(row.topics)] for split, rows in indexed.items()}
    others = collections.Counter(
        topic for rows in kept.values() for row in rows for topic in row.topics if topic not in topics
    )
    repeated = [row.key for rows in kept.values() for row in rows if row.num_repeated]
    notes = {
        "documents": len(documents),
        "modapte": {split: len(rows) for split, rows in indexed.items()},
        "modapte_without_topics": {split: sum(not row.topics for row in rows) for split, rows in indexed.items()},
        "left_out_without_a_label": {split: len(rows) - len(kept[split]) for split, rows in indexed.items()},
        "topics_of_one_split": {split: len(held[split] - topics) for split in held},
        "dropped_topics": dict(sorted(others.items())),
        "documents_that_repeat_a_topic": repeated,
        "title_alone": {split: sum(row.kind == "BRIEF" for row in rows) for split, rows in kept.items()},
        "unprocessed": {split: sum(row.kind == "UNPROC" for row in rows) for split, rows in kept.items()},
        "empty_texts": {split: sum(not row.text for row in rows) for split, rows in kept.items()},
    }
    return kept, sorted(topics), notes
