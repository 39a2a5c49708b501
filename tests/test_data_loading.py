"""The loader takes any source: small ones are written here and put on the package's path."""

import importlib
import json
import sys
import textwrap

import numpy as np
import pytest

import mlresearch.data
from mlresearch.data.preparation import Preparation
from mlresearch.data.splits import Splitting
from mlresearch.errors import UserError

NUMERIC = """
import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import SPLITS, Source
from mlresearch.label_space import LabelSpace


class Builder(Source):
    VERSION = tfds.core.Version("1.0.0")
    SUBSETS = {"": ("size", "shift", "folder")}

    def __init__(self, *, data_dir, size=3, shift=0.0, folder="here/a"):
        self.size, self.shift = size, shift
        super().__init__(data_dir=data_dir, options={"size": size, "shift": shift, "folder": folder})

    def _info(self):
        return self.describe(
            label_space=LabelSpace(("odd", "small", "never"), ("x % 2 = 1", "x < 2", "-")),
            parents=None, description="", citation="", homepage="", license="", feature_names=("x", "shift"),
        )

    def _split_generators(self, dl_manager):
        self.info.metadata["notes"] = {"shift": self.shift}
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for x in range(self.size + SPLITS.index(split)):
            labels = [1] * (x < 2) + [0] * (x % 2)
            features = np.array([x, self.shift], np.float32)
            yield x, {"features": features, "labels": labels, "key": f"{split} {x}"}
"""

# Labels: "root" over "left" and "right", and "both" under the two.
TEXTUAL = """
import tensorflow_datasets.public_api as tfds

from mlresearch.data import SPLITS, Source
from mlresearch.label_space import LabelSpace

NAMES = ("root", "left", "right", "both")


class Builder(Source):
    VERSION = tfds.core.Version("2.0.0")
    SUBSETS = {"good": (), "open": ("depth",), "short": ()}

    def __init__(self, *, subset, data_dir, depth=1):
        self.subset = subset
        super().__init__(subset=subset, data_dir=data_dir, options={"depth": depth})

    def _info(self):
        return self.describe(
            label_space=LabelSpace(NAMES, NAMES), parents=[(1, 0), (2, 0), (3, 1), (3, 2)],
            description="", citation="", homepage="", license="", text=True,
        )

    def _split_generators(self, dl_manager):
        splits = SPLITS[:2] if self.subset == "short" else SPLITS
        return {split: self._generate_examples() for split in splits}

    def _generate_examples(self):
        last = [0, 1, 3] if self.subset == "open" else [3, 2, 1, 0]
        for number, (text, labels) in enumerate([("a β\\n", [0, 2]), ("", []), ("c", last)]):
            yield number, {"text": text, "labels": labels, "key": str(number)}
"""


@pytest.fixture(scope="module", autouse=True)
def small_sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name, source in (("numeric", NUMERIC), ("textual", TEXTUAL)):
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    mlresearch.data.__path__.append(str(folder))
    importlib.invalidate_caches()
    yield
    mlresearch.data.__path__.remove(str(folder))
    for name in ("numeric", "textual"):
        sys.modules.pop(f"mlresearch.data.{name}", None)


def files(folder, pattern):
    return sorted(folder.rglob(pattern))


def test_numeric_records_come_back_as_written(tmp_path):
    dataset = mlresearch.data.load("numeric", {"shift": 0.5}, tmp_path)
    assert dataset.name == "numeric"
    assert list(dataset.splits) == ["train", "validation", "test"]
    assert [len(records) for records in dataset.splits.values()] == [3, 4, 5]
    records = dataset.splits["validation"]
    assert records.texts is None
    assert records.features.dtype == np.float32
    np.testing.assert_array_equal(records.features, [[0, 0.5], [1, 0.5], [2, 0.5], [3, 0.5]])
    assert [records.labels.row(number).tolist() for number in range(4)] == [[1], [0, 1], [], [0]]
    assert records.keys == ("validation 0", "validation 1", "validation 2", "validation 3")
    assert dataset.label_space.names == ("odd", "small", "never")
    assert dataset.label_space.descriptions == ("x % 2 = 1", "x < 2", "-")
    assert dataset.parents is None
    assert dataset.notes["shift"] == 0.5
    json.dumps(dataset.notes)
    assert dataset.about == {"description": "", "citation": "", "homepage": "", "license": "", "version": "1.0.0"}


