"""Every encoder in mlresearch/encoders, found by itself, on all inputs that it takes, and by hand."""

import dataclasses
import importlib
import inspect
import itertools
import json
import pkgutil
import typing
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mlresearch.encoders
from mlresearch.config import base_config, resolve
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError

NAMES = sorted(module.name for module in pkgutil.iter_modules(mlresearch.encoders.__path__))
# Sizes that no other axis has: they find the tables of embeddings, the categorical columns' being one of 5 + 6 rows.
SIZES = {"vocab_size": 53, "num_features": 7, "category_sizes": (5, 6)}
FIELDS = {"vocab_size": ("tokens", "token_mask"), "num_features": ("features",), "category_sizes": ("categories",)}
COMBINATIONS = [given for n in (1, 2, 3) for given in itertools.combinations(SIZES, n)]
SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.5, "category_dim": 4, "category_dropout": 0.5} | {
    "feature_tokens": 3,
    "feature_dropout": 0.5,
    "feature_noise": 0.5,
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
# Compiling quickly matters here, the speed of what is compiled does not.
QUICK = {"xla_backend_optimization_level": 0}


def encoder_class(name):
    return importlib.import_module(f"mlresearch.encoders.{name}").Encoder


def options_of(name):
    parameters = inspect.signature(encoder_class(name).__init__).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {key: keywords[key] for key in keywords.keys() - {"dtype", "param_dtype", "rngs"}}


def choices_of(name, option):
    return typing.get_args(typing.get_type_hints(encoder_class(name).__init__)[option])


def build(name, given, dtype="float32", param_dtype=None, **options):
    """Return an encoder of the inputs whose sizes `given` names."""
    options = {key: value for key, value in (SMALL | options).items() if key in options_of(name)}
    dtypes = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype or dtype)}
    spec = InputSpec(**{size: SIZES[size] for size in given})
    return encoder_class(name)(spec, **options, **dtypes, rngs=nnx.Rngs(0))


@cache
def taken(name):
    """Return the combinations of inputs that an encoder takes; it refuses others by a `UserError` and nothing else."""
    combinations = []
    for given in COMBINATIONS:
        try:
            nnx.eval_shape(partial(build, name, given))
        except UserError:
            continue
        combinations.append(given)
    return combinations


def most(name):
    """Return the combination with the most inputs."""
    return max(taken(name), key=len)


every_name = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize(
    ("name", "given"),
    [pytest.param(name, given, id="-".join([name, *given])) for name in NAMES for given in taken(name)],
)


def randomise(module):
    """Give every parameter, biases and scales too, a random value."""
    random = np.random.default_rng(1)
    parameters = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype), parameters))
    return module


def make_inputs(given, dtype="float32"):
    """Four examples of 5, 1, 0 and 6 real tokens with ids from 1 to 20, and rubbish under the mask."""
    random = np.random.default_rng(0)
    mask = np.arange(6) < np.array([[5], [1], [0], [6]])
    tokens = np.where(mask, random.integers(1, 21, mask.shape), random.integers(21, 53, mask.shape))
    features = random.normal(size=(4, 7))
    categories = np.array([[1, 5], [0, 2], [4, 0], [2, 2]])
    everything = Inputs(tokens.astype(np.int32), mask, features.astype(dtype), categories.astype(np.int32))
    absent = {field: None for size in FIELDS.keys() - set(given) for field in FIELDS[size]}
    return dataclasses.replace(everything, **absent)


def pad(inputs, extra):
    """Append columns of padding whose ids are no tokens at all."""
    if inputs.tokens is None:
        return inputs
    tokens = np.pad(inputs.tokens, ((0, 0), (0, extra)), constant_values=-(10**6))
    return dataclasses.replace(inputs, tokens=tokens, token_mask=np.pad(inputs.token_mask, ((0, 0), (0, extra))))


