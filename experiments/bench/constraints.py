"""The operations that hierarchies ask for, as ratios to one copy of the same array."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.heads import icd_hierarchy
from mlresearch.families import group_families
from mlresearch.heads import labels_first
from mlresearch.heads.conditional import BayesianNetwork
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import index_hierarchy
from mlresearch.logspace import log_sigmoids
from mlresearch.propagation import descendant_maximum, path_sum, settle

BATCH = 64
ROUNDS = 61

FUNCAT_LEVELS = (18, 80, 178, 142, 77, 5)
GO_LEVELS = (1, 32, 190, 540, 850, 930, 760, 440, 220, 105, 40, 11, 4, 2)
GO_SECOND_PARENTS = 0.2
"""The share of labels with a second parent that makes some 38,600 closure pairs."""


def bench_constraints() -> None:
    """Print the cost of each operation for three hierarchies, forward and with the gradient."""
    print(
        f"constraint operations on float32 [labels, {BATCH}], against one copy, x + 1, of such an array, by its side;"
    )
    print("many calls in one compiled loop, so that neither dispatching nor new memory counts\n")
    print(f"{'':40} {'forward':>11} {'copies':>7} {'with gradient':>15} {'copies':>7}")
    bench_hierarchy("FunCat-like tree", random_hierarchy(FUNCAT_LEVELS, 0.0), calls=200)
    bench_hierarchy("GO-like DAG", random_hierarchy(GO_LEVELS, GO_SECOND_PARENTS), calls=40)
    bench_hierarchy("ICD-10-CM", icd_hierarchy("extensions"), calls=2)


def random_hierarchy(level_sizes: tuple[int, ...], second_parents: float) -> LabelHierarchy:
    """Return a hierarchy of random parents one level up, of which some have many children."""
    rng = np.random.default_rng(1)
    starts = np.cumsum((0, *level_sizes))
    level = np.repeat(np.arange(len(level_sizes)), level_sizes)
    children = np.arange(starts[1], starts[-1])
    children = np.append(children, children[rng.random(len(children)) < second_parents])
    above = level[children] - 1
    parents = starts[above] + np.asarray(level_sizes)[above] * rng.random(len(children)) ** 1.5
    edges = np.unique(np.stack([children, parents.astype(int)], 1), axis=0)
    return LabelHierarchy.from_edges([str(label) for label in range(starts[-1])], edges)


def bench_hierarchy(name: str, hierarchy: LabelHierarchy, calls: int) -> None:
    """Print the cost of each operation for one hierarchy."""
    pairs = hierarchy.num_labels + len(hierarchy.ancestors.ids)
    index = index_hierarchy(hierarchy, closure=False)
    rng = np.random.default_rng(0)
    x, cotangent = (jnp.asarray(rng.normal(size=(hierarchy.num_labels, BATCH)), jnp.float32) for _ in range(2))
    copy = (repeated(lambda x: x + 1, calls), (x,))

    def both(operation: Callable[..., Any]) -> Callable[..., Any]:
        def value_and_gradient(x: Any, index: Any, cotangent: Any) -> Any:
            value, pull_back = jax.vjp(lambda x: operation(x, index), x)
            return value, pull_back(cotangent)[0]

        return value_and_gradient

    def row(name: str, *runs: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
        cells = (against(copy, run, calls) for run in runs)
        print(f"  {name:38}" + "    ".join(f" {1e3 * each:8.3f} ms {ratio:7.1f}" for each, ratio in cells), flush=True)

    print(f"{name}: {hierarchy.num_labels:,} labels, {hierarchy.levels.max() + 1} levels, {pairs:,} closure pairs")
    row("copy", copy)
    operations: dict[str, Callable[..., Any]] = {"subtree maximum": descendant_maximum, "path sums": path_sum}
    if not hierarchy.is_forest:
        operations["path sums, settled"] = lambda x, index: settle(path_sum(x, index), index)
    for operation_name, operation in operations.items():
        forward = (repeated(operation, calls), (x, index))
        row(operation_name, forward, (repeated(both(operation), calls), (x, index, cotangent)))
    if not hierarchy.is_forest:
        return
    row("log σ(s) and log σ(−s)", (repeated(log_sigmoids, calls), (x,)))
    for siblings in ("any", "some", "one"):
        network = BayesianNetwork(x, index, group_families(hierarchy), siblings)
        row(
            f"mode, from scores, siblings = {siblings}",
            (repeated(lambda dist: labels_first(dist.mode()), calls), (network,)),
        )


def repeated(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Return a compiled function that calls `function` so many times, one after the other."""

    @jax.jit
    def run(*arguments: Any) -> Any:
        def call(_: Any, carry: Any) -> Any:
            # Without it, XLA would see that all calls are the same.
            arguments, _ = jax.lax.optimization_barrier(carry)
            return arguments, function(*arguments)

        shapes = jax.eval_shape(function, *arguments)
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.fori_loop(0, calls, call, (arguments, nothing))[1]

    return run


def against(
    copy: tuple[Callable[..., Any], tuple[Any, ...]], run: tuple[Callable[..., Any], tuple[Any, ...]], calls: int
) -> tuple[float, float]:
    """Return the seconds a call and their ratio to those of a copy, of each the fewest of many rounds in turn.

    Others share the machine: what they do adds to a round, and more so where two threads wait for one another.
    """
    taken = []
    for _ in range(ROUNDS + 1):  # the first compiles
        pair = []
        for function, arguments in (copy, run):
            began = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            pair.append((time.perf_counter() - began) / calls)
        taken.append(pair)
    of_copy, of_run = np.min(taken[1:], axis=0)
    return of_run, of_run / of_copy
