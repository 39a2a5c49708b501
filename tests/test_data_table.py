import csv
import io
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlresearch.data
from mlresearch.data import table
from mlresearch.data.preparation import Preparation
from mlresearch.errors import UserError
from mlresearch.label_space import LabelReader

NAN = math.nan

# One table in every form: four rows, a text, two features, a category, three labels.
TEXTS = ["plain", 'quotes ", commas, and\nlines', "", "tab\tand ünïcode \u2028 €"]
NUMBERS = [[1.0, -2.5], [None, 0.0], [3e10, None], [0.1, 7.0]]
KINDS = ["a", "", "b", "a"]
LABELS = [["x", "z"], [], ["y"], ["y", "x"]]
SOFT = [{"x": 0.25, "z": 1}, {}, {"y": None}, {"x": 1.0, "y": 0.5, "z": 0.0}]
NAMES = ("x", "y", "z")
INPUTS = {"text": "title", "features": "n1,n2", "categories": "kind", "key": "id", "labels": "tags"}


def json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_lines(rows, **dialect):
    stored = io.StringIO()
    writer = csv.writer(stored, **dialect)
    writer.writerow(rows[0])
    writer.writerows(["" if cell is None else cell for cell in row.values()] for row in rows)
    return stored.getvalue()


def rows_with(labels):
    """The rows of the table, with what `labels` adds to each."""
    return [
        {"id": f"row {number}", "title": text, "n1": one, "n2": two, "kind": kind} | own
        for number, (text, (one, two), kind, own) in enumerate(zip(TEXTS, NUMBERS, KINDS, labels, strict=True))
    ]


def write(folder, content, name="train.jsonl"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return str(path)


def load(folder, content, name="train.jsonl", **options):
    """The data set of one file: its rows in "train", and twice more what they are drawn to."""
    options = {"text": "text", "labels": "labels", "form": "ragged"} | options
    return mlresearch.data.load("table", {"train": write(folder, content, name)} | options, folder / "data")


def load_all(folder, content, name="train.jsonl", **options):
    """The same, with the same rows in every split, so that all of them are there in their order."""
    others = {split: write(folder, content, f"{split}{Path(name).suffix}") for split in ("validation", "test")}
    return load(folder, content, name, **(others | options))


def dense(records, num_labels):
    matrix = np.zeros((len(records), num_labels), np.float32)
    values = 1 if records.labels.values is None else records.labels.values
    matrix[records.labels.rows, records.labels.ids] = values
    return matrix


def assert_same(one, other):
    """Two data sets are the same but for their names and notes: the fingerprint is over all else."""
    assert one.label_space.names == other.label_space.names
    assert one.fingerprint == other.fingerprint


# Every form, from every format.


def assert_inputs(dataset):
    for records in dataset.splits.values():
        assert records.keys == ("row 0", "row 1", "row 2", "row 3")
        assert records.texts == tuple(TEXTS)
        np.testing.assert_array_equal(records.features, np.array(NUMBERS, np.float32))
        assert records.categories == (tuple(KINDS),)
    assert dataset.feature_names == ("n1", "n2")
    assert dataset.category_names == ("kind",)


def test_ragged_labels(tmp_path):
    by_name = load_all(tmp_path / "names", json_lines(rows_with({"tags": row} for row in LABELS)), **INPUTS)
    assert_inputs(by_name)
    assert by_name.label_space.names == NAMES
    assert by_name.parents is None
    expected = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]
    np.testing.assert_array_equal(dense(by_name.splits["train"], 3), expected)
    assert by_name.splits["train"].labels.values is None
    assert by_name.notes["unlabelled_rows"] == {"train": 1, "validation": 1, "test": 1}
    cells = csv_lines(rows_with({"tags": "; ".join(row)} for row in LABELS))
    assert_same(load_all(tmp_path / "csv", cells, "train.csv", **INPUTS), by_name)
    ids = json_lines(rows_with({"tags": [NAMES.index(name) for name in row]} for row in LABELS))
    names = write(tmp_path, "x\ny\nz\n", "names.txt")
    assert_same(load_all(tmp_path / "ids", ids, label_names=names, **INPUTS), by_name)


