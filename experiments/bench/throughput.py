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
import numpy as np
from ml_collections import ConfigDict

from experiments.bench.texts import BATCH, DIM, MAX_LENGTH, NUM_HEADS, NUM_LABELS, NUM_LAYERS, VOCAB_SIZE, make_texts
from mlresearch.config import base_config, part_class, resolve
from mlresearch.data.pipeline import EncodedSplit
from mlresearch.encoders import InputSpec
from mlresearch.inputs import make_batches
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.optim import make_optimizer
from mlresearch.step import init_state, make_eval_step, make_train_step

NUM_BATCHES = {"bag": 400, "text_transformer": 40}


def get_config(encoder: str, dropout: float) -> ConfigDict:
    """Return the base config at the size of torchTextClassifiers."""
    config = base_config()
    config.encoder.name = encoder
    config.encoder[encoder].update({"dim": DIM, "dropout": dropout})
    if encoder == "text_transformer":
        config.encoder[encoder].update({"num_layers": NUM_LAYERS, "num_heads": NUM_HEADS})
    config.text.update({"vocab_size": VOCAB_SIZE, "max_length": MAX_LENGTH})
    config.train.batch_size = config.evaluate.batch_size = BATCH
    return resolve(config)


def measure(config: ConfigDict) -> dict[str, float]:
    """Return samples a CPU-second of one epoch of training and one of prediction, and megabytes at the peak."""
    texts = make_texts(NUM_BATCHES[config.encoder.name] * BATCH)
    split = EncodedSplit(label_sets(texts.labels), texts.lengths, texts.tokens)
    batches = make_batches(config, {"train": split, "validation": split}, NUM_LABELS)
    graphdef, params, structure = create_model(config, InputSpec(VOCAB_SIZE), NUM_LABELS, None)
    optimizer = make_optimizer(config.optim, 1000)
    loss = part_class("loss", config.loss.name)()
    train_step = jax.jit(make_train_step(graphdef, optimizer, loss, NUM_LABELS, None), donate_argnums=0)
    eval_step = jax.jit(make_eval_step(graphdef, loss, NUM_LABELS))
    state = init_state(params, optimizer, config.seed)

    def train(epoch: int) -> None:
        nonlocal state
        for batch in batches["train"].epoch(config.seed, epoch):
            state, _ = train_step(state, structure, batch)
        jax.block_until_ready(state)

    def predict(epoch: int) -> None:
        for batch in batches["validation"].once():
            scored = eval_step(state.params, structure, batch)
            np.asarray(scored.log_marginals), np.asarray(scored.mode)

    rates = {}
    for name, run in (("training", train), ("inference", predict)):
        run(0)  # compiles
        began = time.process_time()
        run(1)
        rates[name] = len(split) / (time.process_time() - began)
    return rates | {"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def label_sets(labels: np.ndarray) -> LabelSets:
    """Return multi-hot labels as the label sets of a split."""
    return LabelSets.from_rows([np.flatnonzero(row).tolist() for row in labels])


if __name__ == "__main__":
    print(json.dumps(measure(get_config(sys.argv[1], float(sys.argv[2])))))
