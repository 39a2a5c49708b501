"""Encoders turn inputs into vectors: ``Encoder(...)(inputs, dropout_keys) -> Encoded``.

An encoder is one file here with a class ``Encoder``::

    Encoder(spec: InputSpec, *, <options with defaults>, dtype, param_dtype, rngs)
    encoder.dim                                  # width of tokens and pooled
    encoder(inputs, dropout_keys) -> Encoded     # dropout_keys [batch], or None for no dropout

Its keyword-only arguments (but ``dtype``, ``param_dtype`` and ``rngs``) are its options; their defaults are the
defaults of ``config.encoder.<file name>``.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.pytree import pytree_dataclass


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What an encoder may read: sizes of the inputs of a data set, None (or no columns) where it has none.

    vocab_size: number of subword ids. num_features: numeric columns. category_sizes: number of ids of each categorical
    column, id 0 (missing, or never seen in training) included; a list, as JSON gives it, is taken for a tuple.
    num_linear_scores: how many of the numeric columns, the last of them, are `mlresearch.linear_scores`, one a label.
    """

    vocab_size: int | None = None
    num_features: int | None = None
    category_sizes: Sequence[int] = ()
    num_linear_scores: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "category_sizes", tuple(self.category_sizes))

    @property
    def has_columns(self) -> bool:
        """Whether there are numeric features or categorical columns."""
        return bool(self.num_features or self.category_sizes)

    @property
    def has_own_columns(self) -> bool:
        """Whether the data set has such columns itself."""
        return (self.num_features or 0) > self.num_linear_scores or bool(self.category_sizes)


@pytree_dataclass
class Inputs:
    """A batch of model inputs, NumPy on the host; a field is None where the data set has none.

    tokens: int32 subword ids, 0 where padded. token_mask: True = real. features: numeric columns, scaled and
    without NaN. categories: int32 ids of the categorical columns, 0 where missing or never seen in training.
    """

    tokens: Int[Array | np.ndarray, "*stack batch length"] | None = None
    token_mask: Bool[Array | np.ndarray, "*stack batch length"] | None = None
    features: Float[Array | np.ndarray, "*stack batch features"] | None = None
    categories: Int[Array | np.ndarray, "*stack batch columns"] | None = None


@pytree_dataclass
class Encoded:
    """What a decoder reads: a vector a token, which tokens are real, and one pooled vector an example.

    Where an encoder gives tokens for features and categorical columns beside those of a text, they stand before them:
    one for all features, if there are any, and one a categorical column.
    """

    tokens: Float[Array, "batch length dim"]
    token_mask: Bool[Array, "batch length"]
    pooled: Float[Array, "batch dim"]
