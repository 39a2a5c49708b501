"""Examples as sparse rows of numbers, for linear models: tf–idf of texts, columns, and both side by side."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from mlresearch.data.columns import Columns
from mlresearch.data.records import Records, TrainingRecords, require_training
from mlresearch.errors import UserError

WORD = r"(?u)\b\w+\b"  # one letter is a word, too: "vitamin B"


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


class Vectors:
    """Rows of numbers of examples: tf–idf of words and pairs of words, scaled features, an indicator a category.

    columns: the config's, how features are scaled. Words and pairs that fewer than `min_count` training texts have are
    left out.
    """

    def __init__(self, columns: ConfigDict, min_count: int) -> None:
        self._settings = columns
        self._tfidf = TfIdf(
            TfidfVectorizer(
                token_pattern=WORD, ngram_range=(1, 2), min_df=min_count, sublinear_tf=True, dtype=np.float32
            )
        )

    def fit(self, training: TrainingRecords) -> sparse.csr_matrix:
        """Learn from the training split, and return its rows; another is a `TypeError`."""
        require_training(training)
        self._columns = Columns.learn(training, **self._settings)
        return self._join(training, None if training.texts is None else self._tfidf.fit(training.texts))

    def rows(self, records: Records) -> sparse.csr_matrix:
        """Return the rows of examples, float32."""
        return self._join(records, None if records.texts is None else self._tfidf.rows(records.texts))

    def _join(self, records: Records, terms: sparse.csr_matrix | None) -> sparse.csr_matrix:
        parts = [] if terms is None else [terms]
        features, categories = self._columns.features(records), self._columns.categories(records)
        if features is not None:
            parts.append(sparse.csr_matrix(features))
        if categories is not None:
            sizes = np.array(self._columns.category_sizes)
            ids = categories + np.concatenate([[0], np.cumsum(sizes)[:-1]])
            places = np.repeat(np.arange(len(ids)), ids.shape[1]), ids.ravel()
            parts.append(sparse.csr_matrix((np.ones(ids.size, np.float32), places), (len(ids), int(sizes.sum()))))
        return sparse.hstack(parts).tocsr()
