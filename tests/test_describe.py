import io
import itertools
import json
import math
import sys

import matplotlib.image
import numpy as np
import pytest
import rich.console
from sklearn.metrics import matthews_corrcoef, mutual_info_score

import mlresearch.data
from mlresearch import describe
from mlresearch.data.records import SPLITS, Dataset, Records
from mlresearch.errors import UserError
from mlresearch.figures import dataset as figures
from mlresearch.label_space import LabelSets, LabelSpace


def make_dataset(names, parents, rows, values=None, notes=None, **inputs):
    """A data set of label ids by split; `values` and `inputs` likewise by split."""
    splits = {}
    for split in SPLITS:
        own = [[float(value) for value in row] for row in values[split]] if values else None
        labels = LabelSets.from_rows(rows[split], own)
        own = {name: given[split] for name, given in inputs.items()}
        splits[split] = Records(labels=labels, keys=tuple(map(str, range(len(labels)))), **own)
    edges = None if parents is None else np.array(parents, np.int32).reshape(-1, 2)
    return Dataset(
        name="made/up",
        splits=splits,
        label_space=LabelSpace(tuple(names), tuple(names)),
        parents=edges,
        fingerprint="0" * 64,
        notes=notes or {},
    )


def by_hand():
    # a is above b and c, both above d; e and f stand alone, f never in train.
    parents = [(1, 0), (2, 0), (3, 1), (3, 2)]
    rows = {
        "train": [[0, 1], [0, 1, 2, 3], [4], [], [0, 2, 4]],
        "validation": [[0, 1], [4]],
        "test": [[0, 1, 2], [4, 5]],
    }
    return make_dataset("abcdef", parents, rows, notes={"overlaps": {"test in train": 1}, "seed": 0})


def draw(seed, num_labels=17, num_rows=60, flat=False):
    """A random DAG and random closed label sets, some soft and some unknown."""
    rng = np.random.default_rng(seed)
    parents = [
        (child, parent)
        for child in range(1, num_labels)
        for parent in rng.choice(child, rng.integers(0, min(child, 2) + 1), replace=False).tolist()
    ]
    names = [f"label {number}" for number in rng.permutation(num_labels)]
    rows, values = {}, {}
    for split in SPLITS:
        drawn = [np.flatnonzero(rng.random(num_labels) < 0.2).tolist() for _ in range(num_rows)]
        rows[split] = drawn
        values[split] = [rng.choice([1.0, 0.9, 0.2, math.nan], len(row), p=[0.7, 0.1, 0.1, 0.1]) for row in drawn]
    dataset = make_dataset(names, None if flat else parents, rows, values)
    if not flat:
        for records in dataset.splits.values():
            object.__setattr__(records, "labels", dataset.hierarchy.close_sets(records.labels))
    return dataset


def renumbered(dataset, order):
    """The same data set with label `order[i]` as label i."""
    place = np.argsort(order)
    splits = {}
    for split, records in dataset.splits.items():
        labels = records.labels
        rows = [place[labels.row(row)].tolist() for row in range(len(labels))]
        values = labels.values
        if values is not None:
            values = [row.tolist() for row in np.split(values, labels.offsets[1:-1])]
        splits[split] = Records(labels=LabelSets.from_rows(rows, values), keys=records.keys, texts=records.texts)
    names = tuple(dataset.label_space.names[label] for label in order)
    parents = None if dataset.parents is None else place[dataset.parents].astype(np.int32)
    return Dataset(dataset.name, splits, LabelSpace(names, names), parents, dataset.fingerprint, dataset.notes)


def on_sets(labels):
    return [
        {label for label, on in zip(labels.row(row).tolist(), on, strict=True) if on}
        for row, on in enumerate(np.split(labels.on, labels.offsets[1:-1]))
    ]


# Numbers worked out by hand.


