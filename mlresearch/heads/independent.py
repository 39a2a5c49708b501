"""Binary relevance: a product of Bernoullis, one sigmoid a label."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.encoders import Encoded
from mlresearch.heads import LabelDistribution, LabelLoss, Labels
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets
from mlresearch.logspace import CERTAIN, at_least_float32, log_sigmoids
from mlresearch.prior import log_odds_of
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class ProductOfBernoullis(LabelDistribution):
    """p(y) = Π σ(sᵢ)^yᵢ (1 − σ(sᵢ))^(1 − yᵢ)."""

    index = None
    tiltable = True

    scores: Float[Array, "batch labels"]

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return log σ(s)."""
        return jax.nn.log_sigmoid(self.scores)

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return `label_loss`, soft labels as they are; with binary cross-entropy it is −`log_prob`.

        It reads the scores themselves, which are the log-odds before clipping, so that the gradient never vanishes.
        """
        return label_loss(self.scores, labels)

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return Σ log σ(±s)."""
        return jax.nn.log_sigmoid(jnp.where(labels, self.scores, -self.scores)).sum(-1)

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log P(known labels), NaN standing for unknown; exactly 0 if nothing is known."""
        each = jax.nn.log_sigmoid(jnp.where(labels > 0.5, self.scores, -self.scores))
        return jnp.where(jnp.isnan(labels), 0.0, each).sum(-1)

    def tilt(self, exponents: Float[Array, "batch labels"]) -> tuple["ProductOfBernoullis", Float[Array, "batch"]]:
        """Return the product at scores s + λ, and log Z = Σ log(1 − σ(s) + σ(s) exp λ)."""
        log_on, log_off = log_sigmoids(self.scores)
        return ProductOfBernoullis(self.scores + exponents), jnp.logaddexp(log_on + exponents, log_off).sum(-1)

    def given(self, known: Float[Array, "batch labels"]) -> "ProductOfBernoullis":
        """Return the product in which known labels are certain, NaN standing for unknown."""
        certain = jnp.where(known > 0.5, CERTAIN, -CERTAIN)
        return ProductOfBernoullis(jnp.where(jnp.isnan(known), self.scores, certain))

    def take(self, rows: Int[Array, "rows"]) -> "ProductOfBernoullis":
        """Return the distributions of some examples of the batch."""
        return ProductOfBernoullis(self.scores[rows])

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return s > 0."""
        return self.scores > 0

    def pooled_mode(
        self, weights: Float[Array, "examples components"], start: Bool[Array, "examples labels"]
    ) -> Bool[Array, "examples labels"]:
        """Return the set y of the largest Σₖ wₖ log pₖ(y), over the components of each example.

        The batch has the components of the first example, then those of the second, and so on. `start` is not needed.
        """
        del start
        scores = self.scores.reshape(*weights.shape, -1)
        return (weights[..., None] * scores).sum(1) > 0

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw every label for itself."""
        shape = (n, *self.scores.shape)
        return jax.random.logistic(key, shape, self.scores.dtype) < self.scores


class Head(nnx.Module):
    """One sigmoid a label; the hierarchy, if there is one, is not used."""

    scores_per_label = 1
    coherent = False
    soft_labels = True
    unknown_labels = True

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        dim: int,
        *,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        del hierarchy, dim, param_dtype, rngs
        self.num_labels = num_labels

    def begin_with(self, labels: LabelSets) -> Float[np.ndarray, "labels 1"]:
        """Return the scores that give each label its frequency."""
        return log_odds_of(labels, self.num_labels)[:, None]

    def __call__(self, label_scores: Float[Array, "batch labels 1"], encoded: Encoded) -> ProductOfBernoullis:
        """Return the distribution."""
        return ProductOfBernoullis(at_least_float32(label_scores[..., 0]))
