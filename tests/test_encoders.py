"""Every encoder in mlresearch/encoders, found by itself, and hand-computed values of each."""

import importlib
import inspect
import pkgutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mlresearch.encoders
from mlresearch import attention
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError

NAMES = sorted(module.name for module in pkgutil.iter_modules(mlresearch.encoders.__path__))
SPEC = InputSpec(vocab_size=53, num_features=7)  # a size no other axis has: it finds the embedding table
SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.5}
# A value unlike the default for each option that is a name; options that are numbers change by themselves.
OTHER_NAMES = {"activation": "tanh", "pooling": "first"}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# Compiling quickly matters here, the speed of what is compiled does not.
QUICK = {"xla_backend_optimization_level": 0}


def encoder_class(name):
    return importlib.import_module(f"mlresearch.encoders.{name}").Encoder


def options_of(name):
    parameters = inspect.signature(encoder_class(name).__init__).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {key: keywords[key] for key in keywords.keys() - {"dtype", "param_dtype", "rngs"}}


def build(name, dtype="float32", param_dtype=None, **options):
    options = {key: value for key, value in (SMALL | options).items() if key in options_of(name)}
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype or dtype)}
    return encoder_class(name)(SPEC, **options, **dtypes, rngs=nnx.Rngs(0))


def randomise(module):
    """Give every parameter, biases and scales too, a random value."""
    random = np.random.default_rng(1)
    parameters = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype), parameters))
    return module


def make_inputs(dtype="float32"):
    """Four examples of 5, 1, 0 and 6 real tokens with ids from 1 to 20, and rubbish under the mask."""
    random = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[5], [1], [0], [6]])
    tokens = np.where(mask, random.integers(1, 21, mask.shape), random.integers(21, 53, mask.shape))
    features = random.normal(size=(4, 7))
    return Inputs(tokens.astype(np.int32), mask, features.astype(dtype))


def pad(inputs, extra):
    """Append columns of padding whose ids are no tokens at all."""
    tokens = np.pad(inputs.tokens, ((0, 0), (0, extra)), constant_values=-(10**6))
    return Inputs(tokens, np.pad(inputs.token_mask, ((0, 0), (0, extra))), inputs.features)


def take(inputs, rows, length=None):
    return Inputs(inputs.tokens[rows, :length], inputs.token_mask[rows, :length], inputs.features[rows])


@partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def forward(graph, state, inputs, keys):
    return nnx.merge(graph, state)(inputs, keys)


def call(encoder, inputs, keys=None):
    return jax.device_get(forward(*nnx.split(encoder), inputs, keys))


def example_keys(inputs):
    return jax.random.split(jax.random.key(3), inputs.tokens.shape[0])


def assert_same(actual: Encoded, expected: Encoded, tolerance: float):
    """Equal pooled vectors and equal vectors of real tokens, whatever the padding."""
    np.testing.assert_allclose(actual.pooled, expected.pooled, rtol=tolerance, atol=tolerance)
    tokens = [encoded.tokens[encoded.token_mask] for encoded in (actual, expected)]
    np.testing.assert_allclose(*tokens, rtol=tolerance, atol=tolerance)


