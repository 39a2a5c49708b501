"""Mixtures against their definition: sums over components that are computed one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_losses import label_loss
from small_runs import inputs_of, make_config
from test_heads import all_sets, encoded_for, hierarchies, randomise
from test_hierarchy import names, random_dag
from test_train import steps_under

from mlresearch.config import resolve
from mlresearch.decoders.linear import Decoder
from mlresearch.encoders import Encoded, InputSpec
from mlresearch.errors import UserError
from mlresearch.heads import conditional, independent, mixture
from mlresearch.heads.mixture import log_mixture
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.model import create_model
from mlresearch.optim import make_optimizer
from mlresearch.step import init_state, make_train_step

DIM = 4
KINDS = [("independent", "any", True), ("conditional", "any", True), ("conditional", "any", False)]
KINDS += [("conditional", siblings, True) for siblings in ("some", "one", "at_most_one", "hurdle")]
every_kind = pytest.mark.parametrize(("of", "siblings", "forest"), KINDS)


def make_head(hierarchy, components, of, siblings="any", param_dtype=jnp.float32):
    given = {"param_dtype": param_dtype, "rngs": nnx.Rngs(0)}
    return randomise(
        mixture.Head(hierarchy, hierarchy.num_labels, DIM, components=components, of=of, siblings=siblings, **given)
    )


def one_component(head, hierarchy, of, siblings):
    """What each component is by itself, made apart from the mixture, with its parameters."""
    given = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    if of == "independent":
        return independent.Head(hierarchy, hierarchy.num_labels, DIM, **given)
    one = conditional.Head(hierarchy, hierarchy.num_labels, DIM, siblings=siblings, **given)
    nnx.update(one, nnx.state(head.component, nnx.Param))
    return one


def inputs(batch, num_labels, components, seed=0, dtype=jnp.float32):
    """Random scores, and pooled vectors for the gates."""
    rng = np.random.default_rng(seed)
    scores, pooled = rng.normal(0, 2, (batch, num_labels, components)), rng.normal(size=(batch, DIM))
    nothing = encoded_for(batch, dtype)
    return jnp.asarray(scores, dtype), Encoded(nothing.tokens, nothing.token_mask, jnp.asarray(pooled, dtype))


@jax.jit
def log_probs_of_sets(dist, sets):
    """[sets, batch] by the distribution's own log_prob."""
    shape = dist.log_marginals.shape
    return jax.lax.map(lambda labels: dist.log_prob(jnp.broadcast_to(labels, shape)), sets)


@jax.jit
def log_marginals(dist):
    return dist.log_marginals


@jax.jit
def mode_of(dist):
    return dist.mode()


@jax.jit
def log_prob(dist, labels):
    return dist.log_prob(labels)


@every_kind
def test_a_mixture_is_the_sum_of_its_components(of, siblings, forest):
    with jax.enable_x64(True):
        for seed, hierarchy in enumerate(hierarchies(forest, count=2)):
            scores, encoded = inputs(3, hierarchy.num_labels, 4, seed, jnp.float64)
            head = make_head(hierarchy, 4, of, siblings)
            dist = head(scores, encoded)
            odds = np.exp(
                np.asarray(encoded.pooled) @ np.asarray(head.gate_weights[...]) + np.asarray(head.gate_bias[...])
            )
            gates = odds / odds.sum(1, keepdims=True)
            component = one_component(head, hierarchy, of, siblings)
            each = [component(scores[..., [k]], encoded) for k in range(4)]
            sets = all_sets(hierarchy.num_labels)
            expected = sum(gates[:, k] * np.exp(log_probs_of_sets(each[k], sets)) for k in range(4))
            found = np.exp(log_probs_of_sets(dist, sets))
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            np.testing.assert_allclose(found.sum(0), 1, rtol=1e-12)
            marginals = np.einsum("sb,sl->bl", expected, sets)
            np.testing.assert_allclose(np.exp(log_marginals(dist)), marginals, rtol=1e-11)


