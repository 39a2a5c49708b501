import dataclasses
import fractions
import hashlib
import itertools
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

import mlresearch.data
from mlresearch.data import synthetic
from mlresearch.data import truth as truth_module
from mlresearch.data.synthetic import stream
from mlresearch.data.truth import Truth, dependence_recovered
from mlresearch.errors import UserError
from mlresearch.heads import conditional
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import index_hierarchy

SHAPES = ["tree", "dag", "flat"]
SIZES = {"num_train": 60, "num_validation": 20, "num_test": 30}
SMALL = SIZES | {"num_labels": 10, "num_components": 3, "cardinality": 3.0, "dependence": 8.0}
SMALL_TEXTS = SMALL | {"num_words": 50, "text_length": 9}


def make_truth(shape="tree", *, num_labels=7, num_components=3, dependence=3.0, cardinality=2.5, seed=0):
    """A distribution over four features."""
    parents = synthetic.draw_hierarchy(num_labels, shape, stream(seed, "hierarchy"))
    return synthetic.draw_truth(
        parents,
        draw_features(200, seed=seed, purpose="probe"),
        num_labels=num_labels,
        num_components=num_components,
        cardinality=cardinality,
        dependence=dependence,
        num_features=4,
        words=None,
        word_vectors=None,
        rng=stream(seed, "parameters"),
    )


def draw_features(size, *, seed=0, purpose="test inputs"):
    return synthetic.on_grid(synthetic.normals(stream(seed, purpose), (size, 4))).astype(np.float32)


def all_sets(num_labels):
    return np.array(list(itertools.product([False, True], repeat=num_labels)))


def log_probs_of_all_sets(truth, features):
    """All label sets, and their log-probabilities for each example, [sets, examples]."""
    sets = all_sets(len(truth.weights))
    log_probs = truth.log_prob(np.repeat(features, len(sets), 0), np.tile(sets, (len(features), 1)))
    return sets, log_probs.reshape(len(features), len(sets)).T


def plain_prob(truth, x, labels):
    """p(labels | x) of one example, read off the definition, with plain numbers."""
    above = [[int(parent) for child, parent in truth.parents if child == label] for label in range(len(labels))]
    gates = [
        math.exp(sum(w * v for w, v in zip(weights, x, strict=True)) + offset)
        for weights, offset in zip(truth.gate_weights.tolist(), truth.gate_offsets.tolist(), strict=True)
    ]
    total = 0.0
    for gate, offsets in zip(gates, truth.offsets.tolist(), strict=True):
        prob = gate / sum(gates)
        for label, weights in enumerate(truth.weights.tolist()):
            score = sum(w * v for w, v in zip(weights, x, strict=True)) + offsets[label]
            on = 1 / (1 + math.exp(-score))
            if all(labels[parent] for parent in above[label]):
                prob *= on if labels[label] else 1 - on
            elif labels[label]:
                prob = 0.0
        total += prob
    return total


# The distribution, by enumeration.


