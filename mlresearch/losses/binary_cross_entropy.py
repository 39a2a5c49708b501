"""Binary cross-entropy, the negative log-likelihood of independent Bernoullis."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mlresearch.logspace import log_sigmoids


class Loss:
    """−w y log σ(z) − (1 − y) log(1 − σ(z)) for logits z and labels y in [0, 1].

    positive_weight: w, what a label that is on counts against one that is off; above 1 it buys recall with precision.
    """

    def __init__(self, *, positive_weight: float | Float[Array, ""] = 1.0) -> None:
        self.positive_weight = positive_weight

    def __call__(self, logits: Float[Array, "*shape"], labels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return one loss a label, finite for every finite logit."""
        labels = labels.astype(logits.dtype)
        log_on, log_off = log_sigmoids(logits)
        return -(labels * log_on * jnp.asarray(self.positive_weight, logits.dtype) + (1 - labels) * log_off)
