import os
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets.public_api as tfds

import mlresearch.data
from mlresearch.data import wordnet
from mlresearch.errors import UserError

MANUAL_DIR = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
upstream = pytest.mark.skipif(
    not (Path(MANUAL_DIR) / "wordnet").is_dir(), reason="no folder wordnet in MLRESEARCH_MANUAL_DIR"
)

PATH = Path("data.noun")
LICENCE = "  1 This software and database\n  2 is provided to you  \n"


def line(number, hypernyms="", words="", gloss=""):
    """A synset: its number as offset; hypernyms such as "@3 @i4"; other pointers as they come."""
    words = words.split() or [f"word{number}"]
    pointers = []
    for pointer in hypernyms.split():
        symbol = pointer.rstrip("0123456789")
        pointers.append(f"{symbol} {int(pointer.removeprefix(symbol)):08} {'v' if symbol == '+' else 'n'} 0000")
    written = " ".join(f"{word} 0" for word in words)
    head = " ".join([f"{number:08} 03 n {len(words):02x} {written} {len(pointers):03}", *pointers])
    return f"{head} | {gloss or f'gloss {number}'}  \n"


# 1 is the root; 2 and 3 are below it; 4 is below both; 5, 6, 7 below 4; 8 below 3; 9 below the root alone; 10 an
# instance of 5 and of 8. Below: 1: 9, 2: 5 (4-7, 10), 3: 6 (4-8, 10), 4: 4 (5-7, 10), 5: 1, 8: 1.
SYNSETS = (
    line(1, "~2 ~3")
    + line(2, "@1 %p3", "thing")
    + line(3, "@1 +77", "thing other_thing")
    + line(4, "@2 @3 ~5")
    + line(5, "@4")
    + line(6, "@4 @4")
    + line(7, "@4", "dog domestic_dog", 'it barks; "the dog\'s bark | its bite"')
    + line(8, "@3")
    + line(9, "@1")
    + line(10, "@i5 @i8")
)


def parse(content):
    return wordnet.parse_synsets(content, PATH)


@pytest.fixture
def manual_dir(tmp_path):
    folder = tmp_path / "manual" / "wordnet"
    folder.mkdir(parents=True)
    (folder / "data.noun").write_text(LICENCE + SYNSETS)
    return str(folder.parent)


def examples(manual_dir, tmp_path, **options):
    """Names of labels, edges by names, and for each example its text and the names of its labels, by key."""
    builder = wordnet.Builder(data_dir=tmp_path, manual_dir=manual_dir, **options)
    names = builder.info.features["labels"].feature.names
    edges = {(names[child], names[parent]) for child, parent in builder.info.metadata["parents"]}
    splits = builder._split_generators(tfds.download.DownloadManager(download_dir=tmp_path))
    records = [record for _, record in splits["train"]]
    rows = {record["key"]: (record["text"], [names[label] for label in record["labels"]]) for record in records}
    return names, edges, rows, builder.info.metadata["notes"]


# Small files.


def test_labels_have_enough_below_them_and_examples_are_the_rest(manual_dir, tmp_path):
    names, edges, rows, notes = examples(manual_dir, tmp_path, min_descendants=4)
    root, two, three, four = names
    assert names == ["word1.00000001", "thing.00000002", "thing.00000003", "word4.00000004"]
    assert edges == {(two, root), (three, root), (four, two), (four, three)}
    assert rows == {
        "00000005": ("gloss 5", [root, two, three, four]),
        "00000006": ("gloss 6", [root, two, three, four]),
        "00000007": ('it barks; "the dog\'s bark | its bite"', [root, two, three, four]),
        "00000008": ("gloss 8", [root, three]),
        "00000010": ("gloss 10", [root, two, three, four]),
    }
    assert notes == {
        "synsets": 10,
        "left_out_labels": 4,
        "left_out_without_a_label_but_the_root": 1,
        "instances": 1,
        "roots": [root],
        "rows_that_repeat_a_gloss": 0,
    }


