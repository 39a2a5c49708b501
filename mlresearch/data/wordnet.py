"""WordNet's nouns: what a gloss defines, labelled with all that it is a kind of.

Read from ``data.noun`` of WordNet 3.0: 82,115 synsets, sets of words of one meaning, each with a gloss and with its
hypernyms, the meanings that it is a kind of (``@``) or an instance of (``@i``); one kind of pointer is as good as the
other here. A synset may have several hypernyms, so that the hierarchy is a directed acyclic graph.

**Labels** are the synsets with at least `min_descendants` synsets below them: 540 for 100. What is above a label is a
label, too, so that the hierarchy is that of WordNet, up to the root ``entity.00001740``. The root is a label although
every example has it: it says nothing, but the count of 540 and the depth of 15 levels include it. A label is named by
its first word and its offset in the file, since 26 first words are those of several labels, and described by its gloss.

**Examples** are the synsets that are no label (the gloss of a label is its description) and have a label other than the
root: 82,115 − 540 − 9 = 81,566. Their labels are all that is above them, directly or not. The text is the gloss,
examples of use included, and with `words` the words of the synset before it. Upstream gives no splits.

Source: Miller, "WordNet: A Lexical Database for English", 1995; Fellbaum (ed.), "WordNet: An Electronic Lexical
Database", 1998. The form of the file: its manual page wndb(5WN).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source, manual_folder
from mlresearch.data.reading import read_text
from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSpace
from mlresearch.progress import track

FILE = "data.noun"
HYPERNYM = ("@", "@i")
MAX_DEPTH = 100

# Offset, file of the lexicographers, type, number of words (hexadecimal), words with a digit each, number of pointers,
# pointers: symbol, offset, part of speech, which words.
START = re.compile(r"([0-9]{8}) [0-9]{2} n ([0-9a-f]{2}) ")
OFFSET = re.compile(r"[0-9]{8}")

DESCRIPTION = """\
Glosses of the nouns of WordNet 3.0, labelled with what they are kinds or instances of: all hypernyms that have enough
synsets below them."""
CITATION = """\
@article{miller1995wordnet,
  title = {{WordNet}: A Lexical Database for {English}},
  author = {Miller, George A.},
  journal = {Communications of the ACM},
  volume = {38},
  number = {11},
  pages = {39--41},
  year = {1995}
}"""
HOMEPAGE = "https://wordnet.princeton.edu/"
LICENSE = "WordNet licence"


class Synset(NamedTuple):
    """A line of the file: its offset, words (first one first), the offsets of its hypernyms, each once, and its gloss.

    is_instance: whether one of the hypernyms is what it is an instance of.
    """

    offset: str
    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    is_instance: bool
    gloss: str


class Builder(Source):
    """The data set ``wordnet``.

    min_descendants: how many synsets must be below a synset that is a label. words: whether the words of a synset stand
    before its gloss, as in "dog, domestic dog: a member of …".
    """

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("min_descendants", "words")}

    def __init__(
        self, *, data_dir: str | Path, manual_dir: str, min_descendants: int = 100, words: bool = False
    ) -> None:
        if min_descendants < 1:
            raise UserError(f"wordnet: min_descendants is {min_descendants}; a label has at least one synset below it")
        options = {"manual_dir": manual_dir, "min_descendants": min_descendants, "words": words}
        [self.path] = self.files("", options)
        self.words = words
        self.synsets = parse_synsets(read_text(self.path), self.path)
        self.hierarchy = link_synsets(self.synsets, self.path)
        self.is_label = np.bincount(self.hierarchy.ancestors.ids, minlength=len(self.synsets)) >= min_descendants
        if not self.is_label.any():
            raise UserError(f"{self.path}: no synset has min_descendants = {min_descendants} others below it")
        super().__init__(data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the one file."""
        return [manual_folder(options["manual_dir"], "wordnet", FILE) / FILE]

    def _info(self) -> tfds.core.DatasetInfo:
        labels = [self.synsets[place] for place in np.flatnonzero(self.is_label).tolist()]
        ids = np.cumsum(self.is_label) - 1
        inner = self.is_label[self.hierarchy.children]
        children, parents = ids[self.hierarchy.children[inner]], ids[self.hierarchy.parents[inner]]
        return self.describe(
            label_space=LabelSpace(tuple(map(label_name, labels)), tuple(label.gloss for label in labels)),
            parents=list(zip(children.tolist(), parents.tolist(), strict=True)),
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            text=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        is_root = self.hierarchy.num_parents == 0
        above = self.hierarchy.ancestors
        told = np.bincount(above.rows[(self.is_label & ~is_root)[above.ids]], minlength=len(self.synsets)) > 0
        places = np.flatnonzero(~self.is_label & told).tolist()
        if not places:
            raise UserError(f"{self.path}: no synset has a label other than a root; choose fewer min_descendants")
        glosses = {self.synsets[place].gloss for place in places}
        self.info.metadata["notes"] = {
            "synsets": len(self.synsets),
            "left_out_labels": int(self.is_label.sum()),
            "left_out_without_a_label_but_the_root": int((~self.is_label & ~told).sum()),
            "instances": sum(self.synsets[place].is_instance for place in places),
            "roots": [label_name(self.synsets[place]) for place in np.flatnonzero(is_root & self.is_label).tolist()],
            "rows_that_repeat_a_gloss": len(places) - len(glosses),
        }
        return {"train": self._generate_examples(places)}

    def _generate_examples(self, places: Sequence[int]) -> Iterator[tuple[int, dict]]:
        ids = np.cumsum(self.is_label) - 1
        for number, place in enumerate(track(places, "prepare train", len(places))):
            synset, above = self.synsets[place], self.hierarchy.ancestors.row(place)
            words = ", ".join(word.replace("_", " ") for word in synset.words)
            text = f"{words}: {synset.gloss}" if self.words else synset.gloss
            yield number, {"text": text, "labels": ids[above[self.is_label[above]]].tolist(), "key": synset.offset}


def label_name(synset: Synset) -> str:
    """Return the first word and the offset, such as ``physical_entity.00001930``."""
    return f"{synset.words[0]}.{synset.offset}"


def parse_synsets(content: str, path: Path) -> list[Synset]:
    """Return the synsets of a file, in its order; `path` names it in errors.

    Lines that begin with two blanks are the licence. A line that is no noun synset is a `UserError`.
    """
    synsets: list[Synset] = []
    seen: set[str] = set()
    for number, line in enumerate(content.split("\n"), 1):
        if line and not line.startswith("  "):
            synset = _parse_synset(line, f"{path}, line {number}")
            if synset.offset in seen:
                raise UserError(f"{path}, line {number}: the offset {synset.offset} occurs twice")
            seen.add(synset.offset)
            synsets.append(synset)
    if not synsets:
        raise UserError(f"{path} has no synsets")
    return synsets


def _parse_synset(line: str, where: str) -> Synset:
    head, bar, gloss = line.partition(" | ")
    start = START.match(head)
    if not start or not bar or not gloss.strip():
        raise UserError(f"{where}: {line[:60]!r:.60} is not a synset, '00001740 03 n 01 entity 0 … | gloss'")
    fields = head[start.end() :].split(" ")
    num_words = int(start[2], 16)
    words, counted = fields[0 : 2 * num_words : 2], fields[2 * num_words : 2 * num_words + 1]
    pointers = fields[2 * num_words + 1 :]
    if not words or not all(words) or not all(map(str.isprintable, words)):
        raise UserError(f"{where}: expected {num_words} words, each with a digit behind it")
    if len(pointers) % 4 or counted != [f"{len(pointers) // 4:03}"]:
        raise UserError(f"{where}: {len(pointers) / 4:g} pointers, of four fields each, where {counted} are announced")
    hypernyms = []
    is_instance = False
    for symbol, offset, part in zip(pointers[0::4], pointers[1::4], pointers[2::4], strict=True):
        if not OFFSET.fullmatch(offset):
            raise UserError(f"{where}: {offset!r:.60} is not an offset of eight digits")
        if symbol in HYPERNYM:
            if part != "n":
                raise UserError(f"{where}: the hypernym {offset} is not a noun, but {part!r:.60}")
            hypernyms.append(offset)
            is_instance |= symbol == "@i"
    return Synset(start[1], tuple(words), tuple(dict.fromkeys(hypernyms)), is_instance, gloss.strip())


def link_synsets(synsets: Sequence[Synset], path: Path) -> LabelHierarchy:
    """Return which synset (by its place) is below which.

    A hypernym that is not in the file, a cycle and more than `MAX_DEPTH` levels are a `UserError`.
    """
    places = {synset.offset: place for place, synset in enumerate(synsets)}
    edges = []
    for place, synset in enumerate(synsets):
        for hypernym in synset.hypernyms:
            if hypernym not in places:
                name = label_name(synset)
                raise UserError(f"{path}: the hypernym {hypernym} of {name!r:.60} is not there; is the file cut off?")
            edges.append((place, places[hypernym]))
    try:
        hierarchy = LabelHierarchy.from_edges([label_name(synset) for synset in synsets], np.array(edges, np.int32))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if hierarchy.levels.max() >= MAX_DEPTH:  # every level below takes part in every label's count
        raise UserError(f"{path}: the hypernyms are more than {MAX_DEPTH} levels deep")
    return hierarchy
