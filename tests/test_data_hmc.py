import os
from pathlib import Path

import numpy as np
import pytest
from mutations import mutate

import mlresearch.data
from mlresearch.data import SPLITS, arff, hmc
from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelReader, LabelSpace

HERE = "toy.arff, line 4"
HEADER = "@RELATION toy\n\n@ATTRIBUTE a numeric\n@ATTRIBUTE b {x,y}\n"

needs_upstream_files = pytest.mark.skipif(
    not os.environ.get("MLRESEARCH_MANUAL_DIR"), reason="MLRESEARCH_MANUAL_DIR names no folder of upstream files"
)


def content(entries, *rows):
    return HEADER + f"@ATTRIBUTE class hierarchical {entries}\n\n@DATA\n" + "".join(f"{row}\n" for row in rows)


def read(file, unknown="error"):
    """What a source makes of one file: (classes, label ids a row, features)."""
    data = file if isinstance(file, bytes) else file.encode()
    table = arff.parse_arff(data, Path("toy.arff"))
    place = hmc.find_classes(table)
    classes = hmc.read_classes(table.attributes[place].values, table.where_declared(place))
    labels = hmc.read_labels(table, place, LabelReader(LabelSpace(classes.names, classes.names), "ragged", unknown))
    return classes, labels, arff.feature_matrix(table, [at for at in range(len(table.attributes)) if at != place])


def named_edges(classes):
    return {(classes.names[child], classes.names[parent]) for child, parent in classes.edges}


# Class declarations.


def test_paths():
    classes = hmc.read_classes(["01", "01/01", "01/01/03", "02/05/01", "02"], HERE)
    assert classes.form == "paths"
    # 02/05 is in no entry: it is a label since it is a prefix of one.
    assert classes.names == ("01", "01/01", "01/01/03", "02", "02/05", "02/05/01")
    assert named_edges(classes) == {
        ("01/01", "01"),
        ("01/01/03", "01/01"),
        ("02/05", "02"),
        ("02/05/01", "02/05"),
    }
    assert classes.repeated == 0


def test_edges():
    classes = hmc.read_classes(["root/A", "A/C", "root/B", "B/C", "C/D", "A/D"], HERE)
    assert classes.form == "edges"
    assert classes.names == ("A", "B", "C", "D")
    assert named_edges(classes) == {("C", "A"), ("C", "B"), ("D", "C"), ("D", "A")}


def test_without_the_roots_their_children_are_roots():
    classes = hmc.drop_roots(hmc.read_classes(["root/A", "A/C", "root/B", "B/C", "C/D", "A/D", "B/E"], HERE))
    assert classes.names == ("C", "D", "E")
    assert named_edges(classes) == {("D", "C")}


def test_a_child_before_its_parent_as_in_diatoms():
    classes = hmc.read_classes(["000/00", "000", "001/01", "001", "000/02"], HERE)
    assert classes.names == ("000", "000/00", "001", "001/01", "000/02")
    classes = hmc.read_classes(["B/C", "A/B", "root/A"], HERE)
    assert classes.names == ("A", "B", "C")


def test_repeats_are_dropped_and_counted_as_in_imclef():
    classes = hmc.read_classes(["1", "1/1", "1/1/0", "2", "1", "1/2", "1", "1/1"], HERE)
    assert classes.names == ("1", "1/1", "1/1/0", "2", "1/2")
    assert classes.repeated == 3
    classes = hmc.read_classes(["root/A", "A/B", "A/B"], HERE)
    assert (classes.names, classes.edges, classes.repeated) == (("A", "B"), ((1, 0),), 1)


