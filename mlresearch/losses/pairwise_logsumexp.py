"""Pairwise ranking: every label that is on above every one that is off."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.losses import Examples, both_sides, log_sum_exp


class Loss(nnx.Module):
    """log(1 + Σᵢⱼ (1 − yᵢ) yⱼ e^(zᵢ − zⱼ)) for logits z and labels y in [0, 1]; 0 where all are on, or all off.

    The sum over pairs is a product of two sums over labels. It says where labels stand to each other, and nothing of
    where ½ is: let thresholds be fitted on validation decide. A smooth form of the pairwise loss of Zhang and Zhou,
    "Multilabel Neural Networks with Applications to Functional Genomics and Text Categorization" (BP-MLL), 2006.

    Source: Li, Song and Luo, "Improving Pairwise Ranking for Multi-label Image Classification", 2017.
    """

    def __init__(self, hierarchy: LabelHierarchy | None, num_labels: int) -> None:
        del hierarchy, num_labels

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        too_high, too_low = log_sum_exp(sides.off_logits, sides.off), log_sum_exp(-sides.on_logits, sides.on)
        return jax.nn.softplus(too_high + too_low)
