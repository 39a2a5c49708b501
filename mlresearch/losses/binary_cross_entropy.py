"""Binary cross-entropy, the negative log-likelihood of independent Bernoullis."""

import jax
from jaxtyping import Array, Float


class Loss:
    """−w y log σ(z) − (1 − y) log(1 − σ(z)) for logits z and labels y in [0, 1].

    positive_weight: w, what a label that is on counts against one that is off; above 1 it buys recall with precision.
    """

    def __init__(self, *, positive_weight: float | Float[Array, ""] = 1.0) -> None:
        self.positive_weight = positive_weight

    def __call__(self, logits: Float[Array, "*shape"], labels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return one loss a label, finite for every finite logit."""
        labels = labels.astype(logits.dtype)
        on, off = labels * jax.nn.log_sigmoid(logits), (1 - labels) * jax.nn.log_sigmoid(-logits)
        return -(on * jax.numpy.asarray(self.positive_weight, logits.dtype) + off)
