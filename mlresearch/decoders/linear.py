"""Linear decoder: every score is an affine function of the pooled vector."""

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from mlresearch.dropout import Dropout
from mlresearch.encoders import Encoded

POOLED_SITE = 1000


class Decoder(nnx.Module):
    """``label_scores[label, s] = weights[label, s] · pooled + bias[label, s]``: binary relevance's decoder.

    dropout: rate at which the pooled vector is dropped.
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        scores_per_label: int,
        *,
        dropout: float = 0.0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.linear = nnx.Linear(dim, num_labels * scores_per_label, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.scores_per_label = scores_per_label
        self.dropout = Dropout(dropout, POOLED_SITE)

    def __call__(
        self, encoded: Encoded, dropout_keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch labels scores_per_label"]:
        """Return the label scores, in `dtype`."""
        pooled = self.dropout(encoded.pooled, dropout_keys)
        label_scores = self.linear(pooled)
        return label_scores.reshape(label_scores.shape[0], -1, self.scores_per_label)
