"""Mean ranks over data sets, and which rows are not told apart."""

from typing import TYPE_CHECKING, Any

from mlresearch.figures import style
from mlresearch.tables.ranking import MeanRanks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 0.145
"""Inches from one row's name to the next."""

IN_COLUMN = 10
"""Rows that a column of a paper takes; of more, the diagram is as wide as a page."""


@style.styled()
def draw_critical_difference(found: MeanRanks, title: str) -> "Figure":
    """Draw rows on an axis of mean ranks, the best on the left; a bar joins those that are not told apart.

    The bar above the axis is as long as the critical difference. Source: Demšar, "Statistical Comparisons of
    Classifiers over Multiple Data Sets", 2006.
    """
    names, ranks = list(found.ranks), list(found.ranks.values())
    number, cliques = len(names), found.cliques
    levels = _levels([(names.index(clique[0]), names.index(clique[-1])) for clique in cliques])
    left = (number + 1) // 2
    width, room, letters = (style.COLUMN, 1.05, 18) if number <= IN_COLUMN else (style.PAGE, 1.9, 34)
    heading = style.wrapped(title, width)
    depth = 0.16 + 0.07 * (max(levels, default=-1) + 1)  # inches from the axis to the first name
    above = 0.52 + 0.13 * (heading.count("\n") + 1)
    height = above + depth + ROW * left + 0.02
    figure = style.figure(width, height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in inches from the top left
    axes.set_axis_off()
    ink: dict[str, Any] = {"color": "#000000", "linewidth": 0.8, "solid_capstyle": "butt"}

    def at(rank: float | int) -> float:
        return room + 0.06 + (rank - 1) / (number - 1) * (width - 2 * room - 0.12)

    axes.text(width / 2, 0.03, heading, ha="center", va="top", fontsize=8)
    axes.plot([at(1), at(number)], [above, above], **ink)
    step = -(-number // 20) if width > style.COLUMN else -(-number // 6)
    for tick in range(1, number + 1):
        marked = not (tick - 1) % step
        axes.plot([at(tick)] * 2, [above, above - (0.06 if marked else 0.035)], **ink)
        if marked:
            axes.text(at(tick), above - 0.08, str(tick), ha="center", va="bottom", fontsize=7)
    bar = above - 0.27
    shown = min(found.critical_difference, number - 1.0)
    axes.plot([at(1), at(1 + shown)], [bar, bar], **ink | {"linewidth": 1.4})
    for end in (1.0, 1.0 + shown):
        axes.plot([at(end)] * 2, [bar - 0.03, bar + 0.03], **ink)
    axes.text(at(1) - 0.05, bar, f"CD {found.critical_difference:.2f}", ha="right", va="center", fontsize=7)

    for place, (name, rank) in enumerate(found.ranks.items()):
        on_left = place < left
        y = above + depth + ROW * ((place if on_left else number - 1 - place) + 0.5)
        end, side = (room, "right") if on_left else (width - room, "left")
        axes.plot([at(rank), at(rank), end], [above, y, y], **ink)
        beside = end - 0.03 if on_left else end + 0.03
        axes.text(beside, y, style.squeezed(name, letters), ha=side, va="center", fontsize=7)
    for clique, level in zip(cliques, levels, strict=True):
        y = above + 0.08 + 0.07 * level
        ends = [at(ranks[names.index(name)]) + shift for name, shift in ((clique[0], -0.03), (clique[-1], 0.03))]
        axes.plot(ends, [y, y], **ink | {"linewidth": 2.6})
    return figure


def _levels(spans: list[tuple[int, int]]) -> list[int]:
    """Return on which line each bar lies, so that none meets another: the first line that is free."""
    last: list[int] = []  # the end of the last bar of each line
    levels = []
    for start, stop in spans:
        free = [level for level, end in enumerate(last) if end < start]
        level = free[0] if free else len(last)
        last[level : level + 1] = [stop]
        levels.append(level)
    return levels
