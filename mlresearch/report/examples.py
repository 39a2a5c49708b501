"""Examples of a split beside what a run says of them: those it is most wrong about, and some that it has right."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlresearch.data.records import Dataset, Records
from mlresearch.decisions import Decision
from mlresearch.figures.style import cut
from mlresearch.label_space import LabelSpace
from mlresearch.metrics import ExampleValues
from mlresearch.report.markup import Html, bullets, join, tag
from mlresearch.report.page import Section
from mlresearch.scored import ScoredSplit

NUM_WRONG, NUM_RIGHT = 20, 8
"""How many examples are shown that are most wrong, and that are right."""

MAX_TEXT = 600  # characters
MAX_COLUMNS = 12
MAX_LABELS = 12  # of a kind, in an example

LEAST_PROBABILITY = 1e-6
"""What the truth of a cell is taken to have at least, so that no single one outweighs all others."""

SIGNS = {"right": "✓", "missed": "−", "wrong": "+"}
TITLES = {"right": "right", "missed": "missed", "wrong": "wrongly predicted"}


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """An example: its place in the split, its F1, and label ids by kind (`SIGNS`) with their probabilities."""

    row: int
    f1: float
    labels: dict[str, list[tuple[int, float]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Chosen examples; num_right: examples of the split with every known label right; num_examples: all with any."""

    wrong: tuple[Example, ...]
    right: tuple[Example, ...]
    num_right: int
    num_examples: int


def choose_examples(scored: ScoredSplit, decision: Decision) -> Examples:
    """Return the `NUM_WRONG` examples of the lowest F1, and `NUM_RIGHT` of those that are right, evenly spaced.

    Of equal F1 those come first whose truth is the least probable, Σ log P(cell) over an example's known cells.
    """
    size = len(scored)
    f1, log_truth, counted = np.zeros(size), np.zeros(size), np.zeros(size, bool)
    for [scores] in scored:
        preds, known = decision.apply(scores), _known(scores.labels, scores.known)
        on, true = preds & known, scores.labels & known
        hits, num_on, num_true = (cells.sum(axis=1) for cells in (on & true, on, true))
        counted[scores.rows] = known.any(axis=1)
        f1[scores.rows] = ExampleValues.of(hits, num_on, num_true, counted[scores.rows]).f1
        probability = np.exp(scores.log_marginals.astype(np.float64))
        truth = np.maximum(np.where(scores.labels, probability, 1 - probability), LEAST_PROBABILITY)
        log_truth[scores.rows] = np.where(known, np.log(truth), 0.0).sum(axis=1)
    order = np.lexsort((log_truth, f1))
    wrong = [row for row in order.tolist() if f1[row] < 1 and counted[row]][:NUM_WRONG]
    right = np.flatnonzero(f1 == 1)
    spaced = right[np.linspace(0, len(right) - 1, min(NUM_RIGHT, len(right))).astype(np.int64)].tolist()
    found = dict(_look(scored, decision, {*wrong, *spaced}, f1))
    return Examples(
        tuple(found[row] for row in wrong), tuple(found[row] for row in spaced), len(right), int(counted.sum())
    )


def _look(scored: ScoredSplit, decision: Decision, rows: set[int], f1: np.ndarray) -> list[tuple[int, Example]]:
    """Return the labels of some examples, the most probable first."""
    found = []
    for [scores] in scored:
        preds, known = decision.apply(scores), _known(scores.labels, scores.known)
        for at in np.flatnonzero(np.isin(scores.rows, list(rows))).tolist():
            on, true, probability = (
                preds[at] & known[at],
                scores.labels[at] & known[at],
                np.exp(scores.log_marginals[at]),
            )
            labels = {}
            for kind, cells in (("right", on & true), ("missed", true & ~on), ("wrong", on & ~true)):
                ids = np.flatnonzero(cells)
                ids = ids[np.argsort(-probability[ids], kind="stable")]
                labels[kind] = [(int(label), float(probability[label])) for label in ids]
            row = int(scores.rows[at])
            found.append((row, Example(row, float(f1[row]), labels)))
    return found


