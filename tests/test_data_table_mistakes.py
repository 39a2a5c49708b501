"""What a file of one's own gets wrong: options, rows, label files, and faults at random."""

import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from small_table_files import NAN, json_lines, load, load_all, write

import mlresearch.data
from mlresearch.data import table
from mlresearch.errors import UserError
from mlresearch.label_space import LabelReader

# Mistakes in the options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": ""}, r"form is ''; state how rows give their labels: ragged, multihot, soft"),
        ({"form": "raged"}, "form is 'raged'.*did you mean 'ragged'"),
        ({"format": "json"}, "format is 'json'; did you mean 'jsonl'"),
        ({"separator": " "}, "separator is ' '"),
        ({"labels": ""}, "labels is empty"),
        ({"text": ""}, "nothing to predict from"),
        ({"text": "txet"}, r"train.jsonl, line 1: there is no column 'txet' \(text\); did you mean 'text'"),
        ({"labels": "label"}, r"there is no column 'label' \(labels\); did you mean 'labels'"),
        ({"features": "x"}, r"there is no column 'x' \(features\)"),
        ({"features": "emb_*"}, r"there is no column 'emb_\*' \(features\)"),
        ({"categories": "kind"}, r"there is no column 'kind' \(categories\)"),
        ({"key": "id"}, r"there is no column 'id' \(key\)"),
        ({"group": "source"}, r"there is no column 'source' \(group\)"),
        ({"group_pattern": "a"}, "set group"),
        ({"text": "labels"}, "column 'labels' is among both labels and text"),
        ({"text": "text,text"}, "text is 'text,text': 'text' stands twice"),
        ({"text": "text,,n"}, "a name is empty"),
        ({"text": 'a"b",c"'}, "there is no column"),
        ({"text": '"a'}, "text is '\"a': unexpected end of data"),
        ({"text": "t*,text"}, "text names the column 'text' twice"),
        ({"labels": "labels,n"}, "labels names several columns; in the form 'ragged' one column"),
        ({"labels": "l*"}, "labels names several columns"),
        ({"labels": "n,l*", "form": "soft"}, None),
        ({"parents": "p.tsv", "hierarchy_separator": "/"}, "give one"),
        ({"label_names": "none.txt"}, "label_names: there is no file .*none.txt"),
        ({"parents": "none.txt"}, "parents: there is no file"),
        ({"train": "~nobody/" + "x" * 5000}, "train: there is no file"),
        ({"train": "a\0b"}, "train: there is no file"),
        ({"train": ""}, "train is empty; name the file of training rows"),
        ({"train": "t.txt"}, r"t.txt ends in none of .jsonl, .ndjson, .csv, .tsv; set format: csv, jsonl, tsv"),
        ({"test": "train.jsonl"}, "train and test are one file"),
        ({"test": "t.csv"}, "train.jsonl and .*t.csv differ in format"),
        ({"unknown_labels": "dorp"}, "unknown_labels is 'dorp'; did you mean 'drop'"),
        ({"lables": "l"}, "no option 'lables'; did you mean 'labels'"),
    ],
)
def test_mistakes_in_the_options(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, json_lines([{"text": "a", "labels": ["x"], "n": 1}]))
    for other in ("t.txt", "t.csv", "p.tsv"):
        write(tmp_path, "a", other)
    given = {"train": "train.jsonl", "text": "text", "labels": "labels", "form": "ragged"} | options
    with pytest.raises(UserError, match=message):
        mlresearch.data.load("table", given, tmp_path / "data")


def test_a_format_that_is_stated_overrules_suffixes(tmp_path):
    dataset = load_all(tmp_path, '{"text": "a", "labels": ["x"]}', "train.txt", format="jsonl")
    assert dataset.splits["train"].texts == ("a",)


def test_columns_of_one_label(tmp_path):
    content = "text,x,l_x\na,1,1\n"
    with pytest.raises(UserError, match="line 2: the columns 'x' and 'l_x' are of one label, 'x'"):
        load(tmp_path, content, "train.csv", form="multihot", labels="x,l_*")


# Mistakes in the rows.

