"""F1 of each label against how often it is on in training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Num

from mlresearch.decisions import Decision
from mlresearch.evaluate import evaluate
from mlresearch.figures import style
from mlresearch.metrics import precision_recall_f1
from mlresearch.scored import ScoredSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_LABELS = 30
"""Of fewer labels there is no running median."""

WINDOW = 0.1
"""Of the labels, in the order of their frequency, that a running median is of."""

MAX_CLOUDS = 2
"""Rows whose labels are drawn as points beside the running median."""


def label_f1(scored: ScoredSplit, decision: Decision) -> Float[np.ndarray, "labels"]:
    """Return the F1 of each label of a split under a decision, NaN without a positive in it."""
    [found] = evaluate(scored, [{decision.kind: decision}], None, scores=False)
    assert found is not None, "predictions are kept of runs that have not diverged"
    counts = found.decisions[decision.kind]
    f1 = precision_recall_f1(counts.tp, counts.fp, counts.fn)["f1"]
    return np.where(counts.tp + counts.fn > 0, f1, np.nan)


def running_median(
    x: Num[np.ndarray, "labels"], y: Float[np.ndarray, "labels"], window: int
) -> tuple[Float[np.ndarray, "windows"], Float[np.ndarray, "windows"]]:
    """Return the medians of x and of y over every `window` labels that are neighbours in x.

    Windows of one median of x are one point, with the mean of their medians of y; equal x stand as they are given.
    """
    order = np.argsort(x, kind="stable")
    windows = np.lib.stride_tricks.sliding_window_view(
        np.stack([x[order], y[order]]).astype(np.float64), window, axis=1
    )
    of_x, of_y = np.median(windows, axis=2)
    points, group = np.unique(of_x, return_inverse=True)
    return points, np.bincount(group, of_y) / np.bincount(group)


@style.styled()
def draw_label_f1(
    f1: Mapping[str, Float[np.ndarray, "labels"]],
    frequencies: Num[np.ndarray, "labels"],
    title: str,
    rows: Sequence[str] = (),
) -> "Figure":
    """Draw the F1 of labels by row against their numbers of training examples; a label with NaN is left out.

    From `MIN_LABELS` labels on there are running medians, and points of `MAX_CLOUDS` rows at most. rows: as
    `style.looks` takes them.
    """
    from matplotlib.ticker import SymmetricalLogLocator

    looks = style.looks(f1, rows)
    figure = style.figure(style.COLUMN, 2.5 + 0.14 * len(f1))
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(f1.items()):
        look, there = looks[name], ~np.isnan(values)
        x, y = frequencies[there], values[there]
        window = max(round(WINDOW * len(x)), 5)
        median = len(x) >= MIN_LABELS
        if len(f1) <= MAX_CLOUDS or not median:
            (points,) = axes.plot(x, y, label=None if median else name, clip_on=False)
            faint = median or len(x) > 100
            points.set(**look._asdict() | {"linestyle": ""}, markersize=2 if faint else 4, alpha=0.35 if faint else 0.9)
            points.set_markeredgewidth(0)
        if median:
            of_x, of_y = running_median(x, y, window)
            kept = style.thin(np.log1p(of_x), of_y)
            (line,) = axes.plot(of_x[kept], of_y[kept], label=name)
            line.set(**look._asdict(), markevery=style.spread_markers(number, len(f1)))
    axes.set(xlabel="training examples with the label", ylabel="F1 of the label", ylim=(-0.02, 1.02))
    there = np.concatenate([frequencies[~np.isnan(values)] for values in f1.values()]).astype(np.float64)
    low, high = float(there.min(initial=np.inf)), float(there.max(initial=1))
    if high >= 10 * low:
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        if high < 100 * max(low, 1):  # of powers of ten alone there would be one or two
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=[1.0, 2.0, 5.0]))
        axes.set_xlim(-0.1 if low < 1 else low / 1.3, 1.3 * high)
    axes.xaxis.set_major_formatter(style.with_commas)
    axes.grid()
    style.heading(figure, title)
    style.legend(figure, [axes])
    return figure