def test_label_sets_by_hand():
    found = describe.describe(by_hand())["label_sets"]
    # 2 + 4 + 1 + 0 + 3 = 10 labels in 5 examples, of 6 labels.
    assert found["train"] == {
        "label_cardinality": 2.0,
        "label_density": pytest.approx(1 / 3),
        "max_labels": 4,
        "labels": 5,
        "unlabelled": 1,
        "distinct_label_sets": 5,
        "label_sets_in_train_share": None,
        "not_in_train": None,
    }
    assert found["validation"]["label_sets_in_train_share"] == 1
    assert found["test"]["label_sets_in_train_share"] == 0
    assert found["validation"]["not_in_train"] == {"labels": 0, "occurrences": 0, "occurrences_share": 0}
    # f, once, among a, b, c, e and f.
    assert found["test"]["not_in_train"] == {"labels": 1, "occurrences": 1, "occurrences_share": 1 / 5}


def test_imbalance_by_hand():
    found = describe.describe(by_hand())["imbalance"]
    # Counts a 3, b 2, c 2, d 1, e 2, f 0; so IRLbl 1, 1.5, 1.5, 3, 1.5 for a to e.
    assert found["mean_irlbl"] == pytest.approx(8.5 / 5)
    assert found["max_irlbl"] == 3
    assert found["cvir"] == pytest.approx(math.sqrt((0.7**2 + 3 * 0.2**2 + 1.3**2) / 4) / 1.7)
    # 0 1 2 2 2 3 with the weights -5 -3 -1 1 3 5: 18 / (6 * 10).
    assert found["gini"] == pytest.approx(18 / 60)
    assert (found["labels_never"], found["labels_rare"]) == (1, 6)
    assert [(entry["label"], entry["count"]) for entry in found["most_frequent"]] == [
        *(("a", 3), ("b", 2), ("c", 2), ("e", 2), ("d", 1))
    ]


def test_hierarchy_by_hand():
    # The most specific labels: b | d | e | c e in train, b | e in validation, b c | e f in test: five of eight label
    # sets have one, and six of the eleven labels (d, e four times, f) are leaves.
    assert describe.describe(by_hand())["hierarchy"] == {
        "shape": "dag",
        "edges": 4,
        "roots": 3,
        "leaves": 3,
        "labels_with_several_parents": 1,
        "num_levels": 3,
        "labels_per_level": [3, 2, 1],
        "mean_branching_factor": pytest.approx(4 / 3),
        "single_path_share": 5 / 8,
        "leaf_share": 6 / 11,
    }


def test_pairs_by_hand():
    # b and c are in two of five examples each and in one together, and so are c and e. a and e come together once, less
    # than by chance (5 < 3 * 2); other pairs that come together are those of a label and its ancestor.
    first, second = describe.describe(by_hand())["cooccurrence"]
    assert (first["labels"], second["labels"]) == (["b", "c"], ["c", "e"])
    for pair in (first, second):
        assert pair["count"] == 1
        assert pair["lift"] == pytest.approx(5 / 4)
        assert pair["phi"] == pytest.approx(1 / 6)  # (5 - 4) / √(2 · 2 · 3 · 3)
        # Cells of 1, 1, 1 and 2 in five examples.
        cells = [(1, 2, 2), (1, 2, 3), (1, 3, 2), (2, 3, 3)]
        assert pair["mutual_information"] == pytest.approx(
            sum(joint / 5 * math.log2(joint * 5 / (one * other)) for joint, one, other in cells)
        )


def test_inputs_by_hand():
    rows = {split: [[0], [1]] for split in SPLITS}
    dataset = make_dataset(
        "ab",
        None,
        rows,
        texts={"train": ("", "two words"), "validation": ("ünö", "x  y\nz"), "test": ("a", "bcde")},
        features={split: np.array([[1, np.nan, 0], [2, 3, 4]], np.float32) for split in SPLITS},
        categories={split: (("red", ""), (split, "")) for split in SPLITS},
    )
    object.__setattr__(dataset, "category_names", ("colour", "split"))
    found = describe.describe(dataset)["inputs"]
    # Lengths 0, 9, 3, 6, 1, 4 and words 0, 2, 1, 3, 1, 1.
    assert found["text"]["characters"] == {"mean": pytest.approx(23 / 6), "median": 3.5, "max": 9}
    assert found["text"]["words"] == {"mean": pytest.approx(8 / 6), "median": 1.0, "max": 3}
    assert found["features"] == {"number": 3, "missing_share": pytest.approx(1 / 6)}
    assert found["categories"] == {"number": 2, "missing_share": 0.5, "num_values": {"colour": 1, "split": 3}}


