"""How figures look, and what is drawn, read back."""

import dataclasses
import io
import itertools
import sys
import xml.etree.ElementTree
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from small_tables import ACCURACY, LOSS, make_record, make_results, only_sheet

from mlresearch.config import base_config
from mlresearch.errors import UserError
from mlresearch.figures import (
    attention,
    calibration,
    cooccurrence,
    drawing,
    label_f1,
    learning,
    style,
    thresholds,
)
from mlresearch.figures import critical_difference as ranks_figure
from mlresearch.figures import metrics as metrics_figure
from mlresearch.figures import precision_recall as curves
from mlresearch.tables import Table
from mlresearch.tables.ranking import mean_ranks
from mlresearch.tables.results import Result, Results

LONG = ["linear+independent", "label_attention+independent ensemble ×10", *(f"row {at}" for at in range(8))]


# The looks.


def test_rows_are_told_apart_in_greyscale():
    assert len({look.marker for look in style.LOOKS}) == len(style.LOOKS)
    greys = [style.brightness(look.color) for look in style.LOOKS]
    for one, other in itertools.combinations(range(len(style.LOOKS)), 2):
        apart = abs(greys[one] - greys[other])
        assert apart > 0.1 or style.LOOKS[one].linestyle != style.LOOKS[other].linestyle or abs(one - other) > 1
    assert min(abs(one - other) for one, other in itertools.pairwise(greys)) > 0.1
    assert max(greys) < 0.7  # on white


def test_the_colours_of_maps_only_grow_brighter():
    colors = matplotlib.colormaps[style.COLORMAP](np.linspace(0, 1, 50))
    assert (np.diff([style.brightness(color) for color in colors]) > 0).all()


def test_names_are_cut_to_what_fits():
    for width in (5, 8, 9):
        assert len(style.cut("abcdefghijkl", width)) == len(style.squeezed("abcdefghijkl", width)) == width
    assert style.squeezed("one ensemble ×10", 10).endswith("×10")
    assert style.cut("short", 5) == style.squeezed("short", 5) == "short"


def test_titles_break_between_words_and_a_word_only_if_it_must():
    assert style.wrapped("validation macro_f1 (label_thresholds)", 1.0, 7.0).split("\n") == [
        "validation macro_",
        "f1 (label_",
        "thresholds)",
    ]
    assert style.wrapped("on all  of\nthem", 3.0) == "on all of them"
    assert style.wrapped("x" * 20, 0.1).split("\n") == ["x" * 8, "x" * 8, "x" * 4]


def test_names_that_differ_in_the_middle_stay_apart():
    names = ["conditional any, 0.001", "conditional one, 0.001"]
    assert style.squeezed_apart(names, 10, 22) == names
    assert style.squeezed_apart(names, 10, 21) == ["conditiona…any, 0.001", "conditiona…one, 0.001"]
    assert style.squeezed_apart([names[0], "mixture", names[0]], 10, 22) == ["condi….001", "mixture", "condi….001"]


def all_figures():
    """One figure of each kind, as crowded as it may be."""
    rng = np.random.default_rng(0)
    x = np.linspace(0.001, 1, 3000)
    of_curves = {name: curves.Curve(x, 1 - x ** (1 + at), 0.5) for at, name in enumerate(LONG)}
    edges = np.linspace(0.05, 0.95, 10)
    of_bins = {name: calibration.Bins(np.arange(10) * 500, edges, edges**2) for name in LONG[:5]}
    grid = np.linspace(0.02, 0.98, 20)
    of_grid = {name: thresholds.Thresholds(grid, 1 - grid, grid / 2, 0.3 + at / 50) for at, name in enumerate(LONG)}
    of_labels = {name: rng.random(60) for name in LONG[:4]}
    of_epochs = {name: learning.Band(x[::99], x[::99], x[::99] / 2, x[::99] * 2) for name in LONG}
    counts = rng.integers(5, 20, (20, 20))
    counts = counts + counts.T + 100 * np.eye(20, dtype=int)
    lines = {name: metrics_figure.Line(np.array([0.0, 1, 2, 8]), rng.random(4), np.full(4, 0.1)) for name in LONG}
    ranks = mean_ranks({name: rng.random(6).tolist() for name in LONG}, better=1, alpha=0.05)
    long_title = "experiment of a long name: data set of a long name, test, seed 0"
    sheet = only_sheet(make_results({name: [0.5, 0.6 + at / 50] for at, name in enumerate(LONG)}))
    return {
        "precision_recall": curves.draw_precision_recall(of_curves, long_title),
        "calibration": calibration.draw_calibration(of_bins, long_title),
        "thresholds": thresholds.draw_thresholds(of_grid, long_title),
        "label_f1": label_f1.draw_label_f1(of_labels, rng.integers(0, 3000, 60), long_title),
        "learning": learning.draw_learning({"train_loss": of_epochs, "validation.loss.mean": of_epochs}, long_title),
        "cooccurrence": cooccurrence.draw_data_against_model(counts, counts, 200, LONG * 2, long_title),
        "attention": attention.draw_attention(["▁word", "s"] * 60, {"label": rng.random(120)}, long_title),
        "critical_difference": ranks_figure.draw_critical_difference(ranks, long_title),
        "metrics": metrics_figure.draw_metrics(sheet),
        "against": metrics_figure.draw_against({"flat": lines, "tree": lines}, "micro_f1", "dependence", long_title),
    }


