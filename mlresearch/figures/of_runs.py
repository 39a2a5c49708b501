"""The figures of one data set that need its runs' folders: of stored predictions, logs and parameters."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mlresearch import workdir
from mlresearch.data.records import Dataset
from mlresearch.decisions import GlobalThreshold
from mlresearch.errors import UserError
from mlresearch.figures import style
from mlresearch.figures.attention import draw_attention
from mlresearch.figures.calibration import Bins, draw_calibration, reliability
from mlresearch.figures.cooccurrence import MAX_LABELS, count_together, draw_data_against_model
from mlresearch.figures.label_f1 import draw_label_f1, label_f1
from mlresearch.figures.learning import Band, band, draw_learning, read_log
from mlresearch.figures.precision_recall import Curve, draw_precision_recall, micro_curve
from mlresearch.figures.style import Drawing, slug
from mlresearch.figures.thresholds import Thresholds, draw_thresholds, f1_by_threshold
from mlresearch.inputs import load_dataset
from mlresearch.predict import Run
from mlresearch.predictions import read_predictions
from mlresearch.scored import ScoredSplit
from mlresearch.tables.results import Result, by_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("learning", "precision_recall", "calibration", "thresholds", "label_f1", "cooccurrence", "attention")
"""Their names."""

MAX_ATTENDING = 3
"""Labels whose attention is drawn, the most probable ones."""


def draw_runs(data: str, runs: Sequence[Result], only: Sequence[str] = KINDS) -> Iterator[Drawing]:
    """Yield the figures of the runs of one data set, and the names of those that are left out, all in one if all are.

    only: which of `KINDS`. Figures are of the run with the lowest seed of each row, of at most as many rows as there
    are looks; learning curves are of all seeds. Of one row, the first, is what shows a single run.
    """
    names = {kind: f"{kind}-{slug(data)}" for kind in KINDS if kind in only}
    there = [run for run in runs if run.folder is not None and (run.folder / "run.json").is_file()]
    if not there:
        missing = f"the folder of no run is at hand, such as {runs[0].folder or runs[0].file}: name --workdir"
        yield Drawing(", ".join(names.values()), None, missing)
        return
    rows: dict[str, list[Result]] = {}
    for (row, _), own in by_cell(there).items():
        rows[row] = sorted(own, key=lambda run: run.seed)
    kept = dict(itertools.islice(rows.items(), len(style.LOOKS)))
    many = style.of_many(len(rows), len(kept))
    dataset: Dataset | None = None
    for kind, name in names.items():
        try:
            if kind == "learning":
                figure, remark = _learning(data, kept)
            else:
                dataset = dataset or _load(there[0])
                figure, remark = _MAKERS[kind](data, dataset, {row: own[0] for row, own in kept.items()})
            yield Drawing(name, figure, "; ".join(filter(None, [remark, many])))
        except UserError as error:
            yield Drawing(name, None, str(error))


def _folder(run: Result) -> Path:
    """Return the folder of a run that has one."""
    assert run.folder is not None
    return run.folder


def _load(run: Result) -> Dataset:
    """Return the data set that a run was made on."""
    dataset = load_dataset(run.config if run.config is not None else workdir.read_config(_folder(run)))
    workdir.refuse_changed(_folder(run), run.record, dataset)
    return dataset


def _scores(run: Result, split: str, dataset: Dataset) -> ScoredSplit:
    """Return what a run keeps of a split; one that was made on other data of the same name is a `UserError`."""
    workdir.refuse_changed(_folder(run), run.record, dataset)
    return read_predictions(_folder(run), split, dataset)


def _learning(data: str, rows: Mapping[str, Sequence[Result]]) -> "tuple[Figure, str]":
    paths = {row: [_folder(run) / "metrics.jsonl" for run in own] for row, own in rows.items()}
    logs = {row: [read_log(path) for path in own if path.is_file()] for row, own in paths.items()}
    validated = {place for own in logs.values() for log in own for place in log if place != "train_loss"}
    bands: dict[str, dict[str, Band]] = {}
    for place in ("train_loss", *_best_known(validated)):
        for row, own in logs.items():
            found = band([log[place] for log in own if place in log])
            if len(found.epochs) > 1:  # one is no curve
                bands.setdefault(place, {})[row] = found
    if not bands:
        raise UserError("no run has a metrics.jsonl with two numbers of a kind: baselines and ensembles have none")
    counts = sorted({len(own) for own in logs.values() if own})
    many = "one run" if counts == [1] else f"{'–'.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} runs"
    return draw_learning(bands, f"{data}, {many} a row", list(rows)), ""


def _best_known(places: set[str]) -> list[str]:
    """Return which places of validation are drawn: two of those that are best known, else one."""
    ranked = ("micro_average_precision", "macro_average_precision")
    order = ("loss.mean", "subset_accuracy", "micro_f1", *ranked, "log_loss")
    return [place for end in order for place in sorted(places) if place.endswith(end)][:2] or sorted(places)[:1]


T = TypeVar("T")


def _of_rows(runs: Mapping[str, Result], read: Callable[[Result], T]) -> tuple[dict[str, T], str, list[str]]:
    """Return what is read of the rows that have it, of which seeds, and why not of the others; of none: `UserError`."""
    found: dict[str, T] = {}
    lacking = {}
    for row, run in runs.items():
        try:
            found[row] = read(run)
        except UserError as error:
            lacking[row] = str(error)
    if not found:
        raise UserError(next(iter(lacking.values())))
    seeds = sorted({runs[row].seed for row in found})
    said = f"seed{'s' * (len(seeds) > 1)}\N{NO-BREAK SPACE}{', '.join(map(str, seeds))}"
    return found, said, [f"without {row!r}: {why}" for row, why in lacking.items()]


def _require_positives(dataset: Dataset, split: str) -> None:
    """Raise `UserError` where no label is on in a split, of which there is neither recall nor F1."""
    if not dataset.splits[split].labels.on.any():
        raise UserError(f"no label is on in the {split} split")


def _precision_recall(data: str, dataset: Dataset, runs: Mapping[str, Result]) -> "tuple[Figure, str]":
    def read(run: Result) -> tuple[Curve, bool]:
        scored = _scores(run, "test", dataset)
        return micro_curve(scored), scored.whole

    _require_positives(dataset, "test")
    found, seeds, remarks = _of_rows(runs, read)
    if not all(whole for _, whole in found.values()):
        remarks.append("curves end where the scores end that predictions keep")
    curves = {row: curve for row, (curve, _) in found.items()}
    return draw_precision_recall(curves, f"{data}, test, {seeds}", list(runs)), "; ".join(remarks)


def _calibration(data: str, dataset: Dataset, runs: Mapping[str, Result]) -> "tuple[Figure, str]":
    def read(run: Result) -> Bins:
        scored = _scores(run, "test", dataset)
        if not scored.whole:
            raise UserError("of so many labels, predictions keep the most probable ones alone")
        return reliability(scored)

    bins, seeds, remarks = _of_rows(runs, read)
    return draw_calibration(bins, f"{data}, all labels, test, {seeds}", list(runs)), "; ".join(remarks)


def _thresholds(data: str, dataset: Dataset, runs: Mapping[str, Result]) -> "tuple[Figure, str]":
    def read(run: Result) -> Thresholds:
        decision = workdir.read_decisions(_folder(run)).get("global_threshold")
        fitted = decision.threshold if isinstance(decision, GlobalThreshold) else math.nan
        return f1_by_threshold(_scores(run, "validation", dataset), fitted)

    _require_positives(dataset, "validation")
    curves, seeds, remarks = _of_rows(runs, read)
    return draw_thresholds(curves, f"{data}, validation, {seeds}", list(runs)), "; ".join(remarks)


def _label_f1(data: str, dataset: Dataset, runs: Mapping[str, Result]) -> "tuple[Figure, str]":
    def read(run: Result) -> np.ndarray:
        return label_f1(_scores(run, "test", dataset), workdir.read_decisions(_folder(run))["mode"])

    _require_positives(dataset, "test")
    f1, seeds, remarks = _of_rows(runs, read)
    frequencies = dataset.splits["train"].labels.frequencies(dataset.label_space.num_labels).on
    figure = draw_label_f1(f1, frequencies, f"{data}, most probable label sets, test, {seeds}", list(runs))
    return figure, "; ".join(remarks)


def _cooccurrence(data: str, dataset: Dataset, runs: Mapping[str, Result]) -> "tuple[Figure, str]":
    counts = dataset.splits["test"].labels.counts(dataset.label_space.num_labels)
    labels = np.argsort(-counts, kind="stable")[:MAX_LABELS]
    labels = labels[counts[labels] > 0]
    if len(labels) < 2:
        raise UserError("no two labels are on in the test split")
    row, run = next(iter(runs.items()))
    scored = _scores(run, "test", dataset)
    together = count_together(scored, workdir.read_decisions(_folder(run))["mode"], labels)
    names = [dataset.label_space.names[label] for label in labels.tolist()]
    figure = draw_data_against_model(
        *together, len(scored), names, f"{data}, test: {row}, seed\N{NO-BREAK SPACE}{run.seed}"
    )
    return figure, _of_one(row, len(runs))


def _attention(data: str, dataset: Dataset, runs: Mapping[str, Result]) -> "tuple[Figure, str]":
    """Draw what the most probable labels of the first test text that has a label read of it."""
    records = dataset.splits["test"]
    if records.texts is None:
        raise UserError("the data set has no text")
    decoders = {row: (workdir.read_config(_folder(run)).get("decoder") or {}).get("name") for row, run in runs.items()}
    attending = [row for row, decoder in decoders.items() if decoder == "label_attention"]
    if not attending:
        raise UserError("no run has the decoder label_attention")
    row, run = attending[0], Run(_folder(runs[attending[0]]))
    if run.preprocessing.tokenizer is None:
        raise UserError(f"the run in {run.folder} reads no text")
    at = int(np.argmax(records.labels.num_on > 0))
    text = records.texts[at]
    [found], [predicted] = run.attention([text]), run.predict([text], min_probability=0.0)
    start = len(found.places) - len(run.preprocessing.tokenizer.pieces(text, run.preprocessing.max_length))
    best = sorted(predicted, key=lambda label: -label.probability)[:MAX_ATTENDING]
    weights = {}
    for name in (label.name for label in best):
        query = next(number for number, labels in enumerate(found.queries) if name in labels)
        weights[name] = found.tokens[-1, query, start:]
    figure = draw_attention(found.places[start:], weights, f"{data}, test example {at + 1}, last layer: {row}")
    return figure, _of_one(row, len(attending))


def _of_one(row: str, count: int) -> str:
    return f"of the row {row!r}: name another with --row" if count > 1 else ""


_MAKERS: Mapping[str, "Callable[[str, Dataset, Mapping[str, Result]], tuple[Figure, str]]"] = {
    "precision_recall": _precision_recall,
    "calibration": _calibration,
    "thresholds": _thresholds,
    "label_f1": _label_f1,
    "cooccurrence": _cooccurrence,
    "attention": _attention,
}
