"""The optax transformation that a config describes."""

from typing import Any

import jax
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Return the learning rate by step: a linear warm-up, then cosine or linear decay to 0, or none.

    With w steps of warm-up, fewer than all, step k = 0, 1, … has the rate peak · (k + 1) / (w + 1): none is lost.
    """
    peak = config.learning_rate
    warmup = min(round(config.warmup_share * num_steps), num_steps - 1)
    rest = max(num_steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    return (
        optax.join_schedules([optax.linear_schedule(peak / (warmup + 1), peak, warmup), after], [warmup])
        if warmup
        else after
    )


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Return clipping, then AdamW or SGD with momentum, with decoupled weight decay of matrices alone.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """
    update = {
        "adamw": optax.scale_by_adam(config.b1, config.b2),
        "sgd": optax.trace(config.momentum) if config.momentum else optax.identity(),
    }[config.name]
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        update,
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
        optax.scale_by_learning_rate(make_schedule(config, num_steps)),
    )


def _is_matrix(params: PyTree) -> PyTree:
    """Return which parameters decay: not biases, whatever their shape, nor norms' scales and other vectors."""

    def decays(path: tuple[Any, ...], param: jax.Array) -> bool:
        return param.ndim >= 2 and "bias" not in jax.tree_util.keystr(path[-2:])

    return jax.tree_util.tree_map_with_path(decays, params)
