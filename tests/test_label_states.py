"""Label attention in full: label states and what they are trained on, refinement, edges, and attention weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_losses import label_loss
from small_runs import assert_near, lines, make_config, on_points
from test_decoders import build, make_encoded, randomise
from test_hierarchy import random_dag

import mlresearch
from mlresearch.config import resolve
from mlresearch.decoders.label_attention import cooccurring
from mlresearch.errors import UserError
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.inputs import Preprocessing, load_dataset
from mlresearch.label_space import LabelSets
from mlresearch.label_states import reveal, take_for_known
from mlresearch.model import create_model
from mlresearch.train import train

LABELS = 6
KNOWN = jnp.array([[jnp.nan] * 6, [1, jnp.nan, 0, jnp.nan, jnp.nan, jnp.nan], [0, 0, 1, 1, 0, 1], [jnp.nan] * 6])


def attention(**options):
    return randomise(build("label_attention", num_labels=LABELS, num_queries=0, **options))


def test_unknown_is_what_is_said_of_no_label():
    decoder, encoded = attention(label_states=True), make_encoded()
    scores = decoder(encoded, None, KNOWN)
    np.testing.assert_allclose(decoder(encoded, None), decoder(encoded, None, jnp.full_like(KNOWN, jnp.nan)), rtol=1e-5)
    np.testing.assert_allclose(scores[0], decoder(encoded, None)[0], rtol=1e-5)
    # A state reaches the other labels, and on is not off.
    assert (abs(scores[1] - decoder(encoded, None)[1]).max(-1) > 1e-4).all()
    turned = decoder(encoded, None, jnp.where(KNOWN == 1, 0.0, KNOWN))
    assert (abs(scores[1] - turned[1]).max(-1) > 1e-4).all()


def test_what_is_shown_and_what_is_asked_for_are_all_labels():
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.random((2000, 40)) < 0.3)
    keys = jax.random.split(jax.random.key(0), 2000)
    shown, hidden = map(np.asarray, reveal(labels, keys))
    np.testing.assert_array_equal(np.isnan(shown), ~np.isnan(hidden))
    np.testing.assert_array_equal(np.where(np.isnan(shown), hidden, shown), np.asarray(labels, np.float32))
    share = (~np.isnan(shown)).mean(1)
    assert abs((share == 0).mean() - 0.5) < 0.05  # and few draw a share so small
    counts = np.histogram(share[share > 0], 5, (0, 1))[0] / (share > 0).sum()
    assert (abs(counts - 0.2) < 0.06).all()
    # An example's draw is its own, whatever the batch.
    again, _ = reveal(labels[7:9], keys[7:9])
    np.testing.assert_array_equal(again, shown[7:9])


def test_unknown_and_soft_labels_are_never_shown():
    values = jnp.asarray(np.random.default_rng(0).choice([0.0, 1.0, 0.4, np.nan], (500, 8)), jnp.float32)
    shown, hidden = reveal(values, jax.random.split(jax.random.key(1), 500))
    assert set(np.unique(shown[~np.isnan(shown)])) == {0, 1}
    kept = np.isnan(np.asarray(shown))
    np.testing.assert_array_equal(np.asarray(hidden)[kept], np.asarray(values)[kept])


def test_the_most_certain_labels_are_taken_for_known():
    dist = ProductOfBernoullis(jnp.array([[3.0, -4, 0.1, -0.2], [-0.1, 0.2, -9, 0.3]]))
    nan = np.nan
    np.testing.assert_array_equal(take_for_known(dist, 0.5, None), [[1, 0, nan, nan], [nan, nan, 0, 1]])
    known = jnp.array([[nan, 1, nan, nan], [nan, nan, nan, 0]])
    np.testing.assert_array_equal(take_for_known(dist, 0.5, known), [[1, 1, nan, nan], [nan, nan, 0, 0]])


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_pairs_that_occur_together_are_linked(share):
    rng = np.random.default_rng(3)
    on = rng.random((60, 7)) < [0.5, 0.4, 0.1, 0.3, 0.0, 0.2, 0.6]
    on[:, 3] |= on[:, 2]
    linked = cooccurring(LabelSets.from_rows([np.flatnonzero(row).tolist() for row in on]), 7, share)
    for one in range(7):
        for other in range(7):
            both, counts = (on[:, one] & on[:, other]).sum(), (on[:, one].sum(), on[:, other].sum())
            assert linked[one, other] == any(count and both / count >= share for count in counts)


@pytest.mark.parametrize("edges", ["hierarchy", "cooccurrence"])
def test_only_linked_labels_read_one_another(edges):
    """A change of one label's query reaches its neighbours in the first layer, and theirs in the second."""
    hierarchy = random_dag(np.random.default_rng(2), LABELS, forest=True)
    labels = LabelSets.from_rows([(0, 1), (0, 1), (2, 3), (4,), (5,)])
    for num_layers in (1, 2):
        decoder = attention(edges=edges, num_layers=num_layers)
        decoder.connect(hierarchy, labels)
        linked = np.asarray(decoder.links[...]) > 0
        assert linked.diagonal().all()
        np.testing.assert_array_equal(linked, linked.T)
        assert LABELS < linked.sum() < LABELS**2
        encoded, label = make_encoded(), 1
        before = np.asarray(decoder(encoded, None))
        decoder.queries[...] = decoder.queries[...].at[label].add(jnp.arange(8.0))
        changed = (abs(np.asarray(decoder(encoded, None)) - before) > 1e-6).any((0, 2))
        near = linked[label] if num_layers == 1 else linked[linked[label]].any(0)
        np.testing.assert_array_equal(changed, near)
        weights = decoder.weights(encoded)
        assert not np.asarray(weights.labels)[..., ~linked].any()


