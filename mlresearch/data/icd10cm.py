"""ICD-10-CM: the official tabular list of April 2026 as a hierarchy of labels, and its own phrases as texts.

The files are those of the National Center for Health Statistics, as the package ``simple-icd-10-cm`` carries
them: the tabular list (XML) and the list of all codes with their seventh characters. The package itself is
never imported: it would build its own tree for many seconds.

**Labels** are chapters ("Chapter 2"), blocks ("C00-C75"), categories ("C50") and codes ("C50.0"), each
described by its title, in tabular order, so that a parent stands before its children. A block of one category
is named as a range ("C50-C50") to be told from the category. The XML puts nested blocks side by side: here a
block stands under the innermost block before it whose range encloses its own, else under its chapter, and no
block is a leaf. A code with a seventh character stands under the longest code of the XML that it extends.

**terms**: an example is one phrase; its labels are the code under which the phrase stands, and the code's
ancestors. Training phrases are the titles of all codes. Validation and test phrases are the inclusion terms,
divided by a hash of their normalised text. Left out are terms that stand under a block (remarks, not
diagnoses), terms whose normalised text is also a title, and those that repeat the text and the labels of
another; a text with several label sets stays several examples, all in one split, and so do equal titles. The
metadata count all of these.

**encounters**: an example is a note of one to six phrases, from titles in training, from the split's own
inclusion terms elsewhere. Which codes come together is not observed anywhere: it is drawn as follows
(`Cooccurrence`).

1. The number of phrases k = 1, …, 6 has the probabilities .10, .25, .25, .20, .12, .08.
2. The first category is uniform over the categories that have a phrase in the split.
3. Each further one is, with probability .7, a neighbour of those chosen, in proportion to the links' weights;
   with .2 (or if no neighbour is left) uniform over their chapters; with .1 (or if those are used up) uniform
   over all. No category comes twice, and no two of which one names the other in an "excludes1" note.
4. A note "use additional code", "code first" or "code also" links its categories to those it names in
   parentheses: each code or range named has a weight of 1, shared evenly by the pairs of categories.
5. Each category gives one of its phrases in the split, uniformly; their order and what joins them are random.
"""

import collections
import hashlib
import importlib.util
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import SPLITS, Source
from mlresearch.errors import UserError, suggest
from mlresearch.label_space import LabelSpace
from mlresearch.progress import track

PACKAGE = "simple_icd_10_cm"
TABULAR_LIST = "icd10c-tabular-April-1-2026.xml"
CODE_LIST = "code-list-April-2026.txt"

# Which entries are labels, by the option `depth`.
KINDS = {
    "category": ("chapter", "block", "category"),
    "all": ("chapter", "block", "category", "code"),
    "extensions": ("chapter", "block", "category", "code", "extension"),
}

SIZE_PROBS = (0.10, 0.25, 0.25, 0.20, 0.12, 0.08)
LINK_PROB = 0.7
CHAPTER_PROB = 0.2
LINKING_NOTES = ("useAdditionalCode", "codeFirst", "codeAlso")
EXCLUDING_NOTES = ("excludes1",)
NOTES = ("inclusionTerm", *LINKING_NOTES, *EXCLUDING_NOTES)
# A code, cut to its category, and where a range of codes is meant the category of the last one.
REFERENCE = re.compile(r"\b([A-Z][0-9A-Z]{2})\b(?:\.[0-9A-Z]*)?(?:-([A-Z][0-9A-Z]{2})\b(?:\.[0-9A-Z]*)?)?")
CONNECTORS = ("; ", ", ", ". ", " and ", " with ", " as well as ")

DESCRIPTION = """\
Diagnosis phrases of the ICD-10-CM tabular list, April 2026, labelled with their codes and all ancestors:
single phrases (terms), or notes of one to six phrases of codes that are drawn together (encounters)."""
CITATION = """\
@misc{icd10cm2026,
  title = {International Classification of Diseases, Tenth Revision, Clinical Modification},
  note = {Tabular list of diseases and injuries, April 2026},
  author = {{National Center for Health Statistics}},
  year = {2026}
}"""
HOMEPAGE = "https://www.cdc.gov/nchs/icd/icd-10-cm/"
LICENSE = "Data: public domain (U.S. government work). Package simple-icd-10-cm that carries them: MIT."


