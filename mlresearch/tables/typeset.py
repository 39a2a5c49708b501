"""Finished tables as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlresearch.definitions import OTHERS
from mlresearch.tables import Column
from mlresearch.tables.tabulate import Cell, Row, Sheet

ARROWS = {1: " ↑", -1: " ↓", 0: ""}
"""Which way is better, by a column's direction."""

PANEL = 5
"""Columns that stand side by side in LaTeX."""


def markdown(sheets: Sequence[Sheet]) -> str:
    """Return tables with their notes as Markdown."""
    parts = []
    for sheet in sheets:
        rows = [
            {"": escape_markdown(row.name)}
            | {escape_markdown(title): cell for title, cell in _cells(sheet, row, _markdown_cell)}
            | {"n": number_of_runs(row)}
            for row in sheet.rows
        ]
        notes = "\n".join(f"- {escape_markdown(note)}" for note in sheet.notes)
        parts.append(f"**{escape_markdown(f'{sheet.name}: {sheet.about}')}**\n\n{aligned(rows)}\n\n{notes}")
    return "\n\n".join(parts)


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as a Markdown table, padded to columns; a row is empty under a title that it does not have."""
    longest = max(rows, key=len)
    titles = [*longest, *{title: None for row in rows for title in row if title not in longest}]
    widths = [max(len(title), *(len(row.get(title, "")) for row in rows)) for title in titles]

    def line(cells: Iterable[str]) -> str:
        padded = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 2) if place == 0 else "-" * (width + 1) + ":" for place, width in enumerate(widths))
    return "\n".join([line(titles), f"|{rule}|", *(line(row.get(title, "") for title in titles) for row in rows)])


def _cells(sheet: Sheet, row: Row, write: Callable[[Cell, int], str]) -> Iterable[tuple[str, str]]:
    """Yield (heading, text) of each cell of a row."""
    for at, column in enumerate(sheet.columns):
        yield f"{column.title}{ARROWS[column.direction]}", write(row.cells[at], decimals(sheet, column))


def decimals(sheet: Sheet, column: Column) -> int:
    """Return how many decimals a column is printed with: two digits of its largest number, the sheet's at least."""
    if column.place in OTHERS or ".num_" in column.place:
        return 1 if column.place.startswith("seconds") else 0
    at = sheet.columns.index(column)
    return enough_decimals([row.cells[at].mean or 0.0 for row in sheet.rows], sheet.decimals)


def enough_decimals(values: Sequence[float], least: int) -> int:
    """Return how many decimals numbers side by side are printed with: two digits of the largest, `least` at least."""
    largest = max(map(abs, values), default=0.0)
    return least if largest == 0 else min(max(least, 1 - math.floor(math.log10(largest))), 9)


def number_of_runs(row: Row) -> str:
    """Return the number of runs behind a row's cells: one number, or one a column where they differ."""
    numbers = [str(cell.n) for cell in row.cells if cell.n]
    if row.source is not None:
        return ""
    return numbers[0] if len(set(numbers)) == 1 else ", ".join(str(cell.n) for cell in row.cells)


def marks_of(cell: Cell) -> str:
    """Return the signs that tell what a cell's number is held against, and what is wrong with it."""
    return "†" * cell.tied + "*" * cell.differs + (f"[{','.join(cell.marks)}]" if cell.marks else "")


def _markdown_cell(cell: Cell, places: int) -> str:
    if cell.mean is None:
        return f"—{marks_of(cell)}"
    text = f"{cell.mean:.{places}f}" + ("" if cell.sd is None else f" ± {cell.sd:.{places}f}")
    text = f"**{text}**" if cell.best else f"*{text}*" if cell.published is not None else text
    return text + marks_of(cell).replace("*", r"\*")


def escape_markdown(text: str) -> str:
    """Return text of one line so that Markdown prints it as it is, in a table's cell, too."""
    return re.sub(r"([\\`*|<\[\]~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))", r"\\\1", text)


def latex(sheets: Sequence[Sheet]) -> str:
    """Return a ``table`` environment a table, for a document with the packages `booktabs` and `graphicx`.

    Columns stand in panels of `PANEL` at most, one below the other; what is still wider than the line is scaled to it.
    """
    return "% \\usepackage{booktabs,graphicx}\n" + "\n".join(map(_latex_table, sheets))


def _latex_table(sheet: Sheet) -> str:
    num_panels = max(math.ceil(len(sheet.columns) / PANEL), 1)
    width = math.ceil(len(sheet.columns) / num_panels)
    panels = [_latex_panel(sheet, slice(at * width, (at + 1) * width)) for at in range(num_panels)]
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{sheet.name}-{sheet.about}").strip("-")
    caption = f"{sheet.name}, {sheet.about}: mean ± standard deviation over seeds."
    return "\n".join(
        [
            r"\begin{table}[tbp]",
            r"  \centering",
            rf"  \caption{{{escape_latex(caption)}}}",
            rf"  \label{{tab:{label}}}",
            "  \\par\\medskip\n".join(panels) + r"  \par\medskip",
            r"  \begin{minipage}{\linewidth}\footnotesize",
            *(f"    {escape_latex(note)}" for note in sheet.notes),
            r"  \end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _latex_panel(sheet: Sheet, part: slice) -> str:
    """Return the ``tabular`` of some columns."""
    titles = [f"{column.title}{ARROWS[column.direction]}" for column in sheet.columns[part]]
    lines = [" & ".join(["", *map(escape_latex, titles), "$n$"]), r"\midrule"]
    for before, row in zip([None, *sheet.rows], sheet.rows, strict=False):
        if row.source is not None and before is not None and before.source is None:
            lines.append(r"\midrule")
        cells = [text for _, text in _cells(sheet, row, _latex_cell)][part]
        lines.append(" & ".join([escape_latex(row.name), *cells, number_of_runs(row)]))
    return "\n".join(
        [
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{l{'r' * len(titles)}r}}",
            r"    \toprule",
            *(f"    {line}" if line == r"\midrule" else rf"    {line} \\" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}}",
            "",
        ]
    )