def take(inputs, rows, length=None):
    inputs = jax.tree.map(lambda x: x[rows], inputs)
    if inputs.tokens is None:
        return inputs
    return dataclasses.replace(inputs, tokens=inputs.tokens[:, :length], token_mask=inputs.token_mask[:, :length])


@partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def forward(graph, state, inputs, keys):
    return nnx.merge(graph, state)(inputs, keys)


def call(encoder, inputs, keys=None):
    return jax.device_get(forward(*nnx.split(encoder), inputs, keys))


def example_keys():
    return jax.random.split(jax.random.key(3), 4)


def assert_same(actual: Encoded, expected: Encoded, tolerance: float):
    """Equal pooled vectors and equal vectors of real tokens, whatever the padding."""
    np.testing.assert_allclose(actual.pooled, expected.pooled, rtol=tolerance, atol=tolerance)
    tokens = [encoded.tokens[encoded.token_mask] for encoded in (actual, expected)]
    np.testing.assert_allclose(*tokens, rtol=tolerance, atol=tolerance)


def test_encoders_and_what_they_take():
    with_text = [given for given in COMBINATIONS if "vocab_size" in given]
    without = [given for given in COMBINATIONS if "vocab_size" not in given]
    assert {"bag": with_text, "mlp": without, "text_transformer": with_text}.items() <= {
        n: taken(n) for n in NAMES
    }.items()
    assert all(taken(name) for name in NAMES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@every_case
def test_shapes_and_dtypes(name, given, dtype):
    with jax.enable_x64(dtype == "float64"):
        param_dtype = "float32" if dtype == "bfloat16" else dtype

        def encode(inputs, keys):
            encoder = build(name, given, dtype, param_dtype)
            return encoder(inputs, keys), nnx.state(encoder, nnx.Param)

        inputs = make_inputs(given)
        encoded, parameters = jax.eval_shape(encode, inputs, example_keys())
        assert encoded.pooled.shape == (4, 16)
        of_features = SMALL["feature_tokens"] if name == "mlp" else 1
        columns = of_features * ("num_features" in given) + 2 * ("category_sizes" in given)
        assert encoded.tokens.shape == (4, columns + 6 * ("vocab_size" in given), 16)
        assert encoded.token_mask.shape == encoded.tokens.shape[:2]
        assert encoded.pooled.dtype == encoded.tokens.dtype == dtype
        assert encoded.token_mask.dtype == bool
        assert {str(x.dtype) for x in jax.tree.leaves(parameters)} == {param_dtype}


@every_name
def test_bfloat16_stays_near_float32(name):
    inputs = make_inputs(most(name))
    exact = call(build(name, most(name)), inputs).pooled
    rough = call(build(name, most(name), "bfloat16", "float32"), inputs).pooled
    np.testing.assert_allclose(np.asarray(rough, np.float32), exact, atol=0.06)


def check_batch_and_padding(name, given, dtype, keys, **options):
    inputs = make_inputs(given, dtype)
    encoder = randomise(build(name, given, dtype, **options))

    def encode(inputs, rows):
        return call(encoder, inputs, None if keys is None else keys[rows])

    together = encode(inputs, np.arange(4))
    for row in (0, 1, 2):  # alone and padded further, the first one from no padding at all
        rows = np.array([row])
        alone = encode(pad(take(inputs, rows, length=5), 4), rows)
        assert_same(alone, jax.tree.map(lambda x, rows=rows: x[rows], together), TOLERANCE[dtype])
    order = np.array([2, 3, 1, 0])
    permuted = jax.tree.map(lambda x: x[order], together)
    assert_same(encode(take(inputs, order), order), permuted, TOLERANCE[dtype])


@every_case
def test_batch_and_padding_do_not_matter(name, given):
    check_batch_and_padding(name, given, "float32", None)


@every_name
def test_batch_and_padding_do_not_matter_with_dropout(name):
    with jax.enable_x64(True):
        check_batch_and_padding(name, most(name), "float64", example_keys(), num_layers=2)


@every_case
def test_every_input_acts(name, given):
    """On pooled vectors and on tokens, whichever of the inputs changes."""
    encoder, inputs = randomise(build(name, given)), make_inputs(given)
    before = call(encoder, inputs)
    changes = []
    if "vocab_size" in given:
        changes.append({"tokens": inputs.tokens % 20 + 1})
    if "num_features" in given:
        changes.append({"features": inputs.features + np.eye(7, dtype="float32")[4]})
    if "category_sizes" in given:
        changes += [{"categories": (inputs.categories + one) % np.array([5, 6])} for one in np.eye(2, dtype=np.int32)]
    for change in changes:
        rows = inputs.token_mask.any(1) if "tokens" in change else np.ones(4, bool)
        after = call(encoder, dataclasses.replace(inputs, **change))
        assert np.any(after.pooled != before.pooled, axis=1).tolist() == rows.tolist()
        moved = np.any(after.tokens != before.tokens, axis=2) & after.token_mask
        assert moved.any(1).tolist() == rows.tolist()


@every_case
def test_gradients_are_finite_and_leave_what_is_not_read_alone(name, given):
    inputs = make_inputs(given)
    graph, params, rates = nnx.split(
        build(name, given, dropout=0.1, category_dropout=0.0, feature_dropout=0.0), nnx.Param, ...
    )

    def loss(params, features):
        encoded = nnx.merge(graph, params, rates)(dataclasses.replace(inputs, features=features), example_keys())
        return jnp.square(encoded.pooled - 1).sum() + jnp.square(encoded.tokens - 1).sum()

    by_arguments = jax.jit(jax.grad(loss, (0, 1)), compiler_options=QUICK)
    gradients, of_features = jax.device_get(by_arguments(params, inputs.features))
    gradients = jax.tree.leaves(gradients)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in gradients)
    assert of_features is None or (np.isfinite(of_features).all() and np.any(of_features != 0, axis=0).all())
    for gradient in gradients:
        moved = set(np.flatnonzero(np.any(gradient.reshape(len(gradient), -1) != 0, axis=1)))
        if gradient.shape[0] == SIZES["vocab_size"]:
            real = np.unique(inputs.tokens[inputs.token_mask])
            # A vector a token moves wherever it stands; a weight a token need not, for one alone in its text.
            assert moved == set(real) if gradient.ndim > 1 else moved <= set(real)
        if gradient.shape[0] == sum(SIZES["category_sizes"]):
            # Rows of the second column follow the five of the first.
            assert moved == set(np.ravel(inputs.categories + np.array([0, 5])))


