"""What a threshold of the marginals does to F1, and where the fitted one lies."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from mlresearch.decisions import counts_at
from mlresearch.figures import style
from mlresearch.metrics import LabelCounts
from mlresearch.scored import ScoredSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = tuple((np.arange(1, 50) / 50).tolist())
"""Thresholds that are tried."""


class Thresholds(NamedTuple):
    """F1 by threshold, and the threshold that the run has fitted, NaN where it has none."""

    thresholds: Float[np.ndarray, "thresholds"]
    micro_f1: Float[np.ndarray, "thresholds"]
    macro_f1: Float[np.ndarray, "thresholds"]
    fitted: float


def f1_by_threshold(scored: ScoredSplit, fitted: float, grid: tuple[float, ...] = GRID) -> Thresholds:
    """Return F1 at each threshold of a split; macro-F1 over the labels with a positive in it."""
    parts = [counts_at(block, grid) for [block] in scored]
    merged = [functools.reduce(LabelCounts.merge, at) for at in zip(*parts, strict=True)]
    metrics = [counts.compute() for counts in merged]
    micro, macro = ([at[name] for at in metrics] for name in ("micro_f1", "macro_f1_present"))
    return Thresholds(np.array(grid), np.array(micro), np.array(macro), fitted)


@style.styled()
def draw_thresholds(curves: Mapping[str, Thresholds], title: str, rows: Sequence[str] = ()) -> "Figure":
    """Draw micro-F1 above macro-F1 against the threshold by row, with a large mark at the fitted one.

    rows: as `style.looks` takes them.
    """
    looks = style.looks(curves, rows)
    figure = style.figure(style.COLUMN, 3.3 + 0.14 * len(curves))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, ("micro_f1", "macro_f1"), strict=True):
        for name, row in curves.items():
            values, look = getattr(row, metric), looks[name]
            axes.plot(row.thresholds, values, color=look.color, linestyle=look.linestyle)
            at = np.interp(row.fitted, row.thresholds, values)
            # The label's sample has both the line and the mark.
            axes.plot([row.fitted], [at], **look._asdict(), label=name, markersize=6, markeredgecolor="#ffffff")
        axes.grid()
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel({"micro_f1": "micro-F1", "macro_f1": "macro-F1, present"}[metric])
    style.heading(figure, title)
    panels[1].set_xlabel("threshold; marks: the one that was fitted")
    style.legend(figure, [panels[0]])
    return figure
