"""The optax transformation that a config describes."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

NUMBERS = ("learning_rate", "weight_decay", "b1", "b2", "clip_norm", "momentum")
"""Options that are numbers of the update, in which replicas of one program may differ."""

SWITCHES = ("clip_norm", "momentum")
"""Those of them that at 0 leave a part of the transformation out."""

Number = float | Float[Array, ""]


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Return the share of the peak learning rate by step: a linear warm-up, then cosine or linear decay to 0, or none.

    With w steps of warm-up, fewer than all, step k = 0, 1, … has the share (k + 1) / (w + 1): none is lost.
    """
    warmup = min(round(config.warmup_share * num_steps), num_steps - 1)
    rest = max(num_steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(1.0, rest),
        "linear": optax.linear_schedule(1.0, 0.0, rest),
        "constant": optax.constant_schedule(1.0),
    }[config.schedule]
    return (
        optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), after], [warmup])
        if warmup
        else after
    )


def make_optimizer(
    config: ConfigDict, num_steps: int, numbers: Mapping[str, Number] | None = None
) -> optax.GradientTransformation:
    """Return clipping, then AdamW or SGD with momentum, with decoupled weight decay of matrices alone.

    numbers: values of `NUMBERS`, which may be traced; None for those of the config. Which parts there are is the
    config's alone.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """
    numbers = {name: config[name] for name in NUMBERS} if numbers is None else numbers
    schedule = make_schedule(config, num_steps)
    update = {
        "adamw": optax.scale_by_adam(numbers["b1"], numbers["b2"]),
        "sgd": optax.trace(numbers["momentum"]) if config.momentum else optax.identity(),
    }[config.name]
    return optax.chain(
        optax.clip_by_global_norm(numbers["clip_norm"]) if config.clip_norm else optax.identity(),
        update,
        optax.add_decayed_weights(numbers["weight_decay"], mask=_is_matrix),
        optax.scale_by_learning_rate(lambda step: numbers["learning_rate"] * schedule(step)),
    )


def _is_matrix(params: PyTree) -> PyTree:
    """Return which parameters decay: not biases, whatever their shape, nor norms' scales and other vectors."""

    def decays(path: tuple[Any, ...], param: jax.Array) -> bool:
        return param.ndim >= 2 and "bias" not in jax.tree_util.keystr(path[-2:])

    return jax.tree_util.tree_map_with_path(decays, params)
