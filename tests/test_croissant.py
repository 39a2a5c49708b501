import hashlib
import json
import logging

import mlcroissant
import numpy as np
import pytest

import mlresearch.data
from mlresearch import croissant
from mlresearch.data import icd10cm
from mlresearch.data.records import SPLITS, Dataset, Records
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets, LabelSpace

# mlcroissant parses JSON-LD by way of a class that rdflib no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")

ABOUT = {
    "description": "Made up.\n",
    "citation": "@misc{x, author = {Doe, Jane and {A and B Institute} and others}, year = {2021}}",
    "homepage": "https://example.org/x",
    "license": "https://creativecommons.org/licenses/by/4.0/",
    "version": "1.2.3",
}
TEXTS = ('line\nbreak, "quotes" \\ and \u2028 a separator', "Brown-Séquard 🥐 字", "", "  outer spaces ", "12")


def everything():
    """All that records can hold: a DAG, soft and unknown labels, missing cells, evidence, texts of any characters."""
    rng = np.random.default_rng(0)
    names = ("a", "b/c", "ü [d]", "012")
    splits = {}
    for number, split in enumerate(SPLITS):
        size = len(TEXTS) - number
        features = rng.normal(size=(size, 3)).astype(np.float32)
        features[0, 1], features[1:, 2] = np.nan, [1e-30, 3e38, 0.1, -7][: size - 1]
        rows = [[0, 1, 2, 3], [], [0, 1], [0], [0, 2]][:size]
        values = [[1.0, 0.3, np.nan, 0.25], [], [1.0, 1.0], [np.nan], [1.0, 0.1]][:size]
        evidence = [[[1, 0, 4], [3, 5, 6]], [], [[0, 1, 2]], [], []][:size]
        splits[split] = Records(
            labels=LabelSets.from_rows(rows, values if split != "test" else None),
            keys=tuple(f"{split} {row}" for row in range(size)),
            texts=TEXTS[:size],
            features=features,
            categories=(("red", "", "blue", "", "x")[:size], ("",) * size),
            evidence=tuple(np.array(spans, np.int32).reshape(-1, 3) for spans in evidence),
        )
    return Dataset(
        name="made/up",
        splits=splits,
        label_space=LabelSpace(names, ("first", "second", "third", "last")),
        parents=np.array([(1, 0), (2, 0), (3, 1), (3, 2)], np.int32),
        fingerprint=hashlib.sha256(b"").hexdigest(),
        notes={},
        feature_names=("x", "y", "z"),
        category_names=("colour", "nothing"),
    )


