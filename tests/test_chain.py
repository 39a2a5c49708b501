"""Classifier chains against NumPy loops and enumerated label sets, and their order from training to prediction."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_losses import label_loss
from small_runs import inputs_of, make_config, on_points
from test_heads import all_sets, encoded_for, make_head, sizes
from test_hierarchy import names, random_dag, reach

import mlresearch
from mlresearch.config import resolve
from mlresearch.decoders.causal import CausalScores, Decoder, Links
from mlresearch.encoders import Encoded
from mlresearch.ensemble import MeanMarginals, combine
from mlresearch.errors import UserError
from mlresearch.estimate import Estimator
from mlresearch.heads.chain import Chain, Head
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import index_hierarchy
from mlresearch.label_order import order_labels
from mlresearch.label_space import Frequencies, LabelSets
from mlresearch.model import create_model
from mlresearch.train import train
from mlresearch.workdir import read_labels

HIDDEN = 3


def random_scores(batch, num_labels, *, seed=0, scale=1.5, dtype=jnp.float32):
    """Everything random: where chains begin, scores, and how labels change those after them."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(0, scale, shape), dtype)

    links = Links(normal(num_labels, batch), normal(num_labels, HIDDEN), normal(num_labels, HIDDEN))
    return CausalScores(normal(batch, HIDDEN), links)


def make_chain(scores, order="given", hierarchy=None, counts=None, **options):
    batch, num_labels = scores.start.shape[0], len(scores.links.direct)
    given = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    head = Head(hierarchy, num_labels, 4, order=order, **options, **given)
    if counts is not None:
        head.use_frequencies(Frequencies(counts.astype(float), np.full(num_labels, 9)))
    return head(scores, encoded_for(batch))


def one_of_each(num_labels=6):
    """Chains of every kind with six labels: scores, what makes a chain of them, and the order that this means."""
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 3, num_labels)  # with ties, where the label space decides
    by_count = sorted(range(num_labels), key=lambda label: (-counts[label], label))
    yield "given", {}, list(range(num_labels))
    yield "frequency", {"counts": counts}, by_count
    for forest in (True, False):
        hierarchy = random_dag(rng, num_labels, forest=forest, density=0.4)
        yield "hierarchy", {"hierarchy": hierarchy}, np.argsort(hierarchy.levels, kind="stable").tolist()


def as_loops(dist, order, hierarchy):
    """A function of an example and a label set: its probability, from the formula, in float64.

    Parents first, any order of a hierarchy will do for that of its chain: here it is asked for.
    """
    start, links = (jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (dist.start, dist.links))

    def log_prob(example, on):
        hidden, total = start[example].copy(), 0.0
        for label in order:
            score = links.readout[label] @ np.tanh(hidden) + links.direct[label, example]
            parents = [] if hierarchy is None else hierarchy.parents[hierarchy.children == label]
            if all(on[parent] for parent in parents):
                total -= math.log1p(math.exp(-score if on[label] else score))
            elif on[label]:
                return -math.inf
            if on[label]:
                hidden += links.vector[label]
        return total

    return log_prob


@jax.jit
def log_probs_of(dist, sets):
    """[sets, batch] of label sets, the same for all examples."""
    batch = dist.scores.start.shape[0]
    return jax.vmap(lambda on: dist.log_prob(jnp.broadcast_to(on, (batch, *on.shape))))(sets)


@jax.jit
def marginals_of(dist):
    return dist.log_marginals


@jax.jit
def summary(dist):
    return dist.log_marginals, dist.mode()


def own_order(dist):
    return np.asarray(dist.order.labels).tolist()


@pytest.mark.parametrize(("order", "given", "expected"), list(one_of_each()))
def test_the_likelihood_is_that_of_the_formula(order, given, expected):
    with jax.enable_x64(True):
        scores = random_scores(2, 6, dtype=jnp.float64)
        dist = make_chain(scores, order, **given)
        hierarchy = given.get("hierarchy")
        if hierarchy is None:
            assert own_order(dist) == expected
        sets = all_sets(6)
        log_probs = np.asarray(log_probs_of(dist, jnp.asarray(sets)))
        np.testing.assert_allclose(np.exp(log_probs).sum(0), 1, rtol=1e-12)
        reference = as_loops(scores, own_order(dist), hierarchy)
        wanted = [[reference(example, on) for example in range(2)] for on in sets]
        np.testing.assert_allclose(log_probs, wanted, rtol=1e-12)
        if hierarchy is not None:
            places = np.asarray(dist.order.places)
            assert (places[hierarchy.parents] < places[hierarchy.children]).all()
            broken = (sets[:, hierarchy.children] & ~sets[:, hierarchy.parents]).any(1)
            assert broken.any()
            assert np.array_equal(np.isneginf(log_probs).any(1), broken)