def test_an_edge_and_a_path_of_two_names_are_told_apart_by_the_root_alone():
    assert hmc.read_classes(["A/B", "B/C"], HERE).names == ("A", "A/B", "B", "B/C")
    assert hmc.read_classes(["root/A", "A/B", "B/C"], HERE).names == ("A", "B", "C")
    assert hmc.read_classes(["root", "A"], HERE).names == ("root", "A")


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ("", "the class '' has an empty name"),
        ("1,,2", "the class '' has an empty name"),
        ("1,1/", "the class '1/' has an empty name"),
        ("/1", "the class '/1' has an empty name"),
        ("1//2", "the class '1//2' has an empty name"),
        ("1,1/ 2", "'1/ 2' has an empty name, or one with outer blanks"),
        ("1@2", "or '@'"),
        ("root/A,A/B/C", "the class 'A/B/C', expected 'parent/child'"),
        ("root/A,root", "the class 'root', expected 'parent/child'"),
        ("root/A,A/root", "the class 'A/root', expected 'parent/child'"),
        ("root/root", "the class 'root/root', expected 'parent/child'"),
        ("root/A,B/C", "the class 'B' has no parent, expected a path to it from 'root'"),
        ("root/A,A/B,B/C,C/B", "the classes 'B' -> 'C' -> 'B' form a cycle"),
        ("root/A,A/A", "the classes 'A' -> 'A' form a cycle"),
        ("root/A,B/C,C/B", "the classes 'C' -> 'B' -> 'C' form a cycle"),
        ("/".join("a" * 51), "has 51 names"),
        ("a" * 1001, "1001 letters, expected at most 50 and 1000"),
    ],
)
def test_what_is_wrong_with_a_declaration_is_named_with_its_line(entries, what):
    with pytest.raises(UserError) as caught:
        read(content(entries, "1,x,1"))
    assert str(caught.value).startswith("toy.arff, line 5: ")
    assert what in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_against_the_edges_they_are_made_of(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 40))
    parents = {child: set(rng.integers(-1, child, rng.integers(1, 4)).tolist()) for child in range(size)}
    order = rng.permutation(size)  # names do not give the order away
    names = [*(f"n{place}" for place in order), "root"]  # -1 is the root
    entries = [f"{names[parent]}/{names[child]}" for child in parents for parent in parents[child]]
    classes = hmc.read_classes(rng.permutation(entries).tolist(), HERE)
    assert sorted(classes.names) == sorted(f"n{place}" for place in range(size))
    assert named_edges(classes) == {
        (names[child], names[parent]) for child in parents for parent in parents[child] if parent >= 0
    }
    assert all(parent < child for child, parent in classes.edges)


@pytest.mark.parametrize("seed", range(10))
def test_random_trees_keep_the_order_of_the_header(seed):
    rng = np.random.default_rng(seed)
    paths = ["0"]
    for number in range(1, 40):
        above = rng.choice([*paths, ""])
        paths.append(f"{above}/{number}" if above else str(number))
    assert hmc.read_classes(paths, HERE).names == tuple(paths)
    shuffled = hmc.read_classes(rng.permutation(paths).tolist(), HERE)
    assert sorted(shuffled.names) == sorted(paths)
    assert all(parent < child for child, parent in shuffled.edges)


def test_a_large_graph_takes_no_time_to_speak_of():
    chain = ["root/0", *(f"{number}/{number + 1}" for number in range(30_000))]
    assert len(hmc.read_classes(chain[::-1], HERE).names) == 30_001
    with pytest.raises(UserError, match="form a cycle") as caught:
        hmc.read_classes([*chain, "30000/1"], HERE)
    assert len(str(caught.value)) < 1000


# Rows.


def test_rows_list_labels_by_name():
    classes, labels, features = read(content("1,1/1,1/2,2", "0.5,x,1/2@2", "?,y,1", "2,?,1@1/1@1"))
    assert [[classes.names[label] for label in row] for row in labels] == [["1/2", "2"], ["1"], ["1", "1/1"]]
    np.testing.assert_array_equal(features, np.float32([[0.5, 1, 0], [np.nan, 0, 1], [2, 0, 0]]))
    classes, labels, _ = read(content("root/A,A/B,root/C", "1,x,B@C"))
    assert [[classes.names[label] for label in row] for row in labels] == [["B", "C"]]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("1,x,3", "unknown label '3'"),
        ("1,x,1@", "the class '1@', expected labels separated by '@'"),
        ("1,x,", "the class '', expected"),
        ("1,x,?", "the class '?', expected"),
        ("{0 1}", "the class '?', expected"),
        ("1,x", "2 values, expected 3"),
    ],
)
def test_what_is_wrong_with_a_row_is_named_with_its_line(row, what):
    with pytest.raises(UserError, match=r"^toy\.arff, line 9: ") as caught:
        read(content("1,1/1,2", "1,x,1", row))
    assert what in str(caught.value)


def test_unknown_labels_may_be_dropped():
    assert read(content("1,2", "1,x,2@3", "1,x,3"), unknown="drop")[1] == [[1], []]


def test_one_hierarchical_attribute():
    with pytest.raises(UserError, match="no attribute of the type 'hierarchical'"):
        read(HEADER + "@data\n1,x\n")
    with pytest.raises(UserError, match="line 5: a second hierarchical attribute"):
        read(HEADER.replace("a numeric", "a hierarchical 1") + "@ATTRIBUTE c hierarchical 1\n@data\n1,x,1\n")


# Any change of a byte.


