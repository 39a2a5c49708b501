"""Linear decoder: every score is an affine function of the pooled vector."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from mlresearch.dropout import Dropout
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError

POOLED_SITE = 1000


class Decoder(nnx.Module):
    """``label_scores[label, s] = weights[label, s] · pooled + bias[label, s]``: binary relevance's decoder.

    dropout: rate at which the pooled vector is dropped. scale: standard deviation of the initial weights, in units of
    1/√dim; at 0 all inputs have the same scores at first, and all scores of a label stay alike. multiple: weights are
    kept for the number of labels rounded up to a multiple of it, so that a ``label`` axis of so many devices can share
    them; what is too many gives no scores.

    Weights are ``[labels, scores_per_label, dim]``, so that `of_labels` reads whole rows.
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        scores_per_label: int,
        *,
        dropout: float = 0.0,
        scale: float = 1.0,
        multiple: int = 1,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if multiple < 1:
            raise UserError(f"config.decoder.linear.multiple is {multiple}; it must be at least 1")
        rows = -(-num_labels // multiple) * multiple
        shape = (rows, scores_per_label, dim)
        initial = nnx.initializers.normal(scale * dim**-0.5)(rngs.params(), shape, param_dtype)
        self.weights = nnx.Param(initial, label_axis=0)
        self.bias = nnx.Param(jnp.zeros(shape[:2], param_dtype), label_axis=0)
        self.num_labels = num_labels
        self.dropout = Dropout(dropout, POOLED_SITE)
        self.dtype = dtype

    def __call__(
        self, encoded: Encoded, dropout_keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch labels scores_per_label"]:
        """Return the label scores, in `dtype`."""
        pooled, weights, bias = self._operands(encoded, dropout_keys)
        # Of matrices: XLA on CPU makes a slow product where there is a third axis, and of all that is fused with it.
        scores = pooled @ weights.reshape(-1, weights.shape[-1]).T + bias.reshape(-1)
        return scores.reshape(len(scores), *bias.shape)[:, : self.num_labels]

    def begin_with(self, scores: Float[np.ndarray, "labels scores_per_label"]) -> None:
        """Set the bias."""
        self.bias[...] = self.bias[...].at[: self.num_labels].set(scores)

    def of_labels(
        self, encoded: Encoded, dropout_keys: Key[Array, "batch"] | None, labels: Int[Array, "batch some"]
    ) -> Float[Array, "batch some scores_per_label"]:
        """Return the scores of some labels of each example, O(batch · some · dim) time and memory."""
        pooled, weights, bias = self._operands(encoded, dropout_keys)
        return jnp.einsum("bd,bnsd->bns", pooled, weights[labels]) + bias[labels]

    def _operands(self, encoded: Encoded, dropout_keys: Key[Array, "batch"] | None) -> tuple[Array, Array, Array]:
        pooled = self.dropout(encoded.pooled, dropout_keys).astype(self.dtype)
        return pooled, self.weights[...].astype(self.dtype), self.bias[...].astype(self.dtype)
