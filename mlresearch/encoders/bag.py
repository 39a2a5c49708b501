"""Bag of subwords: a weighted mean of embeddings, to which columns are added, and an MLP if asked for."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from mlresearch.attention import LayerNorm, MLPBlock, TokenEmbedding, masked_softmax, statistics_dtype
from mlresearch.dropout import Dropout
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError
from mlresearch.tabular import TabularTokens, prepend

EMBEDDING_SITE = 0
MLP_SITE = 1  # and one more a layer


class Encoder(nnx.Module):
    """Tokens are embeddings; pooled is ``norm(mlp(Σ aₜ xₜ + Σ yᶜ))``, of real subwords xₜ and of columns yᶜ.

    The weights are ``a = softmax(w)`` over the tokens of a text, where w is a learned number for each entry of the
    vocabulary: 0 at first, so that all weigh alike, and in time what an inverse document frequency stands for. The MLP
    is `num_layers` pre-norm residual blocks of width ``mlp_ratio · dim``. The mean of no tokens is 0. Dropout acts on
    the sum rather than on the tokens, which would take `length` times as many random bits.

    The yᶜ are there where the data set has features or categorical columns: `mlresearch.tabular.TabularTokens`, with
    `category_dropout` the probability that training takes a category for an unknown one. They are summed, not averaged,
    so that a column says as much whether there are others or not. The tokens then are theirs and those of the text.

    Raises `UserError` where the data set has no tokens.

    Source: Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016 (the mean); Bahdanau et al., "Neural
    Machine Translation by Jointly Learning to Align and Translate", 2015 (softmax weights, there from the input).
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        dim: int = 256,
        num_layers: int = 0,
        mlp_ratio: int = 1,
        dropout: float = 0.1,
        category_dropout: float = 0.05,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if spec.vocab_size is None:
            raise UserError(
                "encoder 'bag' reads text, but this data set has none (vocab_size is not set); "
                "choose an encoder of features and categories, such as 'mlp'"
            )
        self.embedding = TokenEmbedding(spec.vocab_size, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.log_weights = nnx.Param(jnp.zeros(spec.vocab_size, param_dtype))
        self.layers = nnx.List(
            MLPBlock(
                dim,
                hidden_dim=mlp_ratio * dim,
                dropout=dropout,
                site=MLP_SITE + layer,
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
        self.dim = dim
        self.dropout = Dropout(dropout, EMBEDDING_SITE)

    def __call__(self, inputs: Inputs, dropout_keys: Key[Array, "batch"] | None) -> Encoded:
        """Encode `inputs.tokens` and all columns; what stands under the mask is never read."""
        assert inputs.tokens is not None
        assert inputs.token_mask is not None
        mask = jnp.asarray(inputs.token_mask)
        tokens = self.embedding(jnp.asarray(inputs.tokens), mask)
        log_weights = self.log_weights[...][jnp.where(mask, inputs.tokens, 0)]
        statistics = statistics_dtype(tokens.dtype)
        weights = masked_softmax(log_weights.astype(statistics), mask)
        pooled = jnp.einsum("bl,bld->bd", weights, tokens.astype(statistics))
        if self.tabular is not None:
            columns = self.tabular(inputs, dropout_keys)
            pooled = pooled + columns.sum(1, dtype=statistics)
            tokens, mask = prepend(columns, tokens, mask)
        pooled = self.dropout(pooled.astype(tokens.dtype), dropout_keys)
        for layer in self.layers:
            pooled = layer(pooled, dropout_keys=dropout_keys)
        return Encoded(tokens=tokens, token_mask=mask, pooled=self.norm(pooled))
