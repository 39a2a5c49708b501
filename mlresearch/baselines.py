"""Baselines of scikit-learn: rows for the tables, scored and recorded by the same code as any other run."""

import abc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from jaxtyping import Bool, Float32
from ml_collections import ConfigDict
from scipy import sparse, special
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from mlresearch import environment, workdir
from mlresearch.data.records import Dataset, Records, TrainingRecords, require_training
from mlresearch.errors import UserError, suggest
from mlresearch.evaluate import evaluate, evaluate_validation, write_evaluations
from mlresearch.files import write_json
from mlresearch.inputs import load_dataset
from mlresearch.progress import track
from mlresearch.scored import Said, ScoredSplit

LEAST_PROBABILITY = 1e-6
"""What a label gets that nothing speaks for; one less it is what a label gets that nothing speaks against."""

BLOCK_ROWS = 128
"""Texts scored at once: compared with 47,000 training texts they make a matrix of 24 MB."""

MIN_POSITIVES = 5
"""`OneVsRest` fits no classifier to a label with fewer training examples that have it, or that lack it."""

SGD_PENALTY = 3e-7
SGD_EPOCHS = 3

WORD = r"(?u)\b\w+\b"  # one letter is a word, too: "vitamin B"

Scores = tuple[Float32[np.ndarray, "examples labels"], Bool[np.ndarray, "examples labels"]]
"""What a baseline says of texts: log-marginals, and the predicted label sets."""


class Baseline(abc.ABC):
    """A model fitted to the training split of a data set."""

    num_features: int
    num_parameters: int

    @abc.abstractmethod
    def score(self, texts: Sequence[str]) -> Scores:
        """Return the scores of texts, in their order."""


def train_baseline(name: str, config: ConfigDict, folder: str | Path, sources: Sequence[Path] = ()) -> dict[str, Any]:
    """Fit a baseline on the training split, evaluate it and record it in `folder`; returns the run record.

    name: a key of `BASELINES`. config: resolved; of it, seed, data and evaluate act, and only they are written to the
    folder. Decisions are fitted on validation and applied once to test, as in `train`; a finished run is returned as it
    is. sources: files beside the package's that are part of its code. An unknown name, a data set without texts and a
    folder with another run are `UserError`s.
    """
    if name not in BASELINES:
        raise UserError(f"there is no baseline {name!r}{suggest(name, BASELINES)}")
    acting = {section: config[section].to_dict() for section in ("data", "evaluate")}
    own_config = ConfigDict({"baseline": {"name": name}, "seed": config.seed, **acting})
    folder = Path(folder)
    workdir.refuse_other(folder, own_config)
    finished = workdir.finished_record(folder)
    started = time.time()

    dataset = load_dataset(config)
    if finished is not None:
        workdir.refuse_changed(folder, finished, dataset)
        return finished
    hierarchy = dataset.hierarchy
    for records in dataset.splits.values():
        texts_of(records, dataset.name)  # refuses what cannot be scored before anything is fitted
    baseline = BASELINES[name](dataset.train, dataset.label_space.num_labels, config.seed)
    trained = time.time()

    workdir.claim(folder, own_config)
    frequencies = dataset.train.labels.frequencies(dataset.label_space.num_labels)
    workdir.write_labels(folder, dataset.label_space, frequencies, hierarchy)
    metric, grid = config.evaluate.threshold_metric, tuple(config.evaluate.threshold_grid)
    stored = config.evaluate.predictions
    scored = score_records(baseline, dataset, "validation")
    [on_validation] = evaluate_validation(scored, 1, hierarchy, metric, grid, predictions=stored)
    assert on_validation is not None, "baselines do not diverge"
    validation, decisions = on_validation
    [test] = evaluate(score_records(baseline, dataset, "test"), [decisions], hierarchy, predictions=stored)
    assert test is not None

    metrics = write_evaluations(folder, decisions, {"validation": validation, "test": test})
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
    write_json(folder / "run.json", record)
    return record


def score_records(baseline: Baseline, dataset: Dataset, split: str) -> ScoredSplit:
    """Return what a baseline says of a split, `BLOCK_ROWS` texts at a time; it has no loss."""
    records = dataset.splits[split]
    texts = texts_of(records, dataset.name)

    def scores() -> Iterator[Said]:
        starts = range(0, len(texts), BLOCK_ROWS)
        for start in track(starts, f"score {split}", len(starts)):
            log_marginals, mode = baseline.score(texts[start : start + BLOCK_ROWS])
            rows = start + np.arange(len(mode))
            yield rows, log_marginals[None], mode[None], np.full((1, len(rows)), np.nan)

    return ScoredSplit(split, dataset.fingerprint, records.labels, dataset.label_space.num_labels, scores)


