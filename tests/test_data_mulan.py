import os
from pathlib import Path

import numpy as np
import pytest
from mutations import mutate

import mlresearch.data
from mlresearch.data import SPLITS, arff, mulan
from mlresearch.errors import UserError

XML = Path("toy.xml")
LABELS = (
    '<?xml version="1.0" encoding="utf-8"?>\n<labels xmlns="http://mulan.sourceforge.net/labels">\n'
    '<label name="bird"></label>\n<label name="Stellar\'s Jay"></label>\n</labels>\n'
)
HEADER = "@relation toy\n@attribute a numeric\n@attribute c {r,g}\n"
LABEL_LINES = "@attribute 'Stellar\\'s Jay' {0,1}\n@attribute bird {0,1}\n"

needs_upstream_files = pytest.mark.skipif(
    not os.environ.get("MLRESEARCH_MANUAL_DIR"), reason="MLRESEARCH_MANUAL_DIR names no folder of upstream files"
)


def parse(text):
    return arff.parse_arff(text if isinstance(text, bytes) else text.encode(), Path("toy.arff"))


def listed(text):
    return mulan.read_label_list(text if isinstance(text, bytes) else text.encode(), XML)


def xml(*names):
    return f"<labels>{''.join(f'<label name={name!r}/>' for name in names)}</labels>"


# The XML file.


def test_labels_in_the_order_of_the_xml_file():
    labels = listed(LABELS)
    assert [(label.name, label.parent, label.line) for label in labels] == [
        ("bird", None, 3),
        ("Stellar's Jay", None, 4),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_the_xml_file_states_its_encoding(encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?><labels><label name="größe &lt; 1"/></labels>'
    assert listed(text.encode(encoding))[0].name == "größe < 1"


def test_labels_within_labels_are_a_hierarchy():
    first = '<label name="a"><label name="b"><label name="c"/></label><label name="d"/></label>'
    assert [(label.name, label.parent) for label in listed(f'<labels>{first}<label name="e"/></labels>')] == [
        ("a", None),
        ("b", 0),
        ("c", 1),
        ("d", 0),
        ("e", None),
    ]
    depth = 20_000
    deep = "".join(f'<label name="{number}">' for number in range(depth)) + "</label>" * depth
    assert listed(f"<labels>{deep}</labels>")[-1].parent == depth - 2


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "not XML"),
        ("not xml", 1, "not XML"),
        ("<labels>\n<label name='a'>\n</labels>", 3, "not XML (mismatched tag"),
        (LABELS[:-20], 4, "not XML (unclosed token"),
        (b"<labels>\n<label name='\xff'/></labels>", 2, "not XML"),
        ("<?xml version='1.0' encoding='none'?><labels/>", 1, "not XML"),
        ("<label name='a'/>", 1, "the element <label>, expected <labels>"),
        ("<labels>\n<lable name='a'/></labels>", 2, "the element <lable>, expected <label>"),
        ("<labels>\n<label/></labels>", 2, "a label with the name ''"),
        ("<labels>\n<label name=' a'/></labels>", 2, "a label with the name ' a'"),
        ("<labels>\n<label name='a'/>\n<label name='a'/></labels>", 3, "the label 'a' for a second time"),
        ("<labels>\n</labels>", 2, "no label"),
        ("<!DOCTYPE l [\n<!ENTITY a 'b'>]><labels><label name='&a;'/></labels>", 2, "the declaration of an entity"),
    ],
)
def test_what_is_wrong_with_the_xml_file_is_named_with_its_line(text, line, what):
    with pytest.raises(UserError) as caught:
        listed(text)
    assert str(caught.value).startswith(f"toy.xml, line {line}: {what}")


# Labels among attributes.


def test_labels_are_matched_by_name_not_by_place():
    table = parse("@relation r\n" + LABEL_LINES + "@attribute a numeric\n@data\n1,0,5\n")
    assert mulan.match_labels(table, listed(LABELS), XML) == [1, 0]