@pytest.mark.parametrize(("least", "count"), [(1, 6), (2, 4), (5, 3), (6, 2)])
def test_the_least_number_of_descendants_acts(manual_dir, tmp_path, least, count):
    names, _, rows, notes = examples(manual_dir, tmp_path, min_descendants=least)
    assert len(names) == notes["left_out_labels"] == count
    assert len(rows) == 10 - count - notes["left_out_without_a_label_but_the_root"]


def test_words_stand_before_the_gloss_when_asked_for(manual_dir, tmp_path):
    rows = examples(manual_dir, tmp_path, min_descendants=4, words=True)[2]
    assert rows["00000007"][0] == 'dog, domestic dog: it barks; "the dog\'s bark | its bite"'


def test_the_splits_are_drawn_and_the_options_name_the_folder(manual_dir, tmp_path):
    given = {"manual_dir": manual_dir, "min_descendants": 4}
    data = mlresearch.data.load("wordnet", given, tmp_path)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 3, "validation": 1, "test": 1}
    assert data.hierarchy.levels.tolist() == [0, 1, 1, 2]
    assert data.label_space.descriptions[3] == "gloss 4"
    [folder] = (tmp_path / "wordnet").iterdir()
    assert folder.name.startswith("all-min_descendants=4-words=False-files=")


def test_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "data.noun"
    path.write_bytes(b"\xef\xbb\xbf" + (LICENCE + SYNSETS).replace("\n", "\r\n").encode().removesuffix(b"\r\n"))
    assert wordnet.parse_synsets(wordnet.read_text(path), path) == parse(SYNSETS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_descendants": 0}, "min_descendants is 0"),
        ({"min_descendants": 10}, "no synset has min_descendants = 10"),
        ({"min_descendants": 9}, "no synset has a label other than a root"),
    ],
)
def test_impossible_options_are_errors_for_people(manual_dir, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        mlresearch.data.load("wordnet", {"manual_dir": manual_dir, **options}, tmp_path)


def test_a_missing_file_is_named(manual_dir, tmp_path):
    (Path(manual_dir) / "wordnet" / "data.noun").unlink()
    with pytest.raises(UserError, match=r"data\.noun"):
        mlresearch.data.load("wordnet", {"manual_dir": manual_dir}, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no synsets"),
        (LICENCE, "has no synsets"),
        (LICENCE + SYNSETS[:30], "line 3: .* is not a synset"),
        (line(1) + line(1), "line 2: the offset 00000001 occurs twice"),
        (line(1).replace(" | gloss 1", ""), "line 1: .* is not a synset"),
        (line(1).replace("gloss 1", ""), "line 1: .* is not a synset"),
        (line(1).replace(" n ", " v "), "line 1: .* is not a synset"),
        (line(1).replace(" 01 ", " 00 "), "line 1: expected 0 words"),
        (line(1).replace(" 01 ", " ff "), "line 1: 0 pointers"),
        (line(1).replace("word1", ""), "line 1: expected 1 words"),
        (line(1).replace("word1", "wo\x00rd"), "line 1: expected 1 words"),
        (line(2, "@1").replace(" 001 ", " 002 "), "line 1: 1 pointers"),
        (line(2, "@1").replace(" 0000 |", " |"), "line 1: 0.75 pointers"),
        (line(2, "@1").replace("00000001", "1"), "line 1: '1' is not an offset"),
        (line(2, "@1").replace("00000001", "٠٠٠٠٠٠٠١"), "is not an offset"),
        (line(2, "@1").replace("1 n", "1 v"), "the hypernym 00000001 is not a noun"),
        (bytes(range(1, 256)).decode("latin-1"), "line 1: .* is not a synset"),
    ],
)
def test_what_is_no_synset_is_an_error_with_its_line(content, message):
    with pytest.raises(UserError, match=message):
        parse(content)


