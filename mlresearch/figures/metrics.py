"""The numbers of a table: as points by row and column, or as lines against a setting."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from mlresearch.figures import style
from mlresearch.tables.tabulate import FAULTS, Sheet
from mlresearch.tables.typeset import ARROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IN_COLUMN = 6
"""Panels that a column of a paper takes, two side by side; more are as wide as a page."""

PANEL = 0.85
"""Inches that a panel is wide at least."""

ROW = 0.125
"""Inches from one row of a panel to the next."""

LOG_RANGE = 20.0
"""A setting whose largest value is so many times its smallest, a positive one, is drawn on a logarithmic axis."""


@style.styled()
def draw_metrics(sheet: Sheet) -> "Figure":
    """Draw a table: a panel a column with an axis of its own, and in it each row's mean with its standard deviation.

    The best mean is black; hollow points are cells with one of `FAULTS`; diamonds are published numbers.
    """
    names = style.squeezed_apart([row.name.replace(" (published)", " ◇") for row in sheet.rows], 22, 36)
    of_names = 0.15 + 0.053 * max(map(len, names), default=0)
    beside_names = min(len(sheet.columns), 2) * PANEL  # of long names alone a column of a paper is too narrow
    narrow = len(sheet.columns) <= IN_COLUMN and of_names + beside_names <= style.COLUMN
    width = style.COLUMN if narrow else style.PAGE
    across = max(min(int((width - of_names) / PANEL), len(sheet.columns)), 1)
    down = -(-len(sheet.columns) // across)
    across = -(-len(sheet.columns) // down)
    alike = all(column.title == column.data for column in sheet.columns)  # of one metric on several data sets
    arrows = ["" if alike else ARROWS[column.direction] for column in sheet.columns]
    heading = f"{sheet.name}: {sheet.about}{ARROWS[sheet.columns[0].direction] if alike else ''}"
    room = (width - of_names) / across - 0.05
    titles = [
        style.wrapped(f"{column.title}{arrow}", room, 7.0) for column, arrow in zip(sheet.columns, arrows, strict=True)
    ]
    lines = max(title.count("\n") for title in titles)
    figure = style.figure(width, 0.3 + down * (0.42 + 0.13 * lines + ROW * len(names)))
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for at, (axes, title) in enumerate(zip(panels, titles, strict=False)):
        for place, row in enumerate(sheet.rows):
            cell = row.cells[at]
            if cell.mean is None:
                continue
            color = style.GREY if cell.published is not None else "#000000" if cell.best else style.LOOKS[0].color
            hollow = cell.published is not None or any(fault[0] in cell.marks for fault in FAULTS)
            axes.errorbar(
                *(cell.mean, place),
                xerr=cell.sd,
                color=color,
                marker="D" if cell.published is not None else "o",
                markerfacecolor="#ffffff" if hollow else color,
                markersize=3.5,
                elinewidth=0.9,
                capsize=1.5,
            )
        axes.set_title(title, fontsize=7)
        axes.grid()
        axes.margins(x=0.12)
        axes.set_xticks(_inner_ticks(*axes.get_xlim()))
        axes.tick_params(axis="y", length=0)
    for axes in panels[len(titles) :]:
        axes.set_visible(False)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    panels[0].set_yticks(range(len(names)), names)
    style.heading(figure, heading)
    return figure


def _inner_ticks(low: float | int, high: float | int) -> list[float]:
    """Return two round numbers, or one, away from the ends of an axis, where they would meet those of its neighbour."""
    from matplotlib.ticker import MaxNLocator

    near = 0.12 * (high - low)
    ticks = [
        tick
        for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        if low + near <= tick <= high - near
    ]
    return ticks if len(ticks) < 3 else [ticks[0], ticks[-1]]


class Line(NamedTuple):
    """A row's number by setting: means and standard deviations over runs, NaN of a single run.

    is_bound: nobody can do better, or the like: drawn as a thick grey line.
    """

    settings: Float[np.ndarray, "points"]
    means: Float[np.ndarray, "points"]
    deviations: Float[np.ndarray, "points"]
    is_bound: bool = False


@style.styled()
def draw_against(panels: Mapping[str, Mapping[str, Line]], metric: str, setting: str, title: str) -> "Figure":
    """Draw a metric against a setting, a panel a group of data sets, a line a row with bars of its deviation."""
    rows = list(dict.fromkeys(row for own in panels.values() for row in own))
    drawn = [row for row in rows if not any(own[row].is_bound for own in panels.values() if row in own)]
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    figure = style.figure(style.COLUMN, 0.35 + 1.9 * down + 0.14 * len(rows))
    every = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, (name, own) in zip(every.ravel(), panels.items(), strict=False):
        for row, line in own.items():
            if line.is_bound:
                axes.plot(line.settings, line.means, color="#bbbbbb", linewidth=3, label=row, zorder=1)
                continue
            look, deviations = style.LOOKS[drawn.index(row)], np.nan_to_num(line.deviations)
            axes.errorbar(
                line.settings, line.means, deviations, **look._asdict(), label=row, capsize=1.5, elinewidth=0.8
            )
        _settings_axis(axes, sorted({value for line in own.values() for value in line.settings.tolist()}))
        axes.set_title(style.wrapped(name, style.COLUMN / across))
        axes.set_xlabel(setting)
        axes.grid()
    for axes in every.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes in every[:, 0]:
        axes.set_ylabel(metric)
    style.heading(figure, title)
    style.legend(figure, every.ravel())
    return figure


def _settings_axis(axes: "Axes", values: Sequence[float]) -> None:
    """Put a tick at each of few settings, on a logarithmic axis where they are far apart."""
    if values[0] > 0 and values[-1] / values[0] > LOG_RANGE:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(style.plain)
        return
    room = (values[-1] - values[0]) / 12
    ticks: list[float] = []
    for value in values:
        if not ticks or value - ticks[-1] >= room:
            ticks.append(value)
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])


def common_title(names: Sequence[str], setting: str) -> str:
    """Return what names of data sets have in common but a setting, as ``flat`` of ``flat, dependence 4``.

    setting: its own name. Where they have nothing else in common, the first of them.
    """
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in alike)
    between = r"[ ,=:/-]*"
    return re.sub(rf"{between}({re.escape(setting)})?{between}[0-9.]*$", "", shared) or names[0]
