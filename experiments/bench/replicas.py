"""Steps a second of one run, and what R runs in one program cost against R runs one by one."""

import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mlresearch.config import base_config, resolve, to_dict
from mlresearch.data.pipeline import Batches, EncodedSplit, Feed
from mlresearch.encoders import InputSpec
from mlresearch.fit import runs_at_once, stack
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.parallel import Parallel
from mlresearch.step import init_state, make_train_chunk, make_train_step

FEATURES, LABELS, EXAMPLES, BATCH = 77, 499, 2560, 64
"""The size of cellcycle_FUN, on which published hierarchical networks have a hidden size of 500."""

REPEATS = 7


def bench_replicas() -> None:
    """Print steps a second by chunk, and the cost of replicas, for two hidden sizes."""
    print(f"training steps: {FEATURES} features, {LABELS} labels, two hidden layers, batches of {BATCH}\n")
    print(f"{'hidden':>7} {'chunk':>6} {'steps/s':>9} {'us/step':>9}")
    for hidden in (32, 500):
        runs = [runner(_config(hidden), LABELS, None, 1, chunk) for chunk in (1, 100)]
        for chunk, seconds in zip((1, 100), together(runs), strict=True):
            print(f"{hidden:7} {chunk:6} {1 / seconds:9,.0f} {1e6 * seconds:9,.0f}", flush=True)
    print(f"\n{'hidden':>7} {'runs':>5} {'ms/step':>9} {'against as many single runs':>28}")
    for hidden in (32, 500):
        counts = (1, 2, 5, 10)
        taken = together([runner(_config(hidden), LABELS, None, count, 100) for count in counts])
        for count, seconds in zip(counts, taken, strict=True):
            print(f"{hidden:7} {count:5} {1e3 * seconds:9.2f} {seconds / (count * taken[0]):28.2f}", flush=True)
    print()


def together(functions: Sequence[Callable[[], float]]) -> list[float]:
    """Return the median of what each gives, called in turn, so that a busy moment of the machine is shared."""
    taken = [[function() for function in functions] for _ in range(REPEATS)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def runner(
    config: ConfigDict, num_labels: int, hierarchy: LabelHierarchy | None, count: int, chunk: int
) -> Callable[[], float]:
    """Return a function that trains `count` runs on made features for a while and returns the seconds a step.

    config: resolved. Nine labels an example are on, and in a hierarchy their ancestors.
    """
    rng = np.random.default_rng(0)
    rows = [rng.choice(num_labels, 9, replace=False) for _ in range(EXAMPLES)]
    if hierarchy is not None:
        rows = [hierarchy.close(row) for row in rows]
    split = EncodedSplit(
        LabelSets.from_rows([row.tolist() for row in rows]),
        np.zeros(EXAMPLES, np.int32),
        features=rng.normal(size=(EXAMPLES, FEATURES)).astype(np.float32),
    )
    batch_size = config.train.batch_size
    batches = Batches(split, num_labels, batch_size, (8,))
    parallel = Parallel("jit", 0, count, batch_size)
    states = []
    for seed in range(count):
        config_of = ConfigDict(to_dict(config) | {"seed": seed})
        graphdef, params, rates, structure = create_model(
            config_of, InputSpec(num_features=FEATURES), num_labels, hierarchy
        )
        states.append(init_state(config_of, params, rates, 10**6, select=False))
    state = stack(states)
    at_once = runs_at_once(state)
    state = parallel.put_runs(state)
    structure = parallel.replicate(structure)
    step = parallel.compile_chunk(
        make_train_chunk(make_train_step(config, graphdef, num_labels, 10**6, parallel.axis_name), at_once), state
    )
    feed = Feed(batches, range(count))
    steps = 100 if chunk == 100 else 50

    def run() -> float:
        nonlocal state
        began = time.perf_counter()
        for first in range(0, steps, chunk):
            taken, buckets = feed.chunk(first, chunk, chunk)
            state, metrics = step(state, structure, parallel.put_chunk(taken), jnp.asarray(buckets), jnp.int32(chunk))
            jax.device_get(parallel.fetch(metrics))  # as training does, for its log
        return (time.perf_counter() - began) / steps

    run()
    return run


def _config(hidden: int) -> ConfigDict:
    config = base_config()
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = hidden
    config.encoder.mlp.dropout = 0.7
    config.train.batch_size = BATCH
    return resolve(config)