def test_encoders_are_found():
    assert {"bag", "mlp", "text_transformer"} <= set(NAMES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_dtypes(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        inputs = make_inputs()
        param_dtype = "float32" if dtype == "bfloat16" else dtype
        encoder = build(name, dtype, param_dtype)
        encoded = call(encoder, inputs, example_keys(inputs))
        assert encoder.dim == 16
        assert encoded.pooled.shape == (4, 16)
        assert encoded.tokens.shape == (*encoded.token_mask.shape, 16)
        assert encoded.pooled.dtype == encoded.tokens.dtype == dtype
        assert encoded.token_mask.dtype == bool
        assert {str(x.dtype) for x in jax.tree.leaves(nnx.state(encoder, nnx.Param))} == {param_dtype}
        assert np.isfinite(np.asarray(encoded.pooled, np.float64)).all()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_near_float32(name):
    inputs = make_inputs()
    exact = call(build(name), inputs).pooled
    rough = call(build(name, "bfloat16", "float32"), inputs).pooled
    np.testing.assert_allclose(np.asarray(rough, np.float32), exact, atol=0.06)


@pytest.mark.parametrize(("dtype", "with_dropout"), [("float32", False), ("float32", True), ("float64", True)])
@pytest.mark.parametrize("name", NAMES)
def test_batch_and_padding_do_not_matter(name, dtype, with_dropout):
    with jax.enable_x64(dtype == "float64"):
        inputs = make_inputs(dtype)
        keys = example_keys(inputs)
        encoder = randomise(build(name, dtype))

        def encode(inputs, rows):
            return call(encoder, inputs, keys[np.array(rows)] if with_dropout else None)

        together = encode(inputs, [0, 1, 2, 3])
        assert_same(encode(pad(inputs, 3), [0, 1, 2, 3]), together, TOLERANCE[dtype])
        for row in (0, 1, 2):  # alone, the first one without any padding
            rows = np.array([row])
            alone = encode(take(inputs, rows, length=5), [row])
            expected = jax.tree.map(lambda x, rows=rows: x[rows], together)
            assert_same(alone, expected, TOLERANCE[dtype])
        order = np.array([2, 3, 1, 0])
        permuted = jax.tree.map(lambda x: x[order], together)
        assert_same(encode(take(inputs, order), order), permuted, TOLERANCE[dtype])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_and_leave_padding_alone(name):
    inputs = make_inputs()
    graph, state = nnx.split(build(name))

    def loss(state):
        encoded = nnx.merge(graph, state)(inputs, example_keys(inputs))
        return jnp.square(encoded.pooled - 1).sum() + jnp.square(encoded.tokens - 1).sum()

    gradients = jax.tree.leaves(jax.device_get(jax.jit(jax.grad(loss), compiler_options=QUICK)(state)))
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in gradients)
    for gradient in gradients:
        if gradient.shape[0] == SPEC.vocab_size:
            real = np.unique(inputs.tokens[inputs.token_mask])
            moved = set(np.flatnonzero(np.any(gradient.reshape(len(gradient), -1) != 0, axis=1)))
            # A vector a token moves wherever it stands; a weight a token need not, for one alone in its text.
            assert moved == set(real) if gradient.ndim > 1 else moved <= set(real)


@pytest.mark.parametrize(("name", "option"), [(n, o) for n in NAMES for o in sorted(options_of(n))])
def test_every_option_acts(name, option):
    value = SMALL.get(option, options_of(name)[option])
    other = OTHER_NAMES[option] if isinstance(value, str) else value / 2 if isinstance(value, float) else value * 2
    inputs = make_inputs()
    one, two = build(name), build(name, **{option: other})
    shapes = [[x.shape for x in jax.tree.leaves(nnx.state(e, nnx.Param))] for e in (one, two)]
    if shapes[0] == shapes[1]:
        keys = example_keys(inputs)
        assert np.any(call(one, inputs, keys).pooled != call(two, inputs, keys).pooled)


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_without_what_is_read_is_refused(name):
    dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    with pytest.raises(UserError, match=rf"{name}.*(vocab_size|num_features)"):
        encoder_class(name)(InputSpec(), **dtypes, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("text_transformer", {"pooling": "frist"}, "did you mean 'first'"),
        ("text_transformer", {"dim": 18, "num_heads": 3, "num_layers": 1}, None),
        ("text_transformer", {"dim": 16, "num_heads": 3}, "multiple of 6"),
        ("text_transformer", {"dim": 6, "num_heads": 2}, "multiple of 4"),
        ("mlp", {"activation": "rleu"}, "did you mean 'relu'"),
        ("mlp", {"num_layers": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    if message is None:
        build(name, **options)
    else:
        with pytest.raises(UserError, match=message):
            build(name, **options)


def test_bag_by_hand():
    encoder = build("bag", dim=2, num_layers=0)
    encoder.embedding.table[...] = jnp.zeros((53, 2)).at[1].set(jnp.array([1.0, 3.0])).at[2].set(jnp.array([3.0, 9.0]))
    inputs = Inputs(jnp.array([[1, 2, 1], [2, 2, 2]]), jnp.array([[True, True, False], [False] * 3]))
    encoded = call(encoder, inputs)
    np.testing.assert_array_equal(encoded.tokens[0], [[1, 3], [3, 9], [0, 0]])
    # The mean is (2, 6); its mean 4 and its deviation 2 normalise it to (−1, 1). Of nothing: (0, 0).
    np.testing.assert_allclose(encoded.pooled, [[-1, 1], [0, 0]], atol=1e-6)

    # Weights 3 : 1 : 3 over (1, 3), (3, 9) and (9, 1) give (33, 21) / 7, whose first is the larger: (1, −1). With equal
    # weights it would be (13, 13) / 3, which is normalised to nothing.
    encoder.embedding.table[...] = encoder.embedding.table[...].at[3].set(jnp.array([9.0, 1.0]))
    encoder.log_weights[...] = jnp.zeros(53).at[jnp.array([1, 3])].set(jnp.log(3.0))
    weighted = call(encoder, Inputs(jnp.array([[1, 2, 3, 3]]), jnp.array([[True, True, True, False]])))
    np.testing.assert_allclose(weighted.pooled, [[1, -1]], atol=1e-5)


def test_mlp_by_hand():
    encoder = encoder_class("mlp")(
        InputSpec(num_features=2),
        dim=3,
        num_layers=2,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    nnx.update(encoder, jax.tree.map(jnp.ones_like, nnx.state(encoder, nnx.Param)))
    encoded = encoder(Inputs(features=jnp.array([[1.0, 2], [-3, 1]])), None)
    # First row: 1 + 2 + 1 (the bias) = 4 thrice, then 4 + 4 + 4 + 1 = 13. Second: relu(−1) = 0, then 1.
    np.testing.assert_array_equal(encoded.pooled, [[13, 13, 13], [1, 1, 1]])
    np.testing.assert_array_equal(encoded.tokens, encoded.pooled[:, None])
    assert encoded.token_mask.all()


def test_rotation_is_relative():
    """Rotated by their positions, a query at i and a key at j meet in a product that only i − j decides."""
    random = np.random.default_rng(0)
    query, key = (jnp.asarray(np.tile(random.normal(size=8), (1, 9, 1, 1)), jnp.float32) for _ in range(2))
    products = np.asarray(attention.rotate(query)[0, :, 0] @ attention.rotate(key)[0, :, 0].T)
    for difference in range(-8, 9):
        np.testing.assert_allclose(np.diag(products, difference), np.diag(products, difference)[0], atol=1e-5)
    assert np.ptp(products[0]) > 0.1
    # One pair, position 1, angle 1: (1, 0) turns to (cos 1, sin 1).
    turned = attention.rotate(jnp.ones((1, 2, 1, 2)).at[..., 1].set(0))[0, :, 0]
    np.testing.assert_allclose(turned, [[1, 0], [np.cos(1), np.sin(1)]], rtol=1e-6)


def test_attention_to_nothing_is_zero():
    x = jnp.ones((2, 3, 1, 4))
    mask = jnp.array([[[True, False, True]], [[False] * 3]])
    np.testing.assert_array_equal(attention.attend(x, x, x, mask), x.at[1].set(0))


def test_text_transformer_against_numpy():
    """One layer written again with loops and, for the rotations, complex numbers."""
    with jax.enable_x64(True):
        encoder = randomise(build("text_transformer", "float64", dim=8, num_layers=1, num_heads=2))
        inputs = take(make_inputs("float64"), np.array([0]), 5)
        encoded = call(encoder, inputs)
        layer = encoder.layers[0]

        def linear(module, x):
            return x @ np.asarray(module.kernel[...]) + np.asarray(module.bias[...])

        def norm(module, x):
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            return x * np.asarray(module.scale[...]) + np.asarray(module.bias[...])

        def turn(vector, position):
            angles = position * 10000.0 ** (-np.arange(2) / 2)
            turned = (vector[:2] + 1j * vector[2:]) * np.exp(1j * angles)
            return np.concatenate([turned.real, turned.imag])

        x = np.asarray(encoder.embedding.table[...])[inputs.tokens[0]]
        h = norm(layer.attention.norm, x)
        query, key, value = (linear(getattr(layer.attention, n), h) for n in ("query", "key", "value"))
        read = np.zeros_like(x)
        for head in (slice(0, 4), slice(4, 8)):
            for i in range(5):
                products = [turn(query[i, head], i) @ turn(key[j, head], j) / 2 for j in range(5)]
                weights = np.exp(products) / np.exp(products).sum()
                read[i, head] = weights @ value[:, head]
        x = x + linear(layer.attention.out, read)
        h = linear(layer.mlp.expand, norm(layer.mlp.norm, x))
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = norm(encoder.norm, x + linear(layer.mlp.contract, h))
        np.testing.assert_allclose(encoded.tokens[0], x, atol=1e-12)
        np.testing.assert_allclose(encoded.pooled[0], x.mean(0), atol=1e-12)
