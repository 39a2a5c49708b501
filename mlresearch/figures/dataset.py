"""Pictures of a data set: how frequent labels are, which come together, how they lie in their hierarchy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlresearch.data.records import SPLITS, Dataset
from mlresearch.figures import style
from mlresearch.figures.cooccurrence import clustered
from mlresearch.figures.style import COLORMAP, GREY, LINE, Look, brightness, cut, save, styled, with_commas
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NAMED = 40
"""Labels drawn one by one, with their names; of more, frequencies are a curve, and the heat map the most frequent."""

MAX_TREE = 60
"""Labels of a hierarchy that is drawn label by label; a larger one is drawn by the sizes of its parts."""

MAX_ROWS = 2000
"""Rows of the picture of subtrees."""

LOOKS = {
    "train": Look("#0072B2", "-", "o"),
    "validation": Look("#009E73", "--", "s"),
    "test": Look("#D55E00", (0, (1, 1)), "^"),
}


def plot(dataset: Dataset, folder: str | Path) -> list[Path]:
    """Draw a data set, as PNG and as PDF, and return the paths; the same data set gives the same bytes.

    - ``label_frequencies``: examples a label in each split, by name, or by rank where there are more than `MAX_NAMED`;
    - ``cooccurrence``, where two labels occur in train: of the most frequent, how often one is on where another is;
    - ``hierarchy``, where there is one: the labels, or for more than `MAX_TREE` the sizes of the parts.

    Without matplotlib, or where the folder cannot be written to, a `UserError`.
    """
    drawings = {"label_frequencies": draw_label_frequencies(dataset)}
    if (dataset.splits["train"].labels.counts(dataset.label_space.num_labels) > 0).sum() > 1:
        drawings["cooccurrence"] = draw_cooccurrence(dataset)
    if dataset.hierarchy is not None:
        drawings["hierarchy"] = draw_hierarchy(dataset)
    return [path for name, figure in drawings.items() for path in save(figure, Path(folder), name, crop=True)]


@styled()
def draw_label_frequencies(dataset: Dataset) -> "Figure":
    """Draw how many examples have each label: points by name for few labels, curves over ranks for many."""
    num_labels = dataset.label_space.num_labels
    counts = {split: records.labels.counts(num_labels) for split, records in dataset.splits.items()}
    if num_labels <= MAX_NAMED:
        return _draw_named_frequencies(dataset, counts)
    figure = style.figure(6.0, 4.0)
    axes = figure.add_subplot()
    for split, own in counts.items():
        ranked = np.sort(own[own > 0])[::-1]
        legend = f"{split}: {len(ranked):,} of {num_labels:,} labels occur"
        # Many labels have the same count: only the corners of these steps are drawn.
        corners = np.flatnonzero(np.diff(ranked, prepend=0, append=0))
        at = np.unique(np.concatenate([corners[corners < len(ranked)], corners[corners > 0] - 1]))
        look = LOOKS[split]
        axes.plot(at + 1, ranked[at], color=look.color, linestyle=look.linestyle, linewidth=1.8, label=legend)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="rank of the label in its split",
        ylabel="examples with the label",
        title=dataset.name,
    )
    axes.xaxis.set_major_formatter(with_commas)
    axes.yaxis.set_major_formatter(with_commas)
    axes.grid(color="#e0e0e0", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower left")
    return figure


def _draw_named_frequencies(dataset: Dataset, counts: dict[str, np.ndarray]) -> "Figure":
    names = _readable(dataset.label_space, 40)
    order = sorted(range(len(names)), key=lambda label: (counts["train"][label], names[label]))
    figure = style.figure(6.0, 1.2 + LINE * len(names))
    axes = figure.add_subplot()
    for split, own in counts.items():
        shares = 100 * own[order] / len(dataset.splits[split])
        (points,) = axes.plot(shares, range(len(order)), label=split, clip_on=False, zorder=3)
        points.set(**LOOKS[split]._asdict() | {"linestyle": ""}, markersize=5.5)
    axes.set(
        yticks=range(len(order)),
        yticklabels=[names[label] for label in order],
        ylim=(-0.7, len(order) - 0.3),
        xlabel="share of the split's examples with the label (%)",
        title=dataset.name,
    )
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="#e0e0e0", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=len(SPLITS))
    return figure


@styled()
def draw_cooccurrence(dataset: Dataset) -> "Figure":
    """Draw how often the label of a column is on in the training examples in which the label of the row is.

    The labels are the `MAX_NAMED` most frequent ones, those of equal counts in the order of the label space, in the
    order of the hierarchy from its roots down or, where labels are flat, of average linkage clustering by correlation.
    """
    train, num_labels = dataset.splits["train"].labels, dataset.label_space.num_labels
    counts = train.counts(num_labels)
    chosen = np.argsort(-counts, kind="stable")[:MAX_NAMED]
    chosen = chosen[counts[chosen] > 0]
    if dataset.hierarchy is not None:
        place = np.empty(num_labels, np.int64)
        place[_depth_first(dataset.hierarchy, _drawn_parents(dataset.hierarchy))] = np.arange(num_labels)
        chosen = chosen[np.argsort(place[chosen])]
    on = train.sparse(num_labels)[:, chosen]
    together = (on.T @ on).toarray()
    if dataset.hierarchy is None:
        order = clustered(together, len(train))
        chosen, together = chosen[order], together[np.ix_(order, order)]
    names = [_readable(dataset.label_space, 34)[label] for label in chosen]

    figure = style.figure(3.4 + LINE * len(names), 2.6 + LINE * len(names))
    axes = figure.add_subplot()
    shares = 100 * together / together.diagonal()[:, None]
    np.fill_diagonal(shares, np.nan)
    axes.set_facecolor("#dddddd")  # of the diagonal, where a label meets itself
    image = axes.imshow(shares, cmap=COLORMAP, vmin=0, vmax=max(np.nanmax(shares), 1), interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    which = "" if len(names) == num_labels else f", the {len(names)} most frequent labels"
    axes.set_title(f"{dataset.name}, train{which}")
    bar = figure.colorbar(image, ax=axes, shrink=min(1, 3 / (LINE * max(len(names), 1))), aspect=15, pad=0.02)
    bar.set_label("examples with the row's label that\nalso have the column's (%)")
    bar.outline.set_visible(False)
    return figure


@styled()
def draw_hierarchy(dataset: Dataset) -> "Figure":
    """Draw the hierarchy label by label, or for more than `MAX_TREE` labels as levels and the sizes of subtrees."""
    hierarchy = dataset.hierarchy
    if hierarchy is None:
        raise ValueError("a data set with flat labels has no hierarchy")
    counts = dataset.splits["train"].labels.counts(hierarchy.num_labels)
    if hierarchy.num_labels <= MAX_TREE:
        return _draw_tree(dataset, hierarchy, counts)
    return _draw_subtrees(dataset, hierarchy, counts)


def _draw_tree(dataset: Dataset, hierarchy: LabelHierarchy, counts: np.ndarray) -> "Figure":
    """Draw a label a line under one of its parents, with its training examples and the names of its other parents."""
    drawn = _drawn_parents(hierarchy)
    order = _depth_first(hierarchy, drawn)
    line = np.empty(len(order), np.int64)
    line[order] = np.arange(len(order))
    others: list[list[str]] = [[] for _ in order]
    for child, parent in zip(hierarchy.children.tolist(), hierarchy.parents.tolist(), strict=True):
        if drawn[child] != parent:
            others[child].append(hierarchy.names[parent])
    names = _readable(dataset.label_space, 60)
    places = 0.28 * hierarchy.levels  # inches
    height = len(order) + 2
    figure = style.figure(6.5, LINE * height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.15, 6.35), ylim=(height - 1.5, -1.5))
    axes.set_axis_off()
    axes.text(-0.05, -1, f"{dataset.name}: labels and their numbers of training examples", va="center", fontsize=10)
    blue = LOOKS["train"].color
    for label in order[::-1].tolist():  # children first: their lines end under the dots of their parents
        parent, x, y = drawn[label], places[label], line[label]
        if parent >= 0:
            axes.plot([places[parent], places[parent], x], [line[parent], y, y], color="#b0b0b0", linewidth=1, zorder=1)
        inside = blue if counts[label] else "#ffffff"
        axes.plot(x, y, "o", markersize=4.5, markerfacecolor=inside, markeredgecolor=blue)
        name = axes.text(x + 0.1, y, names[label], va="center")
        after = f"{counts[label]:,}" + (f"   also under {', '.join(others[label])}" if others[label] else "")
        shift: dict[str, Any] = {"xycoords": name, "xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(after, (1, 0.5), **shift, va="center", color=GREY, fontsize=8)
    return figure


def _draw_subtrees(dataset: Dataset, hierarchy: LabelHierarchy, counts: np.ndarray) -> "Figure":
    """Draw labels a level as bars and, on the same axis, each label as tall as the leaves below it are many."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm

    levels, drawn = hierarchy.levels, _drawn_parents(hierarchy)
    num_levels = int(levels.max()) + 1
    order = _depth_first(hierarchy, drawn)
    sizes = np.zeros(hierarchy.num_labels, np.int64)
    for label in order[::-1].tolist():  # children stand after their parents
        sizes[label] = max(sizes[label], 1)
        if drawn[label] >= 0:
            sizes[drawn[label]] += sizes[label]
    tops = np.zeros(hierarchy.num_labels, np.int64)
    filled = np.zeros(hierarchy.num_labels + 1, np.int64)  # how far a label is filled by the children so far; [-1]: all
    for label in order.tolist():
        tops[label] = filled[drawn[label]]
        filled[label] = tops[label]
        filled[drawn[label]] += sizes[label]
    total, height = int(filled[-1]), 8.0
    width = max(8.0, min(1.5 * num_levels, 15.0))

    figure = style.figure(width + 0.8, height + 1.8)
    bars, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, height / 1.3))
    is_leaf = hierarchy.num_children == 0
    leaves = np.bincount(levels[is_leaf], minlength=num_levels)
    inner = np.bincount(levels[~is_leaf], minlength=num_levels)
    bars.bar(range(num_levels), inner, color=LOOKS["train"].color, width=0.6, label="with children")
    bars.bar(range(num_levels), leaves, bottom=inner, color="#E69F00", width=0.6, label="leaves")
    for level, number in enumerate((leaves + inner).tolist()):
        bars.text(level, number, f"{number:,}", ha="center", va="bottom", fontsize=8)
    bars.set(ylabel="labels", ylim=(0, 1.25 * (leaves + inner).max()))
    bars.yaxis.set_major_formatter(with_commas)
    bars.tick_params(labelbottom=False)
    bars.legend(loc="upper left" if np.argmax(leaves + inner) > num_levels / 2 else "upper right", fontsize=8)
    shape = "one parent each" if hierarchy.is_forest else "each under one of its parents"
    bars.set_title(f"{dataset.name}: {hierarchy.num_labels:,} labels, {shape}")

    norm = LogNorm(1, max(int(counts.max(initial=1)), 2))
    colors = ScalarMappable(norm, COLORMAP)
    faces = np.where(counts[:, None] > 0, colors.to_rgba(np.maximum(counts, 1))[:, :3], 0.87)
    axes.imshow(
        _rows_of_colors(faces, levels, tops, sizes),
        extent=(-0.5, num_levels - 0.5, total, 0),
        aspect="auto",
        interpolation="nearest",
    )
    wide = np.flatnonzero(sizes >= total / 400)
    left, right, top, bottom = levels[wide] - 0.5, levels[wide] + 0.5, tops[wide], tops[wide] + sizes[wide]
    corners = np.stack([left, top, right, top, right, bottom, left, bottom], 1).reshape(-1, 4, 2)
    axes.add_collection(PolyCollection(list(corners), facecolors="none", edgecolors="#ffffff", linewidths=0.6))
    column = (width - 1.3) / num_levels  # inches; the rest is for the axis and the colour bar
    names = _readable(dataset.label_space, max(int((column - 0.1) / 0.05), 4))
    for label in wide.tolist():
        if sizes[label] / total * height >= 0.13:
            dark = brightness(faces[label]) < 0.55
            at = levels[label] - 0.5 + 0.06 / column, tops[label] + sizes[label] / 2
            axes.text(*at, names[label], va="center", fontsize=6.5, color="#ffffff" if dark else "#000000")
    axes.set(
        xlim=(-0.5, num_levels - 0.5),
        ylim=(total, 0),
        xticks=range(num_levels),
        xlabel="level: length of the longest path from a root",
        ylabel="leaves below the label" if hierarchy.is_forest else "leaves drawn below the label",
    )
    axes.yaxis.set_major_formatter(with_commas)
    bar = figure.colorbar(colors, ax=[bars, axes], shrink=0.4, aspect=20, pad=0.02, anchor=(0, 0))
    bar.set_label("training examples; grey: none")
    bar.ax.yaxis.set_major_formatter(with_commas)
    bar.outline.set_visible(False)
    return figure