def _known(labels: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    return np.ones(labels.shape, bool) if known is None else known


def section(examples: Examples, dataset: Dataset, split: str) -> Section:
    """Return the section of examples."""
    records = dataset.splits[split]
    legend = tag(
        "p",
        "Probabilities are marginals. ",
        *(
            tag("span", f"{SIGNS[kind]} {title}", attributes={"class": f"label {kind}"})
            for kind, title in TITLES.items()
        ),
        attributes={"class": "legend"},
    )
    wrong = [_article(example, dataset, records) for example in examples.wrong]
    right = [_article(example, dataset, records) for example in examples.right]
    num_wrong = examples.num_examples - examples.num_right
    content = [
        legend,
        tag("h3", f"Most wrong: {len(wrong)} of {num_wrong:,} that are not all right"),
        bullets(["Of the lowest F1; of equal ones those come first whose labels were the least probable."]),
        *wrong,
        tag("h3", f"Right: {len(right)} of {examples.num_right:,} with every label right"),
        bullets(["Evenly spaced over the split."]),
        *right,
    ]
    return Section("examples", "Examples", join(content))


def _article(example: Example, dataset: Dataset, records: Records) -> Html:
    key = records.keys[example.row]
    where = f"example {example.row + 1:,}" + (f", {cut(key, 80)}" if key else "")
    labels = [_labels(kind, example.labels[kind], dataset.label_space) for kind in ("wrong", "missed", "right")]
    none = [] if any(example.labels.values()) else [tag("p", "No label is true, and none was predicted.")]
    return tag(
        "article",
        tag("header", tag("span", where), tag("span", f"F1 {example.f1:.2f}", attributes={"class": "score"})),
        *_input(example.row, dataset, records),
        *labels,
        *none,
        attributes={"class": "example"},
    )


def _labels(kind: str, labels: Sequence[tuple[int, float]], label_space: LabelSpace) -> Html:
    """Return the labels of a kind, told by its name and its sign beside its colour."""
    if not labels:
        return Html("")
    parts = []
    for label, probability in labels[:MAX_LABELS]:
        name, description = label_space.names[label], label_space.descriptions[label]
        told = [] if description == name else [tag("small", cut(description, 60))]
        number = tag("span", f"{probability:.2f}", attributes={"class": "score"})
        words = join([f"{SIGNS[kind]} ", tag("b", cut(name, 80)), *(join([" ", each]) for each in told), " ", number])
        parts.append(tag("li", words, attributes={"class": f"label {kind}"}))
    if len(labels) > MAX_LABELS:
        parts.append(tag("li", f"and {len(labels) - MAX_LABELS} more"))
    return tag("div", tag("h4", TITLES[kind]), tag("ul", *parts), attributes={"class": "labels"})


def _input(row: int, dataset: Dataset, records: Records) -> list[Html]:
    """Return the text and the columns of an example, cut to what can be read; what is cut is said."""
    parts = []
    if records.texts is not None:
        text = records.texts[row]
        more = f" ({len(text) - MAX_TEXT:,} characters more)" if len(text) > MAX_TEXT else ""
        parts.append(tag("blockquote", cut(text, MAX_TEXT), more))
    columns = []
    if records.categories is not None:
        columns += [
            (name, values[row])
            for name, values in zip(dataset.category_names, records.categories, strict=True)
            if values[row]
        ]
    if records.features is not None:
        there = np.flatnonzero(np.nan_to_num(records.features[row]))
        columns += [(dataset.feature_names[at], f"{records.features[row, at]:.4g}") for at in there.tolist()]
    if columns:
        pairs = [
            tag("span", tag("b", cut(name, 40)), f" {cut(value, 40)}", attributes={"class": "column"})
            for name, value in columns[:MAX_COLUMNS]
        ]
        more = f"and {len(columns) - MAX_COLUMNS:,} more" if len(columns) > MAX_COLUMNS else ""
        parts.append(tag("p", *pairs, more, attributes={"class": "columns"}))
    return parts
