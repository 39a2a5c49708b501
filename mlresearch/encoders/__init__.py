"""Encoders turn inputs into vectors: ``Encoder(...)(inputs, dropout_keys) -> Encoded``.

An encoder is one file here with a class ``Encoder``::

    Encoder(spec: InputSpec, *, <options with defaults>, dtype, param_dtype, rngs)
    encoder.dim                                  # width of tokens and pooled
    encoder(inputs, dropout_keys) -> Encoded     # dropout_keys [batch], or None for no dropout

Its keyword-only arguments (but ``dtype``, ``param_dtype`` and ``rngs``) are its options; their defaults are the
defaults of ``config.encoder.<file name>``.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.pytree import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What an encoder may read: sizes of the inputs of a data set, None where it has none."""

    vocab_size: int | None = None
    num_features: int | None = None


@pytree_dataclass
class Inputs:
    """A batch of model inputs, NumPy on the host; a field is None where the data set has none.

    tokens: int32 subword ids, 0 where padded. token_mask: True = real. features: numeric columns.
    """

    tokens: Int[Array | np.ndarray, "batch length"] | None = None
    token_mask: Bool[Array | np.ndarray, "batch length"] | None = None
    features: Float[Array | np.ndarray, "batch features"] | None = None


@pytree_dataclass
class Encoded:
    """What a decoder reads: a vector a token, which tokens are real, and one pooled vector an example."""

    tokens: Float[Array, "batch length dim"]
    token_mask: Bool[Array, "batch length"]
    pooled: Float[Array, "batch dim"]