def test_a_byte_that_is_no_text_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "data.noun"
    path.write_bytes(line(1).encode() + b"\xff\n")
    with pytest.raises(UserError, match=r"data\.noun, line 2: this is not UTF-8"):
        wordnet.read_text(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line(1) + line(2, "@3"), "hypernym 00000003 of 'word2.00000002' is not there; is the file cut off"),
        (line(1, "@2") + line(2, "@1"), "cycle"),
        (line(1, "@1"), "cycle"),
        ("".join(line(number, f"@{number + 1}") for number in range(1, 200)) + line(200), "more than 100 levels"),
    ],
)
def test_what_is_no_hierarchy_is_an_error(content, message):
    with pytest.raises(UserError, match=rf"data\.noun.*{message}"):
        wordnet.link_synsets(parse(content), PATH)


def test_lines_of_ten_megabytes():
    [synset] = parse(line(1, gloss="x " * 5_000_000))
    assert len(synset.gloss) == 9_999_999
    for content in (
        "0" * 10_000_000,
        "00000001 03 n 01 " + "word 0 " * 1_400_000 + "| gloss",
        "00000001 03 n 01 word 0 001 " + "@ 00000001 n 0000 " * 500_000 + "| gloss",
        "00000001 03 n 01 word 0 001 @ " + "1" * 10_000_000 + " n 0000 | gloss",
    ):
        with pytest.raises(UserError, match="line 1"):
            parse(content)


def mutate(content, rng):
    """Replace, insert, drop or repeat a few characters at a few places."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        stop = start + rng.choice((0, 1, 1, 5, 40))
        other = rng.choice(
            ("", rng.randbytes(2).decode("latin-1"), rng.choice("0123@~|n \n"), content[start : start + 50])
        )
        content = content[:start] + other + content[stop:]
    return content


def test_mutated_files_are_read_right_or_refused():
    rng = random.Random(0)
    messages = []
    for _ in range(3000):
        content = mutate(SYNSETS, rng)
        try:
            synsets = parse(content)
            hierarchy = wordnet.link_synsets(synsets, PATH)
        except UserError as error:
            messages.append(str(error))
            continue
        # An independent look: pointers by their symbols, anywhere before the bar.
        lines = [text for text in content.split("\n") if text and not text.startswith("  ")]
        for place, (synset, text) in enumerate(zip(synsets, lines, strict=True)):
            head, gloss = text.split(" | ", 1)
            fields = head.split(" ")
            above = {fields[at + 1] for at, field in enumerate(fields) if field in ("@", "@i")}
            assert (synset.offset, synset.gloss) == (fields[0], gloss.strip())
            assert above == {synsets[parent].offset for parent in hierarchy.parents[hierarchy.children == place]}
    assert 500 < len(messages) < 2900
    assert all(message.startswith("data.noun") for message in messages)


# The upstream file.


@upstream
def test_counts_of_the_upstream_file(tmp_path):
    names, edges, rows, notes = examples(MANUAL_DIR, tmp_path)
    assert (len(names), len(rows)) == (540, 81_566)
    assert notes["synsets"] == 82_115 == 81_566 + 540 + notes["left_out_without_a_label_but_the_root"]
    assert notes["roots"] == ["entity.00001740"]
    assert notes["instances"] == 7_730
    parents = {name: [parent for child, parent in edges if child == name] for name in names}
    assert sum(len(above) > 1 for above in parents.values()) == 23

    def depth(name):
        return 1 + max(map(depth, parents[name]), default=0)

    assert max(map(depth, names)) == 15
    assert all("entity.00001740" in labels and len(labels) > 1 for _, labels in rows.values())

    # Labels of every hundredth synset, found by walking up through the file itself.
    above = {}
    with (Path(MANUAL_DIR) / "wordnet" / "data.noun").open() as file:
        for text in file:
            if not text.startswith(" "):
                fields = text.partition(" | ")[0].split(" ")
                above[fields[0]] = [fields[at + 1] for at, field in enumerate(fields) if field in ("@", "@i")]
    by_offset = {name[-8:]: name for name in names}
    for key in list(rows)[::100]:
        found, waiting = set(), [key]
        while waiting:
            offset = waiting.pop()
            waiting += above[offset]
            found |= set(above[offset])
        assert set(rows[key][1]) == {by_offset[offset] for offset in found if offset in by_offset}
    below = np.bincount([len(labels) for _, labels in rows.values()])
    assert below[:2].sum() == 0