def test_texts_and_a_hierarchy_come_back_as_written(tmp_path):
    dataset = mlresearch.data.load("textual/good", {}, tmp_path)
    records = dataset.splits["train"]
    assert records.texts == ("a β\n", "", "c")
    assert records.features is None
    assert [records.labels.row(number).tolist() for number in range(3)] == [[0, 2], [], [0, 1, 2, 3]]
    assert dataset.parents.dtype == np.int32
    assert dataset.parents.tolist() == [[1, 0], [2, 0], [3, 1], [3, 2]]


def test_the_second_load_reads_the_stored_arrays_alone(tmp_path):
    first = mlresearch.data.load("numeric", {}, tmp_path)
    for path in files(tmp_path, "*array_record*"):
        path.unlink()
    second = mlresearch.data.load("numeric", {}, tmp_path)
    assert second.fingerprint == first.fingerprint
    assert second.label_space.hash == first.label_space.hash
    for split, records in first.splits.items():
        np.testing.assert_array_equal(second.splits[split].features, records.features)
        np.testing.assert_array_equal(second.splits[split].labels.ids, records.labels.ids)
        np.testing.assert_array_equal(second.splits[split].labels.offsets, records.labels.offsets)
        assert second.splits[split].keys == records.keys


def changed_value(content: bytes) -> bytes:
    """The file with the first label id of a split changed, in a form that NumPy reads without complaint."""
    at = content.index(b"odd")
    return content[:at] + b"ood" + content[at + 3 :]


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2], changed_value])
def test_a_damaged_array_file_is_made_again(tmp_path, damage):
    first = mlresearch.data.load("numeric", {}, tmp_path)
    (stored,) = files(tmp_path, "*.npz")
    intact = stored.read_bytes()
    stored.write_bytes(damage(intact))
    again = mlresearch.data.load("numeric", {}, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert again.label_space.names == first.label_space.names
    assert len(stored.read_bytes()) == len(intact)
    assert files(tmp_path, "*.npz") == [stored]


def test_arrays_that_do_not_match_their_fingerprint_are_made_again(tmp_path):
    first = mlresearch.data.load("numeric", {}, tmp_path)
    (stored,) = files(tmp_path, "*.npz")
    with np.load(stored) as content:
        arrays = dict(content)
    arrays["train/features"] = arrays["train/features"] + 1
    np.savez(stored, **arrays)
    again = mlresearch.data.load("numeric", {}, tmp_path)
    np.testing.assert_array_equal(again.splits["train"].features, first.splits["train"].features)


def test_the_array_file_holds_no_objects(tmp_path):
    mlresearch.data.load("textual/good", {}, tmp_path)
    (stored,) = files(tmp_path, "*.npz")
    with np.load(stored, allow_pickle=False) as content:
        assert all(content[name].dtype.kind in "iuf" for name in content.files)


def test_different_options_lie_side_by_side(tmp_path):
    plain = mlresearch.data.load("numeric", {}, tmp_path)
    moved = mlresearch.data.load("numeric", {"shift": 1.0}, tmp_path)
    longer = mlresearch.data.load("numeric", {"size": 4}, tmp_path)
    assert len({plain.fingerprint, moved.fingerprint, longer.fingerprint}) == 3
    assert mlresearch.data.load("numeric", {}, tmp_path).fingerprint == plain.fingerprint
    assert len(files(tmp_path, "*.npz")) == 3


def test_options_that_a_folder_name_cannot_hold_are_kept_apart(tmp_path):
    for folder in ("here/a", "here_a", "here a"):
        mlresearch.data.load("numeric", {"folder": folder}, tmp_path)
    assert len(files(tmp_path, "*.npz")) == 3


def test_an_option_that_does_not_act_on_the_subset_changes_no_folder(tmp_path):
    for subset, count in (("good", 1), ("open", 2)):
        builder = importlib.import_module("mlresearch.data.textual").Builder
        assert len({builder.variant(subset, {"depth": depth}) for depth in (1, 2)}) == count


def test_the_same_content_prepared_twice_has_one_fingerprint(tmp_path):
    fingerprints = {mlresearch.data.load("textual/good", {}, tmp_path / folder).fingerprint for folder in "ab"}
    assert len(fingerprints) == 1


def test_a_relative_folder_is_taken_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlresearch.data.load("numeric", {}, "data")
    assert len(files(tmp_path / "data", "*.npz")) == 1


def test_loading_prints_nothing(tmp_path, capfd):
    mlresearch.data.load("numeric", {}, tmp_path)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_sources_are_the_files_with_a_builder():
    # Those of the package, of tests/sources and of this file; `text`, `pipeline` and the like hold no builder.
    own = ["codiesp", "goemotions", "hmc", "icd10cm", "mulan", "reuters21578", "synthetic", "table", "wordnet"]
    assert mlresearch.data.sources() == sorted([*own, "numeric", "points", "textual", "tiny"])


def test_every_option_of_a_source_acts_on_one_of_its_data_sets():
    for source in mlresearch.data.sources():
        acting = {option for options in mlresearch.data.source_class(source).SUBSETS.values() for option in options}
        assert acting == set(mlresearch.data.options(source)), source


def test_options_are_read_off_the_constructor():
    assert mlresearch.data.options("numeric") == {"size": 3, "shift": 0.0, "folder": "here/a"}
    assert mlresearch.data.options("textual") == {"depth": 1}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("numerik", {}, "did you mean 'numeric'"),
        ("text", {}, "unknown data source 'text'"),
        ("numeric/good", {}, "unknown data set 'numeric/good'; did you mean 'numeric'"),
        ("textual/goood", {}, "did you mean 'textual/good'"),
        ("textual", {}, "unknown data set 'textual'"),
        ("numeric", {"shiftt": 1.0}, "no option 'shiftt'; did you mean 'shift'"),
        ("numeric", {"data_dir": "x"}, "no option 'data_dir'"),
    ],
)
def test_misspelt_names_suggest_and_write_nothing(tmp_path, name, given, message):
    with pytest.raises(UserError, match=message):
        mlresearch.data.load(name, given, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_source_that_leaves_out_a_parent_is_completed_or_refused(tmp_path):
    # The last label set holds "both" (3) and "left" (1), but not "right" (2).
    dataset = mlresearch.data.load("textual/open", {}, tmp_path)
    assert dataset.splits["train"].labels.row(2).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"train, row 2 \(2\): label 'both' without its parent 'right'"):
        mlresearch.data.load("textual/open", {}, tmp_path, Preparation(closure="check"))


