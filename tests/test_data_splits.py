"""Splits that upstream does not give, overlaps between splits, and closure: what is done to every source alike."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlresearch.data.preparation import Preparation, find_overlaps, settle
from mlresearch.data.records import SPLITS, Dataset, Records
from mlresearch.data.splits import Splitting, draw_splits
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets, LabelSpace


def random_labels(rng, rows, num_labels, density=0.15):
    return LabelSets.from_rows([np.flatnonzero(rng.random(num_labels) < density).tolist() for _ in range(rows)])


def records(texts, labels, features=None, categories=None):
    keys = tuple(map(str, range(len(labels))))
    return Records(
        labels, keys, texts=None if texts is None else tuple(texts), features=features, categories=categories
    )


def dataset(splits, num_labels=3, parents=None):
    names = tuple(f"label{number}" for number in range(num_labels))
    edges = None if parents is None else np.array(parents, np.int32)
    return Dataset("here", splits, LabelSpace(names, names), edges, "", {})


@pytest.mark.parametrize("method", ["stratified", "random", "last"])
@pytest.mark.parametrize("missing", [["validation", "test"], ["validation"], ["test"]])
@pytest.mark.parametrize(("num_labels", "density"), [(9, 0.15), (2000, 0.0015)])
def test_every_row_is_in_one_split_of_the_size_asked_for(method, missing, num_labels, density):
    labels = random_labels(np.random.default_rng(0), 200, num_labels, density)
    splitting = Splitting(method, validation_share=0.1, test_share=0.25)
    drawn = draw_splits(labels, num_labels, None, missing, splitting)
    assert sorted(drawn) == sorted(["train", *missing])
    assert sorted(np.concatenate(list(drawn.values())).tolist()) == list(range(200))
    for split in missing:
        assert len(drawn[split]) == {"validation": 20, "test": 50}[split]
    for rows in drawn.values():
        assert (np.diff(rows) > 0).all()


def test_the_same_seed_draws_the_same_rows_on_every_machine():
    """Digests of the rows drawn here once: another stream, or another library, would show."""
    labels = random_labels(np.random.default_rng(0), 200, 9)
    groups = [str(number) for number in np.random.default_rng(1).integers(40, size=200)]
    found = {}
    for name, method, given_groups in (
        ("stratified", "stratified", None),
        ("random", "random", None),
        ("groups", "random", groups),
    ):
        drawn = [
            draw_splits(labels, 9, given_groups, ["validation", "test"], Splitting(method, seed=s)) for s in (0, 0, 1)
        ]
        first, again, other = (np.concatenate([d[split] for split in SPLITS]) for d in drawn)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        found[name] = hashlib.sha256(first.astype("<i8").tobytes()).hexdigest()[:16]
    assert found == DIGESTS


DIGESTS = {"stratified": "4b91c2952a7d472e", "random": "19f8cf5a491ee0e4", "groups": "44b331788f8bf82d"}


def test_stratified_splits_keep_the_frequencies_of_rare_labels():
    """Twenty labels of ten rows in a thousand each: a random tenth misses some, a stratified one none."""
    labels = LabelSets.from_rows([[number // 10] if number < 200 else [] for number in range(1000)])
    drawn = draw_splits(labels, 20, None, ["test"], Splitting("stratified", test_share=0.1))
    assert labels.select(drawn["test"]).counts(20).tolist() == [1] * 20
    randomly = draw_splits(labels, 20, None, ["test"], Splitting("random", test_share=0.1))
    assert (labels.select(randomly["test"]).counts(20) != 1).any()


def test_last_takes_the_end_as_it_stands():
    labels = random_labels(np.random.default_rng(0), 20, 3)
    drawn = draw_splits(
        labels, 3, None, ["validation", "test"], Splitting("last", validation_share=0.1, test_share=0.2)
    )
    assert [rows.tolist() for rows in (drawn["train"], drawn["validation"], drawn["test"])] == [
        list(range(14)),
        [14, 15],
        [16, 17, 18, 19],
    ]
    again = draw_splits(labels, 3, None, ["validation"], Splitting("last", seed=1))
    assert again["validation"].tolist() == [18, 19]


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_groups_are_never_divided(seed, num_groups):
    rng = np.random.default_rng(seed)
    rows = num_groups * 4
    groups = [str(number % num_groups) for number in rng.permutation(rows)]
    drawn = draw_splits(random_labels(rng, rows, 3), 3, groups, ["test"], Splitting(test_share=0.3, seed=seed))
    members = [{groups[row] for row in drawn[split].tolist()} for split in ("train", "test")]
    assert not members[0] & members[1]
    assert members[1]
    # Groups of 4: as many as fit into 30 % of the rows, at least one.
    assert len(drawn["test"]) == max(round(0.3 * rows) // 4, 1) * 4


def test_too_few_rows_or_groups_are_told():
    labels = random_labels(np.random.default_rng(0), 2, 3)
    with pytest.raises(UserError, match="2 rows are too few to draw validation and test"):
        draw_splits(labels, 3, None, ["validation", "test"], Splitting())
    twenty = random_labels(np.random.default_rng(0), 20, 3)
    with pytest.raises(UserError, match="1 groups of rows, such as 'a', are too few"):
        draw_splits(twenty, 3, ["a"] * 20, ["test"], Splitting())
    with pytest.raises(UserError, match="2 groups of rows, such as 'a', are too few"):
        draw_splits(twenty, 3, ["a", "b"] * 10, ["validation", "test"], Splitting())


@pytest.mark.parametrize("seed", range(6))
def test_a_group_is_left_for_every_split(seed):
    """Two groups of one row and a large one: the test split may not take both small ones."""
    groups = ["large"] * 98 + ["b", "c"]
    labels = random_labels(np.random.default_rng(0), 100, 3)
    drawn = draw_splits(labels, 3, groups, ["validation", "test"], Splitting(seed=seed))
    assert {split: len(rows) for split, rows in drawn.items()} == {"train": 98, "validation": 1, "test": 1}


def test_groups_that_given_splits_divide_are_counted():
    labels = random_labels(np.random.default_rng(0), 30, 3)
    splits = {"train": records(map(str, range(30)), labels), "test": records(["x", "y"], labels.select(np.arange(2)))}
    groups = {"train": [f"g{row // 3}" for row in range(30)], "test": ["g0", "new"]}
    notes = settle("here", dataset(splits), groups, Preparation()).notes
    counts = notes["groups_in_two_splits"]
    assert counts["validation and train"] == 0
    assert counts["test and train"] + counts["test and validation"] == 1  # g0, wherever it is


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "stratifed"}, "did you mean 'stratified'"),
        ({"test_share": 1.0}, "test_share is 1.0"),
        ({"validation_share": 0.6, "test_share": 0.4}, "leave nothing to train on"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_told(settings, message):
    with pytest.raises(UserError, match=message):
        Splitting(**settings)


@pytest.mark.parametrize("labels", [[[]] * 12, [[0]] * 12, [[0], []] * 6])
def test_one_label_or_none_can_be_split(labels):
    drawn = draw_splits(LabelSets.from_rows(labels), 1, None, ["validation", "test"], Splitting())
    assert {split: len(rows) for split, rows in drawn.items()} == {"train": 9, "test": 2, "validation": 1}


def test_too_many_cells_to_stratify_are_told():
    labels = LabelSets(np.zeros(0, np.int32), np.zeros(100_001, np.int64))
    with pytest.raises(UserError, match=r"config.data.split.method = 'random'"):
        draw_splits(labels, 98_505, None, ["test"], Splitting())
    assert len(draw_splits(labels, 98_505, None, ["test"], Splitting("random"))["test"]) == 20_000


def texts_in_splits():
    none = LabelSets.from_rows([[]] * 3)
    return {
        "train": records(["a b", "c", "c"], none),
        "validation": records(["A  B", "d", "e"], none),  # "a b" but for case and spaces
        "test": records(["c", "d", "f"], none),
    }


def test_overlaps_are_counted_and_dropped_from_the_earlier_split():
    counts, _ = find_overlaps(texts_in_splits())
    assert counts == {"validation in train": 1, "test in train": 1, "test in validation": 1}
    kept = settle("here", dataset(texts_in_splits()), {}, Preparation())
    assert [len(kept.splits[split]) for split in SPLITS] == [3, 3, 3]
    assert kept.notes["overlaps"] == counts
    with pytest.raises(UserError, match="every row of 'train' stands in a later split"):
        settle("here", dataset(texts_in_splits()), {}, Preparation(overlaps="drop"))
    more = texts_in_splits() | {"train": records(["a b", "c", "c", "g"], LabelSets.from_rows([[]] * 4))}
    dropped = settle("here", dataset(more), {}, Preparation(overlaps="drop"))
    assert [dropped.splits[split].texts for split in SPLITS] == [("g",), ("A  B", "e"), ("c", "d", "f")]
    assert dropped.notes["dropped_overlaps"] == {"train": 3, "validation": 1, "test": 0}
    none_left = {"validation in train": 0, "test in train": 0, "test in validation": 0}
    assert dropped.notes["overlaps"] == dropped.notes["overlaps_with_equal_labels"] == none_left
    assert find_overlaps(dropped.splits)[0] == none_left


def test_inputs_overlap_only_if_all_columns_are_equal():
    none = LabelSets.from_rows([[]] * 2)
    numbers = np.array([[0.0, np.nan], [1, 2]], np.float32)
    negative_zero = np.array([[-0.0, np.nan], [1, 3]], np.float32)
    splits = {
        "train": records(None, none, numbers, (("x", "y"),)),
        "validation": records(None, none, negative_zero, (("x", "y"),)),  # the first row again
        "test": records(None, none, numbers, (("x", "z"),)),  # the first row again
    }
    assert find_overlaps(splits)[0] == {"validation in train": 1, "test in train": 1, "test in validation": 1}


def test_overlaps_with_equal_labels_are_counted_apart():
    label_sets = {"train": [[0], [1, 2], [2]], "validation": [[0], [1, 2], [2]], "test": [[1], [1, 2], [2]]}
    splits = {split: records(["a", "b", split], LabelSets.from_rows(rows)) for split, rows in label_sets.items()}
    # Values are stored only where some are not 1: that a label is on is the same with and without.
    soft = LabelSets.from_rows(label_sets["test"], [[1.0], [1.0, 1.0], [0.5]])
    splits["test"] = records(["a", "b", "test"], soft)
    notes = settle("here", dataset(splits), {}, Preparation()).notes
    assert notes["overlaps"] == {"validation in train": 2, "test in train": 2, "test in validation": 2}
    assert notes["overlaps_with_equal_labels"] == {
        "validation in train": 2,
        "test in train": 1,
        "test in validation": 1,
    }


PARENTS = [(1, 0), (2, 1)]


def split_thrice(labels):
    return {split: records(["a", "b"], labels) for split in SPLITS}


def test_closure_adds_ancestors_or_names_the_row():
    labels = LabelSets.from_rows([[0], [2]])
    closed = settle("here", dataset(split_thrice(labels), parents=PARENTS), {}, Preparation())
    assert closed.splits["test"].labels.row(1).tolist() == [0, 1, 2]
    assert closed.splits["test"].labels.row(0).tolist() == [0]
    message = r"'here', train, row 1 \(1\): label 'label2' without its parent 'label1'; config.data.closure = 'up'"
    with pytest.raises(UserError, match=message):
        settle("here", dataset(split_thrice(labels), parents=PARENTS), {}, Preparation(closure="check"))
    checked = LabelSets.from_rows([[0], [0, 1, 2]])
    settle("here", dataset(split_thrice(checked), parents=PARENTS), {}, Preparation(closure="check"))


def test_an_empty_split_is_told():
    splits = texts_in_splits() | {"test": records([], LabelSets.from_rows([]))}
    with pytest.raises(UserError, match="the split 'test' has no rows"):
        settle("here", dataset(splits), {}, Preparation())


def test_rows_without_labels_are_counted():
    labels = LabelSets.from_rows([[0], []])
    notes = settle("here", dataset(split_thrice(labels)), {}, Preparation()).notes
    assert notes["unlabelled_rows"] == {"train": 1, "validation": 1, "test": 1}