def test_a_label_without_attribute():
    with pytest.raises(
        UserError, match=r"^toy\.xml, line 1: the label 'brid' is no attribute of toy\.arff; did you mean 'b"
    ):
        mulan.match_labels(parse(HEADER + LABEL_LINES + "@data\n{}\n"), listed(xml("brid")), XML)


def test_a_label_with_two_attributes():
    table = parse(HEADER + LABEL_LINES + "@attribute bird numeric\n@data\n{}\n")
    with pytest.raises(
        UserError, match=r"line 1: the label 'bird', expected one .* toy\.arff, line 6 declares a second"
    ):
        mulan.match_labels(table, listed(xml("bird")), XML)


@pytest.mark.parametrize(
    ("declared", "found"), [("numeric", "numeric"), ("{0,1,2}", "{0, 1, 2}"), ("{no,yes}", "{no, yes}"), ("{1}", "{1}")]
)
def test_a_label_that_is_not_0_or_1(declared, found):
    table = parse(HEADER + f"@attribute bird {declared}\n@data\n?,?,?\n")
    with pytest.raises(UserError) as caught:
        mulan.check_labels(table, [2])
    assert str(caught.value) == f"toy.arff, line 4: the label 'bird' is {found}, expected {{0,1}}"


@pytest.mark.parametrize(
    ("relation", "places"),
    [
        ("'toy: -C 2'", [0, 1]),
        ("'toy: -C -1 -split-percentage 50'", [3]),
        ("toy:-C 1", [0]),
        ("'MEDC: -C 3 -I 0-weka.filters.X-R1-45_MEDC: -C 3 -I 0'", [0, 1, 2]),
    ],
)
def test_labels_that_meka_counts(relation, places):
    text = f"@relation {relation}\n" + "".join(f"@attribute {name} {{0,1}}\n" for name in "abcd") + "@data\n0,1,0,1\n"
    assert mulan.count_labels(parse(text)) == places


@pytest.mark.parametrize(
    "relation",
    ["toy", "toy-C 2", "'a: -C 1 b: -C 2'", "'a: -C 0'", "'a: -C 4'", "'a: -C -4'", "'-C 9" + "9" * 5000 + "'"],
)
def test_no_count_or_an_impossible_one(relation):
    text = f"@relation {relation}\n" + "".join(f"@attribute {name} {{0,1}}\n" for name in "abcd") + "@data\n0,1,0,1\n"
    with pytest.raises(UserError, match=r"^toy\.arff, line 1: .*expected"):
        mulan.count_labels(parse(text))


# Ids.


@pytest.mark.parametrize(
    ("declared", "is_id"),
    [("string", True), ("{p,q,r}", True), ("{p,q}", False), ("numeric", False), ("{0,1}", False)],
)
def test_the_first_attribute_may_be_an_id(declared, is_id):
    value = {"n": "1", "{0": "1"}.get(declared[:2] if declared[0] == "{" else declared[0], "p")
    table = parse(f"@relation r\n@attribute id {declared}\n@attribute l {{0,1}}\n@data\n{value},1\n?,0\n{value},0\n")
    assert mulan.find_id([table], [1]) == (0 if is_id else None)
    assert mulan.find_id([table], [0]) is None
    assert mulan.find_id([table, table], [1]) == (0 if declared == "string" else None)
    if is_id:
        assert [mulan.row_key(table, row, 0) for row in range(3)] == ["p", "toy.arff:6", "p"]
    assert mulan.row_key(table, 2, None) == "toy.arff:7"


# Any change of a byte.