MARKS = b"{},'\"\\/@%? \t\r\n\x00\xff0e-"  # that a mutation puts in


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_well_or_refused(seed):
    rng = np.random.default_rng(seed)
    files = [
        content("1,1/1,1/1/2,2,2/1", "0.5,x,1/1@2", "?,y,1", "{0 2,2 '2/1'}", "1e3,'x',1/1/2"),
        content("root/A,A/B,root/C,C/B", "0.5,x,B", "?,y,A@C", "1,x,C").replace("\n", "\r\n"),
    ]
    for number in range(2500):
        try:
            classes, labels, features = read(mutate(files[number % 2].encode(), rng, MARKS))
        except UserError as error:
            message = str(error)
            continue
        assert features.dtype == np.float32
        assert len(features) == len(labels) > 0
        assert not np.isinf(features).any()
        assert all(row == sorted(set(row)) and row for row in labels)
        assert all(set(row) <= set(range(len(classes.names))) for row in labels)
        LabelHierarchy.from_edges(classes.names, np.array(classes.edges, np.int32).reshape(-1, 2))
        assert all(parent < child for child, parent in classes.edges)
    assert message.startswith("toy.arff")


# Through the loader.


def test_files_of_ones_own(tmp_path):
    train, test = tmp_path / "train.arff", tmp_path / "test.arff"
    rows = [f"{number},{'xy'[number % 2]},{['1/1', '2', '1/1@2'][number % 3]}" for number in range(30)]
    train.write_text(content("1,1/1,1/1,2", *rows).replace("\n", "\r\n"))
    test.write_text(content("1,1/1,1/1,2", "?,y,1", "5,?,2"))
    options = {"arff_train": str(train), "arff_test": str(test)}
    dataset = mlresearch.data.load("hmc", options, tmp_path / "data")
    assert [len(dataset.splits[split]) for split in SPLITS] == [27, 3, 2]
    assert dataset.label_space.names == ("1", "1/1", "2")
    assert dataset.parents.tolist() == [[1, 0]]
    assert dataset.feature_names == ("a", "b=x", "b=y")
    np.testing.assert_array_equal(dataset.splits["test"].features, np.float32([[np.nan, 0, 1], [5, 0, 0]]))
    assert dataset.splits["test"].keys == ("test.arff:8", "test.arff:9")
    for split in ("train", "validation"):  # closed, each with its own row
        records = dataset.splits[split]
        for key, labels, features in zip(records.keys, records.labels.multi_hot(3), records.features, strict=True):
            number = int(key.removeprefix("train.arff:")) - 8
            assert features[0] == number
            assert labels.tolist() == [number % 3 != 1, number % 3 != 1, number % 3 != 0]
    assert dataset.notes["missing_values"] == {"train": 0, "test": 2}
    assert dataset.notes["repeated_class_entries"] == 1

    test.write_text(content("1,1/1,1/1,3", "?,y,1", "5,?,3"))
    with pytest.raises(UserError, match=r"test\.arff, line 5: value 3 of attribute 'class' is '3', expected '2' as in"):
        mlresearch.data.load("hmc", options, tmp_path / "data")


def test_options(tmp_path):
    with pytest.raises(UserError, match="hmc: no training file"):
        mlresearch.data.load("hmc", {}, tmp_path)
    with pytest.raises(UserError, match=r"hmc/enron reads its own files; --config\.data\.arff_train=x is for"):
        mlresearch.data.load("hmc/enron", {"arff_train": "x"}, tmp_path)
    (tmp_path / "hmc").mkdir()
    with pytest.raises(UserError, match="no file"):
        mlresearch.data.load("hmc/enron", {"manual_dir": str(tmp_path)}, tmp_path / "data")
    (tmp_path / "a.arff").write_text("@relation r\n@attribute c hierarchical 1\n@data\n1\n")
    with pytest.raises(UserError, match="no numeric or nominal attribute"):
        mlresearch.data.load("hmc", {"arff_train": str(tmp_path / "a.arff")}, tmp_path / "data")
    (tmp_path / "a.arff").write_text(content("1", "1,x,1@2"))
    with pytest.raises(UserError, match=r"a\.arff, line 8: unknown label '2'"):
        mlresearch.data.load("hmc", {"arff_train": str(tmp_path / "a.arff")}, tmp_path / "data")


# The upstream files.

GENE_SIZES = {
    "cellcycle": (1628, 848, 1281),
    "church": (1630, 844, 1281),
    "derisi": (1608, 842, 1275),
    "eisen": (1058, 529, 837),
    "gasch1": (1634, 846, 1284),
    "gasch2": (1639, 849, 1291),
    "pheno": (656, 353, 582),
}
# Rows a split, features (one a nominal value), labels, edges, labels with several parents, levels, roots.
COUNTS = {
    "cellcycle_FUN": (GENE_SIZES["cellcycle"], 77, 499, 481, 0, 6, 18),
    "church_FUN": (GENE_SIZES["church"], 26 + 5, 499, 481, 0, 6, 18),
    "derisi_FUN": (GENE_SIZES["derisi"], 63, 499, 481, 0, 6, 18),
    "eisen_FUN": (GENE_SIZES["eisen"], 79, 461, 443, 0, 6, 18),
    "gasch1_FUN": (GENE_SIZES["gasch1"], 173, 499, 481, 0, 6, 18),
    "gasch2_FUN": (GENE_SIZES["gasch2"], 52, 499, 481, 0, 6, 18),
    "pheno_FUN": (GENE_SIZES["pheno"], 4 * 69, 455, 437, 0, 6, 18),
    # 5,827 entries, of which three lead from the root.
    "cellcycle_GO": ((1625, 848, 1278), 77, 4125, 5824, 1477, 14, 3),
    "diatoms": ((2065, 1054), 371, 398, 313, 0, 3, 85),
    "enron": ((988, 660), 1001, 56, 53, 0, 3, 3),
    "imclef07d": ((10000, 1006), 80, 46, 42, 0, 3, 4),
}


