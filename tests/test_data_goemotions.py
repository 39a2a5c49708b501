import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

import mlresearch.data
from mlresearch.data import goemotions
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSpace

MANUAL_DIR = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
upstream = pytest.mark.skipif(
    not (Path(MANUAL_DIR) / "goemotions").is_dir(), reason="no folder goemotions in MLRESEARCH_MANUAL_DIR"
)

EMOTIONS = LabelSpace(("anger", "joy", "love", "neutral"), ("anger", "joy", "love", "neutral"))
MAPPING = {"anger": ["anger"], "joy": ["love", "joy"]}
TABLE = 'so "good\t1,2\tid1\nWHY?\t0\tid2\n"quoted" and \'more\'"\t0,3\tid3\n'


@pytest.fixture
def manual_dir(tmp_path):
    folder = tmp_path / "manual" / "goemotions"
    folder.mkdir(parents=True)
    (folder / "emotions.txt").write_text("anger\njoy\nlove\nneutral")
    (folder / "ekman_mapping.json").write_text(json.dumps(MAPPING))
    (folder / "sentiment_mapping.json").write_text(json.dumps({"positive": ["joy", "love"]}))
    (folder / "train.tsv").write_text(TABLE)
    (folder / "dev.tsv").write_text("WHY?\t0\tid4\n")
    (folder / "test.tsv").write_text("WHY?\t3\tid5\nwhy?\t0\tid6\n")
    return folder.parent


def read(tmp_path, content):
    path = tmp_path / "table.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return goemotions.read_comments(path, EMOTIONS)


# Small files.


@pytest.mark.parametrize(
    ("subset", "names", "edges"),
    [
        ("none", (), None),
        (
            "ekman",
            ("ekman:anger", "ekman:joy"),
            {("anger", "ekman:anger"), ("joy", "ekman:joy"), ("love", "ekman:joy")},
        ),
        ("sentiment", ("sentiment:positive",), {("joy", "sentiment:positive"), ("love", "sentiment:positive")}),
    ],
)
def test_the_parents_of_the_mapping_come_after_the_emotions(manual_dir, tmp_path, subset, names, edges):
    data = mlresearch.data.load(f"goemotions/{subset}", {"manual_dir": str(manual_dir)}, tmp_path)
    assert data.label_space.names == EMOTIONS.names + names
    if edges is None:
        assert data.parents is None
    else:
        named = {tuple(data.label_space.names[label] for label in edge) for edge in data.parents.tolist()}
        assert named == edges
    listed = [set(data.splits["train"].labels.row(row).tolist()) & set(range(4)) for row in range(3)]
    assert listed == [{1, 2}, {0}, {0, 3}]


def test_a_parent_named_like_an_emotion_is_a_label_of_its_own(manual_dir, tmp_path):
    data = mlresearch.data.load("goemotions/ekman", {"manual_dir": str(manual_dir)}, tmp_path)
    rows = [[data.label_space.names[label] for label in data.splits["train"].labels.row(row)] for row in range(3)]
    assert rows == [["joy", "love", "ekman:joy"], ["anger", "ekman:anger"], ["anger", "neutral", "ekman:anger"]]
    assert data.label_space.descriptions[-1] == "joy, love"


def test_rows_keep_quotes_keys_and_order_and_oddities_are_counted(manual_dir, tmp_path):
    data = mlresearch.data.load("goemotions/none", {"manual_dir": str(manual_dir)}, tmp_path)
    assert data.splits["train"].texts == ('so "good', "WHY?", '"quoted" and \'more\'"')
    assert data.splits["train"].keys == ("id1", "id2", "id3")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert data.notes["rows_that_repeat_a_text"] == 2
    assert data.notes["texts_with_several_label_sets"] == 1
    assert data.notes["rows_neutral_and_more"] == {"train": 1, "validation": 0, "test": 0}


