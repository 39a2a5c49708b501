"""What labels read of a text: its pieces on a ground the darker, the more a label attends to them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mlresearch.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PIECES = 150
"""Pieces of a text that are drawn; a longer text is cut."""

SIZE = 7.0
"""Points, of a monospaced font, so that it is known how wide a piece is."""

CHARACTER = 0.602 * SIZE / 72
"""Inches."""

ROW = 0.16
"""Inches from one line to the next."""


def placed(pieces: Sequence[str], width: int) -> list[tuple[int, int]]:
    """Return the line and the column of each piece in lines of `width` characters, none longer than a line.

    A piece that does not fit into what is left of a line begins the next one.
    """
    places, line, column = [], 0, 0
    for piece in pieces:
        if column and column + len(piece) > width:
            line, column = line + 1, 0
        places.append((line, column))
        column += len(piece)
    return places


@style.styled()
def draw_attention(pieces: Sequence[str], weights: Mapping[str, Float[np.ndarray, "pieces"]], title: str) -> "Figure":
    """Draw a text once for each label, its pieces on a ground from white, weight 0, to black, the label's largest one.

    pieces: as SentencePiece writes them, ▁ for a space. weights: how much each label reads of each piece, by its name;
    what is missing to 1 it reads elsewhere.
    """
    from matplotlib.patches import Rectangle

    width = int(style.COLUMN / CHARACTER) - 1
    shown = [style.cut(piece.replace("▁", " "), width) for piece in pieces[:MAX_PIECES]]
    if len(pieces) > MAX_PIECES:
        shown.append(" …")
    places = placed(shown, width)
    block = places[-1][0] + 3  # the label's name, the lines, and an empty one
    heading = style.wrapped(title, style.COLUMN)
    above = 0.6 + heading.count("\n")
    height = above + block * len(weights) + 0.4
    figure = style.figure(style.COLUMN, ROW * height, layout=None)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.5, style.COLUMN / CHARACTER - 0.5), ylim=(height, -0.3))
    axes.set_axis_off()
    axes.text(0, 0, heading, va="top", fontsize=8)
    for at, (name, own) in enumerate(weights.items()):
        most = max(float(own.max(initial=0.0)), 1e-12)
        top = above + block * at + 1
        says = f"darkest: {most:.2f}, whole text: {own.sum():.2f}"
        axes.text(0, top, style.cut(name, 30), va="center", fontsize=SIZE, weight="bold")
        axes.text(width, top, says, va="center", ha="right", fontsize=SIZE, color=style.GREY)
        for place, (piece, (line, column)) in enumerate(zip(shown, places, strict=True)):
            grey = 1.0 - (float(own[place]) / most if place < len(own) else 0.0)
            y = top + 1 + line
            axes.add_patch(Rectangle((column, y - 0.48), len(piece), 0.96, facecolor=(grey,) * 3, linewidth=0))
            ink = "#ffffff" if grey < 0.5 else "#000000"
            axes.text(column, y, piece, va="center", fontsize=SIZE, family="DejaVu Sans Mono", color=ink)
    return figure
