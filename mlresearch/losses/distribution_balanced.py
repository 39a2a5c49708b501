"""Distribution-balanced loss: rare labels count more, and labels that are off are pressed down less."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mlresearch.heads import Labels, Logits, Structure
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies
from mlresearch.losses import Examples, both_sides, check, number, on_and_off


class Loss(nnx.Module):
    """Σᵢ r̂ᵢ [yᵢ log(1 + e^(νᵢ − zᵢ)) + (1 − yᵢ) log(1 + e^(λ (zᵢ − νᵢ))) / λ] for logits z and labels y in [0, 1].

    Of n training examples in which a label is known and nᵢ in which it is on, half an example more on either side:

    - r̂ᵢ = α + σ(β (rᵢ − μ)) with rᵢ = (1/nᵢ) / Σⱼ yⱼ/nⱼ, by how much more often an example is drawn for all its labels
      than for label i. Of an example without labels that are on, r is infinite and r̂ is α + 1.
    - νᵢ = κ log((n − nᵢ) / nᵢ): the rarer a label, the higher the logit at which it is as likely on as off.

    alpha, beta, mu: of the map from r to weights. kappa: of the bias. tolerance: λ; above 1, labels that are off and
    below ν hardly enter.

    Raises `UserError` for a negative number and a `tolerance` of 0.

    Source: Wu, Huang, Liu, Wang and Lin, "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed
    Datasets", 2020.
    """

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        *,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        kappa: float = 0.05,
        tolerance: float = 2.0,
    ) -> None:
        del hierarchy
        for option, value in {"alpha": alpha, "beta": beta, "mu": mu, "kappa": kappa}.items():
            check(f"distribution_balanced.{option}", value, "it must not be negative", holds=value >= 0)
        check("distribution_balanced.tolerance", tolerance, "it must be above 0", holds=tolerance > 0)
        self.alpha = number(alpha)
        self.beta = number(beta)
        self.mu = number(mu)
        self.kappa = number(kappa)
        self.tolerance = number(tolerance)
        self.counts = Structure(jnp.ones((2, num_labels)))

    def use_frequencies(self, frequencies: Frequencies) -> None:
        """Take in how frequent labels are in the training split."""
        self.counts[...] = jnp.asarray(on_and_off(frequencies), float)

    def __call__(self, logits: Logits, labels: Labels, examples: Examples) -> Float[Array, "batch"]:
        """Return one loss an example."""
        del examples
        sides = both_sides(logits, labels)
        options = (self.alpha, self.beta, self.mu, self.kappa, self.tolerance)
        alpha, beta, mu, kappa, tolerance = (option[...].astype(sides.on.dtype) for option in options)
        num_on, num_off = self.counts[...].astype(sides.on.dtype)
        total = (sides.on / num_on).sum(-1, keepdims=True)
        share = 1 / (num_on * jnp.where(total > 0, total, 1.0))
        weights = alpha + jnp.where(total > 0, jax.nn.sigmoid(beta * (share - mu)), 1.0)
        bias = kappa * jnp.log(num_off / num_on)
        on = sides.on * jax.nn.softplus(bias - sides.on_logits)
        off = sides.off * jax.nn.softplus(tolerance * (sides.off_logits - bias)) / tolerance
        return (weights * (on + off)).sum(-1)
