"""Precision against recall, all cells in one ranking."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from mlresearch.figures import style
from mlresearch.metrics import Positives, Ranks
from mlresearch.scored import ScoredSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Curve(NamedTuple):
    """Precision and recall among the cells that score no less than each distinct score of a positive, from the top.

    average_precision: the mean of the precision over positives.
    """

    recall: Float[np.ndarray, "points"]
    precision: Float[np.ndarray, "points"]
    average_precision: float


def micro_curve(scored: ScoredSplit) -> Curve:
    """Return the curve of all known cells of a split in one ranking; of positives of probability 0 there is no point.

    Between these points, precision only falls: they are the corners of the curve on the side of high precision. Two
    passes over the split; memory is that of its positives.
    """
    positives = functools.reduce(
        Positives.merge, (Positives.of(block.log_marginals, block.labels, block.known) for [block] in scored)
    )
    ranks = functools.reduce(
        Ranks.merge, (Ranks.of(positives, block.log_marginals, block.labels, block.known) for [block] in scored)
    )
    scores, count = positives.ranked[::-1], len(positives.ranked)
    hits = count - np.searchsorted(positives.ranked, scores)
    precision, recall = hits / (hits + ranks.all_alarms[::-1]), hits / max(count, 1)
    corners = (scores > -np.inf) & np.append(scores[1:] != scores[:-1], True)
    average = ranks.compute()["micro_average_precision"]
    return Curve(recall[corners], precision[corners], average)


@style.styled()
def draw_precision_recall(curves: Mapping[str, Curve], title: str, rows: Sequence[str] = ()) -> "Figure":
    """Draw curves by row, thinned; the legend has each row's average precision, AU(PRC).

    rows: as `style.looks` takes them.
    """
    looks = style.looks(curves, rows)
    figure = style.figure(style.COLUMN, 2.6 + 0.14 * len(curves))
    axes = figure.add_subplot()
    for number, (name, curve) in enumerate(curves.items()):
        kept = style.thin(curve.recall, curve.precision)
        label = f"{style.squeezed(name, 36)}, {curve.average_precision:.3f}"
        (line,) = axes.plot(curve.recall[kept], curve.precision[kept], label=label)
        line.set(**looks[name]._asdict(), markevery=style.spread_markers(number, len(curves)))
    style.shares(axes)
    axes.set(xlabel="recall", ylabel="precision")
    style.heading(figure, title)
    style.legend(figure, [axes])
    return figure