def test_multihot_labels(tmp_path):
    hot = [[1, 0, None], [0, 0, 0], [0, 1, 0], [None, 1, 0]]
    names = write(tmp_path, "x\ny\nz\n", "names.txt")
    options = INPUTS | {"form": "multihot"}
    lists = load_all(
        tmp_path / "list", json_lines(rows_with({"tags": row} for row in hot)), label_names=names, **options
    )
    assert_inputs(lists)
    np.testing.assert_array_equal(dense(lists.splits["test"], 3), np.array(hot, np.float32))
    assert lists.splits["test"].labels.has_unknown
    objects = json_lines(rows_with({"tags": dict(zip(NAMES, row, strict=True))} for row in hot))
    assert_same(load_all(tmp_path / "object", objects, **options), lists)
    columns = rows_with({f"is {name}": cell for name, cell in zip(NAMES, row, strict=True)} for row in hot)
    options["labels"] = "is *"
    assert_same(load_all(tmp_path / "columns", json_lines(columns), **options), lists)
    assert_same(load_all(tmp_path / "csv", csv_lines(columns), "train.csv", **options), lists)
    listed = options | {"labels": "is z,is x,is y", "label_names": write(tmp_path, "is x\nis y\nis z", "is.txt")}
    ordered = load_all(tmp_path / "listed", csv_lines(columns), "train.csv", **listed)
    assert ordered.label_space.names == ("is x", "is y", "is z")
    np.testing.assert_array_equal(dense(ordered.splits["test"], 3), np.array(hot, np.float32))


def test_soft_labels(tmp_path):
    options = INPUTS | {"form": "soft"}
    objects = load_all(tmp_path / "object", json_lines(rows_with({"tags": row} for row in SOFT)), **options)
    assert_inputs(objects)
    expected = np.array([[0.25, 0, 1], [0, 0, 0], [0, NAN, 0], [1, 0.5, 0]], np.float32)
    np.testing.assert_array_equal(dense(objects.splits["train"], 3), expected)
    filled = rows_with({f"p_{name}": row.get(name, 0) for name in NAMES} for row in SOFT)
    options["labels"] = "p_*"
    assert_same(load_all(tmp_path / "csv", csv_lines(filled), "train.csv", **options), objects)
    assert_same(load_all(tmp_path / "columns", json_lines(filled), **options), objects)


def test_tsv_takes_quotes_as_they_are(tmp_path):
    content = 'text\tlabels\n"quoted" and "\tb;a\n\t\n'
    dataset = load_all(tmp_path, content, "train.tsv")
    assert dataset.splits["train"].texts == ('"quoted" and "', "")
    assert dataset.splits["train"].labels.row(0).tolist() == [0, 1]


def test_one_column_of_csv_is_one_label(tmp_path):
    dataset = load_all(tmp_path, "text,spam\na,1\nb,0\nc,\n", "train.csv", form="multihot", labels="spam")
    assert dataset.label_space.names == ("spam",)
    np.testing.assert_array_equal(dense(dataset.splits["train"], 1), [[1], [0], [NAN]])


def test_several_texts_are_joined_by_a_blank_line_and_integers_name_things(tmp_path):
    rows = [
        {"a": "one", "b": "two", "n": 7, "c": 3, "l": []},
        {"a": "", "b": "two", "n": 8, "c": None, "l": ["x"]},
        {"a": "", "b": "", "n": 9, "c": "3", "l": []},
    ]
    dataset = load_all(tmp_path, json_lines(rows), text=("a", "b"), key="n", categories=["c"], labels="l")
    assert dataset.splits["train"].texts == ("one\n\ntwo", "two", "")
    assert dataset.splits["train"].keys == ("7", "8", "9")
    assert dataset.splits["train"].categories == (("3", "", "3"),)