@every_kind
def test_one_component_is_itself(of, siblings, forest):
    hierarchy = hierarchies(forest)[0]
    scores, encoded = inputs(20, hierarchy.num_labels, 1)
    head = make_head(hierarchy, 1, of, siblings)
    one = one_component(head, hierarchy, of, siblings)(scores, encoded)
    mixed = head(scores, encoded)
    assert mixed.mode_is_exact == one.mode_is_exact
    labels = mode_of(one)
    unknown = labels.astype(jnp.float32).at[::2, ::3].set(jnp.nan)

    @jax.jit
    def everything(dist):
        return dist.log_marginals, dist.logits, dist.mode(), dist.log_prob(labels), dist.log_prob_known(unknown)

    for got, wanted in zip(everything(mixed), everything(one), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@every_kind
def test_the_order_of_components_does_not_matter(of, siblings, forest):
    hierarchy = hierarchies(forest)[0]
    scores, encoded = inputs(20, hierarchy.num_labels, 5)
    head, moved = make_head(hierarchy, 5, of, siblings), make_head(hierarchy, 5, of, siblings)
    order = np.array([3, 0, 4, 1, 2])
    moved.gate_weights[...], moved.gate_bias[...] = head.gate_weights[...][:, order], head.gate_bias[...][order]
    one, other = head(scores, encoded), moved(scores[..., order], encoded)
    labels = mode_of(one)
    np.testing.assert_array_equal(mode_of(other), labels)
    np.testing.assert_allclose(log_prob(other, labels), log_prob(one, labels), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_marginals(other), log_marginals(one), rtol=1e-5, atol=1e-6)


@every_kind
def test_the_mode_is_never_less_probable_than_a_components(of, siblings, forest):
    """Nor than the marginals over ½; of 8 labels it is the most probable of all sets for 95 inputs in 100 or more."""
    with jax.enable_x64(True):
        hierarchy = random_dag(np.random.default_rng(4), 8, forest=forest)
        scores, encoded = inputs(300, 8, 4, 1, jnp.float64)
        head = make_head(hierarchy, 4, of, siblings)
        dist = head(scores, encoded)
        assert not dist.mode_is_exact
        found = log_prob(dist, mode_of(dist))
        component = one_component(head, hierarchy, of, siblings)
        for k in range(4):
            assert (log_prob(dist, mode_of(component(scores[..., [k]], encoded))) <= found).all()
        assert (log_prob(dist, log_marginals(dist) > jnp.log(0.5)) <= found).all()
        best = log_probs_of_sets(dist, all_sets(8)).max(0)
        assert np.mean(np.asarray(found) >= best - 1e-9) >= 0.95


@every_kind
def test_gradients_of_gates_equal_finite_differences(of, siblings, forest):
    with jax.enable_x64(True):
        hierarchy = hierarchies(forest, num_labels=6)[0]
        scores, encoded = inputs(5, 6, 3, 2, jnp.float64)
        graph, params, structure = nnx.split(make_head(hierarchy, 3, of, siblings, jnp.float64), nnx.Param, ...)
        flat, unflatten = jax.flatten_util.ravel_pytree((params, encoded.pooled))
        labels = jnp.roll(mode_of(nnx.merge(graph, params, structure)(scores, encoded)), 1, axis=0)

        def total(flat):
            params, pooled = unflatten(flat)
            dist = nnx.merge(graph, params, structure)(scores, Encoded(encoded.tokens, encoded.token_mask, pooled))
            return dist.loss(labels, label_loss()).sum() + jnp.sin(jnp.exp(dist.log_marginals)).sum()

        steps = 1e-6 * jnp.eye(flat.size)
        differences = jax.jit(lambda flat: jax.lax.map(lambda step: total(flat + step) - total(flat - step), steps))(
            flat
        )
        gradient = jax.jit(jax.grad(total))(flat)
        assert jnp.abs(gradient).max() > 0.1
        np.testing.assert_allclose(gradient, differences / 2e-6, rtol=1e-6, atol=1e-8)


@every_kind
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_gates_are_finite(of, siblings, forest, dtype):
    hierarchy = hierarchies(forest)[0]
    graph, params, structure = nnx.split(make_head(hierarchy, 3, of, siblings), nnx.Param, ...)
    scores, encoded = inputs(40, hierarchy.num_labels, 3, 3, dtype)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def outputs(params, scores):
        dist = nnx.merge(graph, params, structure)(scores, encoded)
        loss = dist.loss(jnp.roll(dist.mode(), 1, axis=0), label_loss())
        return loss.sum() + dist.logits.sum(), (loss, dist.log_marginals)

    for scale in (1.0, 100.0, 1e4):
        extreme = jax.tree.map(lambda x, scale=scale: scale * x, params)
        gradient, (loss, log_marginals) = outputs(extreme, scale * scores)
        assert loss.dtype == log_marginals.dtype == jnp.float32
        for array in (loss, log_marginals, *jax.tree.leaves(gradient)):
            assert jnp.isfinite(array).all()
        assert (log_marginals <= 0).all()


def chain_and_star():
    """Forty labels under one another, and three hundred under each tenth of them."""
    parents = [label - 1 for label in range(1, 40)] + [place for place in range(0, 40, 10) for _ in range(300)]
    size = len(parents) + 1
    return LabelHierarchy.from_edges(names(size), np.stack([np.arange(1, size), parents], 1))


@pytest.mark.parametrize("shape", ["chain and star", "forest", "dag"])
def test_marginals_are_coherent_bit_for_bit(shape):
    rng = np.random.default_rng(0)
    hierarchy = (
        chain_and_star() if shape == "chain and star" else random_dag(rng, 300, forest=shape == "forest", density=0.02)
    )
    head = make_head(hierarchy, 5, "conditional")
    assert head.coherent
    compute = jax.jit(
        lambda scores, encoded: head(scores, encoded).log_marginals,
        compiler_options={"xla_backend_optimization_level": 3},  # as users run it
    )
    # Labels that are nearly certain: all of a path have nearly the same marginal.
    for scale, shift in ((1.0, 0.0), (1.0, 5.0), (3.0, 12.0), (1e4, 0.0)):
        scores, encoded = inputs(16, hierarchy.num_labels, 5)
        log_marginals = np.asarray(compute(scale * scores + shift, encoded))
        assert (log_marginals[:, hierarchy.children] <= log_marginals[:, hierarchy.parents]).all()


def test_probabilities_near_1_lose_nothing():
    """Against sums in 64 bits of mantissa: plain logsumexp has errors of some 1e-7 there, as large as the values."""
    rng = np.random.default_rng(0)
    log_gates = np.log(rng.dirichlet(np.ones(6), 2000)).astype(np.float32)
    exponents = rng.uniform(-18, 4, (2000, 1)) + rng.normal(0, 1, (2000, 6))
    log_probs = -np.exp(exponents).astype(np.float32)
    gates = np.exp(log_gates.astype(np.longdouble))
    gates /= gates.sum(1, keepdims=True)
    wide = log_probs.astype(np.longdouble)
    total = (gates * np.exp(wide)).sum(1)
    expected = np.log(total)
    near = total > 0.5
    expected[near] = np.log1p((gates * np.expm1(wide)).sum(1)[near])
    found = log_mixture(jnp.asarray(log_gates), jnp.asarray(log_probs))
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=2e-6)
    assert log_mixture(jnp.log(jnp.full(3, 1 / 3)), jnp.full(3, -jnp.inf)) == -jnp.inf


