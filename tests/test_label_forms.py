import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlresearch.errors import UserError
from mlresearch.label_space import LabelReader, LabelSets, LabelSpace, check_label_name

NAMES = ("red", "green", "blue", "0")
SPACE = LabelSpace(NAMES, NAMES)
NAN = math.nan

unit = st.floats(0, 1)
soft_rows = st.lists(st.one_of(unit, st.just(NAN), st.none(), st.sampled_from([0, 1])), min_size=4, max_size=4)
hot_rows = st.lists(st.sampled_from([0, 1, 0.0, 1.0, NAN, None]), min_size=4, max_size=4)


def dense(ids, values):
    """What `read` returns, as the row that it was read from; it must be ascending, without zeros."""
    assert ids == sorted(set(ids))
    row = np.zeros(len(NAMES), np.float32)
    row[ids] = 1 if values is None else values
    assert (row[ids] != 0).all()
    return row


def as_float32(row):
    return np.array([NAN if value is None else value for value in row], np.float64).astype(np.float32)


@given(hot_rows, st.permutations(range(4)))
def test_multihot_rows_survive_as_list_and_as_object(row, order):
    reader = LabelReader(SPACE, "multihot")
    ids, values = reader.read(row, "row 0")
    np.testing.assert_array_equal(dense(ids, values), as_float32(row))
    # As an object, the order does not matter and what is off need not be there.
    named = {NAMES[label]: row[label] for label in order}
    shorter = {name: value for name, value in named.items() if value != 0}
    for mapping in (named, shorter):
        assert repr(reader.read(mapping, "row 0")) == repr((ids, values))
    assert (values is None) == all(value in (0, 1) for value in row)


@given(soft_rows, st.permutations(range(4)))
def test_soft_rows_survive_as_list_and_as_object(row, order):
    reader = LabelReader(SPACE, "soft")
    ids, values = reader.read(row, "row 0")
    np.testing.assert_array_equal(dense(ids, values), as_float32(row))
    named = {NAMES[label]: row[label] for label in order}
    assert repr(reader.read(named, "row 0")) == repr((ids, values))


@given(st.lists(hot_rows, min_size=1, max_size=6))
def test_a_matrix_of_0_1_and_nan_survives_label_sets(rows):
    reader = LabelReader(SPACE, "multihot")
    ids, values = zip(*(reader.read(row, "row") for row in rows), strict=True)
    filled = [[1.0] * len(own) if given is None else given for own, given in zip(ids, values, strict=True)]
    sets = LabelSets.from_rows(ids, filled)
    matrix = np.stack([as_float32(row) for row in rows])
    rebuilt = np.zeros(matrix.shape, np.float32)
    rebuilt[sets.rows, sets.ids] = sets.values
    np.testing.assert_array_equal(rebuilt, matrix)
    assert sets.has_unknown == np.isnan(matrix).any()
    assert not sets.has_soft
    np.testing.assert_array_equal(sets.counts(4), np.nansum(matrix, 0))


def test_ragged_rows_are_every_subset_in_every_order_by_name_or_id():
    reader = LabelReader(SPACE, "ragged")
    for size in range(len(NAMES) + 1):
        for order in itertools.permutations(range(len(NAMES)), size):
            expected = (sorted(order), None)
            assert reader.read(list(order), "row") == expected
            assert reader.read(tuple(NAMES[label] for label in order), "row") == expected
            assert reader.read([NAMES[label] if label % 2 else label for label in order], "row") == expected


def test_a_name_of_digits_is_a_name_and_no_id():
    assert LabelReader(SPACE, "ragged").read(["0"], "row") == ([3], None)
    assert LabelReader(SPACE, "ragged").read([0], "row") == ([0], None)