@pytest.mark.parametrize("num_labels", [1, 2, 30, 37])
def test_scores_in_blocks_are_those_of_loops(num_labels):
    """The decoder's own weights, in an order; 30 labels are 5 blocks of 6, 37 fill 6 blocks of 7 but for five."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        given = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        decoder = Decoder(5, num_labels, 1, hidden_dim=HIDDEN, **given)
        decoder.begin_with(rng.normal(size=(num_labels, 1)))
        pooled, on = rng.normal(size=(2, 5)), rng.random((2, num_labels)) < 0.4
        order = rng.permutation(num_labels)
        encoded = Encoded(jnp.zeros((2, 1, 5)), jnp.ones((2, 1), bool), jnp.asarray(pooled))
        scores = decoder(encoded, None).reorder(jnp.asarray(order)).given(jnp.asarray(on[:, order]))
        weights, bias, readouts, vectors = (
            np.asarray(param[...]) for param in (decoder.weights, decoder.bias, decoder.readouts, decoder.vectors)
        )
        for example in range(2):
            hidden = pooled[example] @ np.asarray(decoder.project.kernel[...]) + np.asarray(decoder.project.bias[...])
            for place, label in enumerate(order):
                wanted = readouts[label] @ np.tanh(hidden) + weights[label] @ pooled[example] + bias[label]
                np.testing.assert_allclose(scores[example, place], wanted, rtol=1e-10, atol=1e-12)
                hidden = hidden + on[example, label] * vectors[label]


def test_no_hidden_state_a_label_and_example_is_kept():
    batch, num_labels, hidden = 16, 900, 32
    scores = jax.eval_shape(
        lambda: CausalScores(
            jnp.zeros((batch, hidden)),
            Links(jnp.zeros((num_labels, batch)), jnp.zeros((num_labels, hidden)), jnp.zeros((num_labels, hidden))),
        )
    )
    on = jnp.zeros((batch, num_labels), bool)
    program = jax.make_jaxpr(jax.grad(lambda scores: scores.given(on).sum()))(scores)
    assert max(sizes(program.jaxpr)) <= max(batch, hidden) * num_labels  # all states would be 16 times as much


@pytest.mark.parametrize("order", ["given", "hierarchy"])
def test_the_mode_is_the_most_probable_set_where_the_beam_is_wide(order):
    hierarchy = random_dag(np.random.default_rng(1), 6, density=0.3)
    scores = random_scores(50, 6, scale=2.0)
    sets = all_sets(6)
    for beam, exact in ((32, True), (31, False)):
        dist = make_chain(scores, order, hierarchy, beam=beam, num_samples=4)
        assert dist.mode_is_exact is exact
    dist = make_chain(scores, order, hierarchy, beam=32, num_samples=4)
    log_probs = np.asarray(log_probs_of(dist, jnp.asarray(sets)))
    assert np.array_equal(summary(dist)[1], sets[log_probs.argmax(0)])


@pytest.mark.parametrize("order", ["given", "hierarchy"])
def test_the_mode_is_never_worse_than_greedy_choices_and_marginals_over_half(order):
    hierarchy = random_dag(np.random.default_rng(1), 9, density=0.2)
    scores = random_scores(200, 9, scale=1.2)
    found = {}
    for beam in (1, 3):
        dist = make_chain(scores, order, hierarchy, beam=beam, num_samples=8)
        log_marginals, mode = summary(dist)
        greedy = np.zeros((200, 9), bool)
        links = jax.tree.map(np.asarray, scores.links)
        for example, on in enumerate(greedy):
            hidden = np.asarray(scores.start[example])
            for label in own_order(dist):
                parents = hierarchy.parents[hierarchy.children == label] if order == "hierarchy" else []
                score = links.readout[label] @ np.tanh(hidden) + links.direct[label, example]
                on[label] = on[parents].all() and score > 0
                hidden = hidden + on[label] * links.vector[label]
        of = jax.jit(dist.log_prob)
        found[beam] = np.asarray(of(mode))
        over_half = np.asarray(of(log_marginals > -jnp.log(2.0)))
        assert (found[beam] >= of(jnp.asarray(greedy)) - 1e-5).all()
        assert (found[beam] >= over_half).all()
        if order == "given":  # each of the candidates is the best somewhere
            assert (over_half > of(jnp.asarray(greedy)) + 1e-3).any()
    assert (found[3] > found[1] + 1e-3).any()


def test_greedy_choices_are_kept_where_a_narrow_beam_loses_them():
    """With the first label on, .6, all is clear but the next two; with it off, all is even but the next one.

    Probabilities of the sets so far, of greedy choices and of the beam's two: .6 | .6 .4, .36 | .4 .36, .198 | .2 .2;
    then greedy ones stay what they are, and each label halves the others'.
    """

    def log_odds(p):
        return math.log(p / (1 - p))

    with_first = [log_odds(0.6), log_odds(0.6), log_odds(0.55), -20, -20, -20, -20]
    without = [log_odds(0.6), -20, 0, 0, 0, 0, 0]
    on, off = jnp.array(with_first)[:, None], jnp.array(without)[:, None]
    vectors = jnp.zeros((7, 1)).at[0].set(40.0)  # the one hidden unit is −20 or 20, which tanh takes to −1 or 1
    scores = CausalScores(jnp.full((1, 1), -20.0), Links((on + off) / 2, (on - off) / 2, vectors))
    dist = make_chain(scores, beam=2)
    greedy = jnp.array([[True, True, True, False, False, False, False]])
    np.testing.assert_allclose(np.exp(dist.log_prob(greedy)), 0.6 * 0.6 * 0.55, rtol=1e-5)
    assert np.array_equal(dist.mode(), greedy)


def spread_of_terms(log_probs, sets, order):
    """Standard deviation of P(label | labels before it) over label sets, [batch, labels], by enumeration."""
    probs, spread = np.exp(log_probs), np.zeros((log_probs.shape[1], sets.shape[1]))
    for place, label in enumerate(order):
        prefix = sets[:, order[:place]] @ (2 ** np.arange(place))
        total, on = np.zeros((2**place, len(spread))), np.zeros((2**place, len(spread)))
        np.add.at(total, prefix, probs)
        np.add.at(on, prefix, probs * sets[:, [label]])
        mean = on.sum(0)
        spread[:, label] = (np.square(on) / total).sum(0) - np.square(mean)
    return np.sqrt(np.maximum(spread, 0))


def test_marginals_are_within_the_error_that_is_stated():
    """Of a chain without hierarchy: the error of its terms themselves, which for the first label is none."""
    num_labels, scores, sets = 7, random_scores(60, 7, seed=2), all_sets(7)
    error = {}
    for num_samples in (64, 1024):
        dist = make_chain(scores, num_samples=num_samples)
        log_probs = np.asarray(log_probs_of(dist, jnp.asarray(sets)), np.float64)
        exact = np.einsum("sb,sl->bl", np.exp(log_probs), sets)
        log_marginals = np.asarray(marginals_of(dist))
        assert (log_marginals <= 0).all()
        difference = np.abs(np.exp(log_marginals) - exact)
        spread = spread_of_terms(log_probs, sets, list(range(num_labels)))
        assert dist.marginal_error == 0.5 / math.sqrt(num_samples - 1)
        assert (spread / math.sqrt(num_samples - 1) <= dist.marginal_error).all()
        assert (difference <= 4 * spread / math.sqrt(num_samples - 1) + 1e-6).all()
        assert (difference[:, 0] < 1e-6).all()
        error[num_samples] = math.sqrt(np.square(difference).mean())
    assert error[64] > 1e-3
    assert error[1024] < error[64] / 3  # with 16 times the samples a fourth, or less


@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_marginals_of_a_hierarchy_are_within_the_error_and_coherent(forest):
    hierarchy = random_dag(np.random.default_rng(7), 7, forest=forest, density=0.3)
    scores, sets = random_scores(60, 7, seed=3), all_sets(7)
    error = {}
    for num_samples in (64, 1024):
        dist = make_chain(scores, "hierarchy", hierarchy, num_samples=num_samples)
        exact = np.einsum("sb,sl->bl", np.exp(np.asarray(log_probs_of(dist, jnp.asarray(sets)))), sets)
        log_marginals = np.asarray(marginals_of(dist))
        assert (log_marginals[:, hierarchy.children] <= log_marginals[:, hierarchy.parents]).all()
        difference = np.abs(np.exp(log_marginals) - exact)
        assert (difference <= 4 * dist.marginal_error).all()
        error[num_samples] = math.sqrt(np.square(difference).mean())
    assert error[1024] < error[64] / 3


def test_labels_below_what_no_sample_has_on_are_given_what_they_would_be():
    """A path of three, whose first label is on once in e²⁰: the others have the scores that they have with it on."""
    path = LabelHierarchy.from_edges("abc", np.array([(1, 0), (2, 1)]))
    direct = jnp.array([[-20.0, 1.0], [0.5, 0.5], [-1.0, -1.0]])
    links = Links(direct, jnp.ones((3, HIDDEN)), jnp.full((3, HIDDEN), 0.3))
    dist = make_chain(CausalScores(jnp.zeros((2, HIDDEN)), links), "hierarchy", path)
    scores = [-20, 0.5 + 3 * math.tanh(0.3), -1 + 3 * math.tanh(0.6)]
    expected = np.cumsum([-math.log1p(math.exp(-score)) for score in scores])
    np.testing.assert_allclose(dist.log_marginals[0], expected, rtol=1e-5)


def test_samples_follow_the_distribution():
    n, num_labels = 20_000, 5
    dist = make_chain(random_scores(2, num_labels, seed=6, scale=1.0), "frequency", counts=np.array([1, 5, 3, 3, 9]))
    sets = all_sets(num_labels)
    expected = np.exp(np.asarray(log_probs_of(dist, jnp.asarray(sets)), np.float64))
    drawn = np.asarray(jax.jit(lambda dist: dist.sample(jax.random.key(3), n))(dist))
    assert drawn.shape == (n, 2, num_labels)
    for example in range(2):
        shares = np.bincount(drawn[:, example] @ 2 ** np.arange(num_labels)[::-1], minlength=len(sets)) / n
        assert (np.abs(shares - expected[:, example]) < 5 * np.sqrt(expected[:, example] / n) + 1 / n).all()
    # Examples are drawn independently of each other.
    together = (drawn[:, 0] == drawn[:, 1]).mean(0)
    marginals = np.einsum("sb,sl->bl", expected, sets)
    alone = marginals.prod(0) + (1 - marginals).prod(0)
    assert (np.abs(together - alone) < 5 * 0.5 / math.sqrt(n)).all()


def test_an_example_is_the_same_in_any_batch():
    scores = random_scores(7, 40, seed=1)

    def rows(places):
        direct = scores.links.direct[:, places]
        return CausalScores(scores.start[places], scores.links._replace(direct=direct))

    @jax.jit
    def said(dist, labels):
        return dist.log_marginals, dist.loss(labels, label_loss()), dist.mode()

    labels = jnp.asarray(np.random.default_rng(0).random((7, 40)) < 0.5)
    whole = said(make_chain(scores), labels)
    for places in ([4], [6, 6, 2, 0, 1, 4, 3, 3, 3]):  # alone, and in another place among others
        at = np.array(places)
        part = said(make_chain(rows(at)), labels[at])
        for one, other in zip(part[:2], whole[:2], strict=True):
            np.testing.assert_allclose(one, other[at], rtol=1e-6, atol=1e-6)
        assert np.array_equal(part[2], whole[2][at])


@pytest.mark.parametrize("order", ["given", "hierarchy"])
def test_the_names_of_labels_do_not_matter(order):
    """Labels moved in the label space, with their weights and with their order, move in what is said of them."""
    rng = np.random.default_rng(5)
    hierarchy = random_dag(rng, 12, density=0.2) if order == "hierarchy" else None
    scores, moved_to = random_scores(4, 12), rng.permutation(12)  # label i of the one is moved_to[i] of the other
    back = np.argsort(moved_to)
    dist = make_chain(scores, order, hierarchy)
    moved_index = moved_hierarchy = None
    if hierarchy is not None:
        edges = np.stack([moved_to[hierarchy.children], moved_to[hierarchy.parents]], 1)
        moved_hierarchy = LabelHierarchy.from_edges(names(12), edges)
        moved_index = index_hierarchy(moved_hierarchy, closure=False)
    moved_order = order_labels(moved_to[np.array(own_order(dist))], moved_hierarchy)
    moved_scores = scores.reorder(jnp.asarray(back)).reorder(moved_order.labels)
    moved = Chain(moved_scores, moved_order, moved_index, dist.beam, dist.num_samples)
    for one, other in zip(summary(dist), summary(moved), strict=True):
        assert np.array_equal(one, np.asarray(other)[:, moved_to])
    drawn, moved_drawn = (each.sample(jax.random.key(0), 5) for each in (dist, moved))
    assert np.array_equal(drawn, np.asarray(moved_drawn)[..., moved_to])
    np.testing.assert_allclose(moved.log_prob(drawn[0][:, back]), dist.log_prob(drawn[0]), rtol=1e-5)


@pytest.mark.parametrize("order", ["given", "hierarchy"])
def test_gradients_equal_finite_differences(order):
    with jax.enable_x64(True):
        hierarchy = random_dag(np.random.default_rng(3), 11, density=0.2)  # three blocks of four, one of them short
        scores = random_scores(3, 11, dtype=jnp.float64)
        labels = make_chain(scores, order, hierarchy, beam=1, num_samples=1).sample(jax.random.key(0), 1)[0]

        @jax.jit
        def total(scores):
            loss = make_chain(scores, order, hierarchy).loss(labels, label_loss())
            return (loss * jnp.array([1.0, -0.5, 2.0])).sum()

        gradient = jax.jit(jax.grad(total))(scores)
        rng = np.random.default_rng(0)
        for _ in range(6):
            way = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), scores)
            forth, back = (
                total(jax.tree.map(lambda x, step, by=by: x + by * step, scores, way)) for by in (1e-6, -1e-6)
            )
            slope = sum(jax.tree.leaves(jax.tree.map(lambda x, step: (x * step).sum(), gradient, way)))
            np.testing.assert_allclose(slope, (forth - back) / 2e-6, rtol=1e-6)
        if order == "hierarchy":
            # A label with a parent off is off for certain: there is nothing to learn of it.
            closed = np.array(
                [
                    [not row[hierarchy.parents[hierarchy.children == i]].all() for i in range(11)]
                    for row in np.asarray(labels)
                ]
            )
            assert closed.any()
            assert np.array_equal(gradient.links.direct.T == 0, closed)


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_extreme_weights_in_bfloat16_are_finite(scale):
    scores = random_scores(9, 20, scale=scale, dtype=jnp.bfloat16)

    @jax.jit
    def everything(scores):
        dist = make_chain(scores, num_samples=8)
        labels = jnp.roll(dist.mode(), 1, axis=0)
        gradient = jax.grad(lambda scores: make_chain(scores).loss(labels, label_loss()).sum())(scores)
        return dist.log_marginals, dist.logits, dist.loss(labels, label_loss()), gradient

    log_marginals, logits, loss, gradient = everything(scores)
    assert log_marginals.dtype == logits.dtype == loss.dtype == jnp.float32
    for array in (log_marginals, logits, loss, *jax.tree.leaves(gradient)):
        assert np.isfinite(np.asarray(array, np.float32)).all()


@pytest.mark.parametrize("forest", [True, False])
def test_slots_hold_the_ancestors_of_whoever_reads_them(forest):
    rng = np.random.default_rng(0)
    for _ in range(20):
        hierarchy = random_dag(rng, 25, forest=forest, density=0.15)
        order = order_labels(np.lexsort((rng.random(25), hierarchy.levels)), hierarchy)
        held = [None] * order.num_slots
        above = reach(hierarchy)
        for label, ancestors, slot in zip(*map(np.asarray, (order.labels, order.ancestors, order.slot)), strict=True):
            read = [held[ancestor] for ancestor in ancestors if ancestor > 0]
            assert sorted(read) == np.flatnonzero(above[label]).tolist()
            if slot < order.num_slots:
                assert slot > 0
                held[slot] = label
            else:
                assert hierarchy.num_children[label] == 0
        assert order.num_slots <= 1 + (hierarchy.num_children > 0).sum()
    # A root with two paths of four below it, one after the other: itself, and three of the path that is walked.
    edges = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 0), (6, 5), (7, 6), (8, 7)]
    paths = LabelHierarchy.from_edges(names(9), np.array(edges))
    assert order_labels(np.arange(9), paths).num_slots == 1 + 4


def test_an_ensemble_is_the_mean_of_marginals():
    hierarchy = random_dag(np.random.default_rng(2), 8, forest=True)
    members = [make_chain(random_scores(3, 8, seed=seed), "hierarchy", hierarchy) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    ensemble = jax.jit(combine)(stacked, index_hierarchy(hierarchy, closure=False))
    assert isinstance(ensemble, MeanMarginals)
    expected = np.mean([np.exp(marginals_of(member)) for member in members], axis=0)
    np.testing.assert_allclose(np.exp(ensemble.log_marginals), expected, rtol=1e-5)


def test_it_begins_with_the_frequencies():
    """Of many rows, so that half an example more makes no difference; no label changes another's score at first."""
    hierarchy = random_dag(np.random.default_rng(3), 9, forest=True)
    rows = [hierarchy.close(np.array([label])).tolist() for label in np.flatnonzero(hierarchy.num_children == 0)]
    sets = LabelSets.from_rows([row for row in rows for _ in range(3000)])
    frequencies = sets.counts(9) / len(sets)
    for order in ("frequency", "hierarchy"):
        head = make_head("chain", {"order": order, "num_samples": 4096}, hierarchy)
        direct = jnp.asarray(head.begin_with(sets), jnp.float32)
        scores = CausalScores(jnp.zeros((1, HIDDEN)), Links(direct, jnp.zeros((9, HIDDEN)), jnp.zeros((9, HIDDEN))))
        marginals = np.exp(head(scores, encoded_for(1)).log_marginals[0])
        np.testing.assert_allclose(marginals, frequencies, atol=1e-3 if order == "frequency" else 0.03)


