"""Tables in four formats: what is written reads back as the same numbers, and LaTeX compiles as it comes."""

import csv
import io
import json
import re
import shutil
import subprocess
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tables import ACCURACY, LOSS, make_results

from mlresearch.tables import Column, Table
from mlresearch.tables.tabulate import Cell, Row, Sheet, tabulate
from mlresearch.tables.typeset import decimals, escape_latex, latex, markdown, to_csv, to_json

NAMES = [
    "plain",
    "under_score & 50 %",
    r"#{^~\}$",
    "a|b*c",
    "[x] <y>",
    "α=0.5 → β²",
    "Łukasiewicz, Dembczyński, Győry",
    "漢字",
]


def make_sheet(by="data", **options):
    rng = np.random.default_rng(0)
    rows = {name: 0.5 + at / 50 + rng.normal(scale=0.03, size=12) for at, name in enumerate(NAMES)}
    published = {"tiny/paths": {"theirs_too": {"source": "Müller & Søn, “A Title”, 1999", ACCURACY: 0.5}}}
    table = Table([ACCURACY, LOSS], baseline="plain", published=published, by=by, **options)
    results = make_results(rows)
    missing = ("plain", "tiny/paths", 99)
    return tabulate(type(results)("my_study", (*results.expected, missing), results.runs), table, allow=["missing"])


def expected_cells(sheets):
    return {
        (row.name, column.place): cell
        for sheet in sheets
        for row in sheet.rows
        for column, cell in zip(sheet.columns, row.cells, strict=True)
    }


@pytest.mark.parametrize("by", ["data", "metric"])
def test_csv_reads_back_as_the_same_numbers(by):
    sheets = make_sheet(by)
    lines = list(csv.DictReader(io.StringIO(to_csv(sheets))))
    cells = expected_cells(sheets)
    assert {(line["row"], line["column"]) for line in lines} == set(cells)
    assert len(lines) == len(cells)
    for line in lines:
        cell = cells[line["row"], line["column"]]
        for field in ("mean", "sd", "p_best", "p_baseline"):
            assert (float(line[field]) if line[field] else None) == getattr(cell, field)
        assert int(line["n"]) == cell.n
        assert [line[mark] == "1" for mark in ("best", "tied", "differs")] == [cell.best, cell.tied, cell.differs]
        assert line["marks"] == cell.marks


@pytest.mark.parametrize("by", ["data", "metric"])
def test_json_reads_back_as_the_same_numbers(by):
    sheets = make_sheet(by)
    tables = json.loads(to_json(sheets))["tables"]
    cells = expected_cells(sheets)
    assert [table["notes"] for table in tables] == [list(sheet.notes) for sheet in sheets]
    read = {(cell["row"], cell["column"]): cell for table in tables for cell in table["cells"]}
    assert set(read) == set(cells)
    for key, cell in cells.items():
        assert {int(seed): value for seed, value in read[key]["seeds"].items()} == dict(cell.values)
        for field in ("mean", "sd", "n", "best", "tied", "differs", "p_best", "p_baseline", "marks"):
            assert read[key][field] == getattr(cell, field)


def test_markdown_reads_back_as_the_same_numbers():
    [sheet] = make_sheet()
    lines = [line for line in markdown([sheet]).splitlines() if line.startswith("|")]
    heads, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert heads == ["", "subset_accuracy ↑", "hamming_loss ↓", "n"]
    assert [re.sub(r"\\(.)", r"\1", row[0]) for row in rows] == [row.name for row in sheet.rows]
    for texts, row in zip(rows, sheet.rows, strict=True):
        for text, cell, column in zip(texts[1:-1], row.cells, sheet.columns, strict=True):
            half = 0.5 * 10.0 ** -decimals(sheet, column) + 1e-12
            numbers = [float(number) for number in re.findall(r"\d+\.\d+", text)]
            wanted = [number for number in (cell.mean, cell.sd) if number is not None]
            assert len(numbers) == len(wanted)
            assert numbers == pytest.approx(wanted, abs=half)
            assert text.startswith("**") is cell.best
            assert ("†" in text, r"\*" in text, "[m]" in text) == (cell.tied, cell.differs, cell.marks == "m")
        assert texts[-1] == ("" if row.source else "12")


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=4), st.integers(0, 4))
def test_the_largest_number_of_a_column_shows_two_digits(means, least):
    column = Column(LOSS, "d", "t")
    rows = tuple(Row(str(at), (Cell({0: mean}),)) for at, mean in enumerate(means))
    places = decimals(Sheet("s", "a", (column,), rows, (), least, 0), column)
    assert places >= least
    largest = f"{max(means):.{places}f}".replace(".", "").lstrip("0")
    assert len(largest) >= 2 or (places == least and len(largest) >= 1) or max(means) < 1e-8
    # And no more than needed: one place less would show one digit, or be less than was asked.
    assert places == least or len(f"{max(means):.{places - 1}f}".replace(".", "").lstrip("0")) < 3