@pytest.fixture(scope="module")
def figures():
    return all_figures()


def test_figures_fit_a_column_and_can_be_read(figures):
    for name, figure in figures.items():
        style.svg(figure)  # lays it out
        with style.styled():
            drawn = figure.get_tightbbox()
        assert figure.get_figwidth() == style.COLUMN, name
        assert figure.get_figheight() <= 9, name
        beyond = [-drawn.x0, -drawn.y0, drawn.x1 - style.COLUMN, drawn.y1 - figure.get_figheight()]
        assert max(beyond) < 0.02, (name, drawn)  # inches: nothing is cut
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) >= 7, name
        assert not any("mathdefault" in text.get_text() for text in texts), name


def test_the_same_figure_gives_the_same_bytes(figures, tmp_path):
    again = all_figures()
    for name in ("calibration", "learning", "attention"):
        first, second = (style.save(made[name], tmp_path / at, name) for at, made in (("a", figures), ("b", again)))
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes()
        width = matplotlib.image.imread(tmp_path / "a" / f"{name}.png").shape[1]
        assert width == round(style.COLUMN * style.STYLE["figure.dpi"])
        written = style.svg(figures[name])
        assert written == style.svg(again[name])
        assert xml.etree.ElementTree.parse(io.StringIO(written)).getroot().tag.endswith("svg")


# What is drawn.


def test_curves_are_drawn_as_they_are(figures):
    [axes] = figures["precision_recall"].axes
    assert len(axes.lines) == len(LONG)
    for at, line in enumerate(axes.lines):
        recall, precision = line.get_data()
        np.testing.assert_allclose(precision, 1 - recall ** (1 + at))
        assert len(recall) <= 400
    [legend] = figures["precision_recall"].legends
    assert [text.get_text().rpartition(", ")[2] for text in legend.get_texts()] == ["0.500"] * len(LONG)


def test_empty_bins_are_left_out(figures):
    axes, below = figures["calibration"].axes
    assert [len(line.get_xdata()) for line in axes.lines] == [2] + [9] * 5  # the diagonal, and bins but the empty first
    assert below.patches[0].get_data().values.tolist() == (np.arange(10) * 500).tolist()


def test_the_fitted_threshold_is_marked_on_the_line(figures):
    upper, lower = figures["thresholds"].axes
    for axes, value in ((upper, lambda at: 1 - at), (lower, lambda at: at / 2)):
        marks = [line.get_data() for line in axes.lines if len(line.get_xdata()) == 1]
        assert [mark[0][0] for mark in marks] == pytest.approx([0.3 + at / 50 for at in range(len(LONG))])
        assert [mark[1][0] for mark in marks] == pytest.approx([value(mark[0][0]) for mark in marks])


def test_bands_are_drawn_between_low_and_high(figures):
    axes = figures["learning"].axes[0]
    areas = [each for each in axes.collections if isinstance(each, PolyCollection)]
    assert len(areas) == len(axes.lines) == len(LONG)
    x, y = axes.lines[0].get_data()
    corners = areas[0].get_paths()[0].vertices
    for at, mean in zip(x, y, strict=True):
        own = corners[np.isclose(corners[:, 0], at), 1]
        assert (own.min(), own.max()) == pytest.approx((mean / 2, 2 * mean))


