"""Focal loss: cross-entropy that easy labels hardly enter."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.logspace import log_sigmoids
from mlresearch.losses import Examples, both_sides, check, number


class Loss(nnx.Module):
    """−Σᵢ α yᵢ (1 − pᵢ)^γ log pᵢ + (1 − α) (1 − yᵢ) pᵢ^γ log(1 − pᵢ) for p = σ(z) and labels y in [0, 1].

    gamma: γ, by how much a label counts less the better it is predicted; 0: cross-entropy. alpha: α, what a label that
    is on counts, and 1 − α one that is off; 0: both count 1.

    Raises `UserError` for a negative `gamma` and an `alpha` that is not in [0, 1).

    Source: Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", 2017.
    """

    def __init__(
        self, hierarchy: LabelHierarchy | None, num_labels: int, *, gamma: float = 2.0, alpha: float = 0.0
    ) -> None:
        del hierarchy, num_labels
        check("focal.gamma", gamma, "it must not be negative", holds=gamma >= 0)
        check("focal.alpha", alpha, "it is a share, 0 (both sides count 1) to below 1", holds=0 <= alpha < 1)
        self.gamma = number(gamma)
        self.alpha = number(alpha)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        gamma, alpha = (option[...].astype(sides.on.dtype) for option in (self.gamma, self.alpha))
        log_hit, log_miss = log_sigmoids(sides.on_logits)
        log_alarm, log_rest = log_sigmoids(sides.off_logits)
        # In log space powers have finite gradients, whatever γ.
        on = sides.on * jnp.where(alpha > 0, alpha, 1.0) * jnp.exp(gamma * log_miss) * log_hit
        off = sides.off * (1 - alpha) * jnp.exp(gamma * log_alarm) * log_rest
        return -(on + off).sum(-1)
