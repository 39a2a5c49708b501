"""Every decoder in mlresearch/decoders, found by itself, behind every encoder, and by hand."""

import importlib
import inspect
import pkgutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mlresearch.decoders
import mlresearch.encoders
from mlresearch import attention
from mlresearch.decoders.causal import CausalScores
from mlresearch.decoders.label_attention import GroupedScores
from mlresearch.dropout import Dropout
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError

NAMES = sorted(module.name for module in pkgutil.iter_modules(mlresearch.decoders.__path__))
ENCODERS = sorted(module.name for module in pkgutil.iter_modules(mlresearch.encoders.__path__))
DIM, NUM_LABELS = 12, 10
SCORES = {name: 1 if name == "causal" else 2 for name in NAMES}
SMALL = {"num_queries": 4, "query_dim": 8, "num_layers": 2, "num_heads": 2, "dropout": 0.5, "multiple": 4}
SMALL |= {"hidden_dim": 8}
PER_LABEL = ("edges", "label_states", "refinements", "min_cooccurrence")  # which test_label_states.py looks at
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# Compiling quickly matters here, the speed of what is compiled does not.
QUICK = {"xla_backend_optimization_level": 0}


def decoder_class(name):
    return importlib.import_module(f"mlresearch.decoders.{name}").Decoder


def options_of(name):
    parameters = inspect.signature(decoder_class(name).__init__).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {key: keywords[key] for key in keywords.keys() - {"dtype", "param_dtype", "rngs"}}


def build(name, dtype="float32", param_dtype=None, *, dim=DIM, num_labels=NUM_LABELS, scores=None, **options):
    options = {key: value for key, value in (SMALL | options).items() if key in options_of(name)}
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype or dtype)}
    return decoder_class(name)(dim, num_labels, scores or SCORES[name], **options, **dtypes, rngs=nnx.Rngs(0))


def build_encoder(name, dtype, dropout):
    encoder = importlib.import_module(f"mlresearch.encoders.{name}").Encoder
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
    # The mlp refuses text, as it would not read it.
    spec = InputSpec(vocab_size=None if name == "mlp" else 53, num_features=7, category_sizes=(4, 3))
    return encoder(spec, dim=16, num_layers=1, dropout=dropout, **dtypes, rngs=nnx.Rngs(1))


def randomise(module):
    """Give every parameter, biases and scales too, a random value."""
    random = np.random.default_rng(1)
    parameters = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype), parameters))
    return module


def make_encoded(dtype="float32"):
    """Four examples of 5, 1, 0 and 6 real tokens, and rubbish under the mask."""
    random = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[5], [1], [0], [6]])
    tokens = np.where(mask[..., None], random.normal(size=(4, 6, DIM)), 1e3)
    pooled = random.normal(size=(4, DIM))
    return Encoded(jnp.asarray(tokens, dtype), jnp.asarray(mask), jnp.asarray(pooled, dtype))


def as_scores(label_scores):
    """What a decoder gives as scores of all labels; where these depend on labels before, every third one is on."""
    if not isinstance(label_scores, CausalScores):
        return label_scores
    batch, num_labels = label_scores.start.shape[0], len(label_scores.links.direct)
    on = jnp.broadcast_to(jnp.arange(num_labels) % 3 == 0, (batch, num_labels))
    return label_scores.given(on)[..., None]


@partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def forward(graph, state, argument, keys):
    return as_scores(nnx.merge(graph, state)(argument, keys))


def call(module, argument, keys=None):
    return jax.device_get(forward(*nnx.split(module), argument, keys))


def rows_of(tree, rows):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[rows]), tree)


def example_keys():
    return jax.random.split(jax.random.key(3), 4)