@pytest.mark.parametrize(("name", "option"), [(n, o) for n in NAMES for o in sorted(options_of(n))])
def test_every_option_acts(name, option):
    value = SMALL.get(option, options_of(name)[option])
    if isinstance(value, str):
        assert value in choices_of(name, option)
        others = sorted(set(choices_of(name, option)) - {value})
    else:
        others = [value / 2 if isinstance(value, float) else value * 2]
    inputs, keys = make_inputs(most(name)), example_keys()
    built = [build(name, most(name), **{option: choice}) for choice in (value, *others)]
    shapes = [[x.shape for x in jax.tree.leaves(nnx.state(encoder, nnx.Param))] for encoder in built]
    if all(other == shapes[0] for other in shapes):
        results = [call(encoder, inputs, keys).pooled for encoder in built]
        assert all(np.any(one != two) for one, two in itertools.combinations(results, 2))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("bag", {"num_features": 7}, r"reads text.*vocab_size.*'mlp'"),
        ("text_transformer", {"category_sizes": (5,)}, r"reads text.*vocab_size.*'mlp'"),
        (
            "mlp",
            {"vocab_size": 53},
            r"would ignore .*text.*'bag' or 'text_transformer', leave the text column out, or give linear scores",
        ),
        ("mlp", {"vocab_size": 53, "num_features": 7}, "would ignore this data set's text"),
        ("mlp", {"num_features": 0}, r"neither.*num_features"),
        *((name, {}, rf"{name}.*(vocab_size|num_features)") for name in NAMES),
    ],
)
def test_a_data_set_without_what_is_read_is_refused(name, given, message):
    dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    with pytest.raises(UserError, match=message):
        encoder_class(name)(InputSpec(**given), **dtypes, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("text_transformer", {"dim": 18, "num_heads": 3}, None),
        ("text_transformer", {"dim": 16, "num_heads": 3}, "multiple of 6"),
        ("text_transformer", {"dim": 6, "num_heads": 2}, "multiple of 4"),
        ("mlp", {"num_layers": 0}, "at least 1"),
        *((name, {"category_dropout": 1.0}, "a probability below 1") for name in ("bag", "mlp", "text_transformer")),
    ],
)
def test_options_that_cannot_be(name, options, message):
    if message is None:
        build(name, most(name), **options)
    else:
        with pytest.raises(UserError, match=message):
            build(name, most(name), **options)