def _rows_of_colors(faces: np.ndarray, levels: np.ndarray, tops: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return a picture of labels that are `sizes` leaves tall, a column a level: float [rows, levels, RGB].

    Where there are more leaves than rows, a row is the mean of its leaves, so that what is thin is pale, not left out.
    """
    total = int((tops + sizes).max())
    edges = np.linspace(0, total, min(total, MAX_ROWS) + 1).astype(np.int64)
    picture = np.ones((len(edges) - 1, int(levels.max()) + 1, 3))
    for level in range(picture.shape[1]):
        labels = np.flatnonzero(levels == level)
        leaves = np.ones((total, 3))
        at = np.repeat(tops[labels] - np.cumsum(sizes[labels]) + sizes[labels], sizes[labels])
        leaves[at + np.arange(len(at))] = np.repeat(faces[labels], sizes[labels], axis=0)
        picture[:, level] = np.add.reduceat(leaves, edges[:-1]) / np.diff(edges)[:, None]
    return picture.clip(0, 1)


def _readable(label_space: LabelSpace, width: int) -> list[str]:
    """Return the name of each label with its description, where that says more, in so many characters."""
    written = []
    for name, text in zip(label_space.names, label_space.descriptions, strict=True):
        full = name if text == name else f"{name}  {text}"
        written.append(cut(full, width))
    return written


def _drawn_parents(hierarchy: LabelHierarchy) -> np.ndarray:
    """Return one parent of each label, on the level just above it, int64 [labels]; -1 for a root."""
    drawn = np.full(hierarchy.num_labels, -1)
    near = hierarchy.levels[hierarchy.parents] + 1 == hierarchy.levels[hierarchy.children]
    # Edges are sorted: the first parent is written last.
    drawn[hierarchy.children[near][::-1]] = hierarchy.parents[near][::-1]
    return drawn


def _depth_first(hierarchy: LabelHierarchy, drawn: np.ndarray) -> np.ndarray:
    """Return the labels in the order of a walk down the drawn parents, children by their ids."""
    children: list[list[int]] = [[] for _ in range(hierarchy.num_labels)]
    for label in range(hierarchy.num_labels - 1, -1, -1):
        if drawn[label] >= 0:
            children[drawn[label]].append(label)
    stack = np.flatnonzero(drawn < 0)[::-1].tolist()
    order = []
    while stack:
        order.append(stack.pop())
        stack.extend(children[order[-1]])
    return np.array(order, np.int64)
