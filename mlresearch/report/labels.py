"""What a run's predictions are worth, label by label."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlresearch.data.records import SPLITS, Dataset
from mlresearch.decisions import Decision, LabelThresholds
from mlresearch.evaluate import evaluate
from mlresearch.figures.style import cut
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies, LabelSpace
from mlresearch.report.markup import bullets, join, tag
from mlresearch.report.page import Section
from mlresearch.scored import ScoredSplit

DECISION = "mode"
"""The decision whose label sets are counted: the head's own."""

TITLES = {
    **dict.fromkeys(SPLITS, ""),
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "average_precision": "average precision",
    "threshold": "threshold",
}
"""Headings of what is said of a label; a split stands for the examples of it that have the label."""

WHOLE_DESCRIPTIONS = 10_000
"""Up to so many labels, descriptions are cut to `LONG` characters, else to `SHORT`."""

LONG, SHORT = 160, 60


@dataclasses.dataclass(frozen=True, eq=False)
class LabelReport:
    """What is said of every label.

    columns: by key of `TITLES`, NaN where there is no number. hierarchy: None where labels are flat. split: of which
    scores are. whole: whether these are of all labels of an example, and not of the most probable ones alone.
    """

    split: str
    label_space: LabelSpace
    hierarchy: LabelHierarchy | None
    columns: Mapping[str, np.ndarray]
    whole: bool

    @property
    def has_scores(self) -> bool:
        """Whether predictions were at hand."""
        return "f1" in self.columns

    def to_json(self) -> dict[str, Any]:
        """Return what the page's script draws labels from: a list a column, null where there is nothing to say."""
        names, descriptions = self.label_space.names, self.label_space.descriptions
        most = LONG if len(names) <= WHOLE_DESCRIPTIONS else SHORT
        columns = [
            {"key": key, "title": TITLES[key] or key, "count": key in SPLITS, "values": _plain(self.columns[key])}
            for key in TITLES
            if key in self.columns
        ]
        tree = self.hierarchy
        return {
            "names": names,
            "descriptions": [
                "" if text == name else cut(text, most) for name, text in zip(names, descriptions, strict=True)
            ],
            "columns": columns,
            "split": self.split,
            "edges": None if tree is None else {"children": tree.children.tolist(), "parents": tree.parents.tolist()},
        }


def report_labels(
    split: str,
    label_space: LabelSpace,
    hierarchy: LabelHierarchy | None,
    frequencies: Frequencies,
    decisions: Mapping[str, Decision],
    dataset: Dataset | None,
    scored: ScoredSplit | None,
) -> LabelReport:
    """Return what can be said of labels with what is at hand: of less than all there are fewer columns."""
    num_labels = label_space.num_labels
    columns = {"train": frequencies.on}
    for name, records in dataset.splits.items() if dataset is not None else ():
        columns[name] = records.labels.counts(num_labels).astype(np.float64)
    thresholds = decisions.get("label_thresholds")
    if isinstance(thresholds, LabelThresholds):
        columns["threshold"] = np.exp(thresholds.log_thresholds.astype(np.float64))
    if scored is not None:
        columns |= score_labels(scored, decisions[DECISION])
    return LabelReport(split, label_space, hierarchy, columns, scored is None or scored.whole)


def score_labels(scored: ScoredSplit, decision: Decision) -> dict[str, np.ndarray]:
    """Return precision, recall, F1 and average precision of each label, float64 [labels]; 0/0 is NaN.

    They are those of `mlresearch.metrics` before they are averaged over labels.
    """
    [found] = evaluate(scored, [{DECISION: decision}], None)
    assert found is not None, "predictions are kept of runs that have not diverged"
    assert found.ranks is not None
    counts = found.decisions[DECISION]
    with np.errstate(invalid="ignore"):
        return {
            "precision": counts.tp / (counts.tp + counts.fp),
            "recall": counts.tp / (counts.tp + counts.fn),
            "f1": 2 * counts.tp / (2 * counts.tp + counts.fp + counts.fn),
            "average_precision": found.ranks.by_label,
        }


def sections(report: LabelReport) -> list[Section]:
    """Return the sections that the page's script fills."""
    own = f"on the {report.split} split, of the head's own label sets" if report.has_scores else ""
    notes = [f"{', '.join(name for name in SPLITS if name in report.columns)}: examples with the label."]
    if report.has_scores:
        notes += [
            f"precision, recall, F1: {own}; –: 0/0.",
            "average precision: the mean over a label's examples of the precision among those that score no less; –: "
            "the label does not occur in the split."
            + (
                ""
                if report.whole
                else " Of each example only the most probable labels were kept, the others count as last."
            ),
        ]
    if "threshold" in report.columns:
        notes.append("threshold: of the marginal, fitted for the label's F1 on the validation split.")
    holder = tag("div", attributes={"id": "label-table"})
    made = [Section("labels", "Labels", join([holder, bullets(notes)]))]
    if report.hierarchy is not None:
        what = "A label with several parents stands under each. " if not report.hierarchy.is_forest else ""
        keys = "Arrow keys move, open and close."
        holder = tag("div", attributes={"id": "label-tree"})
        made.append(Section("hierarchy", "Hierarchy", join([holder, bullets([what + keys])])))
    return made


def _plain(values: np.ndarray) -> list[float | int | None]:
    """Return numbers for JSON, four digits of them."""
    return [
        None if np.isnan(value) else int(value) if float(value).is_integer() else round(float(value), 4)
        for value in values.tolist()
    ]