def test_a_missing_file_is_named(manual_dir, tmp_path):
    (manual_dir / "goemotions" / "ekman_mapping.json").unlink()
    mlresearch.data.load("goemotions/none", {"manual_dir": str(manual_dir)}, tmp_path)
    with pytest.raises(UserError, match=r"ekman_mapping\.json"):
        mlresearch.data.load("goemotions/ekman", {"manual_dir": str(manual_dir)}, tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_byte_order_mark_and_missing_last_line_end(tmp_path, end, mark, last):
    content = TABLE.replace("\n", end) if last else TABLE.replace("\n", end).removesuffix(end)
    assert read(tmp_path, mark + content.encode()) == read(tmp_path, TABLE)


def test_only_a_line_feed_ends_a_row(tmp_path):
    text = "a\u2028b\x0bc\x85d\re"
    assert read(tmp_path, f"{text}\t1\tid\n") == [goemotions.Comment(text, (1,), "id")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows"),
        (b"\n", "line 1: 1 fields"),
        (b"a\t0\tid\nb\t1\n", "line 2: 2 fields"),
        (b"a\t0\tid\tmore\n", "line 1: 4 fields"),
        (b"a\t0\tid\n\t1\tid\n", "line 2: field 1 is empty"),
        (b"a\t\tid\n", "line 1: field 2 is empty"),
        (b"a\t4\tid\n", "line 1: label id 4 is outside"),
        (b"a\t1,1\tid\n", "line 1: label 'joy' .* twice"),
        (b"a\tjoy\tid\n", "line 1: 'joy' is not a list of label ids"),
        ("a\t١\tid\n".encode(), "line 1: .* is not a list of label ids"),
        (b"a\t1\tid\n\n\xe9\t1\tid\n", "line 3: this is not UTF-8"),
        ("a\t1\tid\n".encode("utf-16"), "line 1: this is not UTF-8"),
        (bytes(range(256)), "line"),
        (b"a\t" + b"9" * 5000 + b"\tid", "line 1: .* is not a list"),
    ],
)
def test_what_is_no_table_is_an_error_with_its_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_a_row_of_ten_megabytes(tmp_path):
    [comment] = read(tmp_path, "x" * 10_000_000 + "\t1\tid\n")
    assert len(comment.text) == 10_000_000
    with pytest.raises(UserError, match="line 1"):
        read(tmp_path, "a\t" + "1," * 100_000 + "1\tid\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: this is not JSON"),
        ('{"a": ["joy"],\n "b"', "line 2: this is not JSON"),
        ("[" * 100_000, "line 1: this is not JSON"),
        ("1" * 5000, "line 1"),
        ("[]", "expected an object"),
        ("{}", "expected an object"),
        ('{"a": "joy"}', "parent 'a': expected a list"),
        ('{"a": []}', "parent 'a': expected a list"),
        ('{"a": [1]}', "parent 'a': expected a list"),
        ('{"a": {"joy": 1}}', "parent 'a': expected a list"),
        ('{"a": ["joi"]}', "no emotion 'joi'; did you mean 'joy'"),
        ('{"a": ["joy", "joy"]}', "given twice"),
        ('{"a": ["joy"], "a": ["love"]}', "parent 'a': it occurs twice"),
        ('{" a": ["joy"]}', "not a label name"),
        ('{"\\ud800": ["joy"]}', "not a label name"),
    ],
)
def test_what_is_no_mapping_is_an_error(tmp_path, content, message):
    path = tmp_path / "mapping.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        goemotions.read_mapping(path, EMOTIONS)


@pytest.mark.parametrize("content", ["joy\n\nlove\n", "joy\njoy\n", " joy\n", "joy\tlove\n"])
def test_what_is_no_list_of_emotions_is_an_error(tmp_path, content):
    path = tmp_path / "emotions.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=r"emotions\.txt"):
        goemotions.read_emotions(path)


def mutate(content, rng):
    """Replace, insert, drop or repeat a few bytes at a few places."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        stop = start + rng.choice((0, 1, 1, 5, 40))
        other = rng.choice(
            (b"", rng.randbytes(rng.randint(1, 3)), rng.choice(b'\t\n\r,"{}[]0:').to_bytes(), content[:start])
        )
        content[start:stop] = other
    return bytes(content)


def test_mutated_tables_are_read_right_or_refused(tmp_path):
    rng = random.Random(0)
    messages: list[str] = []
    for _ in range(2000):
        content = mutate(TABLE.encode(), rng)
        try:
            comments = read(tmp_path, content)
        except UserError as error:
            messages.append(str(error))
            continue
        lines = content.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
        assert ["\t".join((c.text, c.key)) for c in comments] == ["\t".join(line.split("\t")[::2]) for line in lines]
        for comment, line in zip(comments, lines, strict=True):
            assert list(comment.labels) == sorted({int(label) for label in line.split("\t")[1].split(",")})
            assert 0 <= comment.labels[0] <= comment.labels[-1] < 4
    assert 200 < len(messages) < 1800
    assert all("table.tsv" in message for message in messages)


def test_mutated_mappings_are_read_right_or_refused(tmp_path):
    rng = random.Random(1)
    path = tmp_path / "mapping.json"
    messages: list[str] = []
    for _ in range(2000):
        path.write_bytes(mutate(json.dumps(MAPPING).encode(), rng))
        try:
            mapping = goemotions.read_mapping(path, EMOTIONS)
        except UserError as error:
            messages.append(str(error))
            continue
        names = {parent: [EMOTIONS.names[label] for label in labels] for parent, labels in mapping.items()}
        assert names == {parent: sorted(group) for parent, group in json.loads(path.read_text("utf-8-sig")).items()}
    assert 200 < len(messages) < 1990
    assert all("mapping.json" in message for message in messages)


# The upstream files.


@upstream
def test_counts_of_the_upstream_files(tmp_path):
    data = mlresearch.data.load("goemotions/none", {"manual_dir": MANUAL_DIR}, tmp_path)
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [43_410, 5_426, 5_427]
    assert data.label_space.num_labels == 28
    assert round(len(data.splits["train"].labels.ids) / 43_410, 2) == 1.18
    assert data.notes["rows_that_repeat_a_text"] == 269
    assert sum(data.notes["rows_neutral_and_more"].values()) == 1_751
    texts = [set(data.splits[split].texts) for split in ("train", "test")]
    # The loader finds more: it counts rows, and takes texts for the same that differ in case or spaces.
    assert data.notes["overlaps"]["test in train"] >= len(texts[0] & texts[1]) > 0


@upstream
@pytest.mark.parametrize(("subset", "count"), [("ekman", 6), ("sentiment", 3)])
def test_the_upstream_mappings_cover_every_emotion_but_neutral_once(tmp_path, subset, count):
    builder = goemotions.Builder(subset=subset, data_dir=tmp_path, manual_dir=MANUAL_DIR)
    metadata = builder.info.metadata
    names = builder.info.features["labels"].feature.names
    edges = np.array(metadata["parents"])
    assert len(names) == 28 + count
    assert sorted(edges[:, 0]) == [label for label in range(28) if names[label] != "neutral"]
    assert set(edges[:, 1]) == set(range(28, 28 + count))
