"""Run records as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = {
    "hamming_loss": ("test", "mode", "hamming_loss"),
    "micro_f1": ("test", "mode", "micro_f1"),
    "macro_f1": ("test", "mode", "macro_f1"),
    "macro_f1_present": ("test", "mode", "macro_f1_present"),
    "subset_accuracy": ("test", "mode", "subset_accuracy"),
    "mAP": ("test", "ranking", "macro_average_precision"),
    "P@1": ("test", "ranking", "precision_at_1"),
    "violation_rate": ("test", "mode", "violation_rate"),
    "validation subset_accuracy": ("validation", "mode", "subset_accuracy"),
}
"""Columns of a table, and where in the metrics of a run record each stands; ``mode`` is the head's own decision."""


def row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's row: its parts, its steps, the metrics of `COLUMNS` and the seconds it took, as text.

    Where labels were dropped from its data set (``config.data.unknown_labels = "drop"``), their number is in the row.
    """
    cells = {"run": str(record["name"]), "steps": str(record.get("num_steps") or "")}
    for title, (split, group, metric) in COLUMNS.items():
        value = record["metrics"][split][group].get(metric)
        cells[title] = "" if value is None else f"{value:.4f}"
    dropped = record["data"]["notes"].get("dropped_labels", {}).get("total", 0)
    if dropped:
        cells["dropped labels"] = str(dropped)
    return cells | {"seconds": f"{sum(record['seconds'].values()):.0f}"}


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
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
