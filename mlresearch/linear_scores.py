"""Scores of linear classifiers as inputs of a model: the wide path beside the learned encoder."""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from ml_collections import ConfigDict
from scipy import optimize, special

from mlresearch.data.records import Records, TrainingRecords, require_training
from mlresearch.environment import code_hash
from mlresearch.errors import UserError
from mlresearch.files import read_arrays, write_bytes
from mlresearch.linear import fit_labels, logistic_regression, support_vectors
from mlresearch.progress import track
from mlresearch.vectors import Vectors

CLASSIFIERS = {"linear_svm": support_vectors, "logistic_regression": logistic_regression}

SEED = 0
"""Of the folds and the solvers: what is learnt from data is the same for every run's seed."""

LARGEST_SLOPE = 100.0


@dataclasses.dataclass(frozen=True, eq=False)
class LinearScores:
    """One linear classifier a label on `Vectors`, whose scores ``z = a (w · x + b − m)`` a model takes as inputs.

    A model that learns from them has to see of its training rows what it will see of others, so these rows are scored
    by classifiers that have not seen them: rows are dealt into folds, and each is scored by what was fitted to the
    others (stacking). m is a label's mean over these scores, and a, the same for all labels, makes ``logit nₗ / n + z``
    their best log-odds: the a of the largest likelihood of the training labels. A label that is on in no row of the
    other folds scores 0 in a fold. Terms and their weights are those of all training texts.

    weights: a w, float32 [labels, numbers]; offsets: a (b − m), of classifiers fitted to the whole training split.

    Sources: Wolpert, "Stacked Generalization", 1992; Godbole and Sarawagi, "Discriminative Methods for Multi-labeled
    Classification", 2004 (of labels).
    """

    vectors: Vectors
    weights: Float32[np.ndarray, "labels numbers"]
    offsets: Float64[np.ndarray, "labels"]

    @classmethod
    def learn(
        cls, settings: ConfigDict, columns: ConfigDict, training: TrainingRecords
    ) -> tuple["LinearScores", Float32[np.ndarray, "examples labels"]]:
        """Learn from training records, and return the scores of these as well; others are a `TypeError`.

        settings, columns: of the config. Soft and unknown labels are a `UserError`.
        """
        require_training(training)
        labels, count = training.labels, training.num_labels
        check_labels(training)
        vectors, rows = Vectors.learn(columns, settings.min_count, training)
        classifier = CLASSIFIERS[settings.classifier](settings.c, settings.class_weight, SEED)

        def fit(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Return weights and intercepts fitted to some rows, NaN for a label that is on, or off, in all of them."""
            weights, intercepts = np.zeros((count, rows.shape[1]), np.float32), np.full(count, np.nan)
            truth = labels.select(part)
            times = truth.counts(count)
            mixed = np.flatnonzero((times > 0) & (times < len(part)))
            for label, each in zip(mixed, fit_labels(classifier, rows[part], truth, mixed, count), strict=True):
                weights[label], intercepts[label] = each.coef_[0], each.intercept_[0]
            return weights, intercepts

        folds = np.random.default_rng(SEED).permutation(len(training)) % settings.folds
        margins = np.full((len(training), count), np.nan)
        for fold in track(range(settings.folds), "fit linear scores", settings.folds):
            held_out = folds == fold
            weights, intercepts = fit(np.flatnonzero(~held_out))
            margins[held_out] = rows[held_out] @ weights.T + intercepts
        known = ~np.isnan(margins)
        means = np.where(known, margins, 0).sum(0) / np.maximum(known.sum(0), 1)
        centred = np.where(known, margins - means, 0.0)
        slope = _slope(centred, labels.multi_hot(count))
        weights, intercepts = fit(np.arange(len(training)))
        offsets = np.where(np.isnan(intercepts), 0.0, slope * (intercepts - means))
        return cls(vectors, (slope * weights).astype(np.float32), offsets), (slope * centred).astype(np.float32)

    @classmethod
    def learn_once(
        cls, folder: Path, settings: ConfigDict, columns: ConfigDict, training: TrainingRecords
    ) -> tuple["LinearScores", Float32[np.ndarray, "examples labels"]]:
        """Return what `learn` does, read from a folder where it was kept before, else learnt and kept there.

        It is found again by equal settings and training records, of the same code and the same versions of the solvers.
        What is damaged is learnt anew, and what cannot be written is not kept.
        """
        require_training(training)
        path = folder / f"{_key(settings, columns, training)}.npz"
        try:
            stored = read_arrays(path)
            return cls._from_arrays(stored), stored["out_of_fold"]
        except (OSError, ValueError, KeyError):
            learnt, out_of_fold = cls.learn(settings, columns, training)
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            _write_arrays(path, learnt._to_arrays() | {"out_of_fold": out_of_fold})
        return learnt, out_of_fold

    def scores(self, records: Records) -> Float32[np.ndarray, "examples labels"]:
        """Return the scores of examples that are not among those that were learnt from."""
        return (self.vectors.rows(records) @ self.weights.T + self.offsets).astype(np.float32)

    @property
    def identity(self) -> str:
        """A hash of everything."""
        terms, idf = self.vectors.terms
        parts = [json.dumps([terms.tolist(), self.vectors.columns.to_json()]).encode()]
        parts += [array.tobytes() for array in (idf, self.weights, self.offsets)]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def save(self, path: Path) -> None:
        """Write everything to one file of arrays."""
        _write_arrays(path, self._to_arrays())

    @classmethod
    def load(cls, path: Path) -> "LinearScores":
        """Return what `save` wrote; anything else is a `UserError`."""
        try:
            return cls._from_arrays(read_arrays(path))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is missing or damaged: {error}") from None

    def _to_arrays(self) -> dict[str, np.ndarray]:
        terms, idf = self.vectors.terms
        columns = np.array(json.dumps(self.vectors.columns.to_json()))
        return {"terms": terms, "idf": idf, "columns": columns, "weights": self.weights, "offsets": self.offsets}

    @classmethod
    def _from_arrays(cls, stored: Mapping[str, np.ndarray]) -> "LinearScores":
        vectors = Vectors.of(stored["terms"], stored["idf"], json.loads(str(stored["columns"])))
        return cls(vectors, stored["weights"], stored["offsets"])


def check_labels(training: TrainingRecords) -> None:
    """Raise `UserError` unless all labels are on or off."""
    if training.labels.has_soft or training.labels.has_unknown:
        raise UserError(
            "config.linear_scores needs labels that are on or off, but this data set has soft or unknown ones: leave "
            "config.linear_scores.classifier empty"
        )


def _slope(centred: Float64[np.ndarray, "examples labels"], truth: np.ndarray) -> float:
    """Return the a in (0, `LARGEST_SLOPE`) for which log-odds ``logit nₗ / n + a z`` are the likeliest."""
    prior = special.logit((truth.sum(0) + 0.5) / (len(truth) + 1))
    signs = np.where(truth, 1.0, -1.0)

    def loss(slope: float) -> float:
        return -special.log_expit(signs * (prior + slope * centred)).sum()

    return float(optimize.minimize_scalar(loss, bounds=(0, LARGEST_SLOPE), method="bounded").x)


def _key(settings: ConfigDict, columns: ConfigDict, training: TrainingRecords) -> str:
    """Return a hash of all that the scores of training records come from."""
    versions = [metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")]
    known = [training.texts, training.categories, training.feature_names, training.category_names, training.num_labels]
    parts = [code_hash(), versions, settings.to_dict(), columns.to_dict(), *known]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for array in (training.labels.ids, training.labels.offsets, training.labels.values, training.features):
        if array is not None:
            digest.update(f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())