@pytest.mark.parametrize(
    ("name", "option", "wrong", "right"),
    [("text_transformer", "pooling", "frist", "first"), ("mlp", "activation", "rleu", "relu")],
)
def test_words_that_are_no_choice_are_refused_with_the_config(name, option, wrong, right):
    config = base_config()
    config.encoder.name = name
    config.encoder[name][option] = wrong
    with pytest.raises(UserError, match=rf"config.encoder.{name}.{option} is '{wrong}'; did you mean '{right}'"):
        resolve(config)


def test_spec_survives_json():
    spec = InputSpec(53, 7, (5, 6))
    again = InputSpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    assert again == spec
    assert again.category_sizes == (5, 6)
    assert InputSpec(**json.loads('{"vocab_size": 53, "num_features": null}')) == InputSpec(vocab_size=53)


def with_ones(encoder):
    """Set every parameter to 1."""
    nnx.update(encoder, jax.tree.map(jnp.ones_like, nnx.state(encoder, nnx.Param)))
    return encoder


def test_bag_by_hand():
    encoder = build("bag", ("vocab_size",), dim=2, num_layers=0)
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


def test_bag_adds_columns_by_hand():
    encoder = with_ones(build("bag", tuple(SIZES), dim=4, num_layers=0))
    encoder.embedding.table[...] = encoder.embedding.table[...].at[2].set(jnp.array([4.0, 0, 0, 0]))
    encoder.tabular.categories.table[...] = jnp.ones((11, 4)).at[5 + 3].set(jnp.array([0.0, 1, 2, 3]))
    encoder.norm.bias[...] = jnp.zeros(4)
    inputs = Inputs(
        np.array([[1, 2, 0], [1, 1, 1]], np.int32),
        np.array([[True, True, False], [False] * 3]),
        np.array([[1, 2, 3, 4, 5, 6, 7], [0] * 7], "float32"),
        np.array([[2, 3], [0, 3]], np.int32),
    )
    for encoded in (call(encoder, inputs), encoder(inputs, None)):
        features = [[29] * 4, [1] * 4]  # 1 + 2 + … + 7 + 1 (the bias); 0 + 1
        np.testing.assert_array_equal(encoded.tokens[:, 0], features)
        np.testing.assert_array_equal(encoded.tokens[:, 1:3], [[[1] * 4, [0, 1, 2, 3]]] * 2)
        np.testing.assert_array_equal(encoded.tokens[:, 3:], [[[1] * 4, [4, 0, 0, 0], [0] * 4], [[0] * 4] * 3])
        np.testing.assert_array_equal(encoded.token_mask, [[True] * 5 + [False], [True] * 3 + [False] * 3])
        # The mean of the text is (5, 1, 1, 1) / 2 and nothing; columns add 30 + (0, 1, 2, 3), and 2 + (0, 1, 2, 3).
        totals = np.array([[32.5, 31.5, 32.5, 33.5], [2, 3, 4, 5]])
        centred = totals - [[32.5], [3.5]]
        np.testing.assert_allclose(encoded.pooled, centred / np.sqrt([[0.5], [1.25]]), atol=1e-5)


