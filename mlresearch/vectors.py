"""Examples as sparse rows of numbers, for linear models: tf–idf of texts, columns, and both side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
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

    @property
    def terms(self) -> tuple[np.ndarray, Float32[np.ndarray, "terms"]]:
        """The terms of the only view in the order of their columns, and their inverse document frequencies."""
        [view] = self._views
        return view.get_feature_names_out().astype(str), view.idf_.astype(np.float32)

    def _join(self, views: list[sparse.csr_matrix]) -> sparse.csr_matrix:
        return (sparse.hstack(views) * len(views) ** -0.5).tocsr()


class Vectors:
    """Rows of numbers of examples: tf–idf of words and pairs of words, scaled features, an indicator a category.

    tfidf: None where there are no texts.
    """

    def __init__(self, tfidf: TfIdf | None, columns: Columns) -> None:
        self._tfidf = tfidf
        self.columns = columns

    @classmethod
    def learn(
        cls, columns: ConfigDict, min_count: int, training: TrainingRecords
    ) -> tuple["Vectors", sparse.csr_matrix]:
        """Learn from the training split, and return its rows; another is a `TypeError`.

        columns: the config's, how features are scaled. Words and pairs that fewer than `min_count` training texts have
        are left out.
        """
        require_training(training)
        tfidf = None if training.texts is None else TfIdf(_words(min_df=min_count))
        vectors = cls(tfidf, Columns.learn(training, **columns))
        terms = None if tfidf is None or training.texts is None else tfidf.fit(training.texts)
        return vectors, vectors._join(training, terms)

    def rows(self, records: Records) -> sparse.csr_matrix:
        """Return the rows of examples, float32."""
        assert self._tfidf is None or records.texts is not None
        return self._join(records, None if self._tfidf is None else self._tfidf.rows(records.texts or ()))

    @property
    def terms(self) -> tuple[np.ndarray, Float32[np.ndarray, "terms"]]:
        """The words and pairs of words in the order of their columns, and their inverse document frequencies."""
        return (np.zeros(0, str), np.zeros(0, np.float32)) if self._tfidf is None else self._tfidf.terms

    @classmethod
    def of(cls, terms: np.ndarray, idf: Float32[np.ndarray, "terms"], columns: Mapping[str, Any]) -> "Vectors":
        """Inverse of `terms` and of `columns` in JSON's types."""
        tfidf = None
        if len(terms):
            view = _words(vocabulary={term: place for place, term in enumerate(terms.tolist())})
            view.idf_ = idf
            tfidf = TfIdf(view)
        return cls(tfidf, Columns.from_json(columns))

    def _join(self, records: Records, terms: sparse.csr_matrix | None) -> sparse.csr_matrix:
        parts = [] if terms is None else [terms]
        features, categories = self.columns.features(records), self.columns.categories(records)
        if features is not None:
            parts.append(sparse.csr_matrix(features))
        if categories is not None:
            sizes = np.array(self.columns.category_sizes)
            ids = categories + np.concatenate([[0], np.cumsum(sizes)[:-1]])
            places = np.repeat(np.arange(len(ids)), ids.shape[1]), ids.ravel()
            parts.append(sparse.csr_matrix((np.ones(ids.size, np.float32), places), (len(ids), int(sizes.sum()))))
        return sparse.hstack(parts).tocsr()


def _words(*, min_df: int = 1, vocabulary: Mapping[str, int] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(
        token_pattern=WORD,
        ngram_range=(1, 2),
        min_df=min_df,
        vocabulary=vocabulary,
        sublinear_tf=True,
        dtype=np.float32,
    )