def texts_of(records: Records, name: str) -> tuple[str, ...]:
    """Return the texts of examples; a data set without any, or with labels that are not on or off, is a `UserError`."""
    if records.texts is None:
        raise UserError(f"the baselines read texts, but the data set {name!r} has none")
    if records.labels.has_soft or records.labels.has_unknown:
        raise UserError(f"the baselines take labels that are on or off, but {name!r} has soft or unknown ones")
    return records.texts


class TfIdf:
    """Texts as rows of tf–idf weights, each view of a text a unit vector, the views side by side.

    The weight of term t in a text d is ``(1 + log tf(t, d)) · (1 + log((1 + n) / (1 + df(t))))``, of n training texts
    df(t) with the term; each view is then scaled to length 1, and with V views by ``V^-½`` more, so that the inner
    product of two rows is the mean over views of the cosine. Terms are those of the training texts.

    Texts of which no view has any term are a `UserError`.

    Source: Salton & Buckley, "Term-weighting Approaches in Automatic Text Retrieval", 1988.
    """

    def __init__(self, *views: TfidfVectorizer) -> None:
        self._views = views

    def fit(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Learn the terms and their weights from training texts, and return the rows of these."""
        try:
            return self._join([view.fit_transform(texts) for view in self._views])
        except ValueError as error:
            raise UserError(f"no baseline can be fitted to these texts: {error}") from None

    def rows(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Return the rows of texts, sparse [texts, features]."""
        return self._join([view.transform(texts) for view in self._views])

    def _join(self, views: list[sparse.csr_matrix]) -> sparse.csr_matrix:
        return (sparse.hstack(views) * len(views) ** -0.5).tocsr()


class NearestDescription(Baseline):
    """The label set of the nearest training text; for labels that are described by a phrase or more each.

    Similarity is the mean of two cosines of tf–idf vectors: of words and pairs of words, and of three and four
    characters within words. Of texts ``x₁, x₂, …`` with label sets ``y₁, y₂, …``

        mode(x) = y of the xᵢ most similar to x,    log P(label | x) = log max { similarity(x, xᵢ) : label ∈ yᵢ }

    so that a parent is never below its child where training sets are closed. These are ranks rather than
    probabilities: a threshold of ½ on them means nothing by itself. Of equally similar texts the one whose label
    set occurs first wins; a text like no other gets the empty set.

    Which views: of words, characters and both, validation subset accuracy on icd10cm/terms was .564, .596 and .605.

    Source: Cover & Hart, "Nearest Neighbor Pattern Classification", 1967.
    """

    def __init__(self, training: TrainingRecords, num_labels: int, seed: int) -> None:
        del seed  # nothing is drawn
        require_training(training)
        texts, labels = training.texts or (), training.labels
        self.num_labels = num_labels
        self._tfidf = TfIdf(
            TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, dtype=np.float32),
        )
        rows = self._tfidf.fit(texts)
        # Texts with equal label sets side by side: a label's best is then a maximum over few sets, not many texts.
        numbers: dict[tuple[int, ...], int] = {}
        of_text = np.array(
            [numbers.setdefault(tuple(labels.row(row).tolist()), len(numbers)) for row in range(len(texts))]
        )
        order = np.argsort(of_text, kind="stable")
        self._rows = rows[order]
        self._set_starts = np.searchsorted(of_text[order], np.arange(len(numbers)))
        self._sets = np.zeros((len(numbers), self.num_labels), bool)
        for label_ids, number in numbers.items():
            self._sets[number, list(label_ids)] = True
        # (label, set) pairs by label, to take a label's maximum over the sets that have it.
        in_order, self._sets_of = np.nonzero(self._sets.T)
        self._present, self._starts = np.unique(in_order, return_index=True)
        self.num_features = rows.shape[1]
        self.num_parameters = rows.nnz

    def score(self, texts: Sequence[str]) -> Scores:
        """Return log-similarities, float32, and the nearest texts' label sets."""
        similarity = (self._rows @ self._tfidf.rows(texts).T.tocsr()).toarray()
        by_set = np.maximum.reduceat(similarity, self._set_starts, axis=0)
        mode = self._sets[by_set.argmax(axis=0)] & (by_set.max(axis=0) > 0)[:, None]
        best = np.zeros((self.num_labels, len(texts)), np.float32)
        if len(self._present):
            best[self._present] = np.maximum.reduceat(by_set[self._sets_of], self._starts, axis=0)
        return np.log(np.clip(best, LEAST_PROBABILITY, 1.0)).T, mode