def test_decoders_are_found():
    assert {"linear", "label_attention", "causal"} <= set(NAMES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_dtypes(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        param_dtype = "float32" if dtype == "bfloat16" else dtype
        decoder = build(name, dtype, param_dtype)
        label_scores = call(decoder, make_encoded(dtype), example_keys())
        assert label_scores.shape == (4, NUM_LABELS, SCORES[name])
        assert label_scores.dtype == dtype
        assert {str(x.dtype) for x in jax.tree.leaves(nnx.state(decoder, nnx.Param))} == {param_dtype}
        assert np.isfinite(np.asarray(label_scores, np.float64)).all()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_near_float32(name):
    exact = call(build(name), make_encoded())
    rough = call(build(name, "bfloat16", "float32"), make_encoded("bfloat16"))
    np.testing.assert_allclose(np.asarray(rough, np.float32), exact, atol=0.06)


@pytest.mark.parametrize(("dtype", "with_dropout"), [("float32", False), ("float32", True), ("float64", True)])
@pytest.mark.parametrize("name", NAMES)
def test_batch_and_padding_do_not_matter(name, dtype, with_dropout):
    with jax.enable_x64(dtype == "float64"):
        encoded, keys, decoder = make_encoded(dtype), example_keys(), randomise(build(name, dtype))

        def scores(encoded, rows):
            return call(decoder, encoded, keys[np.array(rows)] if with_dropout else None)

        def assert_close(actual, expected):
            np.testing.assert_allclose(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])

        together = scores(encoded, [0, 1, 2, 3])
        tokens = np.pad(encoded.tokens, ((0, 0), (0, 3), (0, 0)), constant_values=-1e3)
        mask = np.pad(encoded.token_mask, ((0, 0), (0, 3)))
        padded = Encoded(jnp.asarray(tokens), jnp.asarray(mask), encoded.pooled)
        assert_close(scores(padded, [0, 1, 2, 3]), together)
        for row in (0, 1, 2):  # alone, the first one without any padding
            alone = rows_of(encoded, [row])
            alone = Encoded(alone.tokens[:, :5], alone.token_mask[:, :5], alone.pooled)
            assert_close(scores(alone, [row]), together[[row]])
        order = [2, 3, 1, 0]
        assert_close(scores(rows_of(encoded, order), order), together[order])


class Scorer(nnx.Module):
    """An encoder and the decoder behind it."""

    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder

    def __call__(self, inputs, keys):
        return as_scores(self.decoder(self.encoder(inputs, keys), keys))


def make_inputs(dtype):
    """Four examples of 5, 1, 0 and 6 real tokens with ids up to 20, the others' ids above."""
    random = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[5], [1], [0], [6]])
    tokens = np.where(mask, random.integers(1, 21, mask.shape), random.integers(21, 53, mask.shape))
    categories = np.array([[1, 2], [0, 1], [3, 0], [2, 2]], np.int32)
    return Inputs(tokens.astype(np.int32), mask, random.normal(size=(4, 7)).astype(dtype), categories)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_behind_every_encoder(encoder_name, name):
    """Scores belong to the example alone, dropout and all, and padded tokens have no gradient."""
    with jax.enable_x64(True):
        inputs, keys = make_inputs("float64"), example_keys()
        encoder = build_encoder(encoder_name, "float64", dropout=0.5)
        model = Scorer(encoder, build(name, "float64", dim=16, num_layers=1))
        graph, params, rates = nnx.split(model, nnx.Param, ...)

        def loss(params):
            label_scores = nnx.merge(graph, params, rates)(inputs, keys)
            return jnp.square(label_scores - 1).sum(), label_scores

        quick = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)
        gradients, together = jax.device_get(quick(params))
        tokens = np.pad(inputs.tokens[:1, :5], ((0, 0), (0, 4)), constant_values=10**6)
        alone = Inputs(tokens, np.arange(9)[None] < 5, inputs.features[:1], inputs.categories[:1])
        np.testing.assert_allclose(call(model, alone, keys[:1]), together[:1], rtol=1e-12, atol=1e-12)
        gradients = jax.tree.leaves(gradients)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        for gradient in gradients:
            if gradient.shape[0] == 53:
                unread = np.setdiff1d(np.arange(53), inputs.tokens[inputs.token_mask])
                assert not np.any(gradient[unread])
                assert np.any(gradient)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_every_dropout_has_a_site_of_its_own(encoder_name, name, monkeypatch):
    sites = []

    def record(self, x, keys):
        sites.append(self.site)
        return x

    monkeypatch.setattr(Dropout, "__call__", record)
    encoder, decoder = build_encoder(encoder_name, "float32", 0.5), build(name, dim=16)
    encoded = jax.eval_shape(lambda: encoder(make_inputs("float32"), None))
    encoder_sites = len(sites)
    jax.eval_shape(lambda encoded: decoder(encoded, None), encoded)
    assert len(set(sites)) == len(sites) > encoder_sites > 0
    assert max(sites[:encoder_sites]) < 1000 <= min(sites[encoder_sites:])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_leave_padding_alone(name):
    graph, params, rates = nnx.split(build(name), nnx.Param, ...)
    encoded = make_encoded()

    def loss(params, tokens):
        encoded_ = Encoded(tokens, encoded.token_mask, encoded.pooled)
        return jnp.square(as_scores(nnx.merge(graph, params, rates)(encoded_, example_keys())) - 1).sum()

    quick = jax.jit(jax.grad(loss, (0, 1)), compiler_options=QUICK)
    gradients, token_gradients = jax.device_get(quick(params, encoded.tokens))
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))
    assert np.isfinite(token_gradients).all()
    assert not np.any(token_gradients[~encoded.token_mask])


