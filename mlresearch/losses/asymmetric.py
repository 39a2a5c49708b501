"""Asymmetric loss: focal loss with a power of its own for either side, and labels surely off left out."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.logspace import log_sigmoids
from mlresearch.losses import Examples, both_sides, check, number


class Loss(nnx.Module):
    """−Σᵢ yᵢ (1 − pᵢ)^γ⁺ log pᵢ + (1 − yᵢ) qᵢ^γ⁻ log(1 − qᵢ), p = σ(z), q = max(p − m, 0), labels y in [0, 1].

    gamma_positive, gamma_negative: γ⁺ and γ⁻. shift: m, the probability below which a label that is off adds nothing.
    With a shift of 0 and equal powers it is `focal`.

    Raises `UserError` for a negative power and a `shift` that is not in [0, 1).

    Source: Ridnik, Ben-Baruch, Zamir, Noy, Friedman, Protter and Zelnik-Manor, "Asymmetric Loss for Multi-Label
    Classification", 2021.
    """

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        *,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        shift: float = 0.05,
    ) -> None:
        del hierarchy, num_labels
        check("asymmetric.gamma_positive", gamma_positive, "it must not be negative", holds=gamma_positive >= 0)
        check("asymmetric.gamma_negative", gamma_negative, "it must not be negative", holds=gamma_negative >= 0)
        check("asymmetric.shift", shift, "it is a probability below 1", holds=0 <= shift < 1)
        self.gamma_positive = number(gamma_positive)
        self.gamma_negative = number(gamma_negative)
        self.shift = number(shift)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        options = (self.gamma_positive, self.gamma_negative, self.shift)
        gamma_positive, gamma_negative, shift = (option[...].astype(sides.on.dtype) for option in options)
        log_hit, log_miss = log_sigmoids(sides.on_logits)
        log_alarm, log_rest = log_sigmoids(sides.off_logits)
        on = sides.on * jnp.exp(gamma_positive * log_miss) * log_hit
        # Without a shift log q and log(1 − q) are known, however near p is to 0 or 1; else 1 − q is at least the shift.
        shifted = shift > 0
        excess = jax.nn.sigmoid(sides.off_logits) - shift
        log_q = jnp.where(shifted, jnp.log(jnp.where(excess > 0, excess, 1.0)), log_alarm)
        spared = jax.nn.sigmoid(-sides.off_logits) + jnp.where(shifted, shift, 1.0)
        log_spared = jnp.where(shifted, jnp.log(spared), log_rest)
        off = sides.off * jnp.where(excess > 0, jnp.exp(gamma_negative * log_q) * log_spared, 0.0)
        return -(on + off).sum(-1)
