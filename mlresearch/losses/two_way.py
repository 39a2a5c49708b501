"""Two-way loss: labels ranked within each example, and examples within each label."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.losses import NOTHING, Examples, both_sides, check, log_sum_exp, number


class Loss(nnx.Module):
    """ℓ over the labels of an example, plus the mean of ℓ over the examples of a label, for labels on in the batch.

    ℓ = softplus(log Σᵢ (1 − yᵢ) e^zᵢ + T log Σⱼ yⱼ e^(−zⱼ/T)), for logits z and labels y in [0, 1], is 0 where nothing
    is on or nothing off. The mean over labels is the batch's: each of its examples of which something is known has an
    equal part of it, so that the batch's own mean is that of either way, added. So the loss of a split depends on which
    examples share a batch. Examples without a label that is on count, as 0, where the source leaves them out.

    temperature: T; above 1, more than the least of the labels that are on count.

    Raises `UserError` for a `temperature` that is not positive.

    Source: Kobayashi, "Two-Way Multi-Label Loss", 2023.
    """

    def __init__(self, hierarchy: LabelHierarchy | None, num_labels: int, *, temperature: float = 4.0) -> None:
        del hierarchy, num_labels
        check("two_way.temperature", temperature, "it must be above 0", holds=temperature > 0)
        self.temperature = number(temperature)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        sides = both_sides(logits, labels)
        temperature = self.temperature[...].astype(sides.on.dtype)
        real = jnp.asarray(examples.mask).astype(sides.on.dtype)
        on, off = real[:, None] * sides.on, real[:, None] * sides.off

        def way(axis: int, axis_name: str | None) -> tuple[Float[Array, "rest"], Float[Array, "rest"]]:
            """Return ℓ along an axis, and which of them have something on, as 1 and 0."""
            too_high = log_sum_exp(sides.off_logits, off, axis, axis_name)
            too_low = log_sum_exp(-sides.on_logits / temperature, on, axis, axis_name)
            return jax.nn.softplus(too_high + temperature * too_low), (too_low > NOTHING).astype(on.dtype)

        def total(x: Float[Array, "batch"]) -> Float[Array, ""]:
            return x.sum() if examples.axis_name is None else jax.lax.psum(x.sum(), examples.axis_name)

        of_examples, _ = way(-1, None)
        of_labels, present = way(0, examples.axis_name)
        mean = (present * of_labels).sum() / jnp.maximum(present.sum(), 1.0)
        informed = (on + off > 0).any(-1).astype(on.dtype)
        share = informed * total(real) / jnp.maximum(total(informed), 1.0)
        return of_examples + share * mean
