"""Reliability diagrams: how often labels are on that have some probability."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mlresearch.figures import style
from mlresearch.metrics import Reliability
from mlresearch.scored import ScoredSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Bins(NamedTuple):
    """Known cells by the bin of their probability: how many, the mean probability, and the share that is on.

    Bins are of equal width between 0 and 1. Means of an empty bin are NaN.
    """

    counts: Int[np.ndarray, "bins"]
    predicted: Float[np.ndarray, "bins"]
    observed: Float[np.ndarray, "bins"]


def reliability(scored: ScoredSplit) -> Bins:
    """Return the bins of all marginals of a split together, those that the calibration error is of.

    Source: DeGroot and Fienberg, "The Comparison and Evaluation of Forecasters", 1983; diagrams as in Niculescu-Mizil
    and Caruana, "Predicting Good Probabilities with Supervised Learning", 2005.
    """
    parts = (Reliability.of(block.log_marginals, block.labels, block.known) for [block] in scored)
    whole = functools.reduce(Reliability.merge, parts)
    counts, sums, on = (each.sum(axis=0) for each in (whole.cells, whole.probabilities, whole.positives))
    there = np.where(counts, counts, np.nan)
    return Bins(counts, sums / there, on / there)


@style.styled()
def draw_calibration(bins: Mapping[str, Bins], title: str, rows: Sequence[str] = ()) -> "Figure":
    """Draw the share of labels that are on against their probability by row, and below how many cells a bin holds.

    rows: as `style.looks` takes them.
    """
    looks = style.looks(bins, rows)
    figure = style.figure(style.COLUMN, 3.3 + 0.14 * len(bins))
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=style.GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    for name, row in bins.items():
        look, there = looks[name], row.counts > 0
        (line,) = axes.plot(row.predicted[there], row.observed[there], label=name)
        line.set(**look._asdict())
        edges = np.linspace(0, 1, len(row.counts) + 1)
        below.stairs(row.counts, edges, baseline=None, color=look.color, linestyle=look.linestyle, linewidth=1)
    style.shares(axes)
    axes.set(ylabel="share that is on")
    style.heading(figure, title)
    below.set(xlabel="probability", ylabel="cells", yscale="log")
    below.set_ylim(bottom=0.8)
    below.yaxis.set_major_formatter(style.with_commas)
    below.minorticks_off()
    below.grid()
    style.legend(figure, [axes])
    return figure