MARKS = b"{},'\"\\/<>&%? \t\r\n\x00\xff01"  # that a mutation puts in


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_well_or_refused(seed):
    rng = np.random.default_rng(seed)
    text = (
        "@relation 'toy: -C -2'\n" + HEADER.partition("\n")[2] + LABEL_LINES + "@data\n{0 0.5,3 1}\n{}\n{1 g,2 1,3 ?}\n"
    )
    label_list = listed(LABELS)
    for number in range(2500):
        try:
            table = parse(mutate(text.encode(), rng, MARKS))
            labels = mulan.match_labels(table, label_list, XML) if number % 2 else mulan.count_labels(table)
            mulan.check_labels(table, labels)
        except UserError as error:
            message = str(error)
            continue
        assert len(set(labels)) == len(labels) > 0
        assert len(table) > 0
        values = arff.feature_matrix(table, labels)
        assert values.shape == (len(table), len(labels))
        assert (np.isnan(values) | (values == 0) | (values == 1)).all()
        features = arff.feature_matrix(table, [place for place in range(len(table.attributes)) if place not in labels])
        assert not np.isinf(features).any()
        keys = [mulan.row_key(table, row, mulan.find_id([table], labels)) for row in range(len(table))]
        assert all(keys)
    assert message.startswith("toy.")


def test_mutated_label_lists_are_read_well_or_refused():
    rng = np.random.default_rng(0)
    text = "<labels>\n<label name='a'><label name='b'/></label>\n<label name='c'></label></labels>"
    for _ in range(5000):
        try:
            labels = listed(mutate(text.encode(), rng, MARKS))
        except UserError as error:
            message = str(error)
            continue
        assert labels
        assert len({label.name for label in labels}) == len(labels)
        assert all(label.parent is None or 0 <= label.parent < place for place, label in enumerate(labels))
    assert message.startswith("toy.xml, line ")


# Through the loader.


def test_files_of_ones_own(tmp_path):
    train, test, labels = tmp_path / "train.arff", tmp_path / "test.arff", tmp_path / "labels.xml"
    header = "@relation toy\n@attribute name string\n" + HEADER.partition("\n")[2] + LABEL_LINES + "@data\n"
    train.write_text(header + "".join(f"n{n},{n},{'rg'[n % 2]},{n % 3 // 2},{(n + 1) % 2}\n" for n in range(30)))
    test.write_text(header + "m0,?,?,1,0\n{0 m1, 3 ?}\n")
    labels.write_text(LABELS)
    options = {"arff_train": str(train), "arff_test": str(test), "arff_labels": str(labels)}
    dataset = mlresearch.data.load("mulan", options, tmp_path / "data")
    assert [len(dataset.splits[split]) for split in SPLITS] == [27, 3, 2]
    assert dataset.label_space.names == ("bird", "Stellar's Jay")
    assert dataset.parents is None
    assert dataset.feature_names == ("a", "c=r", "c=g")
    for split in ("train", "validation"):
        records = dataset.splits[split]
        numbers = [int(key.removeprefix("n")) for key in records.keys]
        assert records.features.tolist() == [[n, (n + 1) % 2, n % 2] for n in numbers]
        assert records.labels.multi_hot(2).tolist() == [[n % 2 == 0, n % 3 == 2] for n in numbers]
    records = dataset.splits["test"]
    assert records.keys == ("m0", "m1")
    np.testing.assert_array_equal(records.features, np.float32([[np.nan, 0, 0], [0, 1, 0]]))
    assert records.labels.multi_hot(2).tolist() == [[False, True], [False, False]]
    assert records.labels.known(2).tolist() == [[True, True], [True, False]]
    assert dataset.notes["id_attribute"] == "name"
    assert dataset.notes["unknown_label_values"] == {"train": 0, "test": 1}

    labels.write_text("<labels><label name='bird'><label name=\"Stellar's Jay\"/></label></labels>")
    nested = mlresearch.data.load("mulan", options, tmp_path / "data")
    assert nested.parents.tolist() == [[1, 0]]
    assert nested.splits["test"].labels.multi_hot(2).tolist()[0] == [True, True]