def test_the_data_stand_below_the_diagonal_and_the_model_above():
    data, model = np.array([[50, 10, 5], [10, 40, 0], [5, 0, 10]]), np.array([[60, 30, 1], [30, 30, 2], [1, 2, 4]])
    figure = cooccurrence.draw_data_against_model(data, model, 100, ["a", "b", "c"], "")
    axes = figure.axes[0]
    order = ["abc".index(text.get_text()) for text in axes.get_xticklabels()]
    values = np.asarray(axes.images[0].get_array())
    for row, column in itertools.permutations(range(3), 2):
        counts = (data if row > column else model)[np.ix_(order, order)]
        p, q, both = counts[row, row] / 100, counts[column, column] / 100, counts[row, column] / 100
        assert values[row, column] == pytest.approx((both - p * q) / np.sqrt(p * (1 - p) * q * (1 - q)))


def test_pieces_are_the_darker_the_more_is_read_of_them():
    figure = attention.draw_attention(["▁a", "b", "▁c"], {"x": np.array([0.1, 0.4, 0.0]), "y": np.zeros(3)}, "")
    greys = [patch.get_facecolor()[0] for patch in figure.axes[0].patches]
    assert greys == pytest.approx([0.75, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert "darkest: 0.40, whole text: 0.50" in [text.get_text() for text in figure.axes[0].texts]


def test_ranks_stand_on_the_axis_and_bars_join_what_is_not_told_apart():
    values = {"a": [3.0] * 9, "b": [2.0] * 8 + [4.0], "c": [1.0] * 9, "d": [0.0] * 9}
    found = mean_ranks(values, better=1, alpha=0.05)
    figure = ranks_figure.draw_critical_difference(found, "")
    axes = figure.axes[0]
    elbows = {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 3}
    ends = {text.get_text(): text.get_position()[0] for text in axes.texts if text.get_text() in ("1", "2", "3", "4")}
    inch = ends["2"] - ends["1"]
    assert sorted(elbows) == pytest.approx([ends["1"] + (rank - 1) * inch for rank in sorted(found.ranks.values())])
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() > 2]
    assert len(bars) == len(found.cliques)
    for bar, clique in zip(bars, found.cliques, strict=True):
        wanted = [ends["1"] + (found.ranks[name] - 1) * inch for name in (clique[0], clique[-1])]
        np.testing.assert_allclose(bar - np.array([-0.03, 0.03]), wanted)


def test_bars_of_one_line_do_not_meet():
    spans = [(0, 3), (1, 4), (4, 6), (5, 7), (6, 9)]
    levels = ranks_figure._levels(spans)
    for (one, at), (other, level) in itertools.combinations(list(zip(spans, levels, strict=True)), 2):
        assert at != level or one[1] < other[0]


def test_metrics_are_means_with_deviations_and_published_ones_diamonds():
    published = {"tiny/paths": {"theirs": {"source": "Someone, 2020", ACCURACY: 0.7}}}
    sheet = only_sheet(make_results({"a": [0.1, 0.3], "b": [0.6]}), Table(columns=[ACCURACY], published=published))
    axes = metrics_figure.draw_metrics(sheet).axes[0]
    points = {container.lines[0].get_ydata()[0]: container.lines[0] for container in axes.containers}
    assert [points[at].get_xdata()[0] for at in range(3)] == pytest.approx([0.2, 0.6, 0.7])
    assert [points[at].get_marker() for at in range(3)] == ["o", "o", "D"]
    [bar] = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 0].tolist() == pytest.approx([0.2 - np.std([0.1, 0.3], ddof=1), 0.2 + np.std([0.1, 0.3], ddof=1)])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "theirs ◇"]


@pytest.mark.parametrize(("low", "high"), [(0.0331, 0.0472), (0.1934, 0.1991), (-1, 5), (0.9999, 1.0001), (12, 4e5)])
def test_ticks_keep_away_from_the_ends_of_a_panel(low, high):
    ticks = metrics_figure._inner_ticks(low, high)
    assert 1 <= len(ticks) <= 2
    assert low + 0.1 * (high - low) < min(ticks) <= max(ticks) < high - 0.1 * (high - low)


