"""Scores to begin with give each label the probability that counting in the training split gives."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_runs import inputs_of, make_config
from test_heads import distribution, make_head
from test_hierarchy import random_dag

from mlresearch.config import resolve
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.prior import (
    log_odds_given_parents,
    log_odds_of,
    log_share_among_siblings,
    log_share_most_specific,
)


def closed_rows(hierarchy, number, seed, most=3):
    """Random label sets with all ancestors, as bool rows."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((number, hierarchy.num_labels), bool)
    for row in rows:
        row[hierarchy.close(rng.choice(hierarchy.num_labels, rng.integers(most + 1), replace=False))] = True
    return rows


def sets_of(rows):
    return LabelSets.from_rows([np.flatnonzero(row).tolist() for row in rows])


@pytest.mark.parametrize("forest", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_counts_by_hand(forest, seed):
    hierarchy = random_dag(np.random.default_rng(seed), 12, forest=forest)
    rows = closed_rows(hierarchy, 40, seed)
    labels, edges = sets_of(rows), (hierarchy.children, hierarchy.parents)
    given, specific = log_odds_given_parents(labels, 12, *edges), log_share_most_specific(labels, 12, *edges)
    for label in range(12):
        parents = hierarchy.parents[hierarchy.children == label]
        children = hierarchy.children[hierarchy.parents == label]
        free = rows[rows[:, parents].all(1)]
        on = free[:, label].sum()
        assert given[label] == pytest.approx(np.log((on + 0.5) / (len(free) - on + 0.5)))
        alone = (rows[:, label] & ~rows[:, children].any(1)).sum()
        assert specific[label] == pytest.approx(np.log(alone + 0.5))
    on = rows.sum(0)
    np.testing.assert_allclose(log_odds_of(labels, 12), np.log((on + 0.5) / (40 - on + 0.5)))


def test_shares_among_siblings_by_hand():
    """Two roots, of which the first has two children: rows of one path or none."""
    labels = LabelSets.from_rows([[0], [0, 2], [0, 2], [0, 3], [1], []])
    children, parents = np.array([2, 3]), np.array([0, 0])
    on = np.array([4.5, 1.5, 2.5, 1.5])
    np.testing.assert_allclose(log_share_among_siblings(labels, 4, children, parents, rest=False), np.log(on))
    none = np.array([1.5, 1.5, 1.5, 1.5])  # one row without a root, one of the first root alone
    np.testing.assert_allclose(log_share_among_siblings(labels, 4, children, parents, rest=True), np.log(on / none))


def test_unknown_labels_count_nowhere():
    labels = LabelSets.from_rows([[0], [0, 1], [0], []], [[1.0], [1.0, np.nan], [np.nan], []])
    np.testing.assert_allclose(log_odds_of(labels, 2), np.log([2.5 / 1.5, 0.5 / 3.5]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("independent", {}),
        ("conditional", {"siblings": "any"}),
        ("conditional", {"siblings": "one"}),
        ("conditional", {"siblings": "at_most_one"}),
        ("conditional", {"siblings": "hurdle"}),
        ("flat_softmax", {}),
        ("mixture", {"components": 3, "of": "conditional", "siblings": "any"}),
    ],
)
def test_marginals_are_the_frequencies(name, options):
    """Of many rows, so that half an example more makes no difference."""
    hierarchy = random_dag(np.random.default_rng(3), 9, forest=True)
    paths = [hierarchy.close(np.array([label])) for label in np.flatnonzero(hierarchy.num_children == 0)]
    rows = np.zeros((len(paths), 9), bool)
    for row, path in zip(rows, paths, strict=True):
        row[path] = True
    rows = np.repeat(rows, np.random.default_rng(0).integers(2000, 9000, len(paths)), axis=0)
    head = make_head(name, options, hierarchy)
    scores = jnp.asarray(head.begin_with(sets_of(rows)), jnp.float32)
    marginals = np.exp(distribution(head, scores[None]).log_marginals[0])
    np.testing.assert_allclose(marginals, rows.mean(0), atol=2e-3)


@pytest.mark.parametrize("decoder", ["linear", "label_attention", "causal"])
def test_a_model_begins_with_them(decoder, tmp_path):
    config = make_config(tmp_path)
    config.decoder.name = decoder
    config.model.prior = True
    config.decoder.linear.scale = config.decoder.causal.scale = 0.0
    if decoder == "linear":
        config.decoder.linear.multiple = 4
    if decoder == "causal":
        config.head.name, config.head.chain.order = "chain", "hierarchy"
    config = resolve(config)
    dataset, preprocessing, batches = inputs_of(config)
    num_labels = dataset.label_space.num_labels
    label_sets = {name: records.labels for name, records in dataset.splits.items()}
    parts = create_model(config, preprocessing.spec, num_labels, dataset.hierarchy, label_sets)
    model = nnx.merge(*parts)
    bias = (model.decoder.scores if decoder == "label_attention" else model.decoder).bias[...]
    expected = model.head.begin_with(dataset.splits["train"].labels)
    np.testing.assert_allclose(bias.reshape(-1, 1)[:num_labels], expected, rtol=1e-6)
    if decoder != "label_attention":
        scores = model(next(iter(batches["train"].once())).inputs).log_marginals
        np.testing.assert_allclose(scores, np.broadcast_to(scores[:1], scores.shape), rtol=1e-6)
