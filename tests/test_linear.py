"""scikit-learn's linear classifiers minimise what their docstrings say."""

import numpy as np
import pytest
import sklearn.base
from scipy import optimize, sparse, special

from mlresearch.label_space import LabelSets
from mlresearch.linear import fit_labels, logistic_regression, support_vectors

C = 3.0


def squared_hinge(margins):
    return np.maximum(0, 1 - margins) ** 2


def log_loss(margins):
    return -special.log_expit(margins)


@pytest.mark.parametrize("weight", ["none", "balanced"])
@pytest.mark.parametrize(("make", "loss"), [(support_vectors, squared_hinge), (logistic_regression, log_loss)])
def test_classifiers_reach_the_least_of_their_objectives(make, loss, weight):
    """With as many wide columns as rows, on which LIBLINEAR's usual 1,000 passes end 5 % above the optimum."""
    rng = np.random.default_rng(0)
    rows, positive = 3 * rng.normal(size=(100, 100)), rng.random(100) < 0.4
    padded, signs = np.column_stack([rows, np.ones(100)]), np.where(positive, 1, -1)
    shares = {"none": np.ones(100), "balanced": 50 / np.where(positive, positive.sum(), (~positive).sum())}[weight]

    def objective(weights):
        return weights @ weights / 2 + C * shares @ loss(signs * (padded @ weights))

    least = optimize.minimize(objective, np.zeros(101), method="L-BFGS-B", options={"maxfun": 10**6}).fun
    found = make(C, weight, 0).fit(rows, positive)
    assert objective(np.append(found.coef_[0], found.intercept_[0])) == pytest.approx(least, rel=0.01)


class Sorted(sklearn.base.ClassifierMixin, sklearn.base.BaseEstimator):
    """Tells whether the rows that it is fitted to are sorted; to sort shared ones then would be too late."""

    def fit(self, rows, positive):
        self.canonical = rows.has_canonical_format
        return self


def test_threads_share_rows_that_no_fit_has_to_sort():
    rows = sparse.csr_matrix((np.arange(1.0, 7), [2, 0, 1, 3, 1, 0], [0, 3, 4, 6]), shape=(3, 4))
    dense = rows.toarray()
    assert not rows.has_sorted_indices
    fitted = fit_labels(Sorted(), rows, LabelSets.from_rows([[0], [1], [0]]), np.arange(2), 2)
    assert [each.canonical for each in fitted] == [True, True]
    np.testing.assert_array_equal(rows.toarray(), dense)
