"""Pieces of a pre-norm transformer: token embedding, masked mean, attention block and MLP block.

All compute in `dtype`, keep their parameters in `param_dtype`, and take means, layer norm's statistics and
the softmax in `statistics_dtype(dtype)`. Flax's `LayerNorm` refuses bfloat16 and float64 under strict dtype
promotion, and `jax.nn.dot_product_attention` takes its softmax in float32 even where all else is float64:
hence the two here.

Source: Vaswani et al., "Attention Is All You Need", 2017; Xiong et al., "On Layer Normalization in the
Transformer Architecture", 2020 (pre-norm).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.dropout import Dropout
from mlresearch.errors import UserError


def statistics_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the dtype of means, variances and softmaxes: float64 where `dtype` is, else float32."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def masked_mean(x: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"]) -> Float[Array, "batch dim"]:
    """Return the mean of the vectors whose mask is True; the mean of none is 0."""
    statistics = statistics_dtype(x.dtype)
    total = jnp.where(mask[..., None], x, 0).sum(1, dtype=statistics)
    return (total / jnp.maximum(mask.sum(1, keepdims=True), 1).astype(statistics)).astype(x.dtype)


def masked_softmax(scores: Float[Array, "*shape n"], mask: Bool[Array, "*#shape n"]) -> Float[Array, "*shape n"]:
    """Return the softmax over those of the last axis whose mask is True, and 0 for the others, if need be for all."""
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(mask, weights, 0)


class TokenEmbedding(nnx.Module):
    """A learned vector a token id; 0 for padded tokens, whose ids are never read."""

    def __init__(self, vocab_size: int, dim: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        init = nnx.initializers.normal(dim**-0.5)
        self.table = nnx.Param(init(rngs.params(), (vocab_size, dim), param_dtype))
        self.dtype = dtype

    def __call__(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"]
    ) -> Float[Array, "batch length dim"]:
        """Return the vectors of `tokens`, in `dtype`."""
        # Rows are cast after they are gathered, so that the table's gradient is summed in `param_dtype`.
        vectors = self.table[...][jnp.where(mask, tokens, 0)].astype(self.dtype)
        return jnp.where(mask[..., None], vectors, 0)


class LayerNorm(nnx.Module):
    """Layer normalisation: ``scale · (x − mean) / sqrt(variance + 1e-6) + bias`` over the last axis.

    Source: Ba et al., "Layer Normalization", 2016.
    """

    def __init__(self, dim: int, *, dtype: DTypeLike, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(dim, param_dtype))
        self.bias = nnx.Param(jnp.zeros(dim, param_dtype))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*shape dim"]) -> Float[Array, "*shape dim"]:
        """Return `x` normalised, in `dtype`."""
        statistics = statistics_dtype(self.dtype)
        x = x.astype(statistics)
        centred = x - x.mean(-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
        return (x * self.scale[...].astype(statistics) + self.bias[...].astype(statistics)).astype(self.dtype)


def rotate(x: Float[Array, "batch length heads head_dim"]) -> Float[Array, "batch length heads head_dim"]:
    """Rotary position embedding: turn the pairs of coordinates of position p by angles proportional to p.

    Pair i is ``(x[i], x[i + head_dim/2])``, its angle ``p · 10000^(−2i/head_dim)``. The product of a rotated
    query and a rotated key depends on the difference of their positions alone. `head_dim` is even.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
    """
    _, length, _, head_dim = x.shape
    frequencies = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None, None] * frequencies
    statistics = statistics_dtype(x.dtype)
    cos, sin = jnp.asarray(np.cos(angles), statistics), jnp.asarray(np.sin(angles), statistics)
    left, right = jnp.split(x.astype(statistics), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], -1).astype(x.dtype)


def attention_weights(
    queries: Float[Array, "batch queries heads head_dim"],
    keys: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "#batch #queries keys"] | None = None,
) -> Float[Array, "batch heads queries keys"]:
    """Return ``softmax(queries · keysᵀ / sqrt(head_dim))``, in `statistics_dtype`.

    mask: True where a query may read a key; where it may read none, its weights mean nothing.
    """
    statistics = statistics_dtype(queries.dtype)
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=statistics)
    scores = scores / np.sqrt(queries.shape[-1]).astype(statistics)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, jnp.finfo(statistics).min)
    return jax.nn.softmax(scores)


def attend(
    queries: Float[Array, "batch queries heads head_dim"],
    keys: Float[Array, "batch keys heads head_dim"],
    values: Float[Array, "batch keys heads head_dim"],
    mask: Bool[Array, "#batch #queries keys"] | None = None,
) -> Float[Array, "batch queries heads head_dim"]:
    """Scaled dot-product attention, ``softmax(queries · keysᵀ / sqrt(head_dim)) · values``, head by head.

    mask: True where a query may read a key. A query that may read none gets 0, whatever the number of keys.
    """
    weights = attention_weights(queries, keys, mask).astype(values.dtype)
    read = jnp.einsum("bhqk,bkhd->bqhd", weights, values)
    # Where any key may be read, the weights of the others are 0 already; what reads none is smaller than the weights.
    return read if mask is None else jnp.where(mask.any(-1)[..., None, None], read, 0)


def affine(x: Float[Array, "*shape n"], *layers: nnx.Linear) -> tuple[Float[Array, "*shape m"], ...]:
    """Return ``x · kernel + bias`` of each layer, all of one shape, in the dtype of `x`: one product of two matrices.

    XLA on CPU copies transposed operands for the gradients of products with more than two axes.
    """
    kernel = jnp.concatenate([layer.kernel[...] for layer in layers], axis=1).astype(x.dtype)
    bias = jnp.concatenate([layer.bias[...] for layer in layers]).astype(x.dtype)  # type: ignore[index]  # all have one
    flat = x.reshape(-1, x.shape[-1])
    rows, columns = kernel.shape
    if rows > columns and rows % columns == 0:
        # The gradient of a tall kernel takes twice as long as that of a wide one, or of square blocks.
        flat, kernel = flat.reshape(len(flat), -1, columns), kernel.reshape(-1, columns, columns)
    projected = jnp.tensordot(flat, kernel, flat.ndim - 1) + bias
    return tuple(part.reshape(*x.shape[:-1], -1) for part in jnp.split(projected, len(layers), axis=-1))


class AttentionBlock(nnx.Module):
    """Pre-norm multi-head attention with its residual: ``x + dropout(attention(norm(x), context))``.

    The context is what is read, of the same width and already normalised; where it is left out, ``norm(x)``
    reads itself. rotary: rotate queries and keys by their positions (for sequences that read themselves).
    site: where its dropout draws. A `dim` that its heads do not divide is a `UserError`.

    Attention weights are not dropped: their bits would depend on the number of keys, hence on padding.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        dropout: float,
        site: int,
        rotary: bool = False,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        multiple = 2 * num_heads if rotary else num_heads
        if num_heads < 1 or dim % multiple:
            pairs = " of pairs of coordinates (rotary positions turn pairs)" if rotary else ""
            raise UserError(
                f"a width of {dim} does not divide into num_heads = {num_heads} equal heads{pairs}; "
                f"make it a multiple of {max(multiple, 1)}, or change num_heads"
            )

        def linear() -> nnx.Linear:
            return nnx.Linear(dim, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        self.norm = LayerNorm(dim, dtype=dtype, param_dtype=param_dtype)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
        self.num_heads = num_heads
        self.rotary = rotary
        self.dropout = Dropout(dropout, site)

    def __call__(
        self,
        x: Float[Array, "#batch queries dim"],
        context: Float[Array, "batch keys dim"] | None = None,
        *,
        mask: Bool[Array, "#batch #queries keys"] | None = None,
        dropout_keys: Key[Array, "batch"] | None,
    ) -> Float[Array, "batch queries dim"]:
        """Return `x` plus what its queries read; an `x` of batch 1 serves every example of `context`."""
        queries, keys, values = self._project(x, context)
        read = attend(queries, keys, values, mask)
        (read,) = affine(read.reshape(*read.shape[:-2], -1), self.out)
        return x + self.dropout(read, dropout_keys)

    def weights(
        self,
        x: Float[Array, "#batch queries dim"],
        context: Float[Array, "batch keys dim"] | None = None,
        *,
        mask: Bool[Array, "#batch #queries keys"] | None = None,
    ) -> Float[Array, "batch queries keys"]:
        """Return how much each query reads of each key, the mean over heads; they add up to 1 over keys."""
        queries, keys, _ = self._project(x, context)
        return attention_weights(queries, keys, mask).mean(1)

    def _project(
        self, x: Float[Array, "#batch queries dim"], context: Float[Array, "batch keys dim"] | None
    ) -> list[Float[Array, "batch _ heads head_dim"]]:
        """Return queries, keys and values."""
        normed = self.norm(x)
        if context is None:
            projected = affine(normed, self.query, self.key, self.value)
        else:
            projected = (*affine(normed, self.query), *affine(context, self.key, self.value))
        queries, keys, values = (part.reshape(*part.shape[:-1], self.num_heads, -1) for part in projected)
        if self.rotary:
            queries, keys = rotate(queries), rotate(keys)
        return [jnp.broadcast_to(queries, (keys.shape[0], *queries.shape[1:])), keys, values]


class MLPBlock(nnx.Module):
    """Pre-norm two-layer perceptron with its residual: ``x + dropout(W₂ gelu(W₁ norm(x)))``.

    gelu is taken in its tanh form. hidden_dim: the width between the two; site: where its dropout draws.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: int,
        dropout: float,
        site: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm = LayerNorm(dim, dtype=dtype, param_dtype=param_dtype)
        self.expand = nnx.Linear(dim, hidden_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.contract = nnx.Linear(hidden_dim, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.dropout = Dropout(dropout, site)

    def __call__(
        self, x: Float[Array, "batch *shape dim"], *, dropout_keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch *shape dim"]:
        """Return `x` with the perceptron's output added."""
        (hidden,) = affine(self.norm(x), self.expand)
        (update,) = affine(jax.nn.gelu(hidden), self.contract)
        return x + self.dropout(update, dropout_keys)
