"""Tables of made-up records: what they refuse, what they say, and that the numbers are those of the records."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_scores import label_sets, run_metrics
from small_tables import ACCURACY, LOSS, cells_of, make_record, make_results, notes_of, only_sheet

from mlresearch.definitions import HIGHER, LOWER, NEITHER, check_place, define, direction, title
from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.tables import COLUMNS, Table
from mlresearch.tables.results import Result, Results
from mlresearch.tables.significance import holm, wilcoxon
from mlresearch.tables.tabulate import FAULTS, tabulate


def test_modes_that_are_searched_for_are_marked():
    runs = make_results({"exact": [0.5, 0.6]}).runs + make_results({"searched": [0.4]}, mode_is_exact=False).runs
    results = Results("tiny", tuple((run.row, run.data, run.seed) for run in runs), runs)
    mode, ranking = ACCURACY, "test.ranking.precision_at_1"
    sheet = only_sheet(results, Table(columns=[mode, ranking]))
    assert [[cell.marks for cell in row_.cells] for row_ in sheet.rows] == [["", ""], ["s", ""]]
    assert "searched for, and may be missed" in notes_of(sheet)
    assert "searched for" not in notes_of(only_sheet(make_results({"exact": [0.5, 0.6]})))


shares = st.floats(0, 1)


@given(st.lists(shares, min_size=1, max_size=12))
def test_means_and_deviations_are_those_of_numpy(values):
    cell = cells_of(only_sheet(make_results({"a": values})))["a"]
    assert cell.n == len(values)
    assert cell.mean == pytest.approx(np.mean(values))
    if len(values) == 1:
        assert cell.sd is None
    else:
        assert cell.sd == pytest.approx(np.std(values, ddof=1))


def test_values_are_paired_by_seed_and_not_by_order():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=12) * 0.1
    first, second = dict(enumerate(0.5 + noise)), dict(enumerate(0.51 + noise + rng.normal(size=12) * 0.001))
    shuffled = dict(reversed(second.items()))
    for rows in ({"a": first, "b": second}, {"a": first, "b": shuffled}):
        cells = cells_of(only_sheet(make_results(rows)))
        # All twelve differences have one sign: p = 2 / 2¹², far below what the noise among seeds alone would allow.
        assert cells["a"].p_best == pytest.approx(2**-11)
        assert cells["b"].best


def test_seeds_that_only_one_row_has_enter_its_mean_but_no_pair():
    first, second = {seed: 0.5 + seed / 100 for seed in range(8)}, {seed: 0.52 + seed / 99 for seed in range(2, 12)}
    cells = cells_of(only_sheet(make_results({"a": first, "b": second})))
    assert cells["b"].n == 10
    differences = np.array([first[seed] - second[seed] for seed in range(2, 8)])
    assert cells["a"].p_best == pytest.approx(wilcoxon(differences))


@given(st.permutations(["a", "b", "c", "d"]))
def test_marks_do_not_depend_on_the_order_of_rows(order):
    noise = np.random.default_rng(3).normal(scale=0.02, size=(4, 20))
    noise -= noise.mean(axis=1, keepdims=True)
    numbers = dict(zip("abcd", noise + np.array([[0.5], [0.501], [0.6], [0.601]]), strict=True))
    table = Table(columns=[ACCURACY], baseline="a")
    cells = cells_of(only_sheet(make_results({name: numbers[name] for name in order}), table))
    assert {name: (cell.best, cell.tied, cell.differs) for name, cell in cells.items()} == {
        "a": (False, False, False),
        "b": (False, False, False),
        "c": (False, True, True),
        "d": (True, False, True),
    }


def test_all_comparisons_of_a_table_are_corrected_together():
    rng = np.random.default_rng(1)
    places = [ACCURACY, LOSS]
    numbers = {(name, place): rng.normal(0.5, 0.1, size=9) for name in "abc" for place in places}
    runs = [
        Result(name, make_record(seed, **{place: numbers[name, place][seed] for place in places}), Path("r"))
        for name in "abc"
        for seed in range(9)
    ]
    results = Results("study", tuple((run.row, run.data, run.seed) for run in runs), tuple(runs))
    sheet = only_sheet(results, Table(columns=places, baseline="a"))
    raw = {}
    for place, sign in ((ACCURACY, 1), (LOSS, -1)):
        means = {name: sign * numbers[name, place].mean() for name in "abc"}
        best = max(means, key=means.get)
        for name in "abc":
            for against in {"a", best} - {name}:
                raw[place, frozenset((name, against))] = wilcoxon(numbers[name, place] - numbers[against, place])
    adjusted = dict(zip(raw, holm(list(raw.values())), strict=True))
    assert sheet.num_comparisons == len(raw)
    seen = set()
    for row_ in sheet.rows:
        for column, cell in zip(sheet.columns, row_.cells, strict=True):
            if row_.name != "a":
                assert cell.p_baseline == pytest.approx(adjusted[column.place, frozenset((row_.name, "a"))])
            seen |= {cell.p_best, cell.p_baseline} - {None}
    assert sorted(seen) == pytest.approx(sorted(set(adjusted.values())))
    assert f"all comparisons of this table ({len(raw)})" in notes_of(sheet)


def test_columns_that_are_not_tested_are_not_counted():
    rng = np.random.default_rng(1)
    runs = [
        Result(name, make_record(seed, **{ACCURACY: rng.random(), LOSS: rng.random()}), Path("r"))
        for name in "abc"
        for seed in range(9)
    ]
    results = Results("study", tuple((run.row, run.data, run.seed) for run in runs), tuple(runs))
    validation = "validation.mode.subset_accuracy"
    all_of_test = only_sheet(results, Table([ACCURACY, LOSS, validation]))
    one = only_sheet(results, Table([ACCURACY, LOSS, validation], tested=[LOSS]))
    assert (all_of_test.num_comparisons, one.num_comparisons) == (4, 2)
    for row_ in one.rows:
        assert [cell.p_best for cell in row_.cells][::2] == [None, None]
    assert [any(row_.cells[at].best for row_ in one.rows) for at in range(3)] == [True, True, True]
    assert "compared by hamming_loss alone" in notes_of(one)
    assert "compared by columns of the test split alone" in notes_of(all_of_test)


@pytest.mark.parametrize(("place", "best"), [(ACCURACY, "high"), (LOSS, "low"), ("test.loss.mean", "low")])
def test_the_best_is_the_highest_or_the_lowest(place, best):
    cells = cells_of(only_sheet(make_results({"low": [0.1, 0.2], "high": [0.3, 0.4]}, place), Table(columns=[place])))
    assert {name for name, cell in cells.items() if cell.best} == {best}


def test_equal_means_are_all_best_and_counts_have_no_best():
    cells = cells_of(only_sheet(make_results({"a": [0.0] * 9, "b": [0.0] * 9, "c": [0.1] * 9}, LOSS), Table([LOSS])))
    assert [cell.best for cell in cells.values()] == [True, True, False]
    assert not cells["b"].tied
    counts = cells_of(only_sheet(make_results({"a": [1.0], "b": [2.0]}), Table(["num_parameters"])))
    assert not any(cell.best for cell in counts.values())
    assert counts["a"].mean == 120


@pytest.mark.parametrize("test", ["wilcoxon", "bootstrap"])
def test_few_seeds_are_said_to_be_few(test):
    apart = {"a": [0.1, 0.11, 0.12, 0.13, 0.14], "b": [0.9, 0.91, 0.93, 0.94, 0.96]}
    sheet = only_sheet(make_results(apart), Table([ACCURACY], baseline="a", test=test))
    cells = cells_of(sheet)
    assert not any(cell.tied or cell.differs for cell in cells.values())
    assert cells["a"].p_best >= 2 / 2**5
    assert "with so few seeds; it takes 6" in notes_of(sheet)
    more = {name: [*values, values[-1] + 0.05] for name, values in apart.items()}
    assert cells_of(only_sheet(make_results(more), Table([ACCURACY], baseline="a", test=test)))["b"].differs


def test_few_resamples_are_said_to_be_few():
    apart = make_results({"a": [0.1] * 12, "b": [0.9] * 12})
    for resamples, few in ((18, True), (19, False)):  # the least p is 1 / (1 + resamples), and α is 1/20
        sheet = only_sheet(apart, Table([ACCURACY], baseline="a", test="bootstrap", resamples=resamples))
        assert ("with so few resamples" in notes_of(sheet)) is few
        assert cells_of(sheet)["b"].differs is not few


def test_one_seed_has_no_deviation_and_no_test():
    sheet = only_sheet(make_results({"a": [0.1], "b": [0.9]}))
    assert [cell.sd for cell in cells_of(sheet).values()] == [None, None]
    assert "there are no two seeds that they have in common" in notes_of(sheet)
    assert "A row of one seed has no deviation" in notes_of(sheet)


def test_a_row_of_too_few_seeds_is_named_beside_rows_that_are_tested():
    rng = np.random.default_rng(0)
    sheet = only_sheet(
        make_results({"a": rng.random(12) + 1, "b": rng.random(12), "short": rng.random(3), "single": [0.0]})
    )
    assert "Not marked, for few common seeds: a and short." in notes_of(sheet)
    assert "Not tested, for fewer than two common seeds: a and single." in notes_of(sheet)
    assert not cells_of(sheet)["short"].tied


def test_a_loss_that_is_infinite_for_one_seed_has_no_mean():
    sheet = only_sheet(make_results({"a": [0.3, None], "b": [0.3, 0.4]}, "test.loss.mean"), Table(["test.loss.mean"]))
    cells = cells_of(sheet)
    assert cells["a"].mean is None
    assert cells["b"].mean == pytest.approx(0.35)
    assert "—: no number" in notes_of(sheet)


def test_a_column_that_no_run_has_is_left_out():
    sheet = only_sheet(make_results({"a": [0.5]}), Table(["test.mode.violation_rate", ACCURACY]))
    assert [column.place for column in sheet.columns] == [ACCURACY]


# Faults


def planted(fault):
    """Results with one fault, and the cells that it touches."""
    values = {"a": [0.1, 0.2, 0.3], "b": [0.2, 0.3, 0.4]}
    good = make_results(values)
    if fault == "missing":
        return dataclasses.replace(good, runs=good.runs[:-1]), "b"
    other = {"code": {"code": "beef" * 16}, "data": {"fingerprint": "another"}}[fault]
    odd = dataclasses.replace(good.runs[1], record=make_record(1, **{ACCURACY: 0.2}, **other))
    return dataclasses.replace(good, runs=(good.runs[0], odd, *good.runs[2:])), "a"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_unless_it_is_allowed_and_then_marked(fault):
    results, row_ = planted(fault)
    with pytest.raises(UserError, match=f"--allow={fault}") as refused:
        tabulate(results, Table([ACCURACY]))
    assert {"missing": "b on tiny/paths, seed 2", "code": "beefbeefbeef (1 runs)", "data": "another (1 runs)"}[
        fault
    ] in str(refused.value)
    others = [other for other in FAULTS if other != fault]
    with pytest.raises(UserError, match=f"--allow={fault}"):
        tabulate(results, Table([ACCURACY]), allow=others)
    sheet = only_sheet(results, allow=[fault])
    assert {name: cell.marks for name, cell in cells_of(sheet).items()} == {"a": "", "b": ""} | {row_: fault[0]}
    assert FAULTS[fault] in notes_of(sheet)
    clean = only_sheet(make_results({"a": [0.1], "b": [0.2]}), allow=list(FAULTS))
    assert not any(text in notes_of(clean) for text in FAULTS.values())


def test_all_faults_are_told_at_once():
    results, _ = planted("data")
    results = dataclasses.replace(results, runs=results.runs[:-1])
    with pytest.raises(UserError, match="--allow=missing,data"):
        tabulate(results, Table([ACCURACY]))


def test_rows_on_other_data_are_not_tested():
    rng = np.random.default_rng(0)
    results = make_results({"a": rng.random(20), "b": rng.random(20) + 1})
    runs = [
        dataclasses.replace(run, record=make_record(run.seed, fingerprint="other", **{ACCURACY: run.value(ACCURACY)}))
        if run.row == "a" and run.seed < 5
        else run
        for run in results.runs
    ]
    changed = dataclasses.replace(results, runs=tuple(runs))
    assert cells_of(only_sheet(changed, allow=["data"]))["a"].p_best is None
    assert cells_of(only_sheet(results))["a"].p_best is not None


def test_two_tables_may_come_from_two_versions_of_the_code_but_one_may_not():
    first, second = make_results({"a": [0.1]}), make_results({"a": [0.2]}, data="tiny/flat", code="beef" * 16)
    both = Results("study", first.expected + second.expected, first.runs + second.runs)
    assert len(tabulate(both, Table([ACCURACY]))) == 2
    with pytest.raises(UserError, match="--allow=code"):
        tabulate(both, Table([ACCURACY], by="metric"))
    [sheet] = tabulate(both, Table([ACCURACY], by="metric"), allow=["code"])
    assert [cell.mean for cell in sheet.rows[0].cells] == pytest.approx([0.1, 0.2])
    assert [column.title for column in sheet.columns] == ["tiny/paths", "tiny/flat"]


@pytest.mark.parametrize(("place", "order"), [(ACCURACY, "c 1.00, b 2.00, a 3.00"), (LOSS, "a 1.00, b 2.00, c 3.00")])
def test_rows_are_ranked_over_data_sets(place, order):
    """Rows of known ranks; one without a number on a data set is left out, and a table of one data set has no ranks."""
    parts = [
        make_results({name: [0.1 * data + 0.01 * at] for at, name in enumerate("abc")}, place, data=f"set/{data}")
        for data in range(4)
    ]
    parts.append(make_results({"d": [0.9]}, place, data="set/0"))
    results = Results("study", sum((part.expected for part in parts), ()), sum((part.runs for part in parts), ()))
    [sheet] = tabulate(results, Table([place], by="metric"))
    [note] = [note for note in sheet.notes if note.startswith("Mean ranks")]
    assert f"all 4 data sets, 1 the best: {order}. " in note
    assert "p < .0001" in note
    critical = 2.343 * (3 * 4 / (6 * 4)) ** 0.5
    assert f"differ by {critical:.2f}." in note
    for sheet in tabulate(results, Table([place])):
        assert not any(note.startswith("Mean ranks") for note in sheet.notes)


def test_a_data_set_without_any_record_keeps_its_rows():
    results = make_results(
        {"a": [0.1, 0.2]}, expected=[("a", "tiny/paths", 0), ("a", "tiny/paths", 1), ("b", "new", 0)]
    )
    sheets = tabulate(results, Table([ACCURACY]), allow=["missing"])
    assert [[(row_.name, row_.cells[0].marks) for row_ in sheet.rows] for sheet in sheets] == [
        [("a", "")],
        [("b", "m")],
    ]


def test_stale_records_are_told():
    results = make_results({"a": [0.1]}, code="beef" * 16)
    assert "all records are stale" in results.stale("c0de" * 16)
    assert results.stale("beef" * 16) is None
    mixed, _ = planted("code")
    assert mixed.stale("0" * 64) is None  # it is refused, which says more


# What a table is told


MISTAKES = {
    "columns of text": (lambda: Table(columns="test.mode.micro_f1"), "is a list of places"),
    "a misspelt metric": (lambda: Table(["test.mode.subset_acuracy"]), "did you mean 'subset_accuracy'"),
    "no place": (lambda: Table(["subset_accuracy"]), "is no place of a number"),
    "a misspelt split": (lambda: Table(["tset.mode.micro_f1"]), "is no place of a number"),
    "a misspelt test": (lambda: Table(test="wilcoxn"), "did you mean 'wilcoxon'"),
    "a misspelt unit": (lambda: Table(unit="seed"), "did you mean 'seeds'"),
    "a misspelt by": (lambda: Table(by="metrics"), "did you mean 'metric'"),
    "ranks of examples": (lambda: Table(unit="examples"), "goes with test='bootstrap'"),
    "alpha": (lambda: Table(alpha=5.0), "alpha is between 0 and 1"),
    "tolerance": (lambda: Table([LOSS], tolerance={ACCURACY: 0.1}), "there is no column"),
    "tested": (lambda: Table([LOSS], tested=[ACCURACY]), "there is no column"),
    "no source": (lambda: Table(published={"d": {"r": {LOSS: 0.1}}}), "say under 'source'"),
    "a published text": (lambda: Table(published={"d": {"r": {"source": "s", LOSS: "0.1"}}}), "is not a number"),
    "a published place": (lambda: Table([LOSS], published={"d": {"r": {"source": "s", ACCURACY: 1}}}), "no column"),
    "a baseline": (lambda: tabulate(make_results({"abc": [1.0]}), Table([LOSS], baseline="abd")), "mean 'abc'"),
    "a data set": (
        lambda: tabulate(make_results({"a": [1.0]}), Table([LOSS], published={"tiny/pats": {"r": {"source": "s"}}})),
        "mean 'tiny/paths'",
    ),
    "a decision": (
        lambda: tabulate(make_results({"a": [1.0]}), Table(["test.mod.hamming_loss"])),
        "mean 'test.mode.hamming_loss'",
    ),
    "what to allow": (lambda: tabulate(make_results({"a": [1.0]}), Table([LOSS]), allow=["mising"]), "mean 'missing'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        make()


def test_macro_f1_is_given_over_all_labels_and_over_those_present():
    pair = ("test.mode.macro_f1", "test.mode.macro_f1_present")
    assert Table(["test.mode.macro_f1"]).places == pair
    assert Table(["test.mode.macro_f1_present", LOSS, "test.mode.macro_f1"]).places == (*pair, LOSS)


def test_every_reported_metric_is_defined_and_has_a_direction():
    labels = np.random.default_rng(0).random((20, 6)) < 0.4
    labels[:, 0] |= labels[:, 1]
    hierarchy = LabelHierarchy.from_edges("abcdef", np.array([[1, 0]]))
    frequencies = label_sets(labels).frequencies(6)
    perfect, worst = (
        run_metrics(np.log(np.where(preds, 0.9, 0.1)).astype(np.float32), {"mode": preds}, labels, *others)
        for preds, others in (
            (labels, (hierarchy, None, frequencies, np.zeros(20))),
            (~labels, (hierarchy, None, frequencies, np.ones(20))),
        )
    )
    reported = {name for group in perfect.values() for name in group}
    assert reported == set(HIGHER | LOWER | NEITHER)
    for group, numbers in perfect.items():
        for name, value in numbers.items():
            place = f"test.{group}.{name}"
            check_place(place)
            sign = direction(place)
            assert sign == (0 if name in NEITHER else 1 if value > worst[group][name] else -1), name


def test_a_metric_stands_in_its_own_group():
    for place, group in (
        ("test.mode.calibration_error", "probabilities"),
        ("test.ranking.brier_score", "probabilities"),
        ("test.half.ranking_loss", "ranking"),
        ("test.probabilities.micro_f1", "a decision, such as mode"),
        ("test.mode.mean", "loss"),
    ):
        with pytest.raises(UserError, match=f"is one of {group}"):
            check_place(place)


def test_definitions_are_printed_with_the_table():
    notes = "\n".join(define([*COLUMNS, "test.global_threshold.macro_f1", "test.ranking.micro_average_precision"]))
    assert "mean over all labels, those without a positive in the split too" in notes
    assert "mean over the labels with a positive in the split" in notes
    assert "0/0 = 0" in notes
    assert "one threshold, which was fitted on the validation split" in notes
    assert "AU(PRC) by average precision, which does not interpolate" in notes
    assert len({title(place) for place in (*HIGHER, *LOWER) for place in (f"test.mode.{place}",)}) == len(
        HIGHER | LOWER
    )


def test_published_numbers_stand_beside_and_are_in_no_test():
    rng = np.random.default_rng(0)
    results = make_results({"a": rng.random(12) / 2, "b": rng.random(12) / 2})
    published = {"tiny/paths": {"theirs": {"source": "Somebody, Something, 1999", ACCURACY: 0.99}}}
    plain, beside = only_sheet(results), only_sheet(results, Table([ACCURACY], published=published))
    assert [row_.name for row_ in beside.rows] == ["a", "b", "theirs (published)"]
    assert [dataclasses.asdict(cells_of(beside)[name]) for name in "ab"] == [
        dataclasses.asdict(cells_of(plain)[name]) for name in "ab"
    ]
    theirs = cells_of(beside)["theirs (published)"]
    assert (theirs.mean, theirs.n, theirs.sd, theirs.best) == (0.99, 0, None, False)
    assert "Somebody, Something, 1999" in notes_of(beside)
    assert beside.num_comparisons == plain.num_comparisons == 1