GOOD = '{"text": "a", "n": 1, "kind": "k", "labels": ["x"]}\n'
WRONG_JSON = [
    ('{"n": 1, "kind": "k", "labels": []}', r"there is no column 'text' \(text\)"),
    ('{"text": null, "n": 1, "kind": "k", "labels": []}', "column 'text' holds null, not a text"),
    ('{"text": 5, "n": 1, "kind": "k", "labels": []}', "column 'text' holds a number, not a text"),
    ('{"text": "", "n": "1", "kind": "k", "labels": []}', "column 'n' holds a string, not a number or null"),
    ('{"text": "", "n": true, "kind": "k", "labels": []}', "column 'n' holds true or false, not a number"),
    ('{"text": "", "n": [], "kind": "k", "labels": []}', "column 'n' holds a list, not a number"),
    ('{"text": "", "n": 1e39, "kind": "k", "labels": []}', "beyond .*3.403e.38, the range of float32"),
    ('{"text": "", "n": -1e39, "kind": "k", "labels": []}', "the range of float32"),
    ('{"text": "", "n": 1, "kind": {}, "labels": []}', "column 'kind' holds an object, not a string or an integer"),
    ('{"text": "", "n": 1, "kind": 1.5, "labels": []}', "column 'kind' holds a number, not a string"),
    ('{"text": "", "n": 1, "kind": false, "labels": []}', "column 'kind' holds true or false"),
    ('{"text": "", "n": 1, "kind": "k", "labels": "x"}', "'ragged' labels are a list of names or ids, not 'x'"),
    ('{"text": "", "n": 1, "kind": "k", "labels": null}', "not None"),
    ('{"text": "", "n": 1, "kind": "k", "labels": [1]}', "labels are ids; give label_names"),
    ('{"text": "", "n": 1, "kind": "k", "labels": ["x", "x"]}', r"label 'x' \(0\) is given twice"),
    ('{"text": "", "n": 1, "kind": "k", "labels": [""]}', "the label name '' is empty"),
    ('{"text": "", "n": 1, "kind": "k", "labels": ["a\\nb"]}', "holds outer spaces, a tab or a line break"),
]


@pytest.mark.parametrize(("line", "message"), WRONG_JSON, ids=range(len(WRONG_JSON)))
def test_wrong_rows_of_json(tmp_path, line, message):
    with pytest.raises(UserError, match=f"train.jsonl, line 2: .*{message}") as caught:
        load(tmp_path, GOOD + line + "\n", features="n", categories="kind")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("where", ["labels", "text"])
def test_wrong_rows_of_a_later_split_are_named(tmp_path, where):
    row = {"text": "", "labels": ["x"]} | {where: 5}
    test = write(tmp_path, GOOD + "\n" + json.dumps(row), "test.jsonl")
    with pytest.raises(UserError, match=r"test.jsonl, line 3: "):
        load(tmp_path, GOOD, test=test)


def test_characters_beyond_the_ordinary_come_through(tmp_path):
    text = "\0 \u2028 \x85 \U0001f600 \\ud800 \ufeff \r\n"
    dataset = load_all(tmp_path, json_lines([{"text": text, "labels": ["\u0301 \u2029 x"]}]))
    assert dataset.splits["train"].texts == (text,)
    assert dataset.label_space.names == ("\u0301 \u2029 x",)


def test_a_prefix_must_name_the_same_columns_in_every_row(tmp_path):
    rows = [{"text": "", "l_a": 1, "l_b": 0}, {"text": "", "l_a": 1, "l_c": 0}]
    message = r"train.jsonl, line 2: labels is l_\*, and the column 'l_b' does not stand in both"
    with pytest.raises(UserError, match=message):
        load(tmp_path, json_lines(rows), form="multihot", labels="l_*")
    test = write(tmp_path, "text,l_a,l_b,l_c\na,0,0,1\n", "test.csv")
    with pytest.raises(UserError, match=r"test.csv, line 2: labels is l_\*, and the column 'l_c' does not stand in"):
        load(tmp_path, "text,l_a,l_b\na,0,1\n", "train.csv", form="soft", labels="l_*", test=test)


def test_a_key_names_one_row(tmp_path):
    rows = [{"id": name, "text": "", "labels": ["x"]} for name in ("a", "b", "a")]
    with pytest.raises(UserError, match=r"train.jsonl, line 3: the key 'a' stands on line 1, too"):
        load(tmp_path, json_lines(rows), key="id")


@pytest.mark.parametrize("value", [[0, 1], [0.5]])
def test_values_without_names_need_a_file_of_names(tmp_path, value):
    with pytest.raises(UserError, match="line 1: label values without names; give label_names"):
        load(tmp_path, json_lines([{"text": "", "labels": value}]), form="soft")


WRONG_CSV = [
    ("text,n,labels\n", "there are no rows"),
    ("text,n,labels\na,one,x\n", "line 2: column 'n' holds 'one', not a number"),
    ("text,n,labels\na,1_0,x\n", "holds '1_0', not a number"),
    ("text,n,labels\na,inf,x\n", "holds 'inf', not a number"),
    ("text,n,labels\na,1e99,x\n", "range of float32"),
    ("text,n,labels\na,1e9999,x\n", "range of float32"),
    ("text,n,labels\na,\u0663,x\n", "not a number"),
    ("text,n,labels\na," + "1" * 10**6 + "x,x\n", r"holds '1+\.\.\.', not a number"),
    ("text,n,labels\na,1,x;;y\n", "line 2: a label name is missing beside a ';' in 'x;;y'"),
    ("text,n,labels\na,1,x;\n", "a label name is missing"),
    ("text,n,labels\na,1,x; x\n", "label 'x' .* is given twice"),
    ("text;n;labels\na;1;x\n", r"line 2: there is no column 'text' \(text\)"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_CSV, ids=range(len(WRONG_CSV)))
def test_wrong_rows_of_csv(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, content, "train.csv", features="n")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\ufefftext,n,labels\r\na, 1.5e0 ,x;y\r\n", [1.5]),
        ('"text",n,labels\n"a",NaN,x;y', [NAN]),
        ("\nlabels,n,text,other\n\n x ; y ,,a,\n", [NAN]),
        ("text,n,labels\na,+.5,y;x\n", [0.5]),
    ],
)
def test_right_rows_of_csv(tmp_path, content, expected):
    dataset = load_all(tmp_path, content, "train.csv", features="n")
    assert dataset.splits["train"].texts == ("a",)
    assert dataset.label_space.names == ("x", "y")
    assert dataset.splits["train"].labels.row(0).tolist() == [0, 1]
    np.testing.assert_array_equal(dataset.splits["train"].features, [expected])


