"""Which labels come together: in the data, and in what a model predicts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.cluster.hierarchy
import scipy.spatial.distance
from jaxtyping import Float, Int

from mlresearch.decisions import Decision
from mlresearch.figures import style
from mlresearch.scored import ScoredSplit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LABELS = 20
"""Labels that fit into the width of a column with their names."""


def correlations(together: Int[np.ndarray, "labels labels"], number: int) -> Float[np.ndarray, "labels labels"]:
    """Return φ of each pair of labels, NaN where one is on everywhere or nowhere.

    together: in how many of `number` examples both are on; on the diagonal, one. With shares p,
    φ = (p_ij − p_i p_j) / √(p_i (1 − p_i) p_j (1 − p_j)).
    """
    shares = together.diagonal() / number
    spread = np.sqrt(shares * (1 - shares))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (together / number - np.outer(shares, shares)) / np.outer(spread, spread)


def clustered(together: Int[np.ndarray, "labels labels"], number: int) -> Sequence[int]:
    """Return an order of labels in which those that are correlated stand together, by average linkage."""
    if len(together) < 3:  # nothing to choose between
        return range(len(together))
    correlation = correlations(together, number)
    distance = np.where(np.isfinite(correlation), 1 - correlation, 1).clip(0)
    np.fill_diagonal(distance, 0)
    pairs = scipy.spatial.distance.squareform(distance, checks=False)
    links = scipy.cluster.hierarchy.linkage(pairs, "average", optimal_ordering=True)
    return scipy.cluster.hierarchy.leaves_list(links).tolist()


def count_together(
    scored: ScoredSplit, decision: Decision, labels: Int[np.ndarray, "labels"]
) -> tuple[Int[np.ndarray, "labels labels"], Int[np.ndarray, "labels labels"]]:
    """Return in how many examples of a split both labels of each pair are on, and predicted, among known cells."""
    data, model = np.zeros((2, len(labels), len(labels)), np.int64)
    for [block] in scored:
        known = True if block.known is None else block.known[:, labels]
        true, predicted = ((on[:, labels] & known).astype(np.int64) for on in (block.labels, decision.apply(block)))
        data += true.T @ true
        model += predicted.T @ predicted
    return data, model


@style.styled()
def draw_data_against_model(
    data: Int[np.ndarray, "labels labels"],
    model: Int[np.ndarray, "labels labels"],
    number: int,
    names: Sequence[str],
    title: str,
) -> "Figure":
    """Draw φ of pairs of labels: of the data below the diagonal, of predicted label sets above it.

    data, model: in how many of the same `number` examples both labels of a pair are on, and predicted; of `MAX_LABELS`
    labels at most. Those that are correlated in the data stand side by side. White: one of a pair is on everywhere or
    nowhere.
    """
    order = np.array(clustered(data, number))
    below, above = (correlations(counts[np.ix_(order, order)], number) for counts in (data, model))
    values = np.where(np.tri(len(order), k=-1, dtype=bool), below, above)
    np.fill_diagonal(values, np.nan)
    labels = [style.cut(names[label], 18) for label in order.tolist()]
    most = max(np.nanmax(np.abs(values), initial=0.0), 0.1)

    longest = 0.1 + 0.055 * max(map(len, labels))
    side = min(style.COLUMN - longest - 0.1, 0.25 * len(labels) + 0.3)
    figure = style.figure(style.COLUMN, side + longest + 0.95)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=style.COLORMAP, vmin=-most, vmax=most, interpolation="nearest")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, aspect=25, pad=0.02)
    bar.set_label("correlation φ; lower left: data,\nupper right: predicted; white: none")
    bar.outline.set_visible(False)
    style.heading(figure, title)
    return figure