def test_attention_weights_add_up_and_say_what_is_read():
    decoder, encoded = attention(num_layers=2), make_encoded()
    weights = decoder.weights(encoded)
    assert weights.tokens.shape == (4, 2, LABELS, 7)
    assert weights.labels.shape == (4, 2, LABELS, LABELS)
    np.testing.assert_allclose(weights.tokens.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.labels.sum(-1), 1, rtol=1e-5)
    padded = ~np.pad(np.asarray(encoded.token_mask), ((0, 0), (1, 0)), constant_values=True)
    assert not np.asarray(weights.tokens)[np.broadcast_to(padded[:, None, None], weights.tokens.shape)].any()
    # What a query reads moves it: the key that all weight is on is the one that it copies.
    layer = decoder.layers[0]
    queries, context = decoder.queries[...][None], jnp.zeros((1, 3, 8)).at[0, 1].set(50.0)
    layer.read_context.key.kernel[...] = jnp.eye(8)
    layer.read_context.query.kernel[...] = jnp.zeros((8, 8))
    layer.read_context.query.bias[...] = jnp.ones(8)
    of_context, _ = layer.weights(queries, context, jnp.ones((1, 3), bool), None)
    np.testing.assert_allclose(of_context[0, :, 1], 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_states": True, "num_queries": 3}, "label_states needs one query a label"),
        ({"edges": "hierarchy", "num_queries": 3}, "edges needs one query a label"),
        ({"refinements": 2}, "needs label_states = True"),
        ({"edges": "cooccurrence", "min_cooccurrence": 1.5}, "a share, 0 to 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        build("label_attention", num_labels=LABELS, **({"num_queries": 0} | options))


@pytest.fixture
def config(data_dir):
    config = make_config(data_dir)
    config.decoder.name = "label_attention"
    config.decoder.label_attention.query_dim = 16
    return config


def test_what_a_model_cannot_do_is_refused_by_name(config):
    config = on_points(config)
    dataset = load_dataset(resolve(config))
    spec, num_labels = Preprocessing.learn(config, dataset.train).spec, dataset.label_space.num_labels
    config.decoder.label_attention.edges = "hierarchy"
    with pytest.raises(UserError, match="edges = 'hierarchy' needs a label hierarchy"):
        create_model(resolve(config), spec, num_labels, None)
    config.decoder.label_attention.label_states = True
    config.head.name = "conditional"
    dag = random_dag(np.random.default_rng(1), 8, forest=False)
    assert not dag.is_forest
    with pytest.raises(UserError, match="with label_states = True learns with labels left out"):
        create_model(resolve(config), spec, 8, dag)


@pytest.mark.parametrize("head", ["conditional", "independent"])
def test_a_run_with_label_states_learns_and_is_loaded_as_it_was(config, tmp_path, head):
    config.head.name = head
    config.decoder.label_attention.label_states = True
    config.decoder.label_attention.refinements = 1
    config.decoder.label_attention.edges = "cooccurrence"
    config.train.num_epochs = 4.0
    record = train(config, tmp_path)
    losses = [line["train_loss"] for line in lines(tmp_path)]
    assert losses[-1] < losses[0]
    run = mlresearch.load(str(tmp_path))
    links = nnx.merge(run.graphdef, run.params, run.numbers.rates, run.structure).decoder.links[...]
    dataset = load_dataset(resolve(config))
    expected = cooccurring(dataset.train.labels, 9, 0.1) | np.eye(9, dtype=bool)
    np.testing.assert_array_equal(np.asarray(links) > 0, expected)
    said, wanted = run.evaluate("test"), record["metrics"]["test"]
    assert_near(said, wanted)


def test_a_run_tells_what_its_labels_read(config, tmp_path):
    """By the model itself, one text at a time, without padding."""
    train(config, tmp_path / "run")
    run = mlresearch.load(str(tmp_path / "run"))
    texts = ["renal failure", "b", "", "acute renal failure of the left lung"]
    model = nnx.merge(run.graphdef, run.params, run.numbers.rates, run.structure)
    for text, found in zip(texts, run.attention(texts), strict=True):
        pieces = run.preprocessing.tokenizer.pieces(text, 128)
        assert found.places == ("input", *pieces)
        assert "".join(pieces).replace("▁", " ").strip() == (text or "<unk>")
        assert found.queries == tuple((name,) for name in run.label_space.names)
        split = run.preprocessing.encode(run.records([text]))
        encoded = model.encoder(mlresearch.encoders.Inputs(split.tokens, split.tokens > 0), None)
        weights = model.decoder.weights(encoded)
        np.testing.assert_allclose(found.tokens, weights.tokens[0], atol=1e-6)
        np.testing.assert_allclose(found.labels, weights.labels[0], atol=1e-6)
        np.testing.assert_allclose(found.tokens.sum(-1), 1, rtol=1e-5)


def test_other_decoders_have_no_attention_to_look_at(config, tmp_path):
    config.decoder.name = "linear"
    train(config, tmp_path / "run")
    with pytest.raises(UserError, match="'linear' has no attention"):
        mlresearch.load(str(tmp_path / "run")).attention(["b"])


def test_tokens_of_columns_have_names(config, tmp_path):
    config = on_points(config)
    config.encoder.mlp.feature_tokens = 2
    config.decoder.label_attention.num_queries = 2
    train(config, tmp_path / "run")
    run = mlresearch.load(str(tmp_path / "run"))
    [found] = run.attention([{}])
    assert found.places[0] == "input"
    assert all(place.startswith("features ") for place in found.places[1:])
    assert len(found.places) == found.tokens.shape[2]
    assert [label for query in found.queries for label in query] == list(run.label_space.names)
    assert found.labels.shape[1:] == (2, 2)


def test_the_loss_is_that_of_the_labels_that_are_not_shown(config):
    """By the model itself, asked with the same labels shown."""
    config.decoder.label_attention.label_states = True
    dataset = load_dataset(resolve(config))
    preprocessing = Preprocessing.learn(config, dataset.train)
    model = nnx.merge(*create_model(resolve(config), preprocessing.spec, 9, dataset.hierarchy))
    records = dataset.train.take(np.arange(12))
    split = preprocessing.encode(records)
    inputs = mlresearch.encoders.Inputs(split.tokens, np.arange(split.tokens.shape[1]) < split.lengths[:, None])
    labels, keys = jnp.asarray(records.labels.multi_hot(9)), jax.random.split(jax.random.key(5), 12)
    found = jax.jit(functools.partial(model.training_loss, label_loss=label_loss()))(inputs, labels, dropout_keys=keys)
    shown, hidden = reveal(labels, keys)
    assert np.isnan(shown).any(1).all()
    expected = -model(inputs, keys, shown).log_prob_known(hidden)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
