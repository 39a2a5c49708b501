"""What all figures share: sizes, colours, line styles and markers, and how they are written.

Whatever is told apart by colour is told apart by line style and marker too, and greys of neighbours differ. Colours are
those of Okabe and Ito, "Color universal design", 2008, and cividis: Nuñez, Anderton and Renslow, "Optimizing colormaps
with consideration for color vision deficiency to enable accurate interpretation of scientific data", 2018.
"""

import contextlib
import dataclasses
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mlresearch.errors import UserError
from mlresearch.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.25
"""Inches: the width of a column of a two-column paper."""

PAGE = 6.75
"""Inches: the width of both columns with what is between them."""

LINE = 0.19
"""Inches from one line of text to the next."""

COLORMAP = "cividis"
GREY = "#707070"
GRID = "#e0e0e0"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 3.0,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.h_pad": 0.03,
    "pdf.fonttype": 42,  # TrueType: text in the file stays text
    "svg.hashsalt": "mlresearch",  # names of an SVG's parts are made of it, else of chance
    "text.parse_math": False,  # a label's name may hold a dollar sign
    "figure.dpi": 300,
}


class Look(NamedTuple):
    """How a row of several is drawn."""

    color: str
    linestyle: Any
    marker: str


LOOKS = (
    Look("#0072B2", "-", "o"),
    Look("#E69F00", "--", "s"),
    Look("#000000", "-.", "^"),
    Look("#CC79A7", "-", "D"),
    Look("#D55E00", (0, (1, 1)), "v"),
    Look("#56B4E9", "-", "P"),
    Look("#009E73", (0, (4, 1, 1, 1, 1, 1)), "X"),
    Look("#B0A000", (0, (6, 2)), "<"),
    Look("#404040", (0, (2, 1)), ">"),
    Look("#999999", "-", "*"),
)
"""Of the rows of a figure, in their order; a figure of lines has no more rows than these."""


def looks(names: Iterable[str], rows: Sequence[str] = ()) -> dict[str, Look]:
    """Return the look of each row that is drawn; rows: all rows, of which figures that belong together draw some."""
    names = list(names)
    order = list(rows or names)
    return {name: LOOKS[order.index(name)] for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """A figure by name, or None and why it was left out; remark: what is to be known beside a figure."""

    name: str
    figure: "Figure | None"
    remark: str = ""


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, and leave the settings of the process alone; a `UserError` without matplotlib.

    It decorates what draws; `save` and `svg` draw, too.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("drawing needs matplotlib: pip install 'mlresearch[figures]'") from None
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as an empty box
        yield


def figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """Return a figure of so many inches that belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def save(figure: "Figure", folder: Path, name: str, *, crop: bool = False) -> list[Path]:
    """Write a figure as ``name.png`` and ``name.pdf`` and return the paths; the same figure gives the same bytes.

    crop: to what is drawn, whatever the figure's size. A folder that cannot be written to is a `UserError`.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for form, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            paths.append(folder / f"{name}.{form}")
            write_bytes(paths[-1], _written(figure, form, metadata, crop))
    except OSError as error:
        raise UserError(f"cannot write to {error.filename or folder}: {error.strerror}") from None
    return paths


def svg(figure: "Figure") -> str:
    """Return a figure as an ``<svg>`` element for a page; the same figure gives the same text."""
    written = _written(figure, "svg", {"Date": None}, crop=False).decode()
    return written[written.index("<svg") :]


@styled()
def _written(figure: "Figure", form: str, metadata: dict[str, None], crop: bool) -> bytes:
    if figure.get_layout_engine() is not None:  # once: laid out again, a figure comes out a little different
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    content = io.BytesIO()
    figure.savefig(content, format=form, metadata=metadata, bbox_inches="tight" if crop else None)
    return content.getvalue()


def cut(name: str, width: int) -> str:
    """Return a name in at most so many characters."""
    return name if len(name) <= width else f"{name[: width - 1].rstrip()}…"


def squeezed(name: str, width: int) -> str:
    """Return a name in at most so many characters, both of its ends kept: names of rows differ at either."""
    ends = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - ends].rstrip()}…{name[len(name) - ends :].lstrip()}"


def squeezed_apart(names: Sequence[str], width: int, most: int) -> list[str]:
    """Return names, each `squeezed`: to `width`, or to `most` where names that differ would else be the same."""
    short = [squeezed(name, width) for name in names]
    return short if len(set(short)) == len(set(names)) else [squeezed(name, most) for name in names]


def wrapped(text: str, width: float, size: float = 8.0) -> str:
    """Return a title in lines that fit into so many inches in letters of so many points.

    Lines end after spaces and underscores, and within a word only where it is longer than a line.
    """
    room = max(int(width / (0.0082 * size)), 8)
    lines = [""]
    for word in re.split(r"(?<=[ _])", " ".join(text.split())):
        if lines[-1] and len(lines[-1] + word.rstrip()) > room:
            lines.append("")
        lines[-1] += word
    return "\n".join(textwrap.fill(line, room) for line in lines)


def plain(value: float, _: Any) -> str:
    """Write a number on a logarithmic axis."""
    return f"{value:g}"


def with_commas(value: float, _: Any) -> str:
    """Write a count on an axis."""
    return f"{value:,.0f}" if value >= 1 or not value else ""


def legend(figure: "Figure", panels: Iterable["Axes"]) -> None:
    """Put the legend of axes below the figure, each name once, in as many columns as fit."""
    named: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    names = [squeezed(name, 48) for name in named]
    columns = max(int((figure.get_figwidth() - 0.1) / (0.5 + 0.055 * max(map(len, names), default=1))), 1)
    figure.legend(named.values(), names, loc="outside lower center", ncols=min(columns, len(names) or 1))


def heading(figure: "Figure", text: str) -> None:
    """Put a title over the whole figure, in lines that fit."""
    figure.suptitle(wrapped(text, figure.get_figwidth()), fontsize=8)


def shares(axes: "Axes") -> None:
    """Set both axes to shares of 1."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid()


def slug(name: str) -> str:
    """Return a name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", name).strip("_")


def of_many(there: int, drawn: int) -> str:
    """Return what to say of rows that are not drawn."""
    return f"the first {drawn} of {there} rows: name others with --row" if there > drawn else ""


def thin(x: Float[np.ndarray, "points"], y: Float[np.ndarray, "points"], most: int = 400) -> Int[np.ndarray, "kept"]:
    """Return which points of a curve to keep, at most so many, evenly along its length and with both ends.

    A length is |Δx| + |Δy|, each relative to its range.
    """
    if len(x) <= most:
        return np.arange(len(x))
    steps = sum(np.abs(np.diff(each)) / (np.ptp(each) or 1.0) for each in (x, y))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.searchsorted(along, np.linspace(0, along[-1], most // 2)).clip(1, len(x) - 1)
    return np.unique([at - 1, at])  # both ends of what is steep


def spread_markers(number: int, count: int) -> tuple[float, float]:
    """Return where markers stand on the line of row `number` of `count`: staggered, a fifth of the figure apart."""
    return (0.2 * number / max(count, 1), 0.2)


def brightness(color: Any) -> float:
    """Return the grey of a colour, 0 black to 1 white, as a printer makes it (ITU-R BT.601)."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue
