"""Percentile intervals of every metric of a run, over resampled examples of a split.

They say how much a number owes to the examples that the split happens to hold, the model given; of other seeds they say
nothing.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from mlresearch.data.records import Dataset
from mlresearch.decisions import Decision
from mlresearch.errors import UserError, suggest
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.inputs import load_dataset
from mlresearch.label_space import Frequencies
from mlresearch.predict import Run
from mlresearch.predictions import read_predictions
from mlresearch.progress import Bar
from mlresearch.resampling import SUMMED_CELLS, Outcomes, agrees, draw_weights, evaluate_copies
from mlresearch.scored import ScoredSplit
from mlresearch.workdir import finished_record, read_config, read_decisions, refuse_changed

Metrics = Mapping[str, Mapping[str, float | None]]
"""Numbers of a split, by group and by name."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Between which two numbers the metrics of a split lie in a share of the resamples.

    level: the share. bounds: by place; left_out: why there are none, by place.
    """

    split: str
    num_examples: int
    resamples: int
    level: float
    seed: int
    bounds: Mapping[str, tuple[float, float]]
    left_out: Mapping[str, str]

    def of(self, group: str, name: str) -> tuple[float, float] | None:
        """Return the bounds of a metric, None where there are none."""
        return self.bounds.get(f"{self.split}.{group}.{name}")

    def to_json(self) -> dict[str, Any]:
        """Return the intervals in JSON's types, by place."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "split"}


def percentile_interval(resampled: Float[np.ndarray, "resamples"], level: float) -> tuple[float, float]:
    """Return the k-th smallest and the k-th largest of B resampled numbers, ``k = ⌊(B + 1) (1 − level) / 2⌋``.

    It is as good as resamples are like other samples. Of means over examples they are. Means over labels are moved
    where labels are rare: resamples that lack a label's examples count it 0 or leave it out, and those that have them
    several times rank the copies together, so that such an interval may even lie beside the number.

    A level that is none, and too few resamples for it, are `UserError`s.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    if not 0 < level < 1:
        raise UserError(f"a level of {level:g} is none: it is between 0 and 1")
    place = math.floor((len(resampled) + 1) * (1 - level) / 2 + 1e-9)  # 1 − 0.95 is a little more or less than 0.05
    if not place:
        fewest = math.ceil(2 / (1 - level) - 1e-9) - 1
        raise UserError(f"{len(resampled)} resamples are too few for a level of {level:g}: it takes {fewest}")
    ordered = np.sort(resampled)
    return float(ordered[place - 1]), float(ordered[-place])


def find_intervals(
    scored: ScoredSplit,
    decisions: Mapping[str, Decision],
    hierarchy: LabelHierarchy | None,
    frequencies: Frequencies,
    metrics: Metrics,
    resamples: int,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Return the intervals of a split's metrics; all metrics meet the same resamples.

    frequencies: of the training split's labels. metrics: what the record says of the split. Numbers that the scores do
    not give again are left out. What `Outcomes.metrics` does not know is evaluated on copied rows, which is slow. Too
    few resamples are a `UserError`.
    """
    percentile_interval(np.zeros(resamples), level)  # or there is no need to begin
    recorded = {f"{scored.name}.{group}.{name}": value for group, of in metrics.items() for name, value in of.items()}
    outcomes = Outcomes.of(scored, decisions, hierarchy, frequencies, list(recorded))
    once = np.ones((1, len(scored)), np.int64)
    summed = {place: float(of[0]) for place, of in outcomes.metrics(list(recorded), once).items()}
    copied: dict[str, float | None] = {}
    few = scored.whole and len(scored) * scored.num_labels <= SUMMED_CELLS
    if few and any(value is not None and place not in summed for place, value in recorded.items()):
        [again] = evaluate_copies(scored, decisions, hierarchy, frequencies, once)
        copied = {place: again[place] for place in recorded if place in again and place not in summed}
    left_out = {
        place: reason
        for place, value in recorded.items()
        if (reason := _reason(value, (summed | copied).get(place), whole=scored.whole, few=few))
    }

    blocks: list[dict[str, np.ndarray]] = []
    with contextlib.closing(Bar("resample", resamples)) as bar:
        for weights in draw_weights(len(scored), resamples, seed, outcomes.width):
            block = outcomes.metrics([place for place in summed if place not in left_out], weights)
            if places := [place for place in copied if place not in left_out]:
                rows = list(evaluate_copies(scored, decisions, hierarchy, frequencies, weights))
                block |= {
                    place: np.array([row[place] for row in rows])
                    for place in places
                    if all(row.get(place) is not None for row in rows)
                }
            blocks.append(block)
            bar.advance(len(weights))
    bounds = {}
    for place in recorded:
        if place not in left_out and all(place in block for block in blocks):
            bounds[place] = percentile_interval(np.concatenate([block[place] for block in blocks]), level)
        else:
            left_out.setdefault(place, "it has no value in some resamples")
    return Intervals(scored.name, len(scored), resamples, level, seed, bounds, left_out)


def _reason(recorded: float | None, found: float | None, *, whole: bool, few: bool) -> str:
    """Return why a number is left out, given what the scores make of it; empty where it is not."""
    if recorded is None:
        return "it is infinite, or there is none"
    if found is None:
        if not whole:
            return "it needs all scores, of which the highest alone are stored"
        return "the scores do not give it" if few else f"of more than {SUMMED_CELLS:,} cells it takes too long"
    scores = "scores" if whole else "highest scores, which alone are stored,"
    return "" if agrees(recorded, found) else f"the {scores} give {found:.6g}, the record says {recorded:.6g}"


def run_intervals(folder: Path, split: str, resamples: int, level: float, seed: int) -> tuple[Metrics, Intervals]:
    """Return what the record of a finished run, baseline or ensemble says of a split, and the intervals.

    Scores are those that the folder keeps; where these are none, or not all, the model scores the split anew, if there
    is one. Where there is none, and where the record has no numbers of the split, that is a `UserError`.
    """
    record = finished_record(folder)
    if record is None:
        raise UserError(f"{folder} holds no finished run")
    if split not in record["metrics"]:
        raise UserError(f"the record of {folder} has no metrics of {split!r}{suggest(split, record['metrics'])}")
    config = read_config(folder)
    dataset = load_dataset(config)
    refuse_changed(folder, record, dataset)
    scored = _scores(folder, split, config, dataset)
    metrics = record["metrics"][split]
    decisions = read_decisions(folder)
    frequencies = dataset.train.labels.frequencies(dataset.label_space.num_labels)
    found = find_intervals(scored, decisions, dataset.hierarchy, frequencies, metrics, resamples, level, seed)
    return metrics, found


def _scores(folder: Path, split: str, config: ConfigDict, dataset: Dataset) -> ScoredSplit:
    """Return the scores of a split that are kept, unless the run's model can tell more."""
    kept = None
    if (folder / f"predictions_{split}.npz").is_file():
        kept = read_predictions(folder, split, dataset)
        if kept.whole:
            return kept
    has_model = "baseline" not in config and "ensemble" not in config
    if has_model and not (config.train.refit and split == "validation"):  # whose numbers are from before the refit
        return Run(folder).scored(split)
    if kept is None:
        raise UserError(
            f"{folder} keeps no predictions of {split}, and no model that could score it anew: make the run again with "
            "config.evaluate.predictions"
        )
    return kept
