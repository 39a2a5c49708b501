"""GoEmotions: Reddit comments labelled with 27 emotions or "neutral", flat or below the parents of a mapping.

``goemotions/none`` has the 28 labels of ``emotions.txt`` alone. ``goemotions/ekman`` and ``goemotions/sentiment`` add
the parents of ``ekman_mapping.json`` (6) or ``sentiment_mapping.json`` (3) as labels of their own. Ekman's groups are
named by emotions that are among the 28 ("joy" is a parent of "joy", "love" and ten more), so a parent's label is named
after its mapping, too: ``ekman:joy``, ``sentiment:positive``. "neutral" stands in neither mapping and is a root.
Emotions have the same ids in all three data sets, the parents come after them.

A row is a text, label ids separated by commas, and the comment's id, separated by tabs. There is no header, and quotes
are characters like any other. Splits are upstream's.

Source: Demszky, Movshovitz-Attias, Ko, Cowen, Nemade and Ravi, "GoEmotions: A Dataset of Fine-Grained Emotions", 2020;
Ekman, "An argument for basic emotions", 1992.
"""

import collections
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source, manual_folder
from mlresearch.data.reading import read_fields, read_text
from mlresearch.errors import UserError, suggest
from mlresearch.label_space import LabelReader, LabelSpace
from mlresearch.progress import track

FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
NAMES = "emotions.txt"
MAPPINGS = {"ekman": "ekman_mapping.json", "sentiment": "sentiment_mapping.json"}
NEUTRAL = "neutral"

DESCRIPTION = """\
Comments from Reddit in English, each labelled by its readers with some of 27 emotions or as neutral; the emotions flat,
below the six of Ekman, or below three sentiments."""
CITATION = """\
@inproceedings{demszky2020goemotions,
  title = {{GoEmotions}: A Dataset of Fine-Grained Emotions},
  author = {Demszky, Dorottya and Movshovitz-Attias, Dana and Ko, Jeongwoo and Cowen, Alan and Nemade, Gaurav and
            Ravi, Sujith},
  booktitle = {Proceedings of the 58th Annual Meeting of the Association for Computational Linguistics},
  pages = {4040--4054},
  year = {2020},
  doi = {10.18653/v1/2020.acl-main.372}
}"""
HOMEPAGE = "https://github.com/google-research/google-research/tree/master/goemotions"
LICENSE = "CC BY 4.0"


class Comment(NamedTuple):
    """A row: the text, its label ids (ascending) and the comment's id at Reddit."""

    text: str
    labels: tuple[int, ...]
    key: str