def test_a_figure_of_metrics_has_the_columns_that_rows_are_compared_by():
    published = {"tiny/paths": {"theirs": {"source": "Someone, 2020", LOSS: 0.2}}}  # of a column that is not drawn
    table = Table(columns=[ACCURACY, LOSS], tested=[ACCURACY], published=published, tolerance={LOSS: 0.1})
    [made] = drawing.draw(make_results({"a": [0.1, 0.2], "b": [0.3, 0.4]}), table, ["metrics"])
    assert [axes.get_title() for axes in made.figure.axes] == ["subset_accuracy ↑"]
    assert [text.get_text() for text in made.figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_points_of_faulty_records_are_hollow():
    found = make_results({"a": [0.1, 0.2], "b": [0.3, 0.4]})
    missing = dataclasses.replace(found, expected=(*found.expected, ("a", "tiny/paths", 2)))
    [made] = drawing.draw(missing, Table(columns=[ACCURACY]), ["metrics"], ["missing"])
    faces = [container.lines[0].get_markerfacecolor() for container in made.figure.axes[0].containers]
    assert [face == "#ffffff" for face in faces] == [True, False]
    assert made.remark.startswith("hollow points, m: ")
    with pytest.raises(UserError, match="missing"):
        list(drawing.draw(missing, Table(columns=[ACCURACY]), ["metrics"]))


def against(strengths, shapes=("flat", "tree")):
    """Results of data sets that differ in the strength of dependence, and in their shape."""
    runs = []
    for shape, strength, (row, name, gain) in itertools.product(
        shapes, strengths, [("best", "truth", 0.1), ("plain", "x", 0.0)]
    ):
        config = base_config()
        config.data.name, config.data.synthetic.shape, config.data.synthetic.dependence = "synthetic", shape, strength
        data = f"{shape}, dependence {strength:g}"
        value = strength / 100 + gain + 0.5 * (shape == "tree")
        record = make_record(0, data, name=name, **{ACCURACY: value})
        runs.append(Result(row, record, Path("r.json"), None, config, data))
    return Results("study", tuple((run.row, run.data, run.seed) for run in runs), tuple(runs))


def test_numbers_are_drawn_against_a_setting():
    table = Table(columns=[ACCURACY], against="data.synthetic.dependence")
    [made] = drawing.draw(against([4.0, 0.0, 2.0]), table, ["metrics"])
    assert made.name == f"metrics-{ACCURACY}"
    for axes, shift in zip(made.figure.axes, (0.0, 0.5), strict=True):
        bound, plain = axes.lines[0], axes.containers[0].lines[0]
        assert bound.get_xdata().tolist() == [0, 2, 4]
        assert bound.get_ydata().tolist() == pytest.approx([0.1 + shift, 0.12 + shift, 0.14 + shift])
        assert plain.get_ydata().tolist() == pytest.approx([shift, 0.02 + shift, 0.04 + shift])
    assert [axes.get_title() for axes in made.figure.axes] == ["flat", "tree"]
    [none] = drawing.draw(against([0.0, 2.0]), Table(columns=[ACCURACY], against="data.name"), ["metrics"])
    assert none.figure is None
    assert "data.name" in none.remark


def test_ranks_are_of_enough_data_sets_and_rows():
    def made(num_data_sets, rows):
        runs = []
        for data in range(num_data_sets):
            own = make_results({name: [0.1 * at + data / 90] for at, name in enumerate(rows)}, data=f"d{data}")
            runs += own.runs
        return Results("study", tuple((run.row, run.data, run.seed) for run in runs), tuple(runs))

    table = Table(columns=[ACCURACY])
    [there] = drawing.draw(made(5, "abc"), table, ["critical_difference"])
    assert there.figure is not None
    for few, why in ((made(4, "abc"), "5 data sets"), (made(5, "ab"), "three rows")):
        [left_out] = drawing.draw(few, table, ["critical_difference"])
        assert left_out.figure is None
        assert why in left_out.remark


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'mlresearch\[figures\]'"):
        next(drawing.draw(make_results({"a": [0.1]}), Table(columns=[ACCURACY]), ["learning"]))


@pytest.mark.parametrize(("high", "least"), [(40, 3), (90, 3), (4000, 3)])
def test_an_axis_of_frequencies_has_several_numbers(high, least):
    frequencies = np.array([3, 4, high])
    figure = label_f1.draw_label_f1({"row": np.array([0.1, 0.2, 0.3])}, frequencies, "title")
    left, right = figure.axes[0].get_xlim()
    assert len([tick for tick in figure.axes[0].get_xticks() if left <= tick <= right]) >= least