def test_without_a_key_rows_are_named_by_file_and_line(tmp_path):
    content = 'text,labels\r\n"a\r\nb",x\r\n\r\nc,x\r\n'
    dataset = load_all(tmp_path, content, "train.csv")
    assert dataset.splits["train"].keys == ("train.csv:2", "train.csv:5")
    assert dataset.splits["test"].keys == ("test.csv:2", "test.csv:5")
    assert dataset.splits["train"].texts == ("a\r\nb", "c")


def test_one_column_may_serve_several_ends(tmp_path):
    options = {"text": "n", "features": "n", "categories": "n", "key": "n", "group": "n"}
    dataset = load_all(tmp_path, "n,labels\n7.50,x\n", "train.csv", **options)
    records = dataset.splits["train"]
    assert (records.texts, records.categories, records.keys) == (("7.50",), (("7.50",),), ("7.50",))
    np.testing.assert_array_equal(records.features, [[7.5]])


def test_a_column_with_a_comma_is_quoted(tmp_path):
    row = {"a,b": "text", "c": "more", "labels": ["x"]}
    dataset = load_all(tmp_path, json_lines([row]), text='"a,b", c')
    assert dataset.splits["train"].texts == ("text\n\nmore",)


def test_a_prefix_names_columns_in_the_order_of_the_training_file(tmp_path):
    rows = [{"e2": 1, "labels": ["x"], "e1": 2}, {"e1": 3, "e2": 4, "labels": []}]
    dataset = load_all(tmp_path, json_lines(rows), text="", features="e*")
    assert dataset.feature_names == ("e2", "e1")
    np.testing.assert_array_equal(dataset.splits["train"].features, [[1, 2], [4, 3]])


# Property: formats, orders.

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)
numbers = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(2**20), 2**20)
label_names = st.sampled_from(["a", "b b", "c,d", "é", '"q"'])


@settings(max_examples=12)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"text": cells, "n": numbers, "kind": cells, "key": cells, "labels": st.sets(label_names)}
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row["key"],
    ),
    st.randoms(use_true_random=False),
)
def test_random_tables_are_the_same_in_both_formats_and_for_any_order_of_columns_and_labels(
    tmp_path_factory, rows, order
):
    folder = tmp_path_factory.mktemp("table")
    rows = [*rows, {"text": "", "n": None, "kind": "", "key": "longer than others", "labels": {"a"}}]
    options = {"features": "n", "categories": "kind", "key": "key"}

    def shuffled(row):
        items = list(row.items())
        order.shuffle(items)
        return {name: order.sample(value, len(value)) if name == "labels" else value for name, value in items}

    rows = [row | {"labels": sorted(row["labels"])} for row in rows]
    one = load_all(folder / "1", json_lines([shuffled(row) for row in rows]), **options)
    columns = list(rows[0])
    order.shuffle(columns)
    flat = [{name: "|".join(row[name]) if name == "labels" else row[name] for name in columns} for row in rows]
    two = load_all(folder / "2", csv_lines(flat), "train.csv", separator="|", **options)
    assert_same(one, two)
    assert one.splits["train"].texts == tuple(row["text"] for row in rows)
    assert [
        [one.label_space.names[label] for label in one.splits["train"].labels.row(n)] for n in range(len(rows))
    ] == [row["labels"] for row in rows]


