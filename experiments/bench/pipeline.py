"""Batches against the training step that eats them, and against one copy of what they hold."""

import itertools
import time

import jax
import numpy as np

from configs.icd10cm_terms import get_config
from experiments.bench.timing import seconds
from mlresearch.config import resolve
from mlresearch.data.pipeline import Batch
from mlresearch.inputs import Preprocessing, load_dataset, make_batches
from mlresearch.model import create_model
from mlresearch.step import init_state, make_train_step

NUM_BATCHES = 400


def bench_pipeline() -> None:
    """Print examples a second of the batches of icd10cm/terms, of the demo's fastest step, and of plain copies."""
    config = get_config()
    config.head.name = "independent"  # the fastest of the demo
    config = resolve(config)
    dataset = load_dataset(config)
    preprocessing = Preprocessing.learn(config, dataset.train)
    splits = preprocessing.encode_splits(dataset)
    num_labels = dataset.label_space.num_labels
    batches = make_batches(config, splits, num_labels)["train"]
    size = config.train.batch_size

    made: list[Batch] = []
    began = time.perf_counter()
    for number in itertools.count():
        made += batches.epoch(config.seed, number)
        if len(made) >= NUM_BATCHES:
            break
    pipeline = (time.perf_counter() - began) / len(made)

    leaves = [np.asarray(leaf) for batch in made[:NUM_BATCHES] for leaf in jax.tree.leaves(batch)]
    began = time.perf_counter()
    for leaf in leaves:
        leaf.copy()
    copy = (time.perf_counter() - began) / NUM_BATCHES

    graphdef, params, rates, structure = create_model(config, preprocessing.spec, num_labels, dataset.hierarchy)
    step = jax.jit(make_train_step(config, graphdef, num_labels, 1000, None))
    state = init_state(config, params, rates, 1000, select=False)
    shortest = min(made, key=lambda batch: batch.inputs.tokens.shape[1])  # type: ignore[union-attr]
    training = seconds(step, state, structure, shortest)

    print(f"pipeline: {config.data.name}, batches of {size}\n")
    print(f"{'':32} {'examples/s':>12} {'ratio':>8}")
    for name, taken in (("training step (fastest batches)", training), ("batches", pipeline), ("copies of them", copy)):
        print(f"{name:32} {size / taken:12,.0f} {training / taken:8.1f}")
    print()