@pytest.mark.parametrize("shape", SHAPES)
def test_log_probabilities_are_those_of_the_definition(shape):
    truth, features = make_truth(shape), draw_features(3)
    sets, log_probs = log_probs_of_all_sets(truth, features)
    probs = np.array([[plain_prob(truth, x, labels) for x in features.tolist()] for labels in sets])
    np.testing.assert_allclose(np.exp(log_probs), probs, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(np.isneginf(log_probs), probs == 0)
    np.testing.assert_allclose(np.exp(log_probs).sum(0), 1, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_marginals_and_modes_are_those_of_enumeration(shape):
    truth, features = make_truth(shape), draw_features(20)
    sets, log_probs = log_probs_of_all_sets(truth, features)
    marginals = np.exp(log_probs).T @ sets
    np.testing.assert_allclose(np.exp(truth.log_marginals(features)), marginals, rtol=1e-12)
    np.testing.assert_array_equal(truth.mode(features), sets[log_probs.argmax(0)])


@pytest.mark.parametrize("shape", SHAPES)
def test_best_network_and_best_independent_labels_are_those_of_enumeration(shape):
    truth, features = make_truth(shape), draw_features(3)
    sets, log_probs = log_probs_of_all_sets(truth, features)
    marginals = np.exp(log_probs).T @ sets
    above = [truth.parents[truth.parents[:, 0] == label, 1] for label in range(sets.shape[1])]
    free = np.stack([sets[:, parents].all(1) for parents in above], 1)
    given_free = marginals / (np.exp(log_probs).T @ free)
    for number, labels in enumerate(sets):
        rows = np.broadcast_to(labels, (3, sets.shape[1]))
        independent = np.where(labels, marginals, 1 - marginals).prod(1)
        np.testing.assert_allclose(np.exp(truth.independent_log_prob(features, rows)), independent, rtol=1e-10)
        network = np.where(free[number], np.where(labels, given_free, 1 - given_free), ~labels).prod(1)
        np.testing.assert_allclose(np.exp(truth.network_log_prob(features, rows)), network, rtol=1e-10)


def test_a_shared_ancestor_counts_once():
    # 0 above 1 and 2, both above 3; every score is 0, so that each label has probability 1/2 given its parents.
    parents = np.array([[1, 0], [2, 0], [3, 1], [3, 2]])
    truth = Truth(parents, np.zeros((4, 1)), np.zeros((1, 4)), np.zeros((1, 1)), np.zeros(1))
    marginals = np.exp(truth.log_marginals(np.zeros((1, 1), np.float32)))
    np.testing.assert_allclose(marginals, [[1 / 2, 1 / 4, 1 / 4, 1 / 16]], rtol=1e-15)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", SHAPES)
def test_mode_of_twelve_labels_is_that_of_brute_force(shape, seed):
    truth = make_truth(shape, num_labels=12, num_components=4, cardinality=4.0, seed=seed)
    features = draw_features(10, seed=seed)
    sets, log_probs = log_probs_of_all_sets(truth, features)
    np.testing.assert_array_equal(truth.mode(features), sets[log_probs.argmax(0)])


def test_mode_widens_its_search_until_it_is_certain(monkeypatch):
    truth, features = make_truth("flat", num_labels=12, num_components=4, cardinality=4.0), draw_features(50)
    exact = truth.mode(features)
    monkeypatch.setattr(truth_module, "BEAM_WIDTHS", (1, 2, 4096))
    monkeypatch.setattr(truth_module, "BEAM_ENTRIES", 4096 * 3)
    np.testing.assert_array_equal(truth.mode(features), exact)
    monkeypatch.setattr(truth_module, "BEAM_WIDTHS", (1,))
    with pytest.raises(UserError, match="num_labels, num_components or cardinality smaller"):
        truth.mode(features)


@pytest.mark.parametrize("shape", SHAPES)
def test_many_examples_at_once_are_as_one_by_one(shape, monkeypatch):
    truth, features = make_truth(shape), draw_features(7)
    labels = truth.sample(features, stream(0, "test labels"))
    whole = truth.log_prob(features, labels), truth.log_marginals(features), truth.mode(features)
    monkeypatch.setattr(truth_module, "BLOCK_ENTRIES", 3 * truth.offsets.size)
    for one, other in zip(
        whole, (truth.log_prob(features, labels), truth.log_marginals(features), truth.mode(features)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert truth.log_marginals(features[:0]).shape == (0, 7)


def test_marginals_are_coherent_to_the_last_bit():
    truth = make_truth("dag", num_labels=40, cardinality=12.0)
    log_marginals = truth.log_marginals(draw_features(500))
    children, parents = truth.parents.T
    assert (log_marginals[:, children] <= log_marginals[:, parents]).all()
    assert (log_marginals <= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_frequencies_of_samples_follow_the_probabilities(shape):
    truth, size = make_truth(shape, num_labels=5, cardinality=2.0), 40_000
    features = np.broadcast_to(draw_features(1), (size, 4))
    drawn = truth.sample(features, stream(0, "test labels"))
    sets, log_probs = log_probs_of_all_sets(truth, features[:1])
    probs = np.exp(log_probs[:, 0])
    counts = np.bincount(drawn @ (1 << np.arange(5)[::-1]), minlength=len(sets))
    assert (counts[probs == 0] == 0).all()
    # Four standard deviations of a binomial, and one for where hardly any are expected.
    assert (abs(counts - size * probs) <= 4 * np.sqrt(size * probs * (1 - probs)) + 1).all()


def test_draws_of_the_first_examples_do_not_depend_on_their_number():
    truth, features = make_truth(), draw_features(30)
    few, many = (truth.sample(features[:size], stream(0, "test labels")) for size in (10, 30))
    np.testing.assert_array_equal(few, many[:10])


def test_improbable_labels_keep_their_precision():
    # One label with score 60: 1 - P(on) would round to 0.
    truth = Truth(np.zeros((0, 2), int), np.zeros((1, 1)), np.full((1, 1), 60.0), np.zeros((1, 1)), np.zeros(1))
    off = np.zeros((1, 1), bool)
    assert truth.independent_log_prob(np.zeros((1, 1), np.float32), off)[0] == pytest.approx(-60, rel=1e-14)


@pytest.mark.parametrize("shape", ["tree", "dag"])
def test_one_component_is_the_head_conditional(shape):
    truth, features = make_truth(shape, num_components=1), draw_features(6)
    labels = truth.sample(features, stream(0, "test labels"))
    hierarchy = LabelHierarchy.from_edges([str(label) for label in range(7)], truth.parents)
    scores = jnp.asarray(truth.weights @ features.T + truth.offsets[0][:, None], jnp.float32)
    index = index_hierarchy(hierarchy, closure=True)
    distribution = conditional.BayesianNetwork(scores, index, None, "any")
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(labels)), truth.log_prob(features, labels), rtol=1e-5)
    np.testing.assert_allclose(distribution.log_marginals, truth.log_marginals(features), rtol=1e-5)


# What the options mean.


@pytest.mark.parametrize("shape", SHAPES)
def test_without_dependence_the_mixture_is_one_network(shape):
    truth, features = make_truth(shape, dependence=0.0), draw_features(5)
    network = dataclasses.replace(
        truth, offsets=truth.offsets[:1], gate_weights=truth.gate_weights[:1], gate_offsets=truth.gate_offsets[:1]
    )
    for labels in all_sets(7)[::5]:
        rows = np.broadcast_to(labels, (5, 7))
        log_prob = truth.log_prob(features, rows)
        np.testing.assert_allclose(network.log_prob(features, rows), log_prob, rtol=1e-12)
        np.testing.assert_allclose(truth.network_log_prob(features, rows), log_prob, rtol=1e-12)
        if shape == "flat":
            np.testing.assert_allclose(truth.independent_log_prob(features, rows), log_prob, rtol=1e-12)


def test_with_one_component_dependence_changes_nothing():
    weak, strong = (make_truth(num_components=1, dependence=dependence).to_json() for dependence in (0.0, 50.0))
    assert weak == strong


@pytest.mark.parametrize("shape", SHAPES)
def test_what_one_network_misses_grows_with_dependence(shape):
    sets, size = all_sets(9), 20
    every = np.repeat(draw_features(size), len(sets), 0), np.tile(sets, (size, 1))
    misses = []
    for dependence in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        truth = make_truth(shape, num_labels=9, num_components=4, dependence=dependence)
        log_prob, *others = (
            function(*every) for function in (truth.log_prob, truth.network_log_prob, truth.independent_log_prob)
        )
        possible = log_prob > -np.inf
        # The expectation itself: no draws.
        misses.append([np.exp(log_prob[possible]) @ (log_prob[possible] - other[possible]) / size for other in others])
    network, independent = np.transpose(misses)
    assert network[0] == pytest.approx(0, abs=1e-12)
    assert (np.diff(network) > 0).all()
    if shape == "flat":
        np.testing.assert_allclose(independent, network, atol=1e-12)
    else:  # the part that is due to the hierarchy comes on top; it may shrink while the other grows
        assert (independent - network > 0.5).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_dependence_leaves_labels_as_frequent_as_they_are(shape):
    probe = draw_features(200, purpose="probe")
    rates = []
    for dependence in (0.0, 6.0):
        truth = make_truth(shape, num_labels=20, dependence=dependence, cardinality=4.0)
        marginals = np.exp(truth.log_marginals(probe)).mean(0)
        # Given the parent that is on; for two parents the marginals do not tell how often both are.
        single = [label for label, above in enumerate(truth.parents_of) if len(above) <= 1]
        rates.append([marginals[label] / marginals[truth.parents_of[label]].prod() for label in single])
    # Offsets are multiples of GRID; on a DAG all are shifted once more to meet the cardinality.
    np.testing.assert_allclose(rates[1], rates[0], atol=0.05 if shape == "dag" else 0.001)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("num_labels", "cardinality", "dependence"), [(7, 0.05, 3.0), (20, 4.0, 0.0), (20, 19.5, 4.0), (30, 6.0, 100.0)]
)
def test_cardinality_is_met(shape, num_labels, cardinality, dependence):
    truth = make_truth(shape, num_labels=num_labels, cardinality=cardinality, dependence=dependence)
    reached = synthetic.mean_cardinality(truth, draw_features(200, purpose="probe"))
    assert cardinality <= reached <= cardinality + num_labels / 10_000


def test_hierarchies_are_of_the_stated_shape():
    names = [str(label) for label in range(60)]
    tree, dag = (
        LabelHierarchy.from_edges(names, np.array(synthetic.draw_hierarchy(60, shape, stream(3, "hierarchy"))))
        for shape in ("tree", "dag")
    )
    assert tree.is_forest
    assert synthetic.draw_hierarchy(60, "flat", stream(3, "hierarchy")) == []
    for hierarchy in (tree, dag):
        assert (hierarchy.parents < hierarchy.children).all()
        np.testing.assert_array_equal(np.flatnonzero(hierarchy.num_parents == 0), range(10))
    # Of 50 labels with a parent about half have a second one, sd sqrt(50) / 2 = 3.5.
    assert 25 - 4 * 3.5 < (dag.num_parents == 2).sum() < 25 + 4 * 3.5
    assert dag.num_parents.max() == 2
    closures = [set(dag.ancestors.row(label).tolist()) | {label} for label in range(60)]
    several = [np.flatnonzero(dag.children == label) for label in np.flatnonzero(dag.num_parents == 2)]
    pairs = [dag.parents[edges].tolist() for edges in several]
    assert not any(one in closures[other] or other in closures[one] for one, other in pairs)
    assert any(closures[one] & closures[other] for one, other in pairs)  # diamonds


def test_words_and_texts_are_as_stated():
    num_words, num_topics, length = 83, 5, 9
    words, vectors = synthetic.draw_words(num_words, num_topics, length, stream(0, "words"))
    assert len(set(words)) == num_words
    assert all(len(word) == 6 for word in words)
    assert vectors.shape == (num_words, num_topics)
    # A word stands out in the coordinate of its topic: 1 against N(0, 1/4), all on one scale.
    own = np.arange(num_words) % num_topics == np.arange(num_topics)[:, None]
    for topic in range(num_topics):
        assert vectors[own[topic], topic].mean() > vectors[~own[topic], topic].mean()
    rng = stream(0, "train inputs")
    texts = [synthetic.draw_text(num_words, num_topics, length, rng) for _ in range(3000)]
    assert {len(text) for text in texts} == set(range(5, 14))
    assert set(np.concatenate(texts).tolist()) == set(range(num_words))
    x = np.array([vectors[text].mean(0) for text in texts])
    # Scaled over 1,024 other texts: a mean of those has standard deviation 1 / 32.
    np.testing.assert_allclose(x.mean(0), 0, atol=5 / 32)
    np.testing.assert_allclose(x.std(0), 1, atol=5 / 32)


def test_words_of_a_topic_are_alike_and_topics_have_their_turns():
    # Three words, two topics: words 0 and 2 share topic 0. Topics are exchangeable, so that each has half of the words.
    rng = stream(0, "train inputs")
    drawn = np.concatenate([synthetic.draw_text(3, 2, 1, rng) for _ in range(6000)])
    counts = np.bincount(drawn)
    sd = math.sqrt(6000) / 2
    assert abs(counts[1] - 3000) < 4 * sd
    assert abs(counts[0] - counts[2]) < 4 * math.sqrt(3000)


def test_scores_are_exact_whatever_the_order_of_sums():
    truth, features = make_truth(), draw_features(4)
    for numbers in (truth.weights, truth.offsets, truth.gate_weights, truth.gate_offsets, features.astype(float)):
        assert (numbers / synthetic.GRID == np.rint(numbers / synthetic.GRID)).all()
    products = features.astype(float) @ truth.weights.T
    for row, x in enumerate(features.tolist()):
        for label, weights in enumerate(truth.weights.tolist()):
            exact = sum(fractions.Fraction(w) * fractions.Fraction(v) for w, v in zip(weights, x, strict=True))
            assert products[row, label] == exact


def test_normals_are_normal_and_finite():
    class Extremes(np.random.Generator):
        def random(self, shape):
            return np.array([0.0, 0.5, 1 - 2.0**-53])

    low, middle, high = synthetic.normals(Extremes(np.random.PCG64(0)), (3,))
    assert -8.5 < low < -8 < 0 == middle < 8 < high < 8.5
    drawn = synthetic.normals(stream(0, "probe"), (40_000,))
    assert abs(drawn.mean()) < 4 / 200
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2) / 200
    assert abs((drawn < 1).mean() - 0.841345) < 4 * math.sqrt(0.8413 * 0.1587) / 200


# The truth as it comes with a data set.


@pytest.fixture(scope="module")
def features_data(tmp_path_factory):
    return mlresearch.data.load("synthetic/features", SMALL | {"shape": "dag"}, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def text_data(tmp_path_factory):
    return mlresearch.data.load("synthetic/text", SMALL_TEXTS, tmp_path_factory.mktemp("text"))


@pytest.fixture(params=["features", "text"])
def dataset(request):
    return request.getfixturevalue(f"{request.param}_data")


def inputs_of(records):
    return records.features if records.texts is None else records.texts


def test_splits_are_of_the_stated_sizes_and_label_sets_are_closed(dataset):
    assert {f"num_{split}": len(records) for split, records in dataset.splits.items()} == SIZES
    for split, records in dataset.splits.items():
        labels = records.labels.multi_hot(10)
        children, parents = dataset.parents.T
        assert not (labels[:, children] & ~labels[:, parents]).any()
        assert records.keys[7] == f"{split} 7"


def test_the_truth_comes_back_bit_for_bit_and_says_what_the_notes_say(dataset):
    truth = Truth.from_json(dataset.truth)
    assert truth.to_json() == dataset.truth == json.loads(json.dumps(dataset.truth))
    np.testing.assert_array_equal(truth.parents, dataset.parents)
    for split, records in dataset.splits.items():
        inputs, labels = inputs_of(records), records.labels.multi_hot(10)
        # What was drawn is drawn again from what was stored.
        np.testing.assert_array_equal(truth.sample(inputs, stream(0, f"{split} labels")), labels)
        means = truth.mean_log_likelihoods(inputs, labels)
        assert means == dataset.notes["mean_log_likelihood"][split]
        assert means["true"] == pytest.approx(truth.log_prob(inputs, labels).mean())
        assert means["true"] > means["network"] > means["independent"] > -np.inf
        accuracy = (truth.mode(inputs) == labels).all(1).mean()
        assert dataset.notes["subset_accuracy_of_mode"][split] == accuracy
        assert dataset.notes["label_cardinality"][split] == labels.sum(1).mean()
    assert 3 <= dataset.notes["expected_label_cardinality"] <= 3.001


def test_cardinality_of_drawn_labels(tmp_path):
    given = {"num_train": 4000, "num_validation": 1, "num_test": 1, "cardinality": 3.0}
    dataset = mlresearch.data.load("synthetic/features", given, tmp_path)
    sizes = np.diff(dataset.splits["train"].labels.offsets)
    # Inputs of the split and those the intercept was fitted over are both samples.
    error = sizes.std() * math.sqrt(1 / 4000 + 1 / synthetic.PROBE)
    assert abs(sizes.mean() - 3) < 4 * error


def test_a_text_stands_for_the_mean_of_its_word_vectors(text_data):
    truth = Truth.from_json(text_data.truth)
    texts = text_data.splits["test"].texts
    vectors = dict(zip(truth.words, truth.word_vectors, strict=True))
    x = np.array([np.mean([vectors[word] for word in text.split()], axis=0) for text in texts])
    plain = dataclasses.replace(truth, words=None, word_vectors=None)
    labels = text_data.splits["test"].labels.multi_hot(10)
    # As features x is rounded to float32.
    np.testing.assert_allclose(plain.log_prob(x.astype(np.float32), labels), truth.log_prob(texts, labels), rtol=1e-5)


def test_a_flat_data_set_has_no_hierarchy(tmp_path):
    dataset = mlresearch.data.load("synthetic/features", SMALL | {"shape": "flat"}, tmp_path)
    assert dataset.parents is None
    assert dataset.truth["parents"] == []
    means = dataset.notes["mean_log_likelihood"]["train"]
    assert means["true"] > means["network"] == pytest.approx(means["independent"])


def content(dataset):
    """Digest of what was drawn, of the truth and the examples."""
    digest = hashlib.sha256(json.dumps(dataset.truth).encode())
    for records in dataset.splits.values():
        digest.update("\n".join(records.texts).encode() if records.texts else records.features.tobytes())
        digest.update(records.labels.ids.tobytes())
    return digest.hexdigest()[:16]


def test_a_seed_gives_the_same_bytes_on_any_machine(text_data, features_data, tmp_path):
    # Written down once: a change means other data, and asks for a new `Builder.VERSION`.
    assert (content(text_data), content(features_data)) == ("cd5be4dd1f2972fb", "2ffb85ee92f3dfa1")
    again = mlresearch.data.load("synthetic/text", SMALL_TEXTS, tmp_path)
    assert again.fingerprint == text_data.fingerprint


def test_the_first_examples_and_the_truth_do_not_depend_on_the_sizes(text_data, tmp_path):
    given = SMALL_TEXTS | {"num_train": 70, "num_test": 12}
    other = mlresearch.data.load("synthetic/text", given, tmp_path)
    assert other.truth == text_data.truth
    for split in other.splits:
        one, two = (data.splits[split] for data in (text_data, other))
        common = min(len(one), len(two))
        assert one.texts[:common] == two.texts[:common]
        np.testing.assert_array_equal(one.labels.multi_hot(10)[:common], two.labels.multi_hot(10)[:common])


@pytest.mark.parametrize(
    ("subset", "option", "value"),
    [
        ("features", "num_labels", 9),
        ("features", "shape", "tree"),
        ("features", "num_components", 2),
        ("features", "cardinality", 2.0),
        ("features", "dependence", 1.0),
        ("features", "num_features", 9),
        ("features", "seed", 1),
        ("text", "num_features", 9),
        ("text", "num_words", 49),
        ("text", "text_length", 8),
    ],
)
def test_every_option_acts(request, tmp_path, subset, option, value):
    base = request.getfixturevalue(f"{subset}_data")
    given = (SMALL | {"shape": "dag"} if subset == "features" else SMALL_TEXTS) | {option: value}
    other = mlresearch.data.load(f"synthetic/{subset}", given, tmp_path)
    assert other.truth != base.truth
    digests = [hashlib.sha256(data.splits["train"].labels.ids.tobytes()).hexdigest() for data in (base, other)]
    assert digests[0] != digests[1]


def test_notes_say_where_the_mode_is_too_hard_to_find(monkeypatch, tmp_path):
    monkeypatch.setattr(truth_module, "BEAM_WIDTHS", (1,))
    dataset = mlresearch.data.load("synthetic/features", SMALL | {"shape": "flat"}, tmp_path)
    assert dataset.notes["subset_accuracy_of_mode"] == dict.fromkeys(("train", "validation", "test"))


# Figures and faults.


def test_dependence_recovered_by_hand():
    assert dependence_recovered(model=-4.0, independent=-5.0, true=-3.0) == 0.5
    assert dependence_recovered(model=-5.0, independent=-5.0, true=-3.0) == 0.0
    assert dependence_recovered(model=-6.0, independent=-5.0, true=-3.0) == -0.5
    with pytest.raises(UserError, match="no dependence to recover"):
        dependence_recovered(model=-3.0, independent=-3.0, true=-3.0)


@pytest.mark.parametrize(
    ("subset", "given", "message"),
    [
        ("features", {"shape": "treee"}, "did you mean 'tree'"),
        ("features", {"num_labels": 0}, "num_labels is 0"),
        ("features", {"num_components": 0}, "num_components is 0"),
        ("features", {"num_test": 0}, "num_test is 0"),
        ("features", {"cardinality": 20.0}, "between 0 and num_labels, 20"),
        ("features", {"cardinality": math.nan}, "between 0 and num_labels"),
        ("features", {"dependence": -0.5}, "from 0 to 100"),
        ("features", {"dependence": math.inf}, "from 0 to 100"),
        ("features", {"seed": -1}, "negative"),
        ("text", {"num_words": 15}, "from 16 .* to 10000"),
        ("text", {"num_words": 10_001}, "from 16 .* to 10000"),
        ("text", {"text_length": 0}, "text_length is 0"),
    ],
)
def test_impossible_options_are_errors_for_people(tmp_path, subset, given, message):
    with pytest.raises(UserError, match=message):
        mlresearch.data.load(f"synthetic/{subset}", given, tmp_path)


def test_inputs_of_something_else_are_errors_for_people(text_data, features_data):
    of_text, of_features = (Truth.from_json(data.truth) for data in (text_data, features_data))
    features = features_data.splits["test"].features
    with pytest.raises(UserError, match="text 1 has the word 'diagnosis'"):
        of_text.log_marginals([of_text.words[0], f"{of_text.words[0]} diagnosis"])
    with pytest.raises(UserError, match="text 0 has no words"):
        of_text.log_marginals([" "])
    with pytest.raises(UserError, match="given texts"):
        of_text.log_marginals(features)
    with pytest.raises(UserError, match="16 an example"):
        of_features.log_marginals(features[:, :15])
    with pytest.raises(UserError, match="16 an example"):
        of_features.log_marginals(["tibabo"])
    with pytest.raises(UserError, match="gaps"):
        of_features.log_marginals(np.where(features > 2, np.float32(np.nan), features))
    for other in ({}, {"weights": "many"}):
        with pytest.raises(UserError, match="not the truth of a data set of source 'synthetic'"):
            Truth.from_json(other)