@pytest.mark.parametrize(
    ("name", "option"), [(n, o) for n in NAMES for o in sorted(options_of(n)) if o not in PER_LABEL]
)
def test_every_option_acts(name, option):
    value = SMALL.get(option, options_of(name)[option])
    other = value / 2 if isinstance(value, float) else value * 2
    one, two = build(name), build(name, **{option: other})
    shapes = [[x.shape for x in jax.tree.leaves(nnx.state(d, nnx.Param))] for d in (one, two)]
    if shapes[0] == shapes[1]:
        results = [call(decoder, make_encoded(), example_keys()) for decoder in (one, two)]
        assert np.any(results[0] != results[1])


def test_linear_by_hand():
    decoder = build("linear", dim=2, num_labels=2, multiple=1)
    decoder.weights[...] = jnp.array([[[1.0, 0], [0, 1]], [[2, 3], [1, -1]]])
    decoder.bias[...] = jnp.array([[0.0, 1], [2, 3]])
    encoded = Encoded(jnp.zeros((1, 1, 2)), jnp.ones((1, 1), bool), jnp.array([[5.0, 7.0]]))
    # Label 0: (5, 7 + 1); label 1: (10 + 21 + 2, 5 − 7 + 3).
    np.testing.assert_array_equal(call(decoder, encoded)[0], [[5, 8], [33, 1]])
    some = decoder.of_labels(encoded, None, jnp.array([[1, 0, 1]]))
    np.testing.assert_array_equal(some[0], [[33, 1], [5, 8], [33, 1]])


def test_linear_with_more_weights_than_labels():
    """The rows that make the number of labels a multiple give no scores."""
    decoder, encoded = build("linear", num_labels=5, multiple=4), make_encoded()
    assert decoder.weights.shape == (8, 2, DIM)
    expected = np.einsum("bd,lsd->bls", encoded.pooled, decoder.weights[...])[:, :5]
    np.testing.assert_allclose(call(decoder, encoded), expected, rtol=1e-5, atol=1e-6)


def test_cross_attention_by_hand():
    """With no question asked, a query reads the plain mean of the pooled vector and the real tokens."""
    decoder = build("label_attention", dim=2, num_labels=2, scores=1, num_queries=2, query_dim=2, num_layers=1)
    nnx.update(decoder, jax.tree.map(jnp.zeros_like, nnx.state(decoder, nnx.Param)))
    layer = decoder.layers[0]
    for linear in (decoder.project_pooled, decoder.project_tokens, layer.read_context.value):
        linear.kernel[...] = jnp.eye(2)
    layer.read_context.out.kernel[...] = 3 * jnp.eye(2)
    decoder.context_norm.scale[...] = decoder.query_norm.bias[...] = jnp.ones(2)
    decoder.query_norm.scale[...] = jnp.ones(2)
    decoder.scores.weights[...] = jnp.array([[[1.0, 0]], [[1, 2]]])
    decoder.scores.bias[...] = jnp.array([[0.5], [0.0]])
    tokens = jnp.array([[[0.0, 4], [3, 1], [9, 9]]])
    encoded = Encoded(tokens, jnp.array([[True, True, False]]), jnp.array([[1.0, 5]]))
    # Context: pooled (1, 5) → (−1, 1), tokens (0, 4) → (−1, 1) and (3, 1) → (1, −1), the third one padded.
    # Their mean (−1/3, 1/3), times 3, is (−1, 1), which stays itself when normalised; with the bias, (0, 2).
    # Scores: 0 + 0.5 and 0 + 2 · 2.
    np.testing.assert_allclose(call(decoder, encoded)[0], [[0.5], [4]], atol=1e-5)


def test_label_attention_against_numpy():
    """One layer written again with loops, three queries for seven labels."""
    with jax.enable_x64(True):
        decoder = randomise(build("label_attention", "float64", num_labels=7, num_queries=3, num_layers=1))
        encoded = rows_of(make_encoded("float64"), [0])
        layer = decoder.layers[0]

        def linear(module, x):
            return x @ np.asarray(module.kernel[...]) + np.asarray(module.bias[...])

        def norm(module, x):
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            return x * np.asarray(module.scale[...]) + np.asarray(module.bias[...])

        def read(block, x, context):
            query, key, value = (
                linear(block.query, x),
                linear(block.key, context),
                linear(block.value, context),
            )
            result = np.zeros_like(x)
            for head in (slice(0, 4), slice(4, 8)):
                for i in range(len(x)):
                    weights = np.exp(key[:, head] @ query[i, head] / 2)
                    result[i, head] = weights / weights.sum() @ value[:, head]
            return linear(block.out, result)

        pooled = linear(decoder.project_pooled, np.asarray(encoded.pooled))
        tokens = linear(decoder.project_tokens, np.asarray(encoded.tokens[0, :5]))
        context = norm(decoder.context_norm, np.concatenate([tokens, pooled]))
        x = np.asarray(decoder.queries[...])
        x = x + read(layer.read_context, norm(layer.read_context.norm, x), context)
        h = norm(layer.read_queries.norm, x)
        x = x + read(layer.read_queries, h, h)
        h = linear(layer.mlp.expand, norm(layer.mlp.norm, x))
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = norm(decoder.query_norm, x + linear(layer.mlp.contract, h))
        expected = np.array(decoder.scores.bias[...])
        for label, group in enumerate([0, 0, 0, 1, 1, 2, 2]):
            expected[label] += np.asarray(decoder.scores.weights[...])[label] @ x[group]
        np.testing.assert_allclose(call(decoder, encoded)[0], expected, atol=1e-12)