def test_rows_of_different_numbers_of_runs_say_so():
    values = {"a": [0.1, 0.2, 0.3], "b": [0.4]}
    first, second = make_results(values), make_results({"a": [0.5], "b": [0.5]}, data="tiny/flat")
    both = type(first)("s", first.expected + second.expected, first.runs + second.runs)
    [sheet] = tabulate(both, Table([ACCURACY], by="metric"))
    rows = [line.split("|") for line in markdown([sheet]).splitlines() if line.startswith("|")]
    assert [row[-2].strip() for row in rows[2:]] == ["3, 1", "1"]


def test_latex_panels_read_back_as_the_same_numbers():
    names = ("micro_f1", "micro_recall", "weighted_f1", "example_f1", "example_recall")
    places = [*(f"test.mode.{name}" for name in names), ACCURACY, LOSS]
    rng = np.random.default_rng(0)
    columns = tuple(Column(place, "d", place.rpartition(".")[2]) for place in places)
    rows = tuple(
        Row(name, tuple(Cell(dict(enumerate(rng.random(3)))) for _ in columns)) for name in ("first", "second")
    )
    sheet = Sheet("s", "a", columns, rows, (), 3, 0)
    body = latex([sheet])
    panels = re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", body, re.DOTALL)
    assert len(panels) == 2
    read = {"first": [], "second": []}
    titles = []
    for panel in panels:
        lines = [re.split(" ?& ", line.strip().removesuffix(r" \\")) for line in panel.splitlines() if "&" in line]
        titles += [title.split()[0].replace(r"\_", "_") for title in lines[0][1:-1]]
        for name, *cells, number in lines[1:]:
            read[name] += [[float(part) for part in cell.split(r"$\pm$")] for cell in cells]
            assert number == "3"
    assert titles == [column.title for column in columns]
    for row in rows:
        wanted = [[cell.mean, cell.sd] for cell in row.cells]
        np.testing.assert_allclose(read[row.name], wanted, atol=0.00051)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_latex_has_no_bare_special_character(text):
    written = escape_latex(text)
    assert written.isascii()
    assert written.isprintable()
    bare = re.sub(r"\\[\\&%$#_{}`'^~=.\"]|\$[^$]*\$|\\[A-Za-z]+", "", written)
    assert not re.search(r"[&%$#_^~\\]", bare), (text, written)


def compile_latex(folder, body):
    """Compile a document around `body`; returns its text, or what TeX complained of."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    packages = re.match(r"% (\\usepackage\{.*\})\n", body)[1]
    document = f"\\documentclass{{article}}\n{packages}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (folder / "t.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.parametrize("by", ["data", "metric"])
def test_latex_compiles_as_it_comes(tmp_path, by):
    sheets = make_sheet(by)
    body = latex(sheets)
    assert body.count(r"\begin{table}") == len(sheets)
    printed = compile_latex(tmp_path, body)
    assert not re.search(r"Overfull|Missing character|undefined", printed), printed[-3000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_latex_prints_any_text(tmp_path):
    drawn = [chr(code) for code in range(0x20, 0x500) if unicodedata.category(chr(code)) not in ("Cc", "Cn")]
    lines = ["".join(drawn[at : at + 40]) for at in range(0, len(drawn), 40)]
    column = Column(ACCURACY, "d", "t")
    rows = tuple(Row(line, (Cell({0: 0.5}),)) for line in [*lines, *NAMES])
    sheet = Sheet("[s] & s", "\\about", (column,), rows, tuple(NAMES), 3, 0)
    printed = compile_latex(tmp_path, latex([sheet]))
    assert "Missing character" not in printed


def test_a_wide_latex_table_is_scaled_to_the_line(tmp_path):
    column = Column(ACCURACY, "d", "a_rather_long_heading")
    rows = tuple(Row(f"row {at}", (Cell({0: 0.5, 1: 0.6}),) * 14) for at in range(3))
    printed = compile_latex(tmp_path, latex([Sheet("s", "a", (column,) * 14, rows, (), 3, 0)]))
    assert "Overfull" not in printed