class OneVsRest(Baseline):
    """One logistic regression a label on tf–idf vectors of words and pairs of words: binary relevance.

    For each label with examples ``xᵢ`` and ``yᵢ ∈ {0, 1}`` weights w and intercept b minimise

        1/n · Σᵢ −log P(yᵢ | xᵢ) + α/2 · |w|²,    P(1 | x) = σ(w · x + b)

    by stochastic gradient descent, α = `SGD_PENALTY`, stopped after `SGD_EPOCHS` passes. The mode is the marginals
    over ½. Labels are independent, so a child may well be predicted without its parent. A label with fewer than
    `MIN_POSITIVES` positives (or negatives) is always off (on), with probability `LEAST_PROBABILITY` (1 less it).
    Words and pairs of words in one training text alone are left out. The same seed gives the same weights.

    Chosen on the validation split of icd10cm/encounters, by micro-F1 of 150 labels drawn at random: words alone, α =
    10⁻⁶ and 3·10⁻⁷, five passes, .457 and .493; with pairs of words, five passes, .451 and .513; with pairs, α =
    3·10⁻⁷, three passes, .526. Exact solutions (liblinear) took two to five times as long for figures of the same size.

    Source: Bottou, "Large-Scale Machine Learning with Stochastic Gradient Descent", 2010.
    """

    def __init__(self, training: TrainingRecords, num_labels: int, seed: int) -> None:
        require_training(training)
        self._tfidf = TfIdf(
            TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
        )
        rows = self._tfidf.fit(training.texts or ())
        counts = training.labels.counts(num_labels)
        fitted = np.flatnonzero(np.minimum(counts, len(training) - counts) >= MIN_POSITIVES)
        self.weights = np.zeros((num_labels, rows.shape[1]), np.float32)
        self.intercepts = special.logit(np.where(2 * counts > len(training), 1 - LEAST_PROBABILITY, LEAST_PROBABILITY))
        classifiers = fit_labels(rows, training, fitted, num_labels, seed)
        for label, classifier in zip(fitted, track(classifiers, "fit one_vs_rest", len(fitted)), strict=True):
            self.weights[label], self.intercepts[label] = classifier.coef_[0], classifier.intercept_[0]
        self.num_features = rows.shape[1]
        self.num_parameters = len(fitted) * (rows.shape[1] + 1)

    def score(self, texts: Sequence[str]) -> Scores:
        """Return ``log σ(w · x + b)``, float32, and which labels are over ½."""
        logits = self._tfidf.rows(texts) @ self.weights.T + self.intercepts
        return special.log_expit(logits).astype(np.float32), logits > 0


def fit_labels(
    rows: sparse.csr_matrix, records: Records, labels: np.ndarray, num_labels: int, seed: int
) -> Iterator[SGDClassifier]:
    """Yield one fitted classifier a label, in the order of `labels`, fitted on all cores."""
    by_label = records.labels.sparse(num_labels).tocsc()

    def fit(label: int) -> SGDClassifier:
        positive = np.zeros(len(records), bool)
        positive[by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]] = True
        # No tolerance: exactly so many passes, whatever the loss does.
        classifier = SGDClassifier(loss="log_loss", alpha=SGD_PENALTY, max_iter=SGD_EPOCHS, tol=None, random_state=seed)
        return classifier.fit(rows, positive)

    # Threads, since the solver lets go of Python's lock and all read the same rows.
    parallel = joblib.Parallel(n_jobs=os.cpu_count(), prefer="threads", return_as="generator")
    return parallel(joblib.delayed(fit)(label) for label in labels.tolist())


BASELINES: dict[str, Callable[[TrainingRecords, int, int], Baseline]] = {
    "nearest_description": NearestDescription,
    "one_vs_rest": OneVsRest,
}
"""Makers of baselines by name, from the training split, the number of labels and a seed."""
