"""Baselines: rows for the tables that are no models of the project, scored and recorded by the same code as these.

A baseline is one file here with a class ``Baseline``::

    Baseline.refuse(dataset)                                                    # a `UserError` if it cannot be read
    Baseline(dataset: Dataset, config: ConfigDict, *, <options with defaults>)  # fitted to the training split
    baseline.score(records) -> Answer
    baseline.num_features, baseline.num_parameters

Keyword-only arguments are options, found under ``config.baseline.<file name>``. Of the config the seed and the sections
data, columns and evaluate act beside them.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.base
from jaxtyping import Bool, Float32
from ml_collections import ConfigDict
from scipy import special

from mlresearch import environment, workdir
from mlresearch.calibration import Method
from mlresearch.calibration.maps import MarginalMap
from mlresearch.calibration.of_runs import Calibrations
from mlresearch.config import part_class
from mlresearch.data.records import Dataset, Records
from mlresearch.decisions import Rules
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate, evaluate_validation, write_evaluations
from mlresearch.files import write_json
from mlresearch.heads import LabelDistribution
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.inputs import load_dataset
from mlresearch.linear import fit_labels
from mlresearch.logspace import log_odds
from mlresearch.model_card import write_model_card
from mlresearch.progress import track
from mlresearch.scored import Said, ScoredSplit
from mlresearch.vectors import Vectors

LEAST_PROBABILITY = 1e-6
"""What a label gets that nothing speaks for; one less it is what a label gets that nothing speaks against."""

BLOCK_ROWS = 128
"""Examples scored at once: compared with 47,000 training texts they make a matrix of 24 MB."""


class Answer(NamedTuple):
    """What a baseline says of examples: log-marginals, and the predicted label sets.

    dist: what other label sets are chosen by, None for independent labels with these marginals.
    """

    log_marginals: Float32[np.ndarray, "examples labels"]
    mode: Bool[np.ndarray, "examples labels"]
    dist: LabelDistribution | None = None


def train_baseline(config: ConfigDict, folder: str | Path, sources: Sequence[Path] = ()) -> dict[str, Any]:
    """Fit the baseline of a config on the training split, evaluate it and record it in `folder`; returns the record.

    config: resolved; what of it does not act is not written to the folder. Decisions are fitted on validation and
    applied once to test, as in `train`; a finished run is returned as it is. sources: files beside the package's that
    are part of its code. A data set that the baseline cannot read and a folder with another run are `UserError`s.
    """
    name = config.baseline.name
    make, options = part_class("baseline", name), config.baseline[name].to_dict()
    acting = {section: config[section].to_dict() for section in ("baseline", "data", "columns", "evaluate")}
    own_config = ConfigDict({"seed": config.seed, **acting})
    folder = Path(folder)
    workdir.refuse_other(folder, own_config)
    finished = workdir.finished_record(folder)
    started = time.time()

    dataset = load_dataset(config)
    if finished is not None:
        workdir.refuse_changed(folder, finished, dataset)
        return finished
    hierarchy = dataset.hierarchy
    make.refuse(dataset)
    baseline = make(dataset, config, **options)
    trained = time.time()

    workdir.claim(folder, own_config)
    frequencies = dataset.train.labels.frequencies(dataset.label_space.num_labels)
    workdir.write_labels(folder, dataset.label_space, frequencies, hierarchy)
    rules = Rules.of(config)
    stored = config.evaluate.predictions
    plain = {split: score_records(baseline, dataset, split, rules) for split in ("validation", "test")}
    calibrations = Calibrations.of_marginals(plain["validation"], Method.of(config))
    said = plain
    for own in calibrations.each:
        assert isinstance(own, MarginalMap), "baselines have marginals alone"
        said = {split: score_records(baseline, dataset, split, rules, own) for split in plain}
    [on_validation] = evaluate_validation(said["validation"], 1, hierarchy, rules, frequencies, predictions=stored)
    assert on_validation is not None, "baselines do not diverge"
    validation, decisions = on_validation
    [test] = evaluate(said["test"], [decisions], hierarchy, frequencies, predictions=stored)
    assert test is not None

    metrics = write_evaluations(folder, dataset, decisions, {"validation": validation, "test": test})
    record = {
        "status": "finished",
        "name": name,
        **environment.describe(sources),
        "seed": config.seed,
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "notes": dataset.notes},
        "label_space": {"hash": dataset.label_space.hash, "num_labels": dataset.label_space.num_labels},
        "identity": workdir.identity(dataset, {}),
        "inputs": {"vocab_size": None, "num_features": baseline.num_features},
        "examples": {split: len(records) for split, records in dataset.splits.items()},
        "truncated_token_share": dict.fromkeys(dataset.splits, 0.0),
        "num_parameters": baseline.num_parameters,
        "num_steps": None,
        "mode_is_exact": None,  # predictions are no distribution's mode
        "replicas": 1,
        "resumed_at": None,
        "selected": None,
        "remarks": [],
        "seconds": {"train": trained - started, "evaluate": time.time() - trained},
        "metrics": metrics,
    }
    for split, before in plain.items():
        calibrations.note([record], before, said[split])
    calibrations.write(folder)
    write_model_card(folder, record, own_config, dataset)
    write_json(folder / "run.json", record)
    return record


def score_records(
    baseline: Any, dataset: Dataset, split: str, rules: Rules, calibrate: MarginalMap | None = None
) -> ScoredSplit:
    """Return what a baseline says of a split, `BLOCK_ROWS` examples at a time; it has no loss.

    calibrate: maps its marginals, and label sets other than its own prediction are chosen by what they then are.
    """
    records = dataset.splits[split]
    choosers = {name: jax.jit(choose) for name, choose in rules.choosers.items() if name != "mode"}

    def scores() -> Iterator[Said]:
        starts = range(0, len(records), BLOCK_ROWS)
        for start in track(starts, f"score {split}", len(starts)):
            rows = np.arange(start, min(start + BLOCK_ROWS, len(records)))
            answer = baseline.score(records.take(rows))
            log_marginals = answer.log_marginals if calibrate is None else calibrate(answer.log_marginals)
            sets = {"mode": answer.mode[None]}
            for name, choose in choosers.items():
                dist = answer.dist or ProductOfBernoullis(log_odds(jnp.asarray(log_marginals)))
                sets[name] = np.asarray(choose(dist))[None]
            yield rows, log_marginals[None], sets, np.full((1, len(rows)), np.nan)

    return ScoredSplit(split, dataset.fingerprint, records.labels, dataset.label_space.num_labels, scores)


def require_binary(dataset: Dataset) -> None:
    """Raise `UserError` unless all labels are on or off."""
    for records in dataset.splits.values():
        if records.labels.has_soft or records.labels.has_unknown:
            raise UserError(
                f"the baselines take labels that are on or off, but {dataset.name!r} has soft or unknown ones"
            )


class LinearModel:
    """One linear classifier a label on `mlresearch.vectors.Vectors`: binary relevance.

    log P(label | x) = log σ(w · x + b), and the mode is the marginals over ½. Labels are independent, so a child may
    well be predicted without its parent. A label with fewer than `min_positives` positives (or negatives) is always off
    (on), with probability `LEAST_PROBABILITY` (1 less it). Words and pairs of words that fewer than `min_count`
    training texts have are left out.
    """

    refuse = staticmethod(require_binary)

    def __init__(
        self,
        classifier: sklearn.base.ClassifierMixin,
        dataset: Dataset,
        config: ConfigDict,
        *,
        min_count: int,
        min_positives: int = 1,
    ) -> None:
        training, num_labels = dataset.train, dataset.label_space.num_labels
        self._vectors, rows = Vectors.learn(config.columns, min_count, training)
        counts = training.labels.counts(num_labels)
        fitted = np.flatnonzero(np.minimum(counts, len(training) - counts) >= min_positives)
        self.weights = np.zeros((num_labels, rows.shape[1]), np.float32)
        self.intercepts = special.logit(np.where(2 * counts > len(training), 1 - LEAST_PROBABILITY, LEAST_PROBABILITY))
        classifiers = fit_labels(classifier, rows, training.labels, fitted, num_labels)
        for label, each in zip(fitted, track(classifiers, "fit labels", len(fitted)), strict=True):
            self.weights[label], self.intercepts[label] = each.coef_[0], each.intercept_[0]
        self.num_features = rows.shape[1]
        self.num_parameters = len(fitted) * (rows.shape[1] + 1)

    def score(self, records: Records) -> Answer:
        """Return ``log σ(w · x + b)``, float32, and which labels are over ½."""
        logits = self._vectors.rows(records) @ self.weights.T + self.intercepts
        return Answer(special.log_expit(logits).astype(np.float32), logits > 0)