def test_a_missing_split_is_drawn_from_the_training_rows(tmp_path):
    dataset = mlresearch.data.load("textual/short", {}, tmp_path, Preparation(splitting=Splitting(test_share=0.34)))
    assert [len(records) for records in dataset.splits.values()] == [2, 3, 1]
    rows = sorted(dataset.splits["train"].keys + dataset.splits["test"].keys)
    assert rows == ["0", "1", "2"]
    assert dataset.notes["splits"]["given"] == ["train", "validation"]


ARFF = "@relation 'x: -C 1'\n@attribute a {0,1}\n@attribute f numeric\n@data\n" + "0,1\n1,2\n" * 10


def test_data_prepared_before_stand_in_only_where_no_folder_is_named(tmp_path, monkeypatch):
    """Files of another folder must not be taken for those that were meant."""
    monkeypatch.delenv("MLRESEARCH_MANUAL_DIR", raising=False)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a" / "mulan").mkdir()
    for name in ("emotions-train.arff", "emotions-test.arff"):
        (tmp_path / "a" / "mulan" / "emotions").mkdir(exist_ok=True)
        (tmp_path / "a" / "mulan" / "emotions" / name).write_text(ARFF)
    xml = '<labels xmlns="http://mulan.sourceforge.net/labels"><label name="a"></label></labels>'
    (tmp_path / "a" / "mulan" / "emotions" / "emotions.xml").write_text(xml)

    def load(manual_dir, **settings):
        preparation = Preparation(splitting=Splitting(**settings))
        return mlresearch.data.load("mulan/emotions", {"manual_dir": str(manual_dir)}, tmp_path / "data", preparation)

    prepared = load(tmp_path / "a")
    assert load("").fingerprint == prepared.fingerprint
    with pytest.raises(UserError, match=r"there is no folder .*b/mulan"):
        load(tmp_path / "b")
    with pytest.raises(UserError, match="MLRESEARCH_MANUAL_DIR"):  # another preparation needs the files
        load("", seed=1)

    (tmp_path / "a" / "my.arff").write_text(ARFF)
    own = {"arff_train": "my.arff"}
    monkeypatch.chdir(tmp_path / "a")
    mlresearch.data.load("mulan", own, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(UserError, match=r"my\.arff"):
        mlresearch.data.load("mulan", own, tmp_path / "data")


def test_upstream_files_that_change_are_read_again(tmp_path):
    own = {"arff_train": str(tmp_path / "my.arff")}
    (tmp_path / "my.arff").write_text(ARFF)
    first = mlresearch.data.load("mulan", own, tmp_path / "data")
    (tmp_path / "my.arff").write_text(ARFF.replace("1,2", "1,3"))
    second = mlresearch.data.load("mulan", own, tmp_path / "data")
    assert first.fingerprint != second.fingerprint
    (tmp_path / "my.arff").write_text(ARFF)
    assert mlresearch.data.load("mulan", own, tmp_path / "data").fingerprint == first.fingerprint


def test_options_whose_values_run_together_are_kept_apart():
    """Two pairs of options whose names, values and separators spell the same."""
    builder, none = mlresearch.data.source_class("table"), dict.fromkeys(mlresearch.data.options("table"), "")
    one = builder._variant_of_options("", none | {"text": "a", "features": "b-features="})
    other = builder._variant_of_options("", none | {"text": "a-features=b", "features": ""})
    assert one != other


@pytest.mark.parametrize("damaged", ["mulan-train.array_record*", "dataset_info.json", "features.json"])
def test_damaged_records_are_made_again(tmp_path, damaged):
    own = {"arff_train": str(tmp_path / "my.arff")}
    (tmp_path / "my.arff").write_text(ARFF)
    first = mlresearch.data.load("mulan", own, tmp_path / "data")
    (path,) = files(tmp_path / "data", damaged)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    other = Preparation(splitting=Splitting(seed=1))
    again = mlresearch.data.load("mulan", own, tmp_path / "data", other)
    assert sorted(sum((records.keys for records in again.splits.values()), ())) == sorted(
        sum((records.keys for records in first.splits.values()), ())
    )


def test_a_mistake_in_a_file_leaves_nothing_behind(tmp_path):
    own = {"arff_train": str(tmp_path / "my.arff")}
    (tmp_path / "my.arff").write_text(ARFF + "7,1\n")
    with pytest.raises(UserError, match=r"my\.arff, line 25"):
        mlresearch.data.load("mulan", own, tmp_path / "data")
    assert not files(tmp_path / "data", "*files=*")