def test_soft_and_unknown_labels_by_hand():
    rows = {"train": [[0, 1], [0, 1]], "validation": [[0]], "test": [[1]]}
    values = {"train": [[1, 0.4], [math.nan, 0.6]], "validation": [[1]], "test": [[1]]}
    found = describe.describe(make_dataset("ab", None, rows, values))
    assert found["label_values"] == {"listed": 6, "soft_share": 2 / 6, "unknown_share": 1 / 6}
    # On are 0 in the first row and 1 in the second.
    assert found["label_sets"]["train"]["label_cardinality"] == 1
    assert found["cooccurrence"] == []


# Against independent references, on random data.


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_label_sets_against_sets(seed, flat):
    dataset = draw(seed, flat=flat)
    found = describe.describe(dataset)["label_sets"]
    train = on_sets(dataset.splits["train"].labels)
    for split, records in dataset.splits.items():
        sets = on_sets(records.labels)
        assert found[split]["label_cardinality"] == pytest.approx(np.mean([len(labels) for labels in sets]))
        assert found[split]["distinct_label_sets"] == len(set(map(frozenset, sets)))
        assert found[split]["labels"] == len(set().union(*sets))
        assert found[split]["unlabelled"] == sum(not labels for labels in sets)
        if split != "train":
            assert found[split]["label_sets_in_train_share"] == np.mean([labels in train for labels in sets])
            new = [label for labels in sets for label in labels if not any(label in row for row in train)]
            assert found[split]["not_in_train"]["labels"] == len(set(new))
            assert found[split]["not_in_train"]["occurrences"] == len(new)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_against_scikit_learn(seed, flat, monkeypatch):
    dataset = draw(seed, flat=flat)
    train, names = dataset.splits["train"].labels, dataset.label_space.names
    on = train.multi_hot(len(names))
    expected = []
    for one, other in itertools.combinations(range(len(names)), 2):
        related = not flat and (
            one in dataset.hierarchy.ancestors.row(other) or other in dataset.hierarchy.ancestors.row(one)
        )
        both, counts = int((on[:, one] & on[:, other]).sum()), (int(on[:, one].sum()), int(on[:, other].sum()))
        if not related and both * len(on) > counts[0] * counts[1]:
            information = mutual_info_score(on[:, one], on[:, other]) / math.log(2)
            pair = sorted((names[one], names[other]), key=lambda name: (-int(on[:, names.index(name)].sum()), name))
            phi, lift = matthews_corrcoef(on[:, one], on[:, other]), both * len(on) / (counts[0] * counts[1])
            expected.append(((-round(information, 12), -both, sorted(pair)), pair, both, lift, phi))
    expected.sort()
    assert len(expected) > 20
    for block in (3, 1000):
        monkeypatch.setattr(describe, "BLOCK", block)
        found = describe.cooccurring_pairs(train, dataset.label_space, dataset.hierarchy)
        assert [pair["labels"] for pair in found] == [pair for _, pair, *_ in expected[:20]]
        for pair, (_, _, both, lift, phi) in zip(found, expected, strict=False):
            assert pair["count"] == both
            assert pair["lift"] == pytest.approx(lift)
            assert pair["phi"] == pytest.approx(phi)
        assert len(describe.cooccurring_pairs(train, dataset.label_space, dataset.hierarchy, 10_000)) == len(expected)


