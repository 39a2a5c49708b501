"""The loss of joint heads with a share of the marginals' own: against enumerated label sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_losses import label_loss
from test_heads import distribution, enumerate_log_probs, hierarchies, make_head, random_scores
from test_hierarchy import random_dag

from mlresearch.errors import UserError

KINDS = [
    ("conditional", {"siblings": siblings}, forest)
    for siblings, forest in [
        ("any", True),
        ("any", False),
        ("some", True),
        ("one", True),
        ("at_most_one", True),
        ("hurdle", True),
    ]
]
KINDS += [("mixture", {"components": 3}, True), ("mixture", {"components": 2}, False)]
KINDS += [("mixture", {"components": 3, "of": "independent"}, False)]
every_kind = pytest.mark.parametrize(("name", "options", "forest"), KINDS)


def truth(sets, log_probs, unknown, rng):
    """A possible label set of each example, with some labels unknown: float, NaN for those."""
    rows = [rng.choice(np.flatnonzero(np.isfinite(log_probs[:, row]))) for row in range(log_probs.shape[1])]
    labels = sets[rows].astype(np.float64)
    labels[rng.random(labels.shape) < unknown] = np.nan
    return labels


@every_kind
@pytest.mark.parametrize("unknown", [0.0, 0.4], ids=["all known", "some unknown"])
def test_joint_loss_is_that_of_enumerated_sets(name, options, forest, unknown):
    rng = np.random.default_rng(2)
    weighted = label_loss(positive_weight=2.0)
    with jax.enable_x64(True):
        for seed, hierarchy in enumerate(hierarchies(forest, count=2)):
            if unknown and not hierarchy.is_forest and options.get("of") != "independent":
                continue  # no sum over unknown labels there
            heads = {w: make_head(name, options | {"marginal_share": w}, hierarchy) for w in (0.0, 0.3, 1.0)}
            scores = random_scores(heads[0.0], hierarchy, 4, seed, dtype=jnp.float64)
            sets, log_probs = enumerate_log_probs(distribution(heads[0.0], scores), 4, hierarchy.num_labels)
            labels = truth(sets, log_probs, unknown, rng)
            probs = np.exp(log_probs)
            # What is known of each example, against every set.
            agrees = (np.isnan(labels)[:, None] | (labels[:, None] == sets)).all(-1)
            likelihood = -np.log(np.einsum("sb,bs->b", probs, agrees))
            marginals = np.einsum("sb,sl->bl", probs, sets)
            known = ~np.isnan(labels)
            on = np.nan_to_num(labels) == 1
            each = np.where(on, -2 * np.log(marginals), -np.log1p(-np.where(known & ~on, marginals, 0.5)))
            wise = np.where(known, each, 0).sum(-1)
            given = jnp.asarray(labels) if unknown else jnp.asarray(labels == 1)
            for share, head in heads.items():
                found = distribution(head, scores).loss(given, weighted)
                np.testing.assert_allclose(found, (1 - share) * likelihood + share * wise, rtol=1e-8)


@pytest.mark.parametrize("name", ["conditional", "mixture"])
def test_a_term_without_a_share_is_not_computed(name):
    hierarchy = random_dag(np.random.default_rng(3), 40, forest=True)
    labels = jnp.zeros((2, 40), bool)

    def size(share):
        head = make_head(name, {"marginal_share": share}, hierarchy)
        scores = random_scores(head, hierarchy, 2, 0)
        return len(jax.make_jaxpr(lambda s: distribution(head, s).loss(labels, label_loss()))(scores).jaxpr.eqns)

    assert max(size(0.0), size(1.0)) < size(0.5)


@pytest.mark.parametrize("name", ["conditional", "mixture"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_for_impossible_sets_and_large_scores(name, scale):
    hierarchy = random_dag(np.random.default_rng(4), 30, forest=False)
    head = make_head(name, {"marginal_share": 1.0}, hierarchy)
    scores = random_scores(head, hierarchy, 8, 1, scale)
    labels = jnp.asarray(np.random.default_rng(5).random((8, 30)) < 0.3)  # most break the hierarchy
    loss, gradient = jax.value_and_grad(lambda s: distribution(head, s).loss(labels, label_loss()).sum())(scores)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", ["conditional", "mixture"])
@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_asked_for(name, share):
    hierarchy = random_dag(np.random.default_rng(6), 5, forest=True)
    with pytest.raises(UserError, match=rf"head\.{name}\.marginal_share is {share}; it is a share, 0 to 1"):
        make_head(name, {"marginal_share": share}, hierarchy)


def test_sparse_losses_have_no_marginals():
    hierarchy = random_dag(np.random.default_rng(6), 5, forest=True)
    with pytest.raises(UserError, match="sparse = True does not compute"):
        make_head("conditional", {"marginal_share": 0.5, "sparse": True}, hierarchy)
