import collections
import os
import random
import re
from pathlib import Path

import pytest
import tensorflow_datasets.public_api as tfds

import mlresearch.data
from mlresearch.data import reuters21578
from mlresearch.errors import UserError

MANUAL_DIR = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
upstream = pytest.mark.skipif(
    not (Path(MANUAL_DIR) / "reuters21578").is_dir(), reason="no folder reuters21578 in MLRESEARCH_MANUAL_DIR"
)

PATH = Path("reut2-000.sgm")
DECLARATION = '<!DOCTYPE lewis SYSTEM "lewis.dtd">\n'
STORY = (
    "<TEXT>&#2;\n<TITLE>A &lt;B> &amp; C\n</TITLE>\n"
    "<DATELINE>  ROME - </DATELINE><BODY>One.\n    Two.\n Reuter\n&#3;</BODY></TEXT>"
)
BRIEF = '<TEXT TYPE="BRIEF">&#2;\n******<TITLE>UP 3 PCT\n</TITLE>Blah blah blah.\n&#3;\n\n</TEXT>'
UNPROCESSED = '<TEXT TYPE="UNPROC">&#2;\nTOTALS 1 2\n 3 4\n Reuter\n&#3;\n\n</TEXT>'
TOPIC_LIST = """\
Some notes (NOTES)
****Subject Codes (135)

**Currency Codes (27)

Money/Foreign Exchange (MONEY-FX)
COTTON \nMergers/Acquisitions (ACQ)
________________________________
@heading[Organization Codes (56)]
European Community (EC)@*
"""


def document(key, topics, split="TRAIN", indexed="YES", text=STORY):
    listed = "".join(f"<D>{topic}</D>" for topic in topics)
    return (
        f'<REUTERS TOPICS="{indexed}" LEWISSPLIT="{split}" CGISPLIT="TRAINING-SET" OLDID="5" NEWID="{key}">\n'
        f"<DATE>26-FEB-1987</DATE>\n<TOPICS>{listed}</TOPICS>\n<PLACES><D>usa</D></PLACES>\n{text}\n</REUTERS>\n"
    )


def parse(content):
    return reuters21578.parse_documents(content, PATH)


# Small files.


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (STORY, "NORM", "A <B> & C\nOne.\n    Two.\n Reuter"),
        (BRIEF, "BRIEF", "UP 3 PCT"),
        (UNPROCESSED, "UNPROC", "TOTALS 1 2\n 3 4\n Reuter"),
    ],
)
def test_the_text_of_each_type(text, kind, expected):
    [found] = parse(DECLARATION + document(7, ["acq"], text=text))
    assert found == reuters21578.Document("7", "train", True, ("acq",), 0, kind, expected)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a&#3;b\x03c", "abc"),
        ("x&#127;y&#31;", "xy"),
        ("&amp;lt;", "&lt;"),
        ("R&D; &unknown; &#xx;", "R&D; &unknown; &#xx;"),
        ("&#252;\xfc", "üü"),
        ("a&#55296;&#1114112;&#9999999;b", "ab"),
        ("a\tb\nc", "a\tb\nc"),
    ],
)
def test_entities_and_control_characters(written, meant):
    [found] = parse(document(1, [], text=f'<TEXT TYPE="UNPROC">{written}</TEXT>'))
    assert found.text == meant


@pytest.mark.parametrize(("split", "expected"), [("TRAIN", "train"), ("TEST", "test"), ("NOT-USED", None)])
@pytest.mark.parametrize(("indexed", "used"), [("YES", True), ("NO", False), ("BYPASS", False)])
def test_attributes_say_what_is_used(split, expected, indexed, used):
    [found] = parse(document(1, ["acq"], split, indexed))
    assert (found.split, found.indexed) == (expected, used)


def test_modapte_by_hand():
    documents = parse(
        document(1, ["acq", "tea"])
        + document(2, ["acq", "corn", "acq"])
        + document(3, ["tea"])  # no test document has tea
        + document(4, [])
        + document(5, ["corn"], "TEST")
        + document(6, ["acq", "gold"], "TEST", text=BRIEF)
        + document(7, ["gold"], "TEST")
        + document(8, ["tea"], "TEST", "NO")
        + document(9, ["acq"], "NOT-USED")
        + document(10, ["acq"], "TRAIN", "BYPASS")
    )
    splits, topics, notes = reuters21578.apply_modapte(documents)
    assert topics == ["acq", "corn"]
    assert {split: [row.key for row in rows] for split, rows in splits.items()} == {
        "train": ["1", "2"],
        "test": ["5", "6"],
    }
    assert notes["modapte"] == {"train": 4, "test": 3}
    assert notes["modapte_without_topics"] == {"train": 1, "test": 0}
    assert notes["left_out_without_a_label"] == {"train": 2, "test": 1}
    assert notes["topics_of_one_split"] == {"train": 1, "test": 1}
    assert notes["dropped_topics"] == {"gold": 1, "tea": 1}
    assert notes["documents_that_repeat_a_topic"] == ["2"]
    assert notes["title_alone"] == {"train": 0, "test": 1}


