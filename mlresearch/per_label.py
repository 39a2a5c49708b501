"""What a run gets right of each label on the test split: ``per_label.csv`` in its folder, and a report of it.

A line a label, in the label space's order:

- ``name``, ``description``; ``level``, where there is a hierarchy: the longest way down to the label, from 0.
- ``train``, ``validation``, ``test``: examples of each split in which the label is on and known to be.
- ``threshold``, a probability: the label's own, which was fitted on validation. ``precision``, ``recall``, ``f1``: on
  test, of what scores over it, the decision for macro-F1.
- ``mode_precision``, ``mode_recall``, ``mode_f1``: the same of the distribution's most probable label set.
- ``average_precision``: of the label's scores on test, empty where no example has the label.

0/0 is 0, so that the means of the columns are the record's ``macro_precision``, ``macro_recall``, ``macro_f1`` and, of
what is not empty, ``macro_average_precision``.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mlresearch.data.records import SPLITS, Dataset
from mlresearch.decisions import Decision, LabelThresholds
from mlresearch.errors import UserError, suggest
from mlresearch.files import write_bytes
from mlresearch.metrics import LabelCounts, Ranks, precision_recall_f1
from mlresearch.workdir import finished_record

FILE = "per_label.csv"

PREFIXES = {"label_thresholds": "", "mode": "mode_"}
"""Decisions whose precision, recall and F1 are told, and what the names of their columns begin with."""

RATIOS = ("precision", "recall", "f1")

DIGITS = 6
"""Significant digits of ratios and thresholds."""


def write_per_label(
    folder: Path,
    dataset: Dataset,
    decisions: Mapping[str, Decision],
    counts: Mapping[str, LabelCounts],
    ranks: Ranks,
) -> None:
    """Write ``per_label.csv``; counts and ranks: of the test split, counts by decision."""
    space = dataset.label_space
    columns: dict[str, Sequence[Any]] = {"name": space.names, "description": space.descriptions}
    if dataset.hierarchy is not None:
        columns["level"] = dataset.hierarchy.levels.tolist()
    for split in SPLITS:
        columns[split] = dataset.splits[split].labels.counts(space.num_labels).tolist()
    thresholds = decisions["label_thresholds"]
    assert isinstance(thresholds, LabelThresholds)
    columns["threshold"] = _written(np.exp(thresholds.log_thresholds.astype(np.float64)))
    for decision, prefix in PREFIXES.items():
        of = counts[decision]
        columns |= {prefix + name: _written(ratio) for name, ratio in precision_recall_f1(of.tp, of.fp, of.fn).items()}
    columns["average_precision"] = _written(ranks.by_label)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_bytes(folder / FILE, text.getvalue().encode())


def _written(values: Float[np.ndarray, "labels"]) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.{DIGITS}g}" for value in values.tolist()]


MEANS = {"micro avg": "micro", "macro avg": "macro", "weighted avg": "weighted", "samples avg": "example"}
"""Means at the foot of a report: as scikit-learn's `classification_report` calls them, and as a record does."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a report: of a label, or of a mean; None where there is no such number.

    support: examples of the test split with the label; train: of the training split.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    train: int
    average_precision: float | None = None
    threshold: float | None = None
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """A classification report: what one decision gets right of each label of the test split.

    labels: in the label space's order. means: the record's numbers; ``samples avg`` is the mean over examples, where F1
    is 1 if nothing is true and nothing is predicted.
    """

    decision: str
    labels: tuple[Line, ...]
    means: tuple[Line, ...]

    @classmethod
    def read(cls, folder: Path, decision: str) -> "Report":
        """Return the report of a finished run, baseline or ensemble; a folder without one is a `UserError`."""
        if decision not in PREFIXES:
            raise UserError(f"labels are not told one by one of the decision {decision!r}{suggest(decision, PREFIXES)}")
        record = finished_record(folder)
        if record is None:
            raise UserError(f"{folder} holds no finished run")
        if not (folder / FILE).is_file():
            raise UserError(f"there is no {FILE} in {folder}: the run was made before there was one; make it again")
        try:
            with (folder / FILE).open(newline="", encoding="utf-8") as file:
                labels = tuple(_line(row, PREFIXES[decision]) for row in csv.DictReader(file))
        except (KeyError, TypeError, ValueError) as error:  # a column, a cell or a number that is none
            raise UserError(f"{folder / FILE} is damaged: {error}") from None
        support, train = (sum(getattr(line, name) for line in labels) for name in ("support", "train"))
        metrics, ranking = (record["metrics"]["test"][group] for group in (decision, "ranking"))
        means = []
        for name, mean in MEANS.items():
            ratios = {ratio: metrics[f"{mean}_{ratio}"] for ratio in RATIOS}
            average = ranking.get(f"{mean}_average_precision")
            means.append(Line(name, **ratios, support=support, train=train, average_precision=average))
        return cls(decision, labels, tuple(means))

    def first(self, by: str, top: int) -> list[Line]:
        """Return the first `top` labels by a column, all of them where `top` is 0.

        Names ascend and numbers descend, with a dash before the column the other way round. Equal ones stand in the
        label space's order, and last what has no number. An unknown column is a `UserError`.
        """
        column = by.removeprefix("-")
        known = [field.name for field in dataclasses.fields(Line) if field.name != "description"]
        if column not in known:
            raise UserError(f"there is no column {column!r} to sort by{suggest(column, known)}")
        given = [line for line in self.labels if getattr(line, column) is not None]
        rest = [line for line in self.labels if getattr(line, column) is None]
        descending = (column == "name") == by.startswith("-")
        return (sorted(given, key=lambda line: getattr(line, column), reverse=descending) + rest)[: top or None]


def _line(row: Mapping[str, str], prefix: str) -> Line:
    """Return what a line of the file says of a label; prefix: one of `PREFIXES`."""
    average, threshold = row["average_precision"], row["threshold"]
    return Line(
        row["name"],
        **{ratio: float(row[prefix + ratio]) for ratio in RATIOS},
        support=int(row["test"]),
        train=int(row["train"]),
        average_precision=float(average) if average else None,
        threshold=None if prefix else float(threshold),
        description=row["description"],
    )