class Node(NamedTuple):
    """An entry of the tabular list.

    kind: "chapter", "block", "category", "code" (below a category) or "extension" (with a seventh character).
    parent: position of the parent in the list, None for a chapter. notes: the notes under the entry, by tag.
    """

    name: str
    title: str
    kind: str
    parent: int | None
    notes: Mapping[str, tuple[str, ...]]


class Phrase(NamedTuple):
    """A text that stands for a code; `node` is the position of the code in the tabular list."""

    text: str
    node: int


class Example(NamedTuple):
    """A text and the positions of the codes that it stands for, in the order of the text."""

    text: str
    codes: tuple[int, ...]


class Builder(Source):
    """The data sets ``icd10cm/terms`` and ``icd10cm/encounters``.

    depth: labels are chapters, blocks and categories ("category": 2,237; deeper codes count as their
    category), these and all codes ("all": 47,200), or also seventh characters ("extensions": 98,505).
    num_notes, seed: how many notes ``encounters`` has, of which a tenth is for validation and a tenth for
    test, and the seed from which they are drawn; the same seed gives the same bytes on any machine.
    """

    VERSION = tfds.core.Version("1.1.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "terms": ("depth",),
        "encounters": ("depth", "num_notes", "seed"),
    }

    def __init__(
        self,
        *,
        subset: str,
        data_dir: str | Path,
        depth: str = "category",
        num_notes: int = 20_000,
        seed: int = 0,
    ) -> None:
        if depth not in KINDS:
            raise UserError(f"icd10cm: unknown depth {depth!r}{suggest(depth, KINDS)}")
        if num_notes < 10:
            raise UserError(f"icd10cm: num_notes is {num_notes}; at least 10 leave a note for each split")
        if seed < 0:
            raise UserError(f"icd10cm: seed is {seed}; it must not be negative")
        self.subset, self.depth, self.num_notes, self.seed = subset, depth, num_notes, seed
        self.nodes = read_tabular_list()
        self.label_ids = number_labels(self.nodes, depth)
        options = {"depth": depth, "num_notes": num_notes, "seed": seed}
        super().__init__(subset=subset, data_dir=data_dir, options=options)

    def _info(self) -> tfds.core.DatasetInfo:
        labels = [node for node, label in zip(self.nodes, self.label_ids, strict=True) if label is not None]
        parents = [
            (label, parent)
            for node, label in zip(self.nodes, self.label_ids, strict=True)
            if node.parent is not None and label is not None and (parent := self.label_ids[node.parent]) is not None
        ]
        return self.describe(
            label_space=LabelSpace(tuple(node.name for node in labels), tuple(node.title for node in labels)),
            parents=parents,
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            text=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        phrases, dropped = split_phrases(self.nodes, self.closure)
        notes: dict[str, object] = {"depth": self.depth, "dropped_inclusion_terms": dropped}
        if self.subset == "terms":
            examples = {split: [Example(text, (node,)) for text, node in phrases[split]] for split in SPLITS}
            notes["single_path"] = True
            notes["paths_end_at_leaves"] = self.depth == "category"
            notes["texts_with_several_label_sets"] = {split: self.count_ambiguous(examples[split]) for split in SPLITS}
        else:
            cooccurrence = Cooccurrence(self.nodes)
            held_out = self.num_notes // 10
            sizes = {"train": self.num_notes - 2 * held_out, "validation": held_out, "test": held_out}
            examples, redrawn = draw_notes(cooccurrence, phrases, sizes, self.seed)
            self.info.metadata["cooccurrence"] = cooccurrence.to_json()
            notes |= {"single_path": False, "paths_end_at_leaves": self.depth == "category"}
            notes |= {"seed": self.seed, "redrawn_notes_equal_across_splits": redrawn}
        notes["examples"] = {split: len(examples[split]) for split in SPLITS}
        self.info.metadata["notes"] = notes
        return {split: self._generate_examples(split, examples[split]) for split in SPLITS}

    def _generate_examples(self, split: str, examples: Sequence[Example]) -> Iterator[tuple[int, dict]]:
        for number, (text, codes) in enumerate(track(examples, f"prepare {split}", len(examples))):
            labels = sorted({label for code in codes for label in self.closure(code)})
            key = " ".join(self.nodes[code].name for code in codes)
            yield number, {"text": text, "labels": labels, "key": key}

    def closure(self, node: int) -> tuple[int, ...]:
        """Label ids of an entry and its ancestors, ascending; an entry that is no label is left out."""
        labels = (self.label_ids[position] for position in path_to_root(self.nodes, node))
        return tuple(sorted(label for label in labels if label is not None))

    def count_ambiguous(self, examples: Sequence[Example]) -> int:
        """Number of texts (normalised) that have several label sets."""
        label_sets = collections.defaultdict(set)
        for text, (node,) in examples:
            label_sets[normalise(text)].add(self.closure(node))
        return sum(len(sets) > 1 for sets in label_sets.values())


def read_tabular_list() -> list[Node]:
    """Read all 98,505 entries, parents before children, in tabular order; missing files are a `UserError`."""
    path = _data_file(TABULAR_LIST)
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is damaged ({error}); reinstall simple-icd-10-cm==1.5.0") from None
    names = {name.text or "" for name in root.iterfind(".//diag/name")}
    extensions = _extensions(names, _data_file(CODE_LIST).read_text("utf-8").split())
    nodes: list[Node] = []

    def add(element: ElementTree.Element, name: str, kind: str, parent: int | None) -> int:
        notes = {
            tag: tuple(" ".join("".join(note.itertext()).split()) for note in element.iterfind(f"{tag}/note"))
            for tag in NOTES
            if element.find(tag) is not None
        }
        nodes.append(Node(name, " ".join(element.findtext("desc", "").split()), kind, parent, notes))
        return len(nodes) - 1

    def add_code(element: ElementTree.Element, parent: int, meanings: Mapping[str, str]) -> None:
        name = element.findtext("name", "")
        position = add(element, name, "category" if len(name) == 3 else "code", parent)
        own = {mark.attrib["char"]: mark.text or "" for mark in element.iterfind("sevenChrDef/extension")}
        meanings = own or meanings
        for child in element.iterfind("diag"):
            add_code(child, position, meanings)
        for extension in extensions.get(name, ()):
            title = f"{nodes[position].title}, {meanings[extension[-1]]}"
            nodes.append(Node(extension, title, "extension", position, {}))

    for chapter in root.iterfind("chapter"):
        position = add(chapter, f"Chapter {chapter.findtext('name')}", "chapter", None)
        # What may hold the next block, innermost last: first and last category, position. Chapters hold all.
        holders = [("", "~", position)]
        for section in chapter.iterfind("section"):
            first, _, last = section.attrib["id"].partition("-")
            last = last or first
            while not (holders[-1][0] <= first and last <= holders[-1][1]):
                holders.pop()
            block = add(section, f"{first}-{last}", "block", holders[-1][2])
            holders.append((first, last, block))
            for category in section.iterfind("diag"):
                add_code(category, block, {})
    return nodes


def path_to_root(nodes: Sequence[Node], node: int) -> Iterator[int]:
    """Yield the position of an entry, of its parent, and so on up to its chapter."""
    position: int | None = node
    while position is not None:
        yield position
        position = nodes[position].parent


def number_labels(nodes: Sequence[Node], depth: str) -> list[int | None]:
    """Label id of every entry, None for entries below `depth` (a key of `KINDS`)."""
    count = 0
    label_ids: list[int | None] = []
    for node in nodes:
        label_ids.append(count if node.kind in KINDS[depth] else None)
        count += node.kind in KINDS[depth]
    return label_ids


def normalise(text: str) -> str:
    """Return what decides whether two texts are the same.

    NFKC and case folding; words are joined by single spaces and punctuation goes, but for the sign at the end
    of "HR+" and "HR-".
    """
    return " ".join(re.findall(r"\w+(?:[+-](?!\w))?", unicodedata.normalize("NFKC", text).casefold()))


def split_phrases(
    nodes: Sequence[Node], closure: Callable[[int], tuple[int, ...]]
) -> tuple[dict[str, list[Phrase]], dict[str, int]]:
    """Return each split's phrases, in tabular order, and how many inclusion terms are left out, and why."""
    phrases: dict[str, list[Phrase]] = {split: [] for split in SPLITS}
    codes = [position for position, node in enumerate(nodes) if node.kind in ("category", "code")]
    phrases["train"] = [Phrase(nodes[position].title, position) for position in codes]
    titles = {normalise(text) for text, _ in phrases["train"]}
    seen: set[tuple[str, tuple[int, ...]]] = set()
    dropped = {"under a block": 0, "equal to a title": 0, "repeated": 0}
    for position, node in enumerate(nodes):
        for term in node.notes.get("inclusionTerm", ()):
            text = normalise(term)
            identity = (text, closure(position))
            if node.kind == "block":
                dropped["under a block"] += 1
            elif text in titles:
                dropped["equal to a title"] += 1
            elif identity in seen:
                dropped["repeated"] += 1
            else:
                seen.add(identity)
                half = hashlib.sha256(text.encode()).digest()[0] % 2
                phrases[("validation", "test")[half]].append(Phrase(term, position))
    return phrases, dropped


class Cooccurrence:
    """Which categories come together in a note: the distribution that the top of this file states.

    categories: positions in the tabular list; everything below counts categories by their place in it.
    links: weight of each linked pair (smaller place first). excluded: pairs that must not come together.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.categories = [position for position, node in enumerate(nodes) if node.kind == "category"]
        self._place = {nodes[position].name: place for place, position in enumerate(self.categories)}
        self._chapters = np.array([list(path_to_root(nodes, position))[-1] for position in self.categories])
        self.links = self._pairs_named(LINKING_NOTES)
        self.excluded = self._pairs_named(EXCLUDING_NOTES)
        self._neighbours: list[tuple[list[int], list[float]]] = [([], []) for _ in self.categories]
        self._foes: list[list[int]] = [[] for _ in self.categories]
        for (left, right), weight in self.links.items():
            for one, other in ((left, right), (right, left)):
                self._neighbours[one][0].append(other)
                self._neighbours[one][1].append(weight)
        for left, right in self.excluded:
            self._foes[left].append(right)
            self._foes[right].append(left)

    def place(self, node: int) -> int:
        """Place of the category of a code (a category, code or extension)."""
        return self._place[self.nodes[node].name[:3]]

    def draw(self, rng: np.random.Generator, available: np.ndarray) -> list[int]:
        """Draw the categories of one note among those marked in `available`, bool [categories]."""
        size = 1 + _pick(np.array(SIZE_PROBS), rng)
        allowed = available.copy()
        near = np.zeros(len(self.categories))
        chosen: list[int] = []
        while len(chosen) < size and allowed.any():
            choices = [allowed.astype(float)]
            if chosen:
                uniform = rng.random()
                if uniform < LINK_PROB + CHAPTER_PROB:
                    choices.insert(0, allowed * np.isin(self._chapters, self._chapters[chosen]))
                if uniform < LINK_PROB:
                    choices.insert(0, allowed * near)
            category = _pick(next(weights for weights in choices if weights.any()), rng)
            chosen.append(category)
            allowed[category] = False
            allowed[self._foes[category]] = False
            places, weights = self._neighbours[category]
            near[places] += weights
        return chosen

    def to_json(self) -> dict[str, object]:
        """Return what the distribution depends on but for the phrases, as the data set's metadata."""
        names = [self.nodes[position].name for position in self.categories]
        return {
            "size_probs": SIZE_PROBS,
            "link_prob": LINK_PROB,
            "chapter_prob": CHAPTER_PROB,
            "links": [[names[left], names[right], weight] for (left, right), weight in self.links.items()],
            "excluded": [[names[left], names[right]] for left, right in self.excluded],
        }

    def _pairs_named(self, tags: Sequence[str]) -> dict[tuple[int, int], float]:
        """Pairs of categories that notes with one of `tags` join, with their weights, in ascending order."""
        scopes: list[list[int]] = [[] for _ in self.nodes]
        for place, position in enumerate(self.categories):
            for holder in path_to_root(self.nodes, position):
                scopes[holder].append(place)
        pairs: dict[tuple[int, int], float] = collections.defaultdict(float)
        for node, scope in zip(self.nodes, scopes, strict=True):
            for tag in tags:
                for note in node.notes.get(tag, ()):
                    own = scope or [self._place[node.name[:3]]]  # a code has no category below, but one above
                    for first, last in self._references(note):
                        for one in own:
                            for other in range(first, last + 1):
                                if one != other:
                                    weight = 1 / (len(own) * (last + 1 - first))
                                    pairs[min(one, other), max(one, other)] += weight
        return dict(sorted(pairs.items()))

    def _references(self, note: str) -> Iterator[tuple[int, int]]:
        """Yield the first and last place of each category or range that a note names in parentheses."""
        for parenthesis in re.findall(r"\(([^()]*)\)", note):
            for first, last in REFERENCE.findall(parenthesis):
                # Abbreviations such as "HIV" look like categories, too.
                if first in self._place and (last or first) in self._place:
                    yield self._place[first], self._place[last or first]


def draw_notes(
    cooccurrence: Cooccurrence, phrases: Mapping[str, Sequence[Phrase]], sizes: Mapping[str, int], seed: int
) -> tuple[dict[str, list[Example]], int]:
    """Draw the notes of each split; also return how many were drawn anew: another split had the text."""
    examples: dict[str, list[Example]] = {}
    taken: set[str] = set()
    redrawn = 0
    for number, split in enumerate(SPLITS):
        # A stream for each split, so that the size of one does not change another. Only doubles are drawn:
        # other methods of a generator may change from one NumPy to the next.
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        pools: list[list[Phrase]] = [[] for _ in cooccurrence.categories]
        for phrase in phrases[split]:
            pools[cooccurrence.place(phrase.node)].append(phrase)
        available = np.array([bool(pool) for pool in pools])
        examples[split] = []
        while len(examples[split]) < sizes[split]:
            drawn = [pools[place] for place in cooccurrence.draw(rng, available)]
            chosen = [pool[int(rng.random() * len(pool))] for pool in drawn]
            chosen.sort(key=lambda _: rng.random())
            text = chosen[0].text
            for phrase in chosen[1:]:
                text += CONNECTORS[int(rng.random() * len(CONNECTORS))] + phrase.text
            if normalise(text) in taken:
                redrawn += 1
            else:
                examples[split].append(Example(text, tuple(phrase.node for phrase in chosen)))
        taken.update(normalise(text) for text, _ in examples[split])
    return examples, redrawn


def _pick(weights: np.ndarray, rng: np.random.Generator) -> int:
    """Draw a place with probability proportional to its weight."""
    places = np.flatnonzero(weights)
    bounds = np.cumsum(weights[places])  # added one by one, unlike a sum: the same on every machine
    return int(places[min(np.searchsorted(bounds, rng.random() * bounds[-1], "right"), len(places) - 1)])


def _extensions(names: set[str], code_list: Sequence[str]) -> dict[str, list[str]]:
    """Codes with a seventh character, by the code of the XML (one of `names`) under which they stand."""
    extensions = collections.defaultdict(list)
    for plain in code_list:
        code = f"{plain[:3]}.{plain[3:]}"
        if len(plain) == 7 and plain.isalnum() and code not in names:
            parent = code[:-1]
            while parent not in names:
                parent = parent[:-1].rstrip(".")
            extensions[parent].append(code)
    return extensions


def _data_file(name: str) -> Path:
    """Path of a file that the package carries; found without importing the package."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder, "data", name)
        if path.is_file():
            return path
    raise UserError(f"{PACKAGE}/data/{name} is missing; to install it: pip install simple-icd-10-cm==1.5.0")