def test_gates_start_equal_and_components_do_not_die():
    """Inputs of four kinds, of which the gates know nothing at first: every component ends with a share of them."""
    rng = np.random.default_rng(0)
    dim, num_labels, size = 16, 20, 1000
    kinds = rng.integers(4, size=size)
    log_odds = rng.normal(-2, 3, (4, num_labels))[kinds]
    labels = jnp.asarray(rng.random((size, num_labels)) < 1 / (1 + np.exp(-log_odds)))
    pooled = jnp.asarray(rng.normal(size=(size, dim)) + np.eye(dim)[kinds], jnp.float32)
    encoded = Encoded(pooled[:, None], jnp.ones((size, 1), bool), pooled)
    optimizer = optax.adam(0.01)

    def trained(components):
        """The distribution after 200 steps from the parameters that it starts with."""
        given = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        head = mixture.Head(None, num_labels, dim, components=components, of="independent", **given)
        decoder = Decoder(dim, num_labels, components, dtype=jnp.float32, **given)
        graph, params, rest = nnx.split((decoder, head), nnx.Param, ...)

        def distribution(params):
            decoder, head = nnx.merge(graph, params, rest)
            return head(decoder(encoded, None), encoded)

        def step(_, carry):
            params, state = carry
            gradient = jax.grad(lambda params: distribution(params).loss(labels, label_loss()).mean())(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state

        assert len(jnp.unique(distribution(params).log_gates)) == 1
        carry = (params, optimizer.init(params))
        return distribution(jax.jit(lambda carry: jax.lax.fori_loop(0, 200, step, carry))(carry)[0])

    one, six = trained(1), trained(6)
    by_component = six.components.log_prob(jnp.repeat(labels, 6, axis=0)).reshape(size, 6)
    shares = jax.nn.softmax(six.log_gates + by_component).mean(0)
    assert (shares > 0.05).all()
    assert six.loss(labels, label_loss()).mean() < 0.8 * one.loss(labels, label_loss()).mean()


@pytest.fixture
def config(data_dir):
    config = make_config(data_dir)
    config.head.name = "mixture"
    config.head.mixture.components = 3
    config.head.conditional.siblings = "any"
    return config


def test_gate_weights_decay_and_biases_do_not(config):
    config.optim.weight_decay, config.optim.warmup_share = 0.1, 0.0
    config.head.mixture.of = "independent"
    config = resolve(config)
    _, params, _, _ = create_model(config, InputSpec(vocab_size=20), 5, None)
    params = jax.tree.map(jnp.ones_like, params)
    optimizer = make_optimizer(config.optim, 10)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = nnx.to_pure_dict(updates)["head"]
    assert (moved["gate_weights"] != 0).all()
    assert (moved["gate_bias"] == 0).all()


@pytest.mark.parametrize(
    ("dtype", "param_dtype"),
    [("bfloat16", "float32"), ("float32", "float64"), ("float64", "float64")],
)
def test_a_step_in_every_precision(config, dtype, param_dtype):
    """Traced under strict promotion; the loss is float32 or wider, parameters keep their dtype."""
    config.model.dtype, config.model.param_dtype = dtype, param_dtype
    with jax.enable_x64("float64" in (dtype, param_dtype)):
        config = resolve(config)
        dataset, preprocessing, batches = inputs_of(config)
        graph, params, rates, structure = create_model(config, preprocessing.spec, 9, dataset.hierarchy)
        state = init_state(config, params, rates, 10, select=False)
        step = make_train_step(config, graph, 9, 10, None)
        after, metrics = jax.eval_shape(step, state, structure, next(iter(batches["train"].once())))
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(after.params)} == {param_dtype}
        assert metrics.loss.dtype == ("float64" if dtype == "float64" else "float32")


