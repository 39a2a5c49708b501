"""Transformer encoder over subword tokens and columns, trained from scratch."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mlresearch.attention import AttentionBlock, LayerNorm, MLPBlock, TokenEmbedding, masked_mean
from mlresearch.dropout import Dropout
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError
from mlresearch.tabular import TabularTokens, prepend

EMBEDDING_SITE = 200
LAYER_SITE = 201  # and two more a layer

Pooling = Literal["mean", "first"]


class Layer(nnx.Module):
    """One layer: rotary self-attention among real tokens, then an MLP, each pre-norm with its residual."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_ratio: int,
        dropout: float,
        site: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.attention = AttentionBlock(
            dim,
            num_heads=num_heads,
            dropout=dropout,
            site=site,
            rotary=True,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.mlp = MLPBlock(
            dim,
            hidden_dim=mlp_ratio * dim,
            dropout=dropout,
            site=site + 1,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "batch length dim"],
        mask: Bool[Array, "batch length"],
        dropout_keys: Key[Array, "batch"] | None,
    ) -> Float[Array, "batch length dim"]:
        """Return `x` one layer on."""
        x = self.attention(x, mask=mask[:, None, :], dropout_keys=dropout_keys)
        return self.mlp(x, dropout_keys=dropout_keys)


class Encoder(nnx.Module):
    """Tokens are the states after the last layer, 0 where padded; pooled is their mean or the first one.

    `num_layers` pre-norm layers with rotary positions, each with an MLP of width ``mlp_ratio · dim``. No
    token reads a padded one, so that padding changes nothing.

    Where the data set has features or categorical columns, their tokens (`mlresearch.tabular.TabularTokens`) stand
    before those of the text, at positions of their own, and all read one another. `category_dropout` is the probability
    that training takes a category for an unknown one.

    pooling: "mean" over all real tokens, those of columns too; or "first", the first one of the sequence: with text
    alone the first subword, with features their token, else that of the first categorical column. An example without
    any real token is pooled to 0, which takes a data set of text alone.

    Raises `UserError` where the data set has no text, and for a `dim` that is not a multiple of ``2 · num_heads``.

    Source: Vaswani et al., "Attention Is All You Need", 2017; Su et al., "RoFormer: Enhanced Transformer with
    Rotary Position Embedding", 2021.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.1,
        category_dropout: float = 0.05,
        pooling: Pooling = "mean",
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if spec.vocab_size is None:
            raise UserError(
                "encoder 'text_transformer' reads text, but this data set has none (vocab_size is not set); "
                "choose an encoder of features and categories, such as 'mlp'"
            )
        self.embedding = TokenEmbedding(spec.vocab_size, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.layers = nnx.List(
            Layer(
                dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                site=LAYER_SITE + 2 * layer,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for layer in range(num_layers)
        )
        self.norm = LayerNorm(dim, dtype=dtype, param_dtype=param_dtype)
        self.tabular = (
            TabularTokens(spec, dim, category_dropout=category_dropout, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            if spec.has_columns
            else None
        )
        self.pooling = pooling
        self.dim = dim
        self.dropout = Dropout(dropout, EMBEDDING_SITE)

    def __call__(self, inputs: Inputs, dropout_keys: Key[Array, "batch"] | None) -> Encoded:
        """Encode `inputs.tokens` and all columns; what stands under the mask is never read."""
        assert inputs.tokens is not None
        assert inputs.token_mask is not None
        mask = jnp.asarray(inputs.token_mask)
        tokens = self.embedding(jnp.asarray(inputs.tokens), mask)
        if self.tabular is not None:
            tokens, mask = prepend(self.tabular(inputs, dropout_keys), tokens, mask)
        tokens = self.dropout(tokens, dropout_keys)
        for layer in self.layers:
            tokens = layer(tokens, mask, dropout_keys)
        tokens = jnp.where(mask[..., None], self.norm(tokens), 0)
        pooled = masked_mean(tokens, mask) if self.pooling == "mean" else tokens[:, 0]
        return Encoded(tokens=tokens, token_mask=mask, pooled=pooled)
