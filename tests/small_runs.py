"""Runs of a few steps, and a training loop to hold them against."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import mlresearch
from mlresearch.config import base_config, part_options
from mlresearch.inputs import Preprocessing, load_dataset, make_batches
from mlresearch.losses import Examples
from mlresearch.model import create_model
from mlresearch.optim import NUMBERS, make_optimizer
from mlresearch.step import dropout_keys, multi_hot


def make_config(data_dir):
    """Twenty steps over texts, with dropout, on one device."""
    config = base_config()
    config.data.name = "tiny/paths"
    config.data.dir = str(data_dir)
    config.encoder.bag.dim = 16
    config.encoder.bag.dropout = 0.3
    config.text.vocab_size = 80
    config.text.num_buckets = 2
    config.head.name = "conditional"
    config.train.batch_size = 16
    config.train.num_epochs = 2.0
    config.train.log_every_steps = 4
    config.evaluate.batch_size = 32
    config.evaluate.predictions = False
    config.optim.learning_rate = 0.01
    config.parallel.num_devices = 1
    return config


def on_points(config):
    """Features and flat labels instead: thirteen steps an epoch."""
    config.data.name = "points"
    config.encoder.name = "mlp"
    config.encoder.bag.update(part_options("encoder", "bag"))
    config.encoder.mlp.dim = 16
    config.encoder.mlp.dropout = 0.3
    config.head.name = "independent"
    return config


def in_float64(config):
    config.model.dtype = config.model.param_dtype = "float64"
    return config


def parameters(folder):
    return jax.tree.leaves(mlresearch.load(str(folder)).params)


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def assert_same(got, wanted, tolerance=0.0):
    """Assert that parameters are equal, or nearly so for their size, above 1 relative to it."""
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def assert_near(got, wanted):
    """Assert that metrics are those of nearly equal scores."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    np.testing.assert_allclose(jax.tree.leaves(got), jax.tree.leaves(wanted), rtol=1e-3, atol=1e-3)


def inputs_of(config):
    """Data set, what is learnt from it before the model, and the batches of its splits."""
    dataset = load_dataset(config)
    preprocessing = Preprocessing.learn(config, dataset.train)
    splits = preprocessing.encode_splits(dataset)
    return dataset, preprocessing, make_batches(config, splits, dataset.label_space.num_labels)


def by_hand(config, num_steps, refit=False):
    """Parameters after some steps on train, or on train and validation, by a loop in which numbers are constants."""
    dataset, preprocessing, batches = inputs_of(config)
    num_labels = dataset.label_space.num_labels
    both = batches["train"].split.join(batches["validation"].split)
    batches = dataclasses.replace(batches["train"], split=both) if refit else batches["train"]
    graphdef, params, rates, structure = create_model(config, preprocessing.spec, num_labels, dataset.hierarchy)
    # At full precision: optax multiplies Python's numbers in float32.
    optimizer = make_optimizer(
        config.optim, num_steps, {name: jnp.asarray(config.optim[name], float) for name in NUMBERS}
    )

    @jax.jit
    def step(params, opt_state, batch, at):
        def loss(params):
            keys = dropout_keys(jnp.uint32(config.seed), at, batch.rows)
            model = nnx.merge(graphdef, params, rates, structure)
            losses = model(batch.inputs, keys).loss(
                multi_hot(batch.label_ids, batch.label_values, num_labels),
                lambda logits, labels: model.loss(logits, labels, Examples(batch.mask)),
            )
            return (losses * batch.mask).sum() / batch.mask.sum().astype(losses.dtype)

        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state, at = optimizer.init(params), 0
    while at < num_steps:
        for batch in batches.epoch(config.seed, at // batches.steps_per_epoch):
            params, opt_state = step(params, opt_state, batch, jnp.int32(at))
            at += 1
            if at == num_steps:
                break
    return jax.tree.leaves(params)


class Killed(BaseException):
    """Nothing in the code under test catches this one."""
