"""The average of parameters is what is validated and tested, and training is not changed by it."""

import jax
import numpy as np
import pytest
from small_runs import assert_same, inputs_of, lines, make_config, parameters

from mlresearch.config import resolve
from mlresearch.data.pipeline import Feed
from mlresearch.errors import UserError
from mlresearch.model import create_model
from mlresearch.step import init_state, make_train_step
from mlresearch.train import train


@pytest.fixture
def config(data_dir):
    config = make_config(data_dir)
    config.text.num_buckets = 1
    return config


def trajectory(config, num_steps):
    """Parameters and their average after each step."""
    dataset, preprocessing, batches = inputs_of(config)
    graphdef, params, rates, structure = create_model(config, preprocessing.spec, 9, dataset.hierarchy)
    state = init_state(config, params, rates, num_steps, select=False)
    step = jax.jit(make_train_step(config, graphdef, 9, num_steps, None))
    taken, _ = Feed(batches["train"], [config.seed]).chunk(0, num_steps, num_steps)
    states = []
    for number in range(num_steps):
        state, _ = step(state, structure, jax.tree.map(lambda leaf, number=number: leaf[number, 0], taken))
        states.append(jax.device_get(state))
    return states


def test_it_is_the_mean_at_first_and_then_forgets(config):
    """Twenty steps of two epochs; a horizon of half an epoch is five steps."""
    config.optim.average = 0.5
    config = resolve(config)
    states = trajectory(config, 20)
    average = [np.zeros_like(leaf) for leaf in jax.tree.leaves(states[0].params)]
    for number, state in enumerate(states):
        share = max(1 - np.exp(-1 / 5), 1 / (number + 1))
        average = [old + share * (new - old) for old, new in zip(average, jax.tree.leaves(state.params), strict=True)]
        assert_same(jax.tree.leaves(state.average), average, 1e-5)
    with config.unlocked():
        config.optim.average = 0.0
    plain = trajectory(config, 20)[-1]
    assert plain.average is None
    assert_same(jax.tree.leaves(plain.params), jax.tree.leaves(states[-1].params))


def test_it_is_what_a_run_keeps_and_tests(config, tmp_path):
    plain = train(config, tmp_path / "plain")
    config.optim.average = 1.0
    averaged = train(config, tmp_path / "averaged")
    expected = trajectory(resolve(config), 20)[-1]
    kept = [
        leaf[0] if leaf.ndim > like.ndim else leaf
        for leaf, like in zip(parameters(tmp_path / "averaged"), jax.tree.leaves(expected.average), strict=True)
    ]
    assert_same(kept, jax.tree.leaves(expected.average), 1e-5)
    assert plain["metrics"]["test"]["ranking"] != averaged["metrics"]["test"]["ranking"]
    # The losses of training are those without it.
    losses = [[line["loss"] for line in lines(tmp_path / name) if "loss" in line] for name in ("plain", "averaged")]
    assert losses[0] == losses[1]


def test_validation_chooses_among_averages(config, tmp_path):
    config.optim.average = 1.0
    config.evaluate.every_epochs = 1.0
    config.train.select = "loss.mean"
    record = train(config, tmp_path)
    step = record["selected"]["step"]
    with config.unlocked():
        config.train.select = ""
    expected = trajectory(resolve(config), 20)[step - 1].average
    assert_same(parameters(tmp_path), jax.tree.leaves(expected), 1e-5)


def test_a_negative_horizon_is_refused(config):
    config.optim.average = -1.0
    with pytest.raises(UserError, match=r"config\.optim\.average is -1.0"):
        resolve(config)