@pytest.mark.parametrize(("num_labels", "num_queries"), [(10, 1), (10, 4), (10, 5), (10, 9), (10, 10)])
def test_groups_are_contiguous_and_nearly_equal(num_labels, num_queries):
    dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    scores = randomise(GroupedScores(3, num_labels, 2, num_queries=num_queries, **dtypes, rngs=nnx.Rngs(0)))
    queries = np.random.default_rng(2).normal(size=(4, num_queries, 3)).astype(np.float32)
    expected = np.array(jnp.broadcast_to(scores.bias[...], (4, num_labels, 2)))
    for group, labels in enumerate(np.array_split(np.arange(num_labels), num_queries)):
        for label in labels:
            expected[:, label] += queries[:, group] @ np.asarray(scores.weights[...])[label].T
    np.testing.assert_allclose(scores(jnp.asarray(queries)), expected, rtol=1e-5, atol=1e-5)


def test_as_many_groups_as_labels_is_one_query_a_label():
    grouped = randomise(build("label_attention", num_queries=NUM_LABELS))
    for ungrouped in (0, None):
        decoder = build("label_attention", num_queries=ungrouped)
        nnx.update(decoder, nnx.state(grouped, nnx.Param))
        np.testing.assert_array_equal(call(decoder, make_encoded()), call(grouped, make_encoded()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 513, "num_queries": 0}, "513 queries for 513 labels.*set num_queries"),
        ({"num_labels": 1000, "num_queries": 600}, "600 queries"),
        ({"num_labels": 10, "num_queries": 11}, "between 1 and 10"),
        ({"num_labels": 10, "num_queries": -1}, "between 1 and 10"),
        ({"num_layers": 0}, "num_layers"),
        ({"query_dim": 9}, "multiple of 2"),
        ({"num_heads": 0}, "num_heads = 0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        build("label_attention", **options)


def test_pooled_is_read_where_there_are_no_tokens():
    encoded = make_encoded()
    other = Encoded(encoded.tokens, encoded.token_mask, encoded.pooled.at[:, 0].add(1))
    decoder = build("label_attention")
    assert (np.abs(call(decoder, encoded) - call(decoder, other)).max((1, 2)) > 1e-3).all()


def test_self_attention_carries_what_other_queries_read():
    """Were queries not to attend to each other, a query could not feel another one change."""
    decoder = build("label_attention", num_queries=NUM_LABELS, num_layers=1)
    before = call(decoder, make_encoded())
    decoder.queries[...] = decoder.queries[...].at[0, :4].multiply(-1)
    assert (np.abs(call(decoder, make_encoded()) - before).max((0, 2)) > 1e-6).all()


def sizes(jaxpr):
    """Yield the number of elements of everything a program computes, inner programs' included."""
    for equation in jaxpr.eqns:
        yield from (out.aval.size for out in equation.outvars)
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_grouped_queries_never_make_a_vector_a_label_and_example():
    num_labels, query_dim = 600, 8
    decoder = build("label_attention", num_labels=num_labels, scores=1, num_queries=7, query_dim=query_dim)
    graph, params, rates = nnx.split(decoder, nnx.Param, ...)

    def loss(params):
        return nnx.merge(graph, params, rates)(make_encoded(), example_keys()).sum()

    program = jax.make_jaxpr(jax.grad(loss))(params)
    # The batch is 4: the largest array is the labels' weights, not [4, 600, 8] and far from [4, 600, 600].
    assert max(sizes(program.jaxpr)) == num_labels * query_dim


def test_statistics_are_at_least_float32():
    assert attention.statistics_dtype(jnp.bfloat16) == attention.statistics_dtype("float32") == np.float32
    assert attention.statistics_dtype(np.float64) == np.float64
