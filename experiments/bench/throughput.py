"""Speed of our own encoders: ``throughput.py ENCODER DROPOUT`` prints samples a CPU-second and peak memory as JSON.

A process of its own, so that threads and memory are its own. Times are of the process, all threads together, and count
all that a run does a step: batches, forward and backward passes, AdamW with clipping, the check that all is finite; and
for prediction batches, marginals and mode.
"""

import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.bench.texts import BATCH, DIM, MAX_LENGTH, NUM_HEADS, NUM_LABELS, NUM_LAYERS, VOCAB_SIZE, make_texts
from mlresearch.config import base_config, resolve
from mlresearch.data.pipeline import EncodedSplit, Feed
from mlresearch.encoders import InputSpec
from mlresearch.fit import Program, stack
from mlresearch.inputs import make_batches
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.parallel import Parallel
from mlresearch.step import init_state, make_train_chunk, make_train_step

NUM_BATCHES = {"bag": 200, "text_transformer": 40}

NUM_BUCKETS = {"bag": 3, "text_transformer": 6}
"""Padding costs a bag little, and a program a length takes memory to compile; a transformer pays for every token."""


def get_config(encoder: str, dropout: float) -> ConfigDict:
    """Return the base config at the size of torchTextClassifiers."""
    config = base_config()
    config.encoder.name = encoder
    config.encoder[encoder].update({"dim": DIM, "dropout": dropout})
    if encoder == "text_transformer":
        config.encoder[encoder].update({"num_layers": NUM_LAYERS, "num_heads": NUM_HEADS})
    config.text.update({"vocab_size": VOCAB_SIZE, "max_length": MAX_LENGTH, "num_buckets": NUM_BUCKETS[encoder]})
    config.train.batch_size = config.evaluate.batch_size = BATCH
    return resolve(config)


def measure(config: ConfigDict) -> dict[str, float]:
    """Return samples a CPU-second of training and of prediction, over all examples once, and megabytes at the peak."""
    num_steps = NUM_BATCHES[config.encoder.name]
    texts = make_texts(num_steps * BATCH)
    split = EncodedSplit(label_sets(texts.labels), texts.lengths, texts.tokens)
    batches = make_batches(config, {"train": split, "validation": split}, NUM_LABELS)
    parallel = Parallel(config.parallel.mode, config.parallel.num_devices, 1, BATCH)
    graphdef, params, rates, structure = create_model(config, InputSpec(VOCAB_SIZE), NUM_LABELS, None)
    program = Program(config, graphdef, structure, NUM_LABELS, parallel)
    train_step = make_train_step(
        config, graphdef, NUM_LABELS, 3 * num_steps, parallel.axis_name, batches["train"].buckets
    )
    feed = Feed(batches["train"], [config.seed])
    state = parallel.put_runs(stack([init_state(config, params, rates, 3 * num_steps, select=False)]))
    train_chunk = parallel.compile_chunk(make_train_chunk(train_step), state)
    size = min(config.train.chunk_steps, num_steps)

    def train(epoch: int) -> None:
        nonlocal state
        for first in range(epoch * num_steps, (epoch + 1) * num_steps, size):
            number = min(size, (epoch + 1) * num_steps - first)
            chunk, buckets = feed.chunk(first, number, size)
            state, metrics = train_chunk(
                state, program.structure, parallel.put_chunk(chunk), jnp.asarray(buckets), jnp.int32(number)
            )
            jax.device_get(metrics)

    def predict(epoch: int) -> None:
        score = program.scorer(state.params, state.numbers)
        for batch in batches["validation"].once():
            jax.device_get(score(batch))

    rates_of = {}
    for name, run in (("training", train), ("inference", predict)):
        run(0)  # compiles
        began = time.process_time()
        for epoch in (1, 2):
            run(epoch)
        rates_of[name] = 2 * len(split) / (time.process_time() - began)
    return rates_of | {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def label_sets(labels: np.ndarray) -> LabelSets:
    """Return multi-hot labels as the label sets of a split."""
    return LabelSets.from_rows([np.flatnonzero(row).tolist() for row in labels])


if __name__ == "__main__":
    print(json.dumps(measure(get_config(sys.argv[1], float(sys.argv[2])))))
