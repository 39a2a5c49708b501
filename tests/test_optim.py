import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlresearch.config import base_config, part_names, resolve
from mlresearch.encoders import InputSpec
from mlresearch.model import create_model
from mlresearch.optim import make_optimizer, make_schedule


@pytest.fixture
def optim():
    with base_config().unlocked() as config:
        return config.optim


@pytest.mark.parametrize(("schedule", "half_way", "end"), [("cosine", 0.5, 0), ("linear", 0.5, 0), ("constant", 1, 1)])
def test_warm_up_and_decay(optim, schedule, half_way, end):
    optim.schedule, optim.warmup_share = schedule, 0.1
    share = make_schedule(optim, 1000)  # a warm-up of 100 steps, then 900
    assert float(share(0)) == pytest.approx(1 / 101, rel=1e-5)
    assert float(share(50)) == pytest.approx(51 / 101)
    assert float(share(100)) == pytest.approx(1)
    assert float(share(550)) == pytest.approx(half_way)
    assert float(share(1000)) == pytest.approx(end, abs=1e-7)


def test_no_warm_up_starts_at_the_peak(optim):
    optim.warmup_share = 0.0
    assert float(make_schedule(optim, 10)(0)) == pytest.approx(1)


@pytest.mark.parametrize("decoder", part_names("decoder"))
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_biases_and_norms(name, decoder):
    """With zero gradients, all that moves is what decays."""
    config = base_config()
    config.decoder.name = decoder
    config.head.name = "chain" if decoder == "causal" else "independent"
    config.optim.name, config.optim.weight_decay, config.optim.warmup_share = name, 0.1, 0.0
    config.encoder.name = "text_transformer"
    config.encoder.text_transformer.dim = 16
    config = resolve(config)
    _, params, _, _ = create_model(config, InputSpec(vocab_size=20), 5, None)
    params = jax.tree.map(jnp.ones_like, params)
    optimizer = make_optimizer(config.optim, 10)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decayed, spared = set(), set()
    for path, update in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(updates)):
        name = jax.tree_util.keystr(path[-1:])
        if np.any(np.asarray(update)):
            np.testing.assert_allclose(update, -config.optim.learning_rate * 0.1, rtol=1e-6)
            decayed.add(name)
        else:
            spared.add(name)
    assert {"['kernel']", "['table']"} <= decayed
    assert not decayed & {"['bias']", "['scale']"}
    assert {"['bias']", "['scale']"} <= spared


def test_clipping_bounds_the_update(optim):
    optim.name, optim.momentum, optim.weight_decay, optim.schedule = "sgd", 0.0, 0.0, "constant"
    optim.clip_norm, optim.learning_rate, optim.warmup_share = 2.0, 1.0, 0.0
    optimizer = make_optimizer(optim, 10)
    params = {"w": jnp.zeros((3, 4)), "b": jnp.zeros(3)}
    gradient = {"w": jnp.full((3, 4), 30.0), "b": jnp.full(3, -40.0)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    norm = np.sqrt(12 * 30.0**2 + 3 * 40.0**2)
    np.testing.assert_allclose(updates["w"], -30.0 * 2 / norm, rtol=1e-5)
    np.testing.assert_allclose(updates["b"], 40.0 * 2 / norm, rtol=1e-5)
