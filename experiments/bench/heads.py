"""The heads' loss, gradient and mode, as ratios to one copy of the array of scores."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench.timing import seconds
from mlresearch import data
from mlresearch.config import part_class
from mlresearch.encoders import Encoded
from mlresearch.environment import default_data_dir
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.losses import Examples
from mlresearch.losses.binary_cross_entropy import Loss

BATCH = 64


def bench_heads() -> None:
    """Print a table of the heads' cost at two sizes of ICD-10-CM."""
    print(f"heads: loss and its gradient for a batch of {BATCH}, against one copy of the array of scores\n")
    print(f"{'labels':>8} {'head':24} {'forward':>10} {'with gradient':>14} {'mode':>10}   copies")
    for depth in ("category", "extensions"):
        hierarchy = icd_hierarchy(depth)
        for name, options in (
            ("independent", {}),
            ("max_constraint", {}),
            ("conditional", {"siblings": "any"}),
            ("conditional", {"siblings": "some"}),
            ("conditional", {"siblings": "one"}),
            ("flat_softmax", {}),
            ("mixture", {"of": "conditional"}),
            ("mixture", {"of": "independent"}),
        ):
            bench_head(hierarchy, name, options)


def icd_hierarchy(depth: str) -> LabelHierarchy:
    """Return ICD-10-CM down to categories or to seventh-character extensions."""
    dataset = data.load("icd10cm/terms", {"depth": depth}, default_data_dir())
    assert dataset.parents is not None
    return LabelHierarchy.from_edges(dataset.label_space.names, dataset.parents)


def bench_head(hierarchy: LabelHierarchy, name: str, options: dict[str, str]) -> None:
    """Print the cost of one head."""
    given = {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    head = part_class("head", name)(hierarchy, hierarchy.num_labels, 1, **options, **given)
    graphdef, structure = nnx.split(head)
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.normal(size=(BATCH, hierarchy.num_labels, head.scores_per_label)), jnp.float32)
    labels = np.zeros((BATCH, hierarchy.num_labels), bool)
    leaves = np.flatnonzero(hierarchy.num_children == 0)
    for row in labels:
        row[hierarchy.close(rng.choice(leaves, 1))] = True

    def distribution(structure: Any, scores: Any) -> Any:
        none = jnp.zeros((BATCH, 1, 1))
        return nnx.merge(graphdef, structure)(scores, Encoded(none, none[..., 0] == 0, none[:, 0]))

    label_loss = functools.partial(Loss(hierarchy, hierarchy.num_labels), examples=Examples(np.ones(BATCH, bool)))

    def loss(structure: Any, scores: Any, labels: Any) -> Any:
        return distribution(structure, scores).loss(labels, label_loss).sum()

    copy = seconds(jax.jit(lambda x: x + 1), scores)
    forward = seconds(jax.jit(loss), structure, scores, labels)
    gradient = seconds(jax.jit(jax.grad(loss, argnums=1)), structure, scores, labels)
    mode = seconds(jax.jit(lambda structure, scores: distribution(structure, scores).mode()), structure, scores)
    times = " ".join(f"{1e3 * value:{width}.2f} ms" for value, width in ((forward, 7), (gradient, 11), (mode, 7)))
    ratios = " ".join(f"{value / copy:6.1f}" for value in (forward, gradient, mode))
    print(f"{hierarchy.num_labels:8} {'-'.join([name, *options.values()]):24} {times}   {ratios}", flush=True)
