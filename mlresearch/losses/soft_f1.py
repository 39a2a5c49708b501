"""One minus the F1 of an example, with marginals in place of predictions."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.losses import Examples, both_sides, check, number


class Loss(nnx.Module):
    """1 − (2 Σ yᵢ pᵢ + δ) / (Σ yᵢ + Σ pᵢ + δ) for marginals p = σ(z) and labels y in [0, 1].

    smoothing: δ, twice the number of hits that are added. It keeps the loss of an empty true set, which is
    Σ p / (Σ p + δ), smooth: 0 where nothing is predicted, nearly 1 where much is.

    Raises `UserError` for a `smoothing` that is not positive.

    Source: Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
    Segmentation", 2016 (of pixels, with squares in the denominator).
    """

    def __init__(self, hierarchy: LabelHierarchy | None, num_labels: int, *, smoothing: float = 1.0) -> None:
        del hierarchy, num_labels
        check("soft_f1.smoothing", smoothing, "it must be above 0", holds=smoothing > 0)
        self.smoothing = number(smoothing)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        hits = (sides.on * jax.nn.sigmoid(sides.on_logits)).sum(-1)
        misses = (sides.on * jax.nn.sigmoid(-sides.on_logits)).sum(-1)
        false_alarms = (sides.off * jax.nn.sigmoid(sides.off_logits)).sum(-1)
        wrong = misses + false_alarms
        return wrong / (2 * hits + wrong + self.smoothing[...].astype(wrong.dtype))