@pytest.fixture
def config(data_dir):
    config = make_config(data_dir)
    config.decoder.name, config.head.name = "causal", "chain"
    config.decoder.causal.hidden_dim = 16
    config.train.num_epochs, config.optim.learning_rate = 12.0, 0.03
    return config


@pytest.mark.parametrize("order", ["frequency", "hierarchy"])
def test_a_run_from_training_to_prediction(config, order, tmp_path):
    """Its order outlives the training split: what a loaded run says is what was said when it was trained."""
    config.head.chain.order = order
    config.model.prior = True
    Estimator().check(resolve(config))
    record = train(config, tmp_path / "run")
    assert record["name"] == f"bag+causal+chain-8-64-{order}"
    assert record["mode_is_exact"] is False
    assert record["metrics"]["test"]["mode"]["subset_accuracy"] > 0.8
    run = mlresearch.load(str(tmp_path / "run"))
    for split in ("validation", "test"):
        # On more devices than it was trained on: sums round differently.
        said, wanted = run.evaluate(split), record["metrics"][split]
        assert jax.tree.structure(said) == jax.tree.structure(wanted)
        np.testing.assert_allclose(jax.tree.leaves(said), jax.tree.leaves(wanted), rtol=1e-6)
    [labels] = run.predict(["an old owl"])
    assert [label.name for label in labels if label.on] == ["animal", "bird", "owl"]

    counts = read_labels(tmp_path / "run")[1].on
    head = nnx.merge(run.graphdef, run.params, run.numbers.rates, run.structure).head
    places = np.asarray(head.order.get_value().labels)
    if order == "frequency":
        assert (np.diff(counts[places]) <= 0).all()
        assert not np.array_equal(places, np.arange(9))
    else:
        assert record["metrics"]["test"]["mode"]["violation_rate"] == 0


@pytest.mark.parametrize(
    ("decoder", "head", "message"),
    [
        ("linear", "chain", "head 'chain' asks .* decoder 'linear' does not give: set config.decoder.name = 'causal'"),
        (
            "causal",
            "conditional",
            "decoder 'causal' gives .* head 'conditional' does not ask for: set config.head.name",
        ),
    ],
)
def test_other_pairs_are_refused_by_name(config, decoder, head, message, tmp_path):
    config.decoder.name, config.head.name = decoder, head
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=message):
        Estimator().check(resolve(config))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("order", "hierarchy", "head.chain.order = 'hierarchy' needs a label hierarchy; set it to 'frequency'"),
        ("beam", 0, "head.chain.beam is 0; it must be at least 1"),
        ("num_samples", 0, "head.chain.num_samples is 0; it must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(data_dir, option, value, message):
    config = on_points(make_config(data_dir))
    config.decoder.name, config.head.name = "causal", "chain"
    config.head.chain[option] = value
    config = resolve(config)
    dataset, preprocessing, _ = inputs_of(config)
    with pytest.raises(UserError, match=message):
        create_model(config, preprocessing.spec, 3, dataset.hierarchy)