def test_no_topic_on_both_sides_is_an_error():
    with pytest.raises(UserError, match="no topic"):
        reuters21578.apply_modapte(parse(document(1, ["acq"]) + document(2, ["tea"], "TEST")))


def test_titles_of_topics():
    assert reuters21578.parse_topic_list(TOPIC_LIST) == {
        "money-fx": "Money/Foreign Exchange",
        "acq": "Mergers/Acquisitions",
    }


def make_folder(tmp_path, contents):
    folder = tmp_path / "manual" / "reuters21578"
    folder.mkdir(parents=True)
    for name, content in zip(reuters21578.FILES, contents, strict=True):
        (folder / name).write_text(content, "latin-1")
    (folder / reuters21578.TOPIC_LIST).write_text(TOPIC_LIST)
    return {"manual_dir": str(folder.parent)}


def test_all_files_are_read_and_validation_is_drawn(tmp_path, monkeypatch):
    # Latin-1 and CRLF, ten training documents and one for test in each of the 22 files.
    story = STORY.replace("One", "Zürich {}")
    contents = [
        DECLARATION
        + "".join(document(20 * number + row, ["acq"], text=story.format(20 * number + row)) for row in range(10))
        + document(20 * number + 10, ["cotton", "acq", "cotton"], ["TRAIN", "TEST"][number % 2], text=BRIEF)
        for number in range(22)
    ]
    contents[3] = contents[3].replace("\n", "\r\n")
    given = make_folder(tmp_path, contents)
    with pytest.raises(UserError, match="242 documents, not 21578"):
        mlresearch.data.load("reuters21578", given, tmp_path)
    monkeypatch.setattr(reuters21578, "NUM_DOCUMENTS", 242)
    data = mlresearch.data.load("reuters21578", given, tmp_path)
    assert {split: len(records) for split, records in data.splits.items()} == {
        "train": 208,
        "validation": 23,
        "test": 11,
    }
    assert data.label_space.names == ("acq", "cotton")
    assert data.label_space.descriptions == ("Mergers/Acquisitions", "cotton")
    assert data.parents is None
    assert data.splits["test"].keys[0] == "30"
    assert data.splits["test"].labels.row(0).tolist() == [0, 1]
    texts = dict(zip(data.splits["train"].keys, data.splits["train"].texts, strict=True))
    texts |= dict(zip(data.splits["validation"].keys, data.splits["validation"].texts, strict=True))
    assert texts["61"] == "A <B> & C\nZürich 61.\n    Two.\n Reuter"
    assert len(data.notes["documents_that_repeat_a_topic"]) == 22


def test_a_missing_file_is_named(tmp_path):
    given = make_folder(tmp_path, [document(1, [])] * 22)
    (tmp_path / "manual" / "reuters21578" / "reut2-013.sgm").unlink()
    with pytest.raises(UserError, match=r"reut2-013\.sgm"):
        mlresearch.data.load("reuters21578", given, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no documents"),
        (DECLARATION, "has no documents"),
        ("<!DOCTYPE", "line 1: expected a document"),
        (DECLARATION + document(1, []) + "more" + document(2, []), "line 14: expected a document"),
        (DECLARATION + document(1, []) + document(2, [])[:200], "line 14: .* is the file cut off"),
        (document(1, [])[:-12] + document(2, []), "line 1: .* has no '</REUTERS>'"),
        (document(1, []) + " " * 5000 + "x", "expected a document"),
        (document(1, []).replace('NEWID="1"', "NEWID=1"), "is not an attribute"),
        (document("", []), "line 1: .* no number NEWID"),
        (document("9" * 5000, []), "line 1: .* no number NEWID"),
        (document(5, [], "DEV"), "line 1, document 5: LEWISSPLIT is 'DEV'; known: NOT-USED, TEST, TRAIN"),
        (document(5, [], "TEST", "MAYBE"), "document 5: TOPICS is 'MAYBE'"),
        (document(5, ["a<b"]), "document 5: .* is not a topic"),
        (document(5, [""]), "document 5: '<D>' is not a topic"),
        (document(5, ["acq"]).replace("</D></TOPICS>", "</TOPICS>"), "document 5: .* is not a topic"),
        (document(5, []).replace("</TOPICS>", ""), "document 5: expected one '<TOPICS>'"),
        (document(5, []).replace("<TITLE>", ""), "document 5: expected one '<TITLE>'"),
        (document(5, []).replace("</BODY>", ""), "document 5: expected one '<BODY>'"),
        (document(5, []).replace("One", "<I>One"), "document 5: a tag within the text"),
        (document(5, [], text='<TEXT TYPE="LONG">'), "document 5: expected a text"),
        (document(5, [], text="<TEXT>"), "document 5: the text has no end"),
        (document(5, [], text=""), "document 5: expected a text"),
        (document(1, ["acq"]).encode("utf-16").decode("latin-1"), "line 1: expected a document"),
        (bytes(range(256)).decode("latin-1"), "expected a document"),
    ],
)
def test_what_is_no_collection_is_an_error_with_its_line(content, message):
    with pytest.raises(UserError, match=message):
        parse(content)