def upstream(name):
    options = {"manual_dir": "", "arff_train": "", "arff_validation": "", "arff_test": ""}
    return arff.read_splits(hmc.split_files(name, options))


@needs_upstream_files
@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_upstream_files(name):
    sizes, num_features, num_labels, num_edges, num_several, num_levels, num_roots = COUNTS[name]
    tables = upstream(name)
    assert tuple(map(len, tables.values())) == sizes
    table = tables["train"]
    place = hmc.find_classes(table)
    classes = hmc.read_classes(table.attributes[place].values, "")
    features = arff.feature_matrix(table, [at for at in range(len(table.attributes)) if at != place])
    assert features.shape == (sizes[0], num_features)
    assert len(classes.names) == num_labels
    assert len(classes.edges) == num_edges
    hierarchy = LabelHierarchy.from_edges(classes.names, np.array(classes.edges, np.int32))
    assert int((hierarchy.num_parents > 1).sum()) == num_several
    assert int(hierarchy.levels.max()) + 1 == num_levels
    assert int((hierarchy.num_parents == 0).sum()) == num_roots
    reader = LabelReader(LabelSpace(classes.names, classes.names), "ragged")
    assert all(row for table in tables.values() for row in hmc.read_labels(table, place, reader))


@needs_upstream_files
@pytest.mark.parametrize("name", [name for name in hmc.FILES if name not in COUNTS])
def test_the_other_upstream_files_are_read(name):
    tables = upstream(name)
    classes = hmc.read_classes(tables["train"].attributes[-1].values, "")
    assert classes.form == "edges"
    assert set(classes.names) - {classes.names[child] for child, _ in classes.edges} == {
        "GO0003674",  # molecular function
        "GO0005575",  # cellular component
        "GO0008150",  # biological process
    }


@needs_upstream_files
def test_what_upstream_files_are_known_for():
    missing = {
        name: sum(arff.describe_tables(tables, range(len(tables["train"].attributes)))["missing_values"].values())
        for name in ("cellcycle_FUN", "gasch1_FUN")
        for tables in [upstream(name)]
    }
    assert missing == {"cellcycle_FUN": 16_122, "gasch1_FUN": 18_064}
    twice = "Heat_Shock_000_minutes__hs_2"
    assert upstream("gasch1_FUN")["train"].renamed == {f"{twice} (2)": twice}
    assert "%" in upstream("gasch2_FUN")["train"].attributes[0].name
    entries = upstream("imclef07d")["train"].attributes[-1].values
    assert (len(entries), hmc.read_classes(entries, "").repeated) == (78, 32)


@needs_upstream_files
def test_an_upstream_data_set_through_the_loader(tmp_path):
    dataset = mlresearch.data.load("hmc/pheno_GO", {}, tmp_path)
    assert [len(dataset.splits[split]) for split in SPLITS] == [653, 352, 581]
    assert dataset.notes["ontology_roots"] == ["GO0003674", "GO0005575", "GO0008150"]
    roots = [dataset.label_space.id(name) for name in dataset.notes["ontology_roots"]]
    assert dataset.splits["train"].labels.multi_hot(dataset.label_space.num_labels)[:, roots].any(1).all()
    without = mlresearch.data.load("hmc/pheno_GO", {"ontology_roots": "drop"}, tmp_path)
    kept = [label for label in range(dataset.label_space.num_labels) if label not in roots]
    assert without.label_space.names == tuple(dataset.label_space.names[label] for label in kept)
    for split in SPLITS:
        labels = dataset.splits[split].labels.multi_hot(dataset.label_space.num_labels)[:, kept]
        assert (without.splits[split].labels.multi_hot(len(kept)) == labels).all()
    assert {
        (without.label_space.names[child], without.label_space.names[parent]) for child, parent in without.parents
    } == {
        (dataset.label_space.names[child], dataset.label_space.names[parent])
        for child, parent in dataset.parents
        if parent not in roots
    }