def test_values_are_those_of_float32():
    reader = LabelReader(SPACE, "soft")
    # float32 has no 1e-60, which is 0, and no 1 - 1e-12, which is 1.
    assert reader.read([1e-60, 1 - 1e-12, 0, -0.0], "row") == ([1], None)
    assert reader.read([0.1, 0, 0, 0], "row") == ([0], [float(np.float32(0.1))])


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        ("ragged", "red", "'ragged' labels are a list of names or ids, not 'red'"),
        ("ragged", None, "not None"),
        ("ragged", {"red": 1}, "not dict; is the form 'soft' or 'multihot'"),
        ("ragged", ["read"], "unknown label 'read'; did you mean 'red'.*data.unknown_labels = 'drop'"),
        ("ragged", ["x" * 10**6], r"unknown label 'x{20,}\.\.\.' \("),
        ("ragged", ["red", 0], r"label 'red' \(0\) is given twice"),
        ("ragged", [0, 1, 0, 1], "is given twice; is the form 'multihot'"),
        ("ragged", [4], r"label id 4 is outside 0\.\.3"),
        ("ragged", [-1], r"label id -1 is outside 0\.\.3"),
        ("ragged", [10**5000], "label id an integer of 16610 bits is outside"),
        ("ragged", [True], "True is neither a label name nor a label id"),
        ("ragged", [1.0], "1.0 is neither"),
        ("ragged", [None], "None is neither"),
        ("ragged", [["red"]], "list is neither"),
        ("ragged", [""], "the label name '' is empty"),
        ("ragged", [" red"], "the label name ' red' is empty or holds outer spaces"),
        ("multihot", [0, 1], "2 label values for 4 labels; is the form 'ragged'"),
        ("multihot", [0, 1, 0, 1, 0], "5 label values for 4 labels$"),
        ("multihot", "0101", "'multihot' labels are a list or an object, not '0101'"),
        ("multihot", [0, 0.5, 0, 0], "value of label 'green' is 0.5, not 0, 1 or null; is the form 'soft'"),
        ("multihot", [0, 2, 0, 0], "value of label 'green' is 2, not 0, 1 or null"),
        ("multihot", [0, True, 0, 0], "value of label 'green' is True, not a number or null"),
        ("multihot", {"red": "1"}, "value of label 'red' is '1', not a number"),
        ("multihot", {"rad": 1}, "unknown label 'rad'; did you mean 'red'"),
        ("multihot", {1: 1}, "1 is no label name"),
        ("soft", [0, 0, 0, 1.01], "value of label '0' is 1.01, not a probability"),
        ("soft", [0, 0, 0, -0.5], "-0.5, not a probability"),
        ("soft", [math.inf, 0, 0, 0], "inf, not a probability"),
        ("soft", [10**400, 0, 0, 0], "an integer of 1329 bits, not a probability"),
        ("soft", {"red": [1]}, "value of label 'red' is list, not a number"),
        ("soft", 3, "'soft' labels are a list or an object, not 3"),
    ],
)
def test_anything_else_is_an_error_that_names_the_row(form, value, message):
    with pytest.raises(UserError, match=rf"^row 7: .*{message}") as caught:
        LabelReader(SPACE, form).read(value, "row 7")
    assert len(str(caught.value)) < 300


def test_a_form_or_a_choice_that_there_is_not():
    with pytest.raises(UserError, match="no label form 'raged'; did you mean 'ragged'"):
        LabelReader(SPACE, "raged")
    with pytest.raises(UserError, match="unknown_labels is 'dorp'; did you mean 'drop'"):
        LabelReader(SPACE, "ragged", "dorp")


def test_dropped_names_are_counted_where_they_are_not_off():
    reader = LabelReader(SPACE, "ragged", "drop")
    assert reader.read(["pink", "red", "grey"], "row") == ([0], None)
    assert reader.read(["pink"], "row") == ([], None)
    assert reader.dropped == {"pink": 2, "grey": 1}
    reader = LabelReader(SPACE, "soft", "drop")
    assert reader.read({"pink": 0.2, "red": 1, "grey": None, "white": 0}, "row") == ([0], None)
    assert dict(reader.dropped) == {"pink": 1, "grey": 1, "white": 0}
    assert reader.dropped.total() == 2


@pytest.mark.parametrize("value", [[7], [" pink"], [""], [None]])
def test_dropping_names_forgives_nothing_else(value):
    with pytest.raises(UserError):
        LabelReader(SPACE, "ragged", "drop").read(value, "row")
    with pytest.raises(UserError, match="'pink' is 2"):
        LabelReader(SPACE, "multihot", "drop").read({"pink": 2}, "row")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(anything, st.sampled_from(["ragged", "multihot", "soft"]), st.sampled_from(["error", "drop"]))
def test_whatever_stands_in_a_row_is_a_label_set_or_an_error(value, form, unknown):
    try:
        ids, values = LabelReader(SPACE, form, unknown).read(value, "row")
    except UserError:
        return
    dense(ids, values)
    assert all(isinstance(label, int) and 0 <= label < 4 for label in ids)
    assert values is None or all(math.isnan(number) or 0 < number <= 1 for number in values)
    assert values is None or form != "ragged"


@pytest.mark.parametrize("name", ["", " a", "a ", "a\tb", "a\nb", "a\rb", "\u2028a", "a\xa0"])
def test_names_that_files_could_not_hold(name):
    with pytest.raises(UserError, match="line 3: the label name"):
        check_label_name(name, "line 3")
    with pytest.raises(UserError, match="label 1: the label name"):
        LabelSpace(("a", name), ("", ""))


def test_a_name_may_hold_inner_spaces_and_any_other_character():
    for name in ("a b", "a;b,c", '"', "ä/ß::é", "<unk>", "a\u2028b"):
        check_label_name(name, "line 3")