def test_text_transformer_pools_columns_by_hand():
    """No layers, and a norm that keeps the order of two numbers and no more: (−1, 1) or (1, −1)."""
    inputs = Inputs(
        np.array([[1, 0], [1, 1]], np.int32),
        np.array([[True, False], [True, True]]),
        np.array([[1, 0, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0, 0]], "float32"),
        np.array([[1, 0], [1, 0]], np.int32),
    )
    up, down = [-1, 1], [1, -1]
    tokens = {"num_features": [[up], [down]], "category_sizes": [[up, down]] * 2}
    text = [[[down], [down, down]], [[True, False], [True, True]]]
    for given in taken("text_transformer"):
        before = [[token for size in given[1:] for token in tokens[size][row]] for row in (0, 1)]
        for pooling in ("mean", "first"):
            encoder = build("text_transformer", given, dim=2, num_heads=1, num_layers=0, pooling=pooling)
            encoder.embedding.table[...] = jnp.broadcast_to(jnp.array([5.0, 4.0]), (53, 2))
            if "num_features" in given:
                encoder.tabular.features.kernel[...] = jnp.broadcast_to(jnp.array([-2.0, 2.0]), (7, 2))
            if "category_sizes" in given:
                encoder.tabular.categories.table[...] = (
                    jnp.zeros((11, 2)).at[1].set(jnp.array([2.0, 3.0])).at[5].set(jnp.array([3.0, 2.0]))
                )
            kept = {field: getattr(inputs, field) for size in given for field in FIELDS[size]}
            encoded = call(encoder, Inputs(**kept))
            for row in (0, 1):
                expected = before[row] + text[0][row]
                assert encoded.token_mask[row].tolist() == [True] * len(before[row]) + text[1][row]
                np.testing.assert_allclose(encoded.tokens[row][encoded.token_mask[row]], expected, atol=1e-4)
                pooled = expected[0] if pooling == "first" else np.mean(expected, 0)
                np.testing.assert_allclose(encoded.pooled[row], pooled, atol=1e-4)


