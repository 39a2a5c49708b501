"""Learning curves: what is logged while runs train, with bands over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from mlresearch.definitions import title as title_of
from mlresearch.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_RANGE = 20.0
"""A curve whose largest value is so many times its smallest is drawn on a logarithmic axis."""


class Band(NamedTuple):
    """A number by epoch: its mean, its smallest and its largest value over runs."""

    epochs: Float[np.ndarray, "points"]
    mean: Float[np.ndarray, "points"]
    low: Float[np.ndarray, "points"]
    high: Float[np.ndarray, "points"]


def read_log(path: Path) -> dict[str, dict[float, float]]:
    """Return the numbers of a run's ``metrics.jsonl`` by name and epoch; those of validation by their places.

    What was no number, such as an infinite loss, is left out.
    """
    found: dict[str, dict[float, float]] = {}
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        values = {"train_loss": fields.get("train_loss")}
        values |= {f"validation.{place}": value for place, value in fields.get("validation", {}).items()}
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                found.setdefault(name, {})[fields["epoch"]] = value
    return found


def band(runs: Sequence[Mapping[float, float]]) -> Band:
    """Return the band of one number of several runs, by epoch, as far as more than half of them have it."""
    epochs = sorted({epoch for run in runs for epoch in run})
    values = {epoch: [run[epoch] for run in runs if epoch in run] for epoch in epochs}
    kept = [epoch for epoch in epochs if 2 * len(values[epoch]) > len(runs)]
    rows = [(epoch, np.mean(values[epoch]), min(values[epoch]), max(values[epoch])) for epoch in kept]
    return Band(*np.array(rows, np.float64).reshape(-1, 4).T)


@style.styled()
def draw_learning(bands: Mapping[str, Mapping[str, Band]], title: str, rows: Sequence[str] = ()) -> "Figure":
    """Draw a panel a number, ``train_loss`` and places of validation, with a band by row.

    bands: by number and row. Lines are means over runs, bands go from the smallest to the largest value. rows: as
    `style.looks` takes them.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    drawn = list(dict.fromkeys(row for own in bands.values() for row in own))
    looks = style.looks(drawn, rows)
    figure = style.figure(style.COLUMN, 0.5 + 1.4 * len(bands) + 0.14 * len(drawn))
    panels = figure.subplots(len(bands), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, own) in zip(panels, bands.items(), strict=True):
        for row, values in own.items():
            look = looks[row]
            kept = style.thin(values.epochs, values.mean)
            axes.fill_between(values.epochs, values.low, values.high, color=look.color, alpha=0.2, linewidth=0)
            (line,) = axes.plot(values.epochs[kept], values.mean[kept], label=row)
            line.set(**look._asdict(), markevery=style.spread_markers(drawn.index(row), len(drawn)))
        lows = [values.low.min() for values in own.values()]
        highs = [values.high.max() for values in own.values()]
        if min(lows) > 0 and max(highs) / min(lows) > LOG_RANGE:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(style.plain)
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("training loss" if name == "train_loss" else style.wrapped(title_of(name), 1.3))
        axes.grid()
    style.heading(figure, title)
    panels[-1].set_xlabel("epoch")
    figure.align_ylabels(panels)
    style.legend(figure, panels)
    return figure