@settings(max_examples=12)
@given(st.lists(st.lists(st.sampled_from([0, 1, NAN]), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_matrix_of_0_1_and_nan_survives(tmp_path_factory, matrix):
    folder = tmp_path_factory.mktemp("table")
    rows = [{"text": "t"} | {f"l{column}": value for column, value in enumerate(row)} for row in matrix]
    dataset = load_all(folder, csv_lines(rows), "train.csv", form="multihot", labels="l*")
    np.testing.assert_array_equal(dense(dataset.splits["train"], 3), matrix)


def test_the_order_of_rows_changes_the_order_of_examples_alone(tmp_path):
    rows = [{"text": f"{n}", "labels": [f"l{n % 3}", f"l{n * n % 5}"][: 1 + (n % 3 != n * n % 5)]} for n in range(9)]
    forth = load_all(tmp_path / "1", json_lines(rows))
    back = load_all(tmp_path / "2", json_lines(rows[::-1]))
    assert forth.label_space.names == back.label_space.names
    assert forth.splits["train"].texts == back.splits["train"].texts[::-1]
    assert [forth.splits["train"].labels.row(n).tolist() for n in range(9)] == [
        back.splits["train"].labels.row(8 - n).tolist() for n in range(9)
    ]


# Label space and hierarchy.


def test_a_file_of_label_names_states_order_and_descriptions(tmp_path):
    content = json_lines([{"text": "t", "labels": ["b"]}])
    names = write(tmp_path, "\ufeffz\tthe last\r\n\r\nb\t\na c", "names.txt")
    dataset = load_all(tmp_path, content, label_names=names)
    assert dataset.label_space.names == ("z", "b", "a c")
    assert dataset.label_space.descriptions == ("the last", "b", "a c")


def test_a_file_of_parents_states_labels_and_their_order(tmp_path):
    parents = write(tmp_path, "leaf\tmiddle\nalone\nmiddle\troot\nleaf\tother\n", "parents.tsv")
    content = json_lines([{"text": "t", "labels": ["leaf"]}, {"text": "u", "labels": ["alone"]}])
    dataset = load_all(tmp_path, content, parents=parents)
    # In order of appearance leaf, middle, alone, root, other; what has a parent waits for it.
    assert dataset.label_space.names == ("alone", "root", "middle", "other", "leaf")
    assert sorted(dataset.parents.tolist()) == [[2, 1], [4, 2], [4, 3]]
    assert dataset.splits["train"].labels.row(0).tolist() == [1, 2, 3, 4]
    options = {"train": str(tmp_path / "train.jsonl"), "parents": parents, "text": "text", "labels": "labels"}
    check = Preparation(closure="check")
    with pytest.raises(UserError, match=r"train.jsonl:1\): label 'leaf' without its parent 'middle'"):
        mlresearch.data.load("table", options | {"form": "ragged"}, tmp_path / "other", check)


def test_parents_may_stand_beside_a_file_of_names(tmp_path):
    content = json_lines([{"text": "t", "labels": [2]}])
    names, parents = write(tmp_path, "a\nb\nc", "names.txt"), write(tmp_path, "c\ta", "parents.tsv")
    dataset = load_all(tmp_path, content, label_names=names, parents=parents)
    assert dataset.parents.tolist() == [[2, 0]]
    assert dataset.splits["train"].labels.row(0).tolist() == [0, 2]


def test_a_separator_makes_a_hierarchy(tmp_path):
    content = json_lines([{"text": "t", "labels": ["b::c::d"]}, {"text": "u", "labels": ["b", "a::x"]}])
    dataset = load_all(tmp_path / "1", content, hierarchy_separator="::")
    assert dataset.label_space.names == ("a", "a::x", "b", "b::c", "b::c::d")
    assert dataset.parents.tolist() == [[1, 0], [3, 2], [4, 3]]
    assert dataset.splits["train"].labels.row(0).tolist() == [2, 3, 4]
    with pytest.raises(UserError, match="hierarchy_separator '/' is in no label name"):
        load(tmp_path / "2", content, hierarchy_separator="/")
    names = write(tmp_path, "b\nb::c::d\na\na::x", "names.txt")
    with pytest.raises(UserError, match=r"names.txt: the label 'b::c' is missing"):
        load(tmp_path / "3", content, hierarchy_separator="::", label_names=names)
    with pytest.raises(UserError, match="label '::a', split at hierarchy_separator '::': the label name '' is empty"):
        load(tmp_path / "4", json_lines([{"text": "", "labels": ["::a"]}]), hierarchy_separator="::")


def test_labels_that_are_not_stated_are_an_error_or_counted(tmp_path):
    rows = [{"text": "t", "labels": ["a", "x"]}, {"text": "u", "labels": ["x", "y"]}, {"text": "v", "labels": ["y"]}]
    names, parents = write(tmp_path, "a\nb", "names.txt"), write(tmp_path, "a\tb", "parents.tsv")
    for option in ({"label_names": names}, {"parents": parents}):
        [file] = option.values()
        with pytest.raises(UserError, match=f"train.jsonl, line 1: unknown label 'x', which {file} does not have"):
            load(tmp_path, json_lines(rows), **option)
        dataset = load_all(tmp_path, json_lines(rows), unknown_labels="drop", **option)
        assert dataset.notes["dropped_labels"] == {"total": 12, "names": {"x": 6, "y": 6}}
        assert dataset.notes["unlabelled_rows"]["train"] == 2
    hot = "text,a,b,x\nt,1,0,0\nu,0,1,1\n"
    options = {"form": "multihot", "labels": "a,b,x", "label_names": names}
    dataset = load_all(tmp_path, hot, "train.csv", unknown_labels="drop", **options)
    assert dataset.notes["dropped_labels"] == {"total": 3, "names": {"x": 3}}
    with pytest.raises(UserError, match=r"train.csv, line 2: unknown label 'x'"):
        load(tmp_path, hot, "train.csv", **options)


def test_notes_are_there_when_the_prepared_files_are_read_again(tmp_path):
    names = write(tmp_path, "a\nb", "names.txt")
    content = json_lines([{"text": "t", "labels": ["a", "x"]}])
    first = load_all(tmp_path, content, unknown_labels="drop", label_names=names)
    for stored in (tmp_path / "data").rglob("*.npz"):
        stored.unlink()
    again = load_all(tmp_path, content, unknown_labels="drop", label_names=names)
    assert again.notes == first.notes
    assert again.notes["dropped_labels"]["total"] == 3


# Splits and groups.


def test_missing_splits_are_drawn_and_groups_stay_together(tmp_path):
    rows = [{"text": f"{'ab' * 20}{n // 4:03} sibling {n}", "labels": [f"l{n % 3}"]} for n in range(80)]
    dataset = load(tmp_path, json_lines(rows), group="text", group_pattern="(?s).{1,43}")
    assert sum(len(records) for records in dataset.splits.values()) == 80
    groups = {split: {text[:43] for text in records.texts} for split, records in dataset.splits.items()}
    assert sum(map(len, groups.values())) == 20
    assert all(groups.values())
    assert dataset.notes["splits"]["drawn"]["method"] == "grouped"
    again = load(tmp_path, json_lines(rows), group="text", group_pattern="(?s).{1,43}")
    assert again.fingerprint == dataset.fingerprint


def test_given_splits_are_kept(tmp_path):
    train = json_lines([{"text": f"t{n}", "labels": ["x"]} for n in range(10)])
    test = write(tmp_path, json_lines([{"text": "e", "labels": ["y"]}]), "held_out.jsonl")
    dataset = load(tmp_path, train, test=test)
    assert dataset.splits["test"].texts == ("e",)
    assert len(dataset.splits["train"]) + len(dataset.splits["validation"]) == 10
    assert dataset.label_space.names == ("x", "y")  # names of any split
    assert dataset.notes["files"] == {"train": "train.jsonl", "test": "held_out.jsonl"}


@pytest.mark.parametrize(
    ("pattern", "value", "group"),
    [
        ("", "abc", "abc"),
        ("b", "abc", "b"),
        ("a(.)", "abc", "b"),
        ("a(x)?", "abc", "a"),  # a group that takes no part
        ("z", "abc", "abc"),  # no match
        ("(?s).{1,4}", "a\nbcde", "a\nbc"),
        ("()", "abc", ""),
    ],
)
def test_what_stands_for_a_value(pattern, value, group):
    assert table.search_group(table.compile_pattern(pattern), value) == group


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999}", "(?P<a>)(?P<a>)", "*", "[", "(?<=a*)b"])
def test_a_wrong_pattern(tmp_path, pattern):
    with pytest.raises(UserError, match=r"group_pattern is .* no regular expression"):
        load(tmp_path, '{"text": "", "labels": []}', group="text", group_pattern=pattern)


# Paths.


def test_paths_are_taken_from_the_working_directory_then_from_manual_dir(tmp_path, monkeypatch):
    here, manual = tmp_path / "here", tmp_path / "manual"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLRESEARCH_MANUAL_DIR", raising=False)
    options = {"text": "text", "labels": "labels", "form": "ragged", "train": "sub/t.jsonl", "test": "sub/e.jsonl"}
    options["validation"] = "sub/v.jsonl"
    with pytest.raises(UserError, match=rf"no file {here}/sub/t.jsonl; --manual_dir or MLRESEARCH_MANUAL_DIR"):
        mlresearch.data.load("table", options, tmp_path / "data")
    options["manual_dir"] = str(manual)
    with pytest.raises(UserError, match=rf"train: there is no file {here}/sub/t.jsonl nor {manual}/sub/t.jsonl$"):
        mlresearch.data.load("table", options, tmp_path / "data")
    for split in "tve":
        write(manual, json_lines([{"text": "manual", "labels": ["x"]}]), f"sub/{split}.jsonl")
    assert mlresearch.data.load("table", options, tmp_path / "data").splits["train"].texts == ("manual",)
    write(here, json_lines([{"text": "here", "labels": ["x"]}]), "sub/t.jsonl")
    dataset = mlresearch.data.load("table", options, tmp_path / "data")
    assert [records.texts for records in dataset.splits.values()] == [("here",), ("manual",), ("manual",)]
    # Relative names say little: what was prepared of another folder's file does not stand in for a missing one.
    with pytest.raises(UserError, match="there is no file"):
        mlresearch.data.load("table", options | {"manual_dir": "", "train": "t.jsonl"}, tmp_path / "data")
    (here / "sub/t.jsonl").unlink()
    (manual / "sub/t.jsonl").unlink()
    with pytest.raises(UserError, match="there is no file"):
        mlresearch.data.load("table", options, tmp_path / "data")


def test_a_changed_file_is_read_again(tmp_path):
    for text in ("before", "behind"):
        assert load_all(tmp_path, json_lines([{"text": text, "labels": ["x"]}])).splits["test"].texts == (text,)


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


# The upstream file of the worked example.


def test_debtags_has_the_counts_of_its_description():
    folder = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
    path = Path(folder) / "debtags/debtags.jsonl"
    if not path.is_file():
        pytest.skip("MLRESEARCH_MANUAL_DIR names no folder with debtags/debtags.jsonl")
    from configs.debtags import get_config

    reading = Reading(path, **get_config().data.table.to_dict() | {"train": str(path)})
    names = reading.label_space.names
    assert (sum("::" in name for name in names), sum("::" not in name for name in names)) == (597, 31)
    assert [(names[child].partition("::")[0], names[parent]) for child, parent in reading.edges] == [
        (facet, facet) for facet, colons, _ in (name.partition("::") for name in names) if colons
    ]
    records = reading.records()
    assert len(records) == 29_795
    assert {record["key"] for record in records} >= {"0ad", "0ad-data"}
    assert round(sum(len(record["labels"]) for record in records) / len(records), 1) == 3.7
    assert sum(all(names[label].startswith("role::") for label in record["labels"]) for record in records) == 7727
    assert len({record["group"] for record in records}) == 18_299
    assert len({kind for record in records for kind in record["categories"]}) == 57
