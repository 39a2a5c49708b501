"""Linear classifiers by scikit-learn, one a label."""

import os
from collections.abc import Iterator
from typing import Any, Literal

import joblib
import numpy as np
import sklearn.base
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from mlresearch.label_space import LabelSets

ClassWeight = Literal["none", "balanced"]

MAX_STEPS = 10_000
"""Passes of LIBLINEAR over the rows; on scaled columns and with a large c its usual 1,000 end before its tolerance."""


def support_vectors(c: float, class_weight: ClassWeight, seed: int) -> LinearSVC:
    """Return what minimises ``(|w|² + b²) / 2 + c Σᵢ vᵢ max(0, 1 − yᵢ (w · xᵢ + b))²``, yᵢ = ±1.

    class_weight: "balanced" weighs the n₁ positives of n examples by vᵢ = n / 2n₁ and the others by n / 2n₀, "none" all
    alike.

    Source: Fan et al., "LIBLINEAR: A Library for Large Linear Classification", 2008.
    """
    return LinearSVC(C=c, class_weight=_balance(class_weight), random_state=seed, max_iter=MAX_STEPS)


def logistic_regression(c: float, class_weight: ClassWeight, seed: int) -> LogisticRegression:
    """Return what minimises ``(|w|² + b²) / 2 + c Σᵢ vᵢ log(1 + exp(−yᵢ (w · xᵢ + b)))``; see `support_vectors`."""
    return LogisticRegression(C=c, class_weight=_balance(class_weight), solver="liblinear", random_state=seed)


def fit_labels(
    classifier: sklearn.base.ClassifierMixin, rows: sparse.csr_matrix, truth: LabelSets, labels: np.ndarray, count: int
) -> Iterator[Any]:
    """Yield one fitted copy of a classifier a label, in the order of `labels`; the same bits every time.

    truth: of the rows, on or off for each of so many labels in all. Every one of `labels` has to be on for some rows,
    and off for others. The entries of `rows` are sorted in place.
    """
    rows.sum_duplicates()  # else scikit-learn does so in each fit, in place, while other threads read the same rows
    by_label = truth.sparse(count).tocsc()

    def fit(label: int) -> Any:
        positive = np.zeros(len(truth), bool)
        positive[by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]] = True
        return sklearn.base.clone(classifier).fit(rows, positive)

    # Threads, since the solvers let go of Python's lock and all read the same rows; but one for support vectors, whose
    # solver draws the order of its steps from one stream for all threads, so that two fits would differ.
    jobs = 1 if isinstance(classifier, LinearSVC) else os.cpu_count()
    parallel = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    return parallel(joblib.delayed(fit)(label) for label in labels.tolist())


def _balance(class_weight: ClassWeight) -> str | None:
    return None if class_weight == "none" else class_weight