# Mistakes in the files of labels.


def test_an_empty_file_of_names(tmp_path):
    with pytest.raises(UserError, match=r"there are no labels"):
        load(tmp_path, GOOD, label_names=write(tmp_path, "\n", "names.txt"))


def test_a_parent_that_is_no_label(tmp_path):
    names, parents = write(tmp_path, "x\ny", "names.txt"), write(tmp_path, "x\ty\ny\tw", "parents.tsv")
    with pytest.raises(UserError, match=r"parents.tsv, line 2: the label 'w' is not in the file label_names"):
        load(tmp_path, GOOD, label_names=names, parents=parents)


# Faults: whatever a file holds, it is right data or a `UserError`.


def mutations(content, count, seed):
    """Copies of `content` with a few bytes changed, left out, doubled, or replaced by what parsers trip over."""
    pieces = [b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b'"', b"\\", b"\\ud800", b"1e999"]
    pieces += [b"[" * 2000, b"{", b"}", b"NaN", b"null", b"-", b",", b":", b"::", b"9" * 500, b"\xe2\x80\xa8", b" "]
    rng = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            at, length = rng.randrange(len(changed) + 1), rng.choice([0, 0, 1, 1, 2, 5, 20])
            choice = rng.random()
            if choice < 0.5:
                changed[at : at + length] = rng.choice(pieces)
            elif choice < 0.7:
                changed[at : at + length] = changed[at : at + length] * 2
            elif choice < 0.9:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            else:
                del changed[at:]
        yield bytes(changed)


class Reading(table.Builder):
    """What reads rows, without preparing a data set."""

    def __init__(self, path, **options):
        given = {"manual_dir": "", "unknown_labels": "error", "data_dir": path.parent, "train": str(path)}
        super().__init__(**(given | options))

    def records(self):
        reader = LabelReader(self.label_space, self.form, "error")
        return [
            self.record(row, "key", f"{self.paths['train']}, line {line}", reader)
            for line, row in self.rows(self.paths["train"])
        ]


@pytest.mark.parametrize("form", ["ragged", "soft"])
def test_mutated_rows_of_json(form, monkeypatch):
    rows = [
        {"text": "naïve", "n": 0.5, "kind": "k", "labels": ["x", "y"]},
        {"text": "", "n": None, "kind": 3, "labels": ["é"]},
    ]
    if form == "soft":
        rows[0]["labels"], rows[1]["labels"] = {"x": 0.5, "y": 1}, {"é": None}
    content = json_lines(rows).encode()
    options = {"text": "text", "features": "n", "categories": "kind", "labels": "labels", "form": form}
    right = check_mutations(content, "t.jsonl", 5000, options, monkeypatch)
    assert 100 < right < 4900


@pytest.mark.parametrize("format", ["csv", "tsv"])
def test_mutated_rows_of_csv(format, monkeypatch):
    content = 'text,n,kind,labels\n"na,ïve ""\nx",0.5,k,x;y\n,,3,é\n'
    if format == "tsv":
        content = "text\tn\tkind\tlabels\nnaïve\t0.5\tk\tx;y\n\t\t3\té\n"
    options = {"text": "text", "features": "n", "categories": "kind", "labels": "labels", "form": "ragged"}
    right = check_mutations(content.encode(), f"t.{format}", 2500, options, monkeypatch)
    assert 250 < right < 2250


def check_mutations(content, name, count, options, monkeypatch):
    """Read mutations of a table; returns how many were right data, of which every record is checked."""
    current = [b""]
    monkeypatch.setattr(Path, "open", lambda path, mode: io.BytesIO(current[0]))
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    monkeypatch.setattr(table.Source, "__init__", lambda self, **_: None)
    right = 0
    for current[0] in mutations(content, count, seed=len(content)):
        try:
            reading = Reading(Path("/nowhere") / name, **options)
            records = reading.records()
        except UserError as error:
            assert name in str(error) or "there are no labels" in str(error)  # noqa: PT017
            continue
        right += 1
        for record in records:
            record["text"].encode()
            assert record["features"].dtype == np.float32
            assert not np.isinf(record["features"]).any()
            assert all(isinstance(value, str) for value in record["categories"])
            assert record["labels"] == sorted(set(record["labels"]))
            assert all(0 <= label < reading.label_space.num_labels for label in record["labels"])
    return right


def test_a_text_of_10_mb(tmp_path):
    text = 'word "quoted", \n' * 700_000
    dataset = load_all(tmp_path, json_lines([{"text": text, "labels": ["x"]}]))
    assert dataset.splits["train"].texts == (text,)
