"""A training step of the heads of `experiments/hmc`, against the last layer's three products of matrices alone."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs.hmc import get_config
from experiments.bench.constraints import FUNCAT_LEVELS, GO_LEVELS, GO_SECOND_PARENTS, random_hierarchy
from experiments.bench.replicas import runner, together
from experiments.bench.timing import seconds
from mlresearch.config import resolve
from mlresearch.hierarchy import LabelHierarchy

CHUNK = 20


def bench_steps() -> None:
    """Print milliseconds a step and the ratio, for two hierarchies."""
    print(
        "training steps of configs/hmc.py; floor: the last layer's product of matrices, forward and its two gradients"
    )
    tree, graph = random_hierarchy(FUNCAT_LEVELS, 0.0), random_hierarchy(GO_LEVELS, GO_SECOND_PARENTS)
    bench_hierarchy("FunCat-like tree", get_config("cellcycle_FUN"), tree, ("max_constraint", "conditional", "mixture"))
    bench_hierarchy("GO-like DAG", get_config("cellcycle_GO"), graph, ("max_constraint", "conditional", "mixture"))
    print()


def bench_hierarchy(name: str, config: ConfigDict, hierarchy: LabelHierarchy, heads: tuple[str, ...]) -> None:
    """Print a row a head, those of one hierarchy measured in turn; independent sigmoids first."""
    heads = ("independent", *heads)
    configs = [_with_head(config, head) for head in heads]
    taken = together([runner(own, hierarchy.num_labels, hierarchy, 1, CHUNK) for own in configs])
    print(f"{name}: {hierarchy.num_labels:,} labels, batches of {config.train.batch_size}")
    for own, step in zip(configs, taken, strict=True):
        scores_per_label = own.head.mixture.components if own.head.name == "mixture" else 1
        pooled = jnp.ones((own.train.batch_size, own.encoder.mlp.dim))
        weights = jnp.ones((hierarchy.num_labels * scores_per_label, own.encoder.mlp.dim))
        floor = 3 * seconds(jax.jit(lambda x, w: x @ w.T), pooled, weights)
        print(
            f"  {own.head.name:16} {1e3 * step:8.2f} ms  floor {1e3 * floor:7.2f} ms  {step / floor:6.1f}", flush=True
        )


def _with_head(config: ConfigDict, head: str) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.head.name = head
    config.model.prior = False  # there are no training labels to begin with
    return resolve(config)
