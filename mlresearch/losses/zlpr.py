"""ZLPR: labels that are on rank above 0, and 0 above those that are off."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.losses import Examples, both_sides, log_sum_exp


class Loss(nnx.Module):
    """log(1 + Σᵢ (1 − yᵢ) e^zᵢ) + log(1 + Σⱼ yⱼ e^−zⱼ) for logits z and labels y in [0, 1].

    Source: Su, Zhu, Murtadha, Pan, Wen and Liu, "ZLPR: A Novel Loss for Multi-label Classification", 2022.
    """

    def __init__(self, hierarchy: LabelHierarchy | None, num_labels: int) -> None:
        del hierarchy, num_labels

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        too_high, too_low = log_sum_exp(sides.off_logits, sides.off), log_sum_exp(-sides.on_logits, sides.on)
        return jax.nn.softplus(too_high) + jax.nn.softplus(too_low)