def test_a_meka_file_of_ones_own(tmp_path):
    path = tmp_path / "meka.arff"
    rows = "".join(f"{n % 2},{n % 3 // 2},{n}\n" for n in range(30))
    path.write_text("@relation 'x: -C 2'\n@attribute p {0,1}\n@attribute q {0,1}\n@attribute f numeric\n@data\n" + rows)
    dataset = mlresearch.data.load("mulan", {"arff_train": str(path)}, tmp_path / "data")
    assert dataset.label_space.names == ("p", "q")
    for records in dataset.splits.values():
        numbers = records.features[:, 0].astype(int)
        assert records.labels.multi_hot(2).tolist() == [[n % 2 == 1, n % 3 == 2] for n in numbers]
        assert records.labels.values is None
    path.write_text(path.read_text().replace("-C 2", "-C 1").replace("q {0,1}", "q string"))
    assert mlresearch.data.load("mulan", {"arff_train": str(path)}, tmp_path / "data").notes["strings_left_out"] == [
        "q"
    ]
    path.write_text(path.read_text().replace("f numeric", "f string"))
    with pytest.raises(UserError, match="no numeric or nominal attribute besides the labels"):
        mlresearch.data.load("mulan", {"arff_train": str(path)}, tmp_path / "data")


def test_options(tmp_path):
    with pytest.raises(UserError, match="mulan: no training file"):
        mlresearch.data.load("mulan", {"arff_labels": "x"}, tmp_path)
    with pytest.raises(UserError, match=r"mulan/enron reads its own files; --config\.data\.arff_labels=x is for"):
        mlresearch.data.load("mulan/enron", {"arff_labels": "x"}, tmp_path)


# The upstream files: rows a split, features (one a nominal value), labels.

COUNTS = {
    "bibtex": ((4880, 2515), 1836, 159),
    "birds": ((322, 323), 258 + 1 + 12, 19),
    "cal500": ((502,), 68, 174),
    "corel5k": ((4500, 500), 499, 374),
    "emotions": ((391, 202), 72, 6),
    "enron": ((1123, 579), 1001, 53),
    "flags": ((129, 65), 10 + 6 + 4 + 10 + 8 + 5, 7),
    "foodtruck": ((407,), 17 + 5 + 5 + 2 + 3, 12),
    "genbase": ((463, 199), 2 * 1185, 27),
    "medical": ((333, 645), 1449, 45),
    "scene": ((1211, 1196), 294, 6),
    "tmc2007": ((21519, 7077), 500, 22),
}


@needs_upstream_files
@pytest.mark.parametrize("name", mulan.FILES)
def test_counts_of_upstream_files(name):
    options = dict.fromkeys(["manual_dir", "arff_train", "arff_validation", "arff_test", "arff_labels"], "")
    paths, label_file = mulan.find_files(name, options)
    tables = arff.read_splits(paths)
    table = tables["train"]
    labels = mulan.match_labels(table, mulan.read_label_list(label_file.read_bytes(), label_file), label_file)
    mulan.check_labels(table, labels)
    id_place = mulan.find_id(list(tables.values()), labels)
    assert (id_place is not None) == (name == "genbase")
    places = [place for place in range(len(table.attributes)) if place not in {*labels, id_place}]
    sizes, num_features, num_labels = COUNTS[name]
    assert tuple(map(len, tables.values())) == sizes
    assert len(arff.feature_names(table.attributes[place] for place in places)) == num_features
    assert len(labels) == num_labels
    assert (labels == sorted(labels)) == (name != "enron")  # the XML file of enron has an order of its own


@needs_upstream_files
def test_an_upstream_data_set_through_the_loader(tmp_path):
    dataset = mlresearch.data.load("mulan/birds", {}, tmp_path)
    assert "Swainson's Thrush" in dataset.label_space.names
    assert dataset.feature_names[258:261] == ("hasSegments", "location=2", "location=10")
    assert len(dataset.splits["test"]) == 323
    assert len(dataset.splits["train"]) + len(dataset.splits["validation"]) == 322