def plain(value):
    """What mlcroissant reads, with text as text."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name.rpartition("/")[2]: plain(entry) for name, entry in value.items()}
    return value


def read(path):
    """Validate the metadata, which must have neither errors nor warnings, and read all record sets."""
    read_in = mlcroissant.Dataset(str(path))
    issues = read_in.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    return {found.uuid: plain(list(read_in.records(found.uuid))) for found in read_in.metadata.record_sets}


def assert_equal(found, dataset):
    """Records that were read are those of the data set."""
    names = dataset.label_space.names
    has_values = any(records.labels.values is not None for records in dataset.splits.values())
    for split, records in dataset.splits.items():
        assert [row["key"] for row in found[split]] == list(records.keys)
        if records.texts is not None:
            assert [row["text"] for row in found[split]] == list(records.texts)
        if records.features is not None:
            numbers = np.array([row["features"] for row in found[split]], float).astype(np.float32)
            np.testing.assert_array_equal(numbers, records.features)
        if records.categories is not None:
            columns = zip(*[[value or "" for value in row["categories"]] for row in found[split]], strict=True)
            assert tuple(columns) == records.categories
        listed = [[names.index(name) for name in row["labels"]] for row in found[split]]
        assert listed == [records.labels.row(row).tolist() for row in range(len(records))]
        if has_values:
            values = np.array([value for row in found[split] for value in row["label_values"]], np.float32)
            expected = np.ones(len(values), np.float32) if records.labels.values is None else records.labels.values
            np.testing.assert_array_equal(values, expected)
        if records.evidence is not None:
            spans = [
                [[names.index(span["label"]), span["start"], span["end"]] for span in row.get("evidence", [])]
                for row in found[split]
            ]
            assert spans == [own.tolist() for own in records.evidence]
    assert [row["name"] for row in found["labels"]] == list(names)
    assert [row["description"] for row in found["labels"]] == list(dataset.label_space.descriptions)
    if dataset.parents is not None:
        edges = [(row["name"], parent) for row in found["labels"] for parent in row["parents"]]
        assert sorted(edges) == sorted((names[child], names[parent]) for child, parent in dataset.parents.tolist())
    for kind, columns in (("features", dataset.feature_names), ("categories", dataset.category_names)):
        assert [row["name"] for row in found.get(kind, [])] == list(columns)


def test_everything_is_read_back(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert_equal(read(croissant.export(everything(), tmp_path, **ABOUT)), everything())
    assert not caplog.records


@pytest.mark.parametrize("name", ["tiny/sets", "points"])
def test_data_sets_are_read_back(name, tmp_path, data_dir):
    dataset = mlresearch.data.load(name, {}, data_dir)
    found = read(croissant.export(dataset, tmp_path / "new" / "folder", **ABOUT))
    assert_equal(found, dataset)
    has = {"text": dataset.train.texts, "features": dataset.train.features}
    assert set(found["train"][0]) == {"key", "labels"} | {part for part, given in has.items() if given is not None}
    assert ("parents" in found["labels"][0]) == (dataset.parents is not None)


def test_lines_are_plain_json(tmp_path):
    croissant.export(everything(), tmp_path, **ABOUT)
    lines = (tmp_path / "train.jsonl").read_text("utf-8").removesuffix("\n").split("\n")
    first = json.loads(lines[0])
    assert len(lines) == 5
    assert list(first) == ["key", "text", "features", "categories", "labels", "label_values", "evidence"]
    assert first["text"] == TEXTS[0]
    assert first["features"][1] is None
    assert first["categories"] == ["red", None]
    assert first["label_values"] == [1.0, 0.3, None, 0.25]  # 0.3, though float32 is 0.30000001192092896
    assert first["evidence"][0] == {"label": "b/c", "start": 0, "end": 4}
    assert "Séquard 🥐 字" in lines[1]


def test_files_are_those_described(tmp_path):
    metadata = json.loads(croissant.export(everything(), tmp_path, **ABOUT).read_text())
    described = {file["contentUrl"]: file for file in metadata["distribution"]}
    assert {path.name for path in tmp_path.iterdir()} == {*described, "croissant.json"}
    for name, file in described.items():
        content = (tmp_path / name).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == f"{len(content)} B"


def test_what_is_said_of_the_data_set(tmp_path):
    metadata = json.loads(croissant.export(everything(), tmp_path, **ABOUT).read_text())
    assert metadata["name"] == "made/up"
    assert metadata["description"] == "Made up."
    assert metadata["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert metadata["version"] == "1.2.3"
    assert metadata["datePublished"] == "2021"
    assert metadata["creator"] == [
        {"@type": "sc:Person", "name": "Jane Doe"},
        {"@type": "sc:Organization", "name": "A and B Institute"},
    ]


def test_what_is_empty_is_left_out(tmp_path):
    empty = {"description": "", "citation": "", "homepage": "", "license": ""}
    path = croissant.export(everything(), tmp_path, **empty)
    assert not {"description", "citeAs", "url", "license", "creator", "datePublished"} & set(
        json.loads(path.read_text())
    )
    mlcroissant.Dataset(str(path))  # valid, if with warnings


def test_the_same_data_set_gives_the_same_bytes(tmp_path):
    for folder in "ab":
        croissant.export(everything(), tmp_path / folder, **ABOUT)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("citation", "authors", "year"),
    [
        (icd10cm.CITATION, ["National Center for Health Statistics"], "2026"),
        ('@article{k, author = "A. B. See and D. Eff", year = 1999, title = "T"}', ["A. B. See", "D. Eff"], "1999"),
        ("@article{k,\n  AUTHOR={van {Dam}, J.\n and X},\n  year=2003\n}", ["J. van Dam", "X"], "2003"),
        (
            r"@misc{k, author = {D{\v{z}}eroski, Sa\v{s}o and Garc{\'i}a, J and M\"uller}}",
            ["Sašo Džeroski", "J García", "Müller"],
            "",
        ),
        ("See the page.", [], ""),
        ("@misc{k, author = {Open", [], ""),
    ],
)
def test_authors_and_years_of_citations(citation, authors, year):
    assert [creator["name"] for creator in croissant._creators(croissant._bibtex(citation, "author"))] == authors
    assert croissant._bibtex(citation, "year") == year


def test_metadata_stand_only_where_all_files_are_whole(tmp_path, monkeypatch):
    croissant.export(everything(), tmp_path, **ABOUT)
    write = croissant.write_bytes

    def full_disk(path, content):
        if path.name == "labels.jsonl":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(croissant, "write_bytes", full_disk)
    with pytest.raises(UserError, match=r"labels\.jsonl: No space left on device"):
        croissant.export(everything(), tmp_path, **ABOUT)
    assert not (tmp_path / "croissant.json").exists()


def test_a_folder_that_cannot_be_written_to_is_an_error_for_people(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        croissant.export(everything(), tmp_path / "file", **ABOUT)


def test_an_infinite_feature_is_an_error_for_people(tmp_path):
    dataset = everything()
    dataset.splits["validation"].features[2, 0] = -np.inf
    with pytest.raises(UserError, match=r"validation, row 2 \(validation 2\): a feature is infinite"):
        croissant.export(dataset, tmp_path, **ABOUT)
    assert not any(tmp_path.iterdir())