@pytest.mark.parametrize("seed", range(3))
def test_most_specific_labels_against_sets(seed):
    dataset = draw(seed)
    children = {label: set() for label in range(dataset.label_space.num_labels)}
    for child, parent in dataset.parents.tolist():
        children[parent].add(child)
    specific = [
        [label for label in labels if not children[label] & labels]
        for records in dataset.splits.values()
        for labels in on_sets(records.labels)
        if labels
    ]
    found = describe.describe(dataset)["hierarchy"]
    assert found["single_path_share"] == pytest.approx(np.mean([len(row) == 1 for row in specific]))
    assert found["leaf_share"] == pytest.approx(np.mean([not children[label] for row in specific for label in row]))


@pytest.mark.parametrize("counts", [[1, 2, 3, 10], [5, 5, 5], [0, 0, 7], [4]])
def test_gini_against_mean_differences(counts):
    labels = LabelSets.from_rows([[label] for label, count in enumerate(counts) for _ in range(count)])
    found = describe.describe_imbalance(labels, LabelSpace(tuple("abcd"[: len(counts)]), tuple("abcd"[: len(counts)])))
    differences = np.abs(np.subtract.outer(counts, counts)).mean()
    assert found["gini"] == pytest.approx(differences / (2 * np.mean(counts)))


# What must not matter, and what must always hold.


@pytest.mark.parametrize("flat", [False, True])
def test_the_numbering_of_labels_does_not_matter(flat):
    dataset = draw(5, flat=flat)
    expected = describe.describe(dataset)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(dataset.label_space.num_labels)
        found = describe.describe(renumbered(dataset, order))
        assert found.pop("label_space_hash") != expected["label_space_hash"]
        assert found == {name: value for name, value in expected.items() if name != "label_space_hash"}


def test_the_order_of_rows_does_not_matter():
    dataset = draw(6)
    order = np.random.default_rng(0).permutation(60)
    shuffled = {split: records.take(order) for split, records in dataset.splits.items()}
    other = Dataset(dataset.name, shuffled, dataset.label_space, dataset.parents, dataset.fingerprint, dataset.notes)
    assert describe.describe(other) == describe.describe(dataset)


def unlabelled():
    return make_dataset("ab", [(1, 0)], {"train": [[], []], "validation": [[]], "test": [[0]]})


@pytest.mark.parametrize("make", [by_hand, unlabelled, lambda: draw(0), lambda: draw(0, flat=True)])
def test_descriptions_are_json_and_can_be_read(make):
    found = describe.describe(make())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    console = rich.console.Console(width=100, file=io.StringIO())
    describe.print_description(found, console)
    printed = console.file.getvalue()
    assert "made/up" in printed
    assert ("Labels that come together" in printed) == bool(found["cooccurrence"])
    assert max(map(len, printed.splitlines())) <= 100


def test_nothing_is_defined_where_no_label_is_on():
    found = describe.describe(unlabelled())
    assert [found["imbalance"][name] for name in ("mean_irlbl", "max_irlbl", "cvir", "gini")] == [None] * 4
    assert found["label_sets"]["train"]["label_cardinality"] == 0
    assert found["label_values"]["soft_share"] == 0
    assert found["label_sets"]["validation"]["not_in_train"]["occurrences_share"] is None


def test_names_are_printed_as_they_are(capsys):
    dataset = make_dataset(["[bold]x[/]", "y"], None, {split: [[0, 1], [0, 1], []] for split in SPLITS})
    describe.print_description(describe.describe(dataset))
    assert capsys.readouterr().out.count("[bold]x[/]") == 2  # among the most frequent, and in a pair