def test_documents_of_ten_megabytes():
    large = "&<x " * 2_500_000
    [found] = parse(document(1, [], text=f'<TEXT TYPE="UNPROC">{large.replace("<", "")}</TEXT>'))
    assert len(found.text) == 7_499_999
    for content in (
        large,
        document(1, [], text=f'<TEXT TYPE="UNPROC">{large}</TEXT>'),
        "<REUTERS " + "a" * 10_000_000,
        "<REUTERS " + "a=" * 1_000_000 + "></REUTERS>",
        document(1, ["-" * 10_000_000]),
        document(1, ["a-" * 5_000_000]),
        document(1, ["a"] * 1_000_000).replace("</D></TOPICS>", "</TOPICS>"),
        "<TOPICS>" * 1_000_000,
        document(1, [], text="<TEXT>" + "<TITLE>" * 1_000_000 + "</TEXT>"),
        document(1, []) + " " * 10_000_000 + "x",
    ):
        with pytest.raises(UserError, match="line"):
            parse(content)


def mutate(content, rng):
    """Replace, insert, drop or repeat a few characters at a few places."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(content) + 1)
        stop = start + rng.choice((0, 1, 1, 5, 40))
        other = rng.choice(
            ("", rng.randbytes(2).decode("latin-1"), rng.choice('<>&;/"= \n'), content[start : start + 90])
        )
        content = content[:start] + other + content[stop:]
    return content


def test_mutated_files_are_read_right_or_refused():
    rng = random.Random(0)
    content = DECLARATION + document(1, ["acq", "corn"]) + document(2, [], text=BRIEF) + document(3, ["tea"], "TEST")
    messages = []
    for _ in range(3000):
        mutated = mutate(content, rng)
        try:
            documents = parse(mutated)
        except UserError as error:
            messages.append(str(error))
            continue
        # An independent look: by the tags alone, which no text can hold.
        pieces = mutated.split("</REUTERS>")[:-1]
        assert [document.key for document in documents] == [re.search(r'NEWID="(\d+)"', piece)[1] for piece in pieces]
        for found, piece in zip(documents, pieces, strict=True):
            listed = re.findall("<D>([^<]*)</D>", piece[piece.index("<TOPICS>") : piece.index("</TOPICS>")])
            assert set(found.topics) == set(listed)
            assert len(found.topics) + found.num_repeated == len(listed)
            assert found.split == {"TRAIN": "train", "TEST": "test"}.get(re.search(r'LEWISSPLIT="(.*?)"', piece)[1])
    assert 500 < len(messages) < 2900
    assert all(message.startswith("reut2-000.sgm, line ") for message in messages)


# The upstream files.


@upstream
def test_counts_of_the_upstream_files(tmp_path):
    builder = reuters21578.Builder(data_dir=tmp_path, manual_dir=MANUAL_DIR)
    splits = builder._split_generators(tfds.download.DownloadManager(download_dir=tmp_path))
    notes = builder.info.metadata["notes"]
    records = {split: [record for _, record in examples] for split, examples in splits.items()}
    assert {split: len(rows) for split, rows in records.items()} == {"train": 7_770, "test": 3_019}
    names = builder.info.features["labels"].feature.names
    assert len(names) == 90
    counts = {
        split: collections.Counter(label for row in rows for label in row["labels"]) for split, rows in records.items()
    }
    assert all(counts[split][label] >= 1 for split in counts for label in range(90))
    assert round(sum(map(len, (row["labels"] for rows in records.values() for row in rows))) / 10_789, 2) == 1.24
    assert notes["modapte"] == {"train": 9_603, "test": 3_299}
    assert notes["documents_that_repeat_a_topic"] == ["5467", "19918"]
    assert notes["empty_texts"] == {"train": 0, "test": 0}
    # The most frequent topics, as published for this split.
    assert [counts[split][names.index(name)] for split in ("train", "test") for name in ("earn", "acq")] == [
        2_877,
        1_650,
        1_087,
        719,
    ]
    texts = [row["text"] for rows in records.values() for row in rows]
    assert not any(re.search(r"&lt;|&amp;|&#|[\x00-\x08\x0b-\x1f\x7f]", text) for text in texts)
    assert records["train"][0]["text"].startswith("BAHIA COCOA REVIEW\nShowers continued throughout")
    assert sum(title != name for title, name in zip(builder.info.metadata["descriptions"], names, strict=True)) > 30
