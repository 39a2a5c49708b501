"""Causal decoder, for the head `chain`: scores of each label given the labels before it, in any order of labels."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.dropout import Dropout
from mlresearch.encoders import Encoded
from mlresearch.pytree import pytree_dataclass

POOLED_SITE = 1000


class Links(NamedTuple):
    """What ties labels into a chain, of all labels or, without the leading axis, of one.

    direct: what the input alone adds to the score; readout: v; vector: e.
    """

    direct: Float[Array, "*labels batch"]
    readout: Float[Array, "*labels hidden"]
    vector: Float[Array, "*labels hidden"]

    def score(self, hidden: Float[Array, "*sets batch hidden"]) -> Float[Array, "*sets batch"]:
        """Return the scores of one label, given the hidden states of what stands before it; O(hidden) a set."""
        return (jnp.tanh(hidden) * self.readout).sum(-1) + self.direct

    def extend(
        self, hidden: Float[Array, "*sets batch hidden"], on: Bool[Array, "*sets batch"]
    ) -> Float[Array, "*sets batch hidden"]:
        """Return the hidden states after one label, given where it is on; O(hidden) a set."""
        return hidden + jnp.where(on[..., None], self.vector, 0)


@pytree_dataclass
class CausalScores:
    """The score of each label as a function of the labels before it: what the decoder gives in place of scores.

        aᵢ = a + Σ yⱼ eⱼ over the labels j before i,    sᵢ = vᵢ · tanh(aᵢ) + dᵢ

    start: a, the hidden state before any label. links: d, v and e of all labels, in the order that counts.
    """

    start: Float[Array, "batch hidden"]
    links: Links

    def reorder(self, labels: Int[Array, "labels"]) -> "CausalScores":
        """Return the scores for labels in another order."""
        return CausalScores(self.start, jax.tree.map(lambda x: x[labels], self.links))

    def shift(self, scores: Float[Array, "batch labels"]) -> "CausalScores":
        """Return the scores with some of the input alone added."""
        return CausalScores(self.start, self.links._replace(direct=self.links.direct + scores.T))

    def given(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch labels"]:
        """Return sᵢ for every label i, where the labels before it are as given.

        The gradient computes hidden states anew, a block of K = ⌈√N⌉ of the N labels at a time, so that of B examples a
        training step keeps ``B · hidden · (⌈N / K⌉ + K)`` numbers, about ``2 B · hidden · √N``, where all hidden states
        would be ``B · hidden · N``. These stay in a processor's cache, too, which saves more than the work costs.
        """
        num_labels = labels.shape[1]
        size = math.isqrt(num_labels - 1) + 1

        def in_blocks(x: Array) -> Array:
            return jnp.pad(x, ((0, -num_labels % size), (0, 0))).reshape(-1, size, x.shape[1])

        def step(
            hidden: Float[Array, "batch hidden"], label: tuple[Links, Bool[Array, "batch"]]
        ) -> tuple[Float[Array, "batch hidden"], Float[Array, "batch"]]:
            links, on = label
            return links.extend(hidden, on), links.score(hidden)

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def block(
            hidden: Float[Array, "batch hidden"], part: tuple[Links, Bool[Array, "block batch"]]
        ) -> tuple[Float[Array, "batch hidden"], Float[Array, "block batch"]]:
            return jax.lax.scan(step, hidden, part)

        _, scores = jax.lax.scan(block, self.start, jax.tree.map(in_blocks, (self.links, labels.T)))
        return scores.reshape(-1, labels.shape[0])[:num_labels].T


class Decoder(nnx.Module):
    """A neural autoregressive estimator, conditioned on the input: `CausalScores` with

        a = W · pooled + c,    dᵢ = uᵢ · pooled + bᵢ

    and a learned vector eⱼ for each label j that is on. Whoever asks for scores chooses the order of labels, and asks
    for all of them given whole label sets, or goes label by label, O(hidden_dim) each.

    hidden_dim: width of the hidden states. dropout: rate at which the pooled vector is dropped. scale: standard
    deviation of the initial u and v, in units of 1/√dim and 1/√hidden_dim; at 0 all inputs, and all labels before, give
    the same scores at first. Only `chain` can ask: one score a label.

    Source: Larochelle and Murray, "The Neural Autoregressive Distribution Estimator", 2011.
    """

    causal = True

    def __init__(
        self,
        dim: int,
        num_labels: int,
        scores_per_label: int,
        *,
        hidden_dim: int = 128,
        dropout: float = 0.0,
        scale: float = 1.0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        assert scores_per_label == 1, "a chain has one score a label"

        def rows(width: int, scale: float) -> nnx.Param[Array]:
            return nnx.Param(nnx.initializers.normal(scale)(rngs.params(), (num_labels, width), param_dtype))

        self.project = nnx.Linear(dim, hidden_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.vectors = rows(hidden_dim, hidden_dim**-0.5)
        self.readouts = rows(hidden_dim, scale * hidden_dim**-0.5)
        self.weights = rows(dim, scale * dim**-0.5)
        self.bias = nnx.Param(jnp.zeros(num_labels, param_dtype))
        self.dropout = Dropout(dropout, POOLED_SITE)
        self.dtype = dtype

    def begin_with(self, scores: Float[np.ndarray, "labels 1"]) -> None:
        """Set the bias."""
        self.bias[...] = jnp.asarray(scores[:, 0], self.bias.dtype)

    def __call__(self, encoded: Encoded, dropout_keys: Key[Array, "batch"] | None) -> CausalScores:
        """Return the scores as a function of labels, in `dtype`, in the order of the label space."""
        pooled = self.dropout(encoded.pooled, dropout_keys).astype(self.dtype)
        weights, bias, readouts, vectors = (
            param[...].astype(self.dtype) for param in (self.weights, self.bias, self.readouts, self.vectors)
        )
        direct = jnp.einsum("bd,ld->lb", pooled, weights) + bias[:, None]
        return CausalScores(self.project(pooled), Links(direct, readouts, vectors))