def test_a_large_label_space_needs_no_square_array():
    # An array of counts, [labels, labels], would take 75 GiB.
    size, rng = 100_000, np.random.default_rng(0)
    names = [f"{number:06}" for number in range(size)]
    rows = {split: [np.unique(rng.integers(0, size, 5)).tolist() for _ in range(200)] for split in SPLITS}
    rows["train"][0] = rows["train"][1] = [17, 99_999]
    parents = [(child, child // 10) for child in range(1, size)]
    found = describe.describe(make_dataset(names, parents, rows))
    assert found["cooccurrence"][0]["labels"] == ["000017", "099999"]
    assert found["hierarchy"]["num_levels"] == 6


# Pictures.


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, data_dir):
    """Pictures of a small tree, of flat labels and of a DAG too large to be drawn label by label, each drawn twice."""
    datasets = {
        "tree": mlresearch.data.load("tiny/sets", {}, data_dir),
        "flat": mlresearch.data.load("points", {}, data_dir),
        "large": draw(0, num_labels=80),
    }
    folder = tmp_path_factory.mktemp("drawn")
    return {name: [figures.plot(made, folder / name / turn) for turn in "ab"] for name, made in datasets.items()}


@pytest.mark.parametrize("name", ["tree", "flat", "large"])
def test_pictures_are_drawn_and_drawn_alike(drawn, name):
    first, second = drawn[name]
    kinds = ["label_frequencies", "cooccurrence"] + (["hierarchy"] if name != "flat" else [])
    assert [path.name for path in first] == [f"{kind}.{form}" for kind in kinds for form in ("png", "pdf")]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".pdf":
            assert one.read_bytes().startswith(b"%PDF")
        else:
            picture = matplotlib.image.imread(one)[..., :3]
            assert min(picture.shape[:2]) > 200
            assert 0.001 < (picture.min(2) < 0.9).mean() < 0.95  # neither empty nor all ink


def test_names_of_any_characters_are_drawn(tmp_path):
    names = ["$x_1$ cost & {tax}", "字", "a" * 200, "x^2"]
    before = dict(matplotlib.rcParams)
    paths = figures.plot(make_dataset(names, [(1, 0)], {split: [[0, 1], [2], [3]] for split in SPLITS}), tmp_path)
    assert len(paths) == 6
    assert dict(matplotlib.rcParams) == before  # and the settings of the process are left alone


def test_data_without_labels_are_drawn(tmp_path):
    assert [path.stem for path in figures.plot(unlabelled(), tmp_path)[::2]] == ["label_frequencies", "hierarchy"]


def test_drawing_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'mlresearch\[figures\]'"):
        figures.plot(by_hand(), tmp_path)


def test_a_folder_that_cannot_be_written_to_is_an_error_for_people(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        figures.plot(by_hand(), tmp_path / "file")


@pytest.mark.parametrize("seed", range(3))
def test_every_label_is_drawn_once_below_a_parent_on_the_level_above(seed):
    hierarchy = draw(seed, num_labels=50).hierarchy
    parents = figures._drawn_parents(hierarchy)
    order = figures._depth_first(hierarchy, parents).tolist()
    assert sorted(order) == list(range(50))
    edges = set(zip(hierarchy.children.tolist(), hierarchy.parents.tolist(), strict=True))
    for label in range(50):
        if parents[label] < 0:
            assert hierarchy.levels[label] == 0
        else:
            assert (label, parents[label]) in edges
            assert hierarchy.levels[parents[label]] == hierarchy.levels[label] - 1
            assert order.index(parents[label]) < order.index(label)


def test_rows_of_a_picture_are_means_of_their_leaves(monkeypatch):
    # A root over a leaf and an inner label of two leaves: sizes 3, 1, 2 and 1 twice.
    faces = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0.5, 0.5, 0.5]])
    levels, tops, sizes = np.array([0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2]), np.array([3, 1, 2, 1, 1])
    picture = figures._rows_of_colors(faces, levels, tops, sizes)
    white = [1, 1, 1]
    assert picture.tolist() == [
        [[1, 0, 0], [0, 1, 0], white],
        [[1, 0, 0], [0, 0, 1], [0, 0, 0]],
        [[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5]],
    ]
    monkeypatch.setattr(figures, "MAX_ROWS", 1)
    means = figures._rows_of_colors(faces, levels, tops, sizes)
    np.testing.assert_allclose(means, picture.mean(0, keepdims=True))
