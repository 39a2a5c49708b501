"""Binary cross-entropy, the negative log-likelihood of independent Bernoullis."""

import optax
from jaxtyping import Array, Float


class Loss:
    """−y log σ(z) − (1 − y) log(1 − σ(z)) for logits z and labels y in [0, 1]."""

    def __call__(self, logits: Float[Array, "*shape"], labels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return one loss a label, finite for every finite logit."""
        return optax.losses.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