class Builder(Source):
    """The data sets ``goemotions/none``, ``goemotions/ekman`` and ``goemotions/sentiment``."""

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {"none": (), "ekman": (), "sentiment": ()}

    def __init__(self, *, subset: str, data_dir: str | Path, manual_dir: str) -> None:
        options = {"manual_dir": manual_dir}
        paths = {path.name: path for path in self.files(subset, options)}
        self.emotions = read_emotions(paths[NAMES])
        self.mapping: dict[str, tuple[int, ...]] = {}
        if subset in MAPPINGS:
            mapping = read_mapping(paths[MAPPINGS[subset]], self.emotions)
            self.mapping = {f"{subset}:{parent}": emotions for parent, emotions in mapping.items()}
        self.paths = {split: paths[name] for split, name in FILES.items()}
        super().__init__(subset=subset, data_dir=data_dir, options=options)

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the three tables, the names of the emotions and the mapping, if the subset has one."""
        names = [*FILES.values(), NAMES, *([MAPPINGS[subset]] if subset in MAPPINGS else [])]
        folder = manual_folder(options["manual_dir"], "goemotions", *names)
        return [folder / name for name in names]

    def _info(self) -> tfds.core.DatasetInfo:
        names = [*self.emotions.names, *self.mapping]
        groups = [", ".join(self.emotions.names[emotion] for emotion in group) for group in self.mapping.values()]
        edges = [
            (emotion, parent)
            for parent, group in enumerate(self.mapping.values(), self.emotions.num_labels)
            for emotion in group
        ]
        return self.describe(
            label_space=LabelSpace(tuple(names), (*self.emotions.descriptions, *groups)),
            parents=edges if self.mapping else None,
            description=DESCRIPTION,
            citation=CITATION,
            homepage=HOMEPAGE,
            license=LICENSE,
            text=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        comments = {split: read_comments(path, self.emotions) for split, path in self.paths.items()}
        self.info.metadata["notes"] = count_oddities(comments, self.emotions)
        return {split: self._generate_examples(split, rows) for split, rows in comments.items()}

    def _generate_examples(self, split: str, comments: Sequence[Comment]) -> Iterator[tuple[int, dict]]:
        for number, comment in enumerate(track(comments, f"prepare {split}", len(comments))):
            yield number, {"text": comment.text, "labels": list(comment.labels), "key": comment.key}


def read_emotions(path: Path) -> LabelSpace:
    """Return the labels, one name a line."""
    names = []
    for where, [name] in read_fields(path, 1):
        if not name.isprintable() or name != name.strip():
            raise UserError(f"{where}: {name!r:.60} is not a label name")
        names.append(name)
    if not names:
        raise UserError(f"{path} is empty; it must have the name of an emotion a line")
    try:
        return LabelSpace(tuple(names), tuple(names))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_mapping(path: Path, emotions: LabelSpace) -> dict[str, tuple[int, ...]]:
    """Return the ids of the emotions below each parent, ascending, from a JSON object of lists of names."""
    text = read_text(path)
    try:
        # Pairs, because an object would keep the last of two equal keys without a word.
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise UserError(f"{path}, line {line}: this is not JSON ({error!s:.80})") from None
    if not isinstance(pairs, tuple) or not pairs:
        raise UserError(f"{path}, line 1: expected an object of parents, each with a list of emotions")
    mapping: dict[str, tuple[int, ...]] = {}
    for parent, names in pairs:
        where = f"{path}, parent {parent!r:.60}"
        if not parent.isprintable() or parent != parent.strip() or not parent:
            raise UserError(f"{where}: this is not a label name")
        if parent in mapping:
            raise UserError(f"{where}: it occurs twice")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}: expected a list of emotions")
        unknown = next((name for name in names if name not in emotions.index), None)
        if unknown is not None:
            raise UserError(f"{where}: {NAMES} has no emotion {unknown!r:.60}{suggest(unknown[:60], emotions.names)}")
        mapping[parent] = tuple(LabelReader(emotions, "ragged").read(names, where)[0])
    return mapping


def read_comments(path: Path, emotions: LabelSpace) -> list[Comment]:
    """Return the rows of a table of texts, label ids and comment ids; a file without rows is a `UserError`."""
    reader = LabelReader(emotions, "ragged")
    comments = []
    for where, (text, ids, key) in read_fields(path, 3):
        if not re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{1,3})*+", ids):
            raise UserError(f"{where}: {ids!r:.60} is not a list of label ids, such as '3,27'")
        labels, _ = reader.read([int(label) for label in ids.split(",")], where)
        comments.append(Comment(text, tuple(labels), key))
    if not comments:
        raise UserError(f"{path} has no rows")
    return comments


def count_oddities(comments: Mapping[str, Sequence[Comment]], emotions: LabelSpace) -> dict[str, Any]:
    """Return, as notes, how often texts repeat and how many rows are neutral and have an emotion as well."""
    label_sets: dict[str, set[tuple[int, ...]]] = collections.defaultdict(set)
    for rows in comments.values():
        for comment in rows:
            label_sets[comment.text].add(comment.labels)
    neutral = emotions.index.get(NEUTRAL)
    return {
        "rows_that_repeat_a_text": sum(map(len, comments.values())) - len(label_sets),
        "texts_with_several_label_sets": sum(len(sets) > 1 for sets in label_sets.values()),
        "rows_neutral_and_more": {
            split: sum(neutral in comment.labels and len(comment.labels) > 1 for comment in rows)
            for split, rows in comments.items()
        },
    }