def test_devices_give_the_numbers_of_one(config):
    config.encoder.bag.dropout = 0.5
    config = resolve(config)
    expected_losses, expected = steps_under(config, "jit", 1, 10)
    assert expected_losses[-1] < expected_losses[0]
    for mode in ("jit", "pmap"):
        losses, params = steps_under(config, mode, 8, 10)
        np.testing.assert_allclose(losses, expected_losses, rtol=2e-5)
        for got, wanted in zip(params, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@every_kind
def test_devices_that_share_a_batch_only_add_up(of, siblings, forest):
    """Were examples gathered on the way to the gradient, each device would compute what all of them do."""
    hierarchy, size = hierarchies(forest)[0], 8
    head = make_head(hierarchy, 3, of, siblings)
    head.marginal_share = 0.5
    decoder = Decoder(DIM, hierarchy.num_labels, 3, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split((decoder, head), nnx.Param, ...)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    everywhere, by_example = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

    def loss(params, pooled, labels):
        decoder, head = nnx.merge(graph, params, rest)
        encoded = Encoded(pooled[:, None], jnp.ones((size, 1), bool), pooled)
        return head(decoder(encoded, None), encoded).loss(labels, label_loss()).mean()

    gradient = jax.jit(
        jax.grad(loss), in_shardings=(everywhere, by_example, by_example), out_shardings=everywhere
    ).lower(params, jnp.ones((size, DIM)), jnp.ones((size, hierarchy.num_labels), bool))
    text = gradient.compile().as_text()
    assert "all-reduce" in text
    for gathering in ("all-gather", "all-to-all", "collective-permute"):
        assert gathering not in text


@pytest.mark.parametrize(("of", "siblings", "forest"), [KINDS[0], KINDS[2], KINDS[3]])
def test_heads_side_by_side_are_heads_alone(of, siblings, forest):
    hierarchy = hierarchies(forest)[0]
    graph, params, structure = nnx.split(make_head(hierarchy, 3, of, siblings), nnx.Param, ...)
    several = jax.tree.map(lambda x: jnp.stack([x, -x]), params)
    all_scores, all_encoded = zip(*(inputs(6, hierarchy.num_labels, 3, seed) for seed in (0, 1)), strict=True)

    @jax.jit
    def outputs(params, scores, encoded):
        dist = nnx.merge(graph, params, structure)(scores, encoded)
        labels = dist.sample(jax.random.key(0), 1)[0]
        return dist.log_marginals, dist.mode(), dist.loss(labels, label_loss())

    stacked = jax.tree.map(lambda *each: jnp.stack(each), *zip(all_scores, all_encoded, strict=True))
    together = jax.jit(jax.vmap(outputs))(several, *stacked)
    for place in range(2):
        alone = outputs(jax.tree.map(lambda x, at=place: x[at], several), all_scores[place], all_encoded[place])
        for got, wanted in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[place], wanted, rtol=1e-5, atol=1e-6)


def test_what_cannot_work_is_refused():
    forest, dag = hierarchies(True)[0], hierarchies(False)[0]
    for hierarchy, options, said in (
        (forest, {"components": 0}, "components is 0; it must be at least 1"),
        (None, {}, "needs a label hierarchy for components of 'conditional'; set head.mixture.of = 'independent'"),
        (forest, {"of": "independent", "siblings": "one"}, "siblings = 'one' is a rule of a hierarchy"),
        (
            dag,
            {"siblings": "some"},
            "siblings = 'some' needs one parent a label, but 'label.' has 2; use siblings = 'any'",
        ),
    ):
        with pytest.raises(UserError, match=said):
            mixture.Head(hierarchy, 7, DIM, **options, param_dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_what_a_mixture_takes_and_promises():
    forest, dag = hierarchies(True)[0], hierarchies(False)[0]
    for hierarchy, of, unknown in (
        (forest, "conditional", True),
        (dag, "conditional", False),
        (dag, "independent", True),
    ):
        head = make_head(hierarchy, 7, of)
        assert head.scores_per_label == 7
        assert head.coherent == (of == "conditional")
        assert (head.soft_labels, head.unknown_labels) == (False, unknown)
