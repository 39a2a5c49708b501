"""The figures of a page: those of `mlresearch figures` that there are data for."""

import importlib.util
from collections.abc import Sequence

from mlresearch.figures.drawing import draw
from mlresearch.figures.style import svg
from mlresearch.tables import Table
from mlresearch.tables.results import Results
from mlresearch.tables.tabulate import FAULTS


def page_figures(results: Results, table: Table, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Return title and SVG of each figure of some kinds (`drawing.KINDS`); none without a run or without matplotlib."""
    if not results.runs or importlib.util.find_spec("matplotlib") is None:
        return []
    drawings = draw(results, table, kinds, tuple(FAULTS))
    return [(_title(drawing.name), svg(drawing.figure)) for drawing in drawings if drawing.figure is not None]


def _title(name: str) -> str:
    """Return the title of a figure by the name of its file, ``kind-what it is of``."""
    kind, _, of = name.partition("-")
    return kind.capitalize().replace("_", " ").replace("f1", "F1") + (f": {of}" if of else "")