def _latex_cell(cell: Cell, places: int) -> str:
    mark = rf"\textsuperscript{{{escape_latex(marks_of(cell))}}}" if marks_of(cell) else ""
    if cell.mean is None:
        return f"---{mark}"
    text = f"{cell.mean:.{places}f}" + ("" if cell.sd is None else rf" $\pm$ {cell.sd:.{places}f}")
    if cell.best:  # \boldmath for the sign between the numbers
        text = rf"\textbf{{\boldmath {text}}}"
    return (rf"\textit{{{text}}}" if cell.published is not None else text) + mark


_SIGNS = r"""
& \&  % \%  $ \$  # \#  _ \_  { \{  } \}  [ {[}  \ \textbackslash{}  ~ \textasciitilde{}  ^ \textasciicircum{}
< \textless{}  > \textgreater{}  | \textbar{}  " ''  * {*}  † \dag{}  — ---  – --  ’ '  ‘ `  “ ``  ” ''  … \dots{}
± $\pm$  − $-$  · $\cdot$  × $\times$  ½ $\frac{1}{2}$  → $\rightarrow$  ↑ $\uparrow$  ↓ $\downarrow$  ≤ $\leq$
≥ $\geq$  ² $^2$  ³ $^3$  ß \ss{}  ø \o{}  Ø \O{}  æ \ae{}  Æ \AE{}  ł \l{}  Ł \L{}  ı \i{}
"""
_LATEX = dict(zip(_SIGNS.split()[::2], _SIGNS.split()[1::2], strict=True))
"""How signs are written."""

_MARKS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
_ACCENTS = dict(zip(_MARKS, "`'^~=u.\"rHvc", strict=True))
"""Commands of combining marks."""

_GREEK = re.compile("GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")
_GREEK_COMMANDS = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega
"""


def escape_latex(text: str) -> str:
    """Return text as LaTeX prints it with any engine and no further package.

    Accented Latin letters, Greek ones and signs that tables hold become commands. Of anything else the code point is
    printed, ``[U+4E2D]``.
    """
    return "".join(map(_latex_character, unicodedata.normalize("NFC", text)))


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii():
        return character if character.isprintable() else " "
    greek = _GREEK.fullmatch(unicodedata.name(character, "").replace("LAMDA", "LAMBDA"))
    command = "" if greek is None else greek[2].capitalize() if greek[1] == "CAPITAL" else greek[2].lower()
    if command in _GREEK_COMMANDS.split():
        return f"$\\{command}$"
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[1] in _ACCENTS and parts[0].isascii():
        return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"{{[}}U+{ord(character):04X}]"


FIELDS = (
    *("study", "table", "row", "data", "column", "mean", "sd", "n", "best", "tied", "differs", "p_best", "p_baseline"),
    *("marks", "source"),
)
"""Columns of the CSV form, which has a line a cell."""


def to_csv(sheets: Sequence[Sheet]) -> str:
    """Return a line a cell, numbers in full and empty where there is none; notes are not in it."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for sheet in sheets:
        for cell in _plain_cells(sheet):
            cell.pop("seeds")
            line = {"study": sheet.name, "table": sheet.about, **cell}
            writer.writerow({key: int(value) if isinstance(value, bool) else value for key, value in line.items()})
    return buffer.getvalue()


def to_json(sheets: Sequence[Sheet]) -> str:
    """Return ``{"tables": […]}`` with notes and a dictionary a cell: numbers in full, ``seeds`` the values by seed."""
    tables = [
        {
            "study": sheet.name,
            "table": sheet.about,
            "notes": list(sheet.notes),
            "num_comparisons": sheet.num_comparisons,
            "cells": list(_plain_cells(sheet)),
        }
        for sheet in sheets
    ]
    return json.dumps({"tables": tables}, indent=2, ensure_ascii=False, allow_nan=False)


def _plain_cells(sheet: Sheet) -> Iterable[dict[str, Any]]:
    for row in sheet.rows:
        for column, cell in zip(sheet.columns, row.cells, strict=True):
            yield {
                "row": row.name,
                "data": column.data,
                "column": column.place,
                "mean": cell.mean,
                "sd": cell.sd,
                "n": cell.n,
                "best": cell.best,
                "tied": cell.tied,
                "differs": cell.differs,
                "p_best": cell.p_best,
                "p_baseline": cell.p_baseline,
                "marks": cell.marks,
                "source": row.source,
                "seeds": {str(seed): value for seed, value in cell.values.items()},
            }


FORMATS: dict[str, Callable[[Sequence[Sheet]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": to_csv,
    "json": to_json,
}
"""Ways to write tables, by name; all but CSV hold the notes."""
