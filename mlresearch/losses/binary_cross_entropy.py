"""Binary cross-entropy, the negative log-likelihood of independent Bernoullis."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits, Structure
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies
from mlresearch.losses import Examples, both_sides, check, cross_entropy, number, on_and_off


class Loss(nnx.Module):
    """−Σᵢ w cᵢ yᵢ log σ(zᵢ) + (1 − yᵢ) log(1 − σ(zᵢ)) for logits z and labels y in [0, 1].

    positive_weight: w, what a label that is on counts against one that is off; above 1 it buys recall with precision.
    class_weights: c, of n training examples in which a label is known and nᵢ in which it is on, half an example more
    on either side:

    - ``none``: 1.
    - ``balanced``: (n − nᵢ) / nᵢ, so that both sides of a label weigh the same in the training split.
    - ``effective``: (1 − β) / (1 − βⁿⁱ), in which examples of one label overlap, divided by the mean over labels.

    beta: β; 0 weighs all labels the same, 1 in the limit by 1 / nᵢ.

    Raises `UserError` for a negative `positive_weight` and a `beta` that is not in [0, 1).

    Source: Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", 2019.
    """

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        *,
        positive_weight: float = 1.0,
        class_weights: Literal["none", "balanced", "effective"] = "none",
        beta: float = 0.999,
    ) -> None:
        del hierarchy
        name = "binary_cross_entropy"
        check(f"{name}.positive_weight", positive_weight, "it must not be negative", holds=positive_weight >= 0)
        check(f"{name}.beta", beta, "it is a share, 0 to below 1", holds=0 <= beta < 1)
        self.positive_weight = number(positive_weight)
        self.class_weights = class_weights
        self.rest = number(1 - beta)  # of which float32 keeps more digits than of a β near 1
        self.counts = None if class_weights == "none" else Structure(jnp.ones((2, num_labels)))

    def use_frequencies(self, frequencies: Frequencies) -> None:
        """Take in how frequent labels are in the training split."""
        if self.counts is not None:
            self.counts[...] = jnp.asarray(on_and_off(frequencies), float)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        weights = self.positive_weight[...].astype(sides.on.dtype)
        if self.counts is not None:
            on, off = self.counts[...].astype(sides.on.dtype)
            weights *= off / on if self.class_weights == "balanced" else self._effective(on)
        return cross_entropy(sides._replace(on=sides.on * weights))

    def _effective(self, on: Float[Array, "labels"]) -> Float[Array, "labels"]:
        weights = -1 / jnp.expm1(on * jnp.log1p(-self.rest[...].astype(on.dtype)))
        return weights / weights.mean()
