"""A file of one's own, in every format and form of labels, is read as what it says."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_table_files import (
    INPUTS,
    KINDS,
    LABELS,
    NAMES,
    NAN,
    NUMBERS,
    SOFT,
    TEXTS,
    assert_same,
    csv_lines,
    dense,
    json_lines,
    load,
    load_all,
    rows_with,
    write,
)

import mlresearch.data
from mlresearch.data import table
from mlresearch.data.preparation import Preparation
from mlresearch.errors import UserError

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