def test_features_are_dropped_and_noisy_in_training_alone():
    """Noise comes first, so that what is dropped is exactly 0; categories are left alone."""
    number, dropped, scale = 400, 0.3, 0.5
    spec = InputSpec(num_features=number, category_sizes=(2,))
    dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    options = {"dim": number + 1, "num_layers": 1, "dropout": 0.0, "category_dim": 1, "category_dropout": 0.0}
    made = partial(encoder_class("mlp"), spec, **options, **dtypes)
    features, keys = np.full((40, number), 3, np.float32), jax.random.split(jax.random.key(0), 40)

    def read(encoder, keys):
        encoder.layers[0].kernel[...], encoder.layers[0].bias[...] = jnp.eye(number + 1), jnp.zeros(number + 1)
        encoder.categories.table[...] = jnp.array([[5.0], [7.0]])
        inputs = Inputs(features=jnp.asarray(features), categories=jnp.ones((40, 1), jnp.int32))
        read = np.asarray(call(encoder, inputs, keys).pooled)
        np.testing.assert_array_equal(read[:, number:], 7)
        return read[:, :number]

    both = made(feature_dropout=dropped, feature_noise=scale, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(read(both, None), features)
    values = read(both, keys)
    kept = values[values != 0] * (1 - dropped)
    assert abs(np.mean(values == 0) - dropped) < 4 * np.sqrt(dropped * (1 - dropped) / values.size)
    assert abs(kept.mean() - 3) < 4 * scale / np.sqrt(kept.size)
    assert abs(kept.std() - scale) < 4 * scale / np.sqrt(2 * kept.size)
    assert len(np.unique(values, axis=0)) == 40  # no two examples alike
    with pytest.raises(UserError, match="standard deviation, feature_noise, not of -1"):
        made(feature_noise=-1.0, rngs=nnx.Rngs(0))


def test_mlp_by_hand():
    dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    make = partial(encoder_class("mlp"), dim=3, num_layers=2, category_dim=2, **dtypes)
    encoder = with_ones(make(InputSpec(num_features=2), rngs=nnx.Rngs(0)))
    features = jnp.array([[1.0, 2], [-3, 1]])
    encoded = encoder(Inputs(features=features), None)
    # First row: 1 + 2 + 1 (the bias) = 4 thrice, then 4 + 4 + 4 + 1 = 13. Second: relu(−1) = 0, then 1.
    np.testing.assert_array_equal(encoded.pooled, [[13, 13, 13], [1, 1, 1]])
    np.testing.assert_array_equal(encoded.tokens, encoded.pooled[:, None])
    assert encoded.token_mask.all()

    # Two columns of width 2 add 4 ones: 8 and 3 thrice, then 25 and 10. Alone, with the bias, they are 5, then 16.
    categories = jnp.array([[1, 3], [0, 2]])
    both = with_ones(make(InputSpec(num_features=2, category_sizes=(2, 4)), rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(call(both, Inputs(features=features, categories=categories)).pooled[:, 0], [25, 10])
    alone = with_ones(make(InputSpec(category_sizes=(2, 4)), rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(call(alone, Inputs(categories=categories)).pooled[:, 0], [16, 16])
    # Side by side, in the order of features, first and second column: a weight of 10 for one of them finds each.
    both.categories.table[...] = jnp.array([[1.0, 1], [2, 3], [1, 1], [1, 1], [1, 1], [4, 5]])
    both.layers[1].kernel[...], both.layers[1].bias[...] = jnp.eye(3), jnp.zeros(3)
    for place, value in enumerate([1, 2, 2, 3, 4, 5]):
        both.layers[0].kernel[...] = jnp.ones((6, 3)).at[place].set(10.0)
        pooled = call(both, Inputs(features=features, categories=categories)).pooled[:1]
        np.testing.assert_array_equal(pooled, np.full((1, 3), 1 + 2 + 2 + 3 + 4 + 5 + 1 + 9 * value))


@pytest.mark.parametrize("given", [("vocab_size",), tuple(SIZES)])
def test_text_transformer_against_numpy(given):
    """One layer written again with loops and, for the rotations, complex numbers."""
    with jax.enable_x64(True):
        encoder = randomise(build("text_transformer", given, "float64", dim=8, num_layers=1, num_heads=2))
        inputs = take(make_inputs(given, "float64"), np.array([0]), 5)
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
        if len(given) > 1:
            features = linear(encoder.tabular.features, inputs.features)
            categories = np.asarray(encoder.tabular.categories.table[...])[inputs.categories[0] + np.array([0, 5])]
            x = np.concatenate([features, categories, x])
        h = norm(layer.attention.norm, x)
        query, key, value = (linear(getattr(layer.attention, n), h) for n in ("query", "key", "value"))
        read = np.zeros_like(x)
        for head in (slice(0, 4), slice(4, 8)):
            for i in range(len(x)):
                products = [turn(query[i, head], i) @ turn(key[j, head], j) / 2 for j in range(len(x))]
                weights = np.exp(products) / np.exp(products).sum()
                read[i, head] = weights @ value[:, head]
        x = x + linear(layer.attention.out, read)
        h = linear(layer.mlp.expand, norm(layer.mlp.norm, x))
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = norm(encoder.norm, x + linear(layer.mlp.contract, h))
        np.testing.assert_allclose(encoded.tokens[0], x, atol=1e-12)
        np.testing.assert_allclose(encoded.pooled[0], x.mean(0), atol=1e-12)
