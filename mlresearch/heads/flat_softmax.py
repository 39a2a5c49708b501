"""One softmax over all labels: the drawn label comes with its ancestors. The baseline for single-path data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads import LabelDistribution, LabelLoss, Labels, Structure, labels_first
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import HierarchyIndex, index_hierarchy
from mlresearch.label_space import LabelSets
from mlresearch.logspace import CERTAIN, at_least_float32
from mlresearch.prior import log_share_most_specific
from mlresearch.propagation import keep_with_parents, path_sum, segment_sum, settle
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class ClosureOfOneLabel(LabelDistribution):
    """p(y) = softmax(s)ⱼ where y is label j with all its ancestors, and 0 for every other set.

    log_softmax: over labels, labels first.
    """

    tiltable = True

    log_softmax: Float[Array, "labels batch"]
    index: HierarchyIndex

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return log Σⱼ softmax(s)ⱼ over the label and its descendants."""
        owners, members = self.index.closure_owners, self.index.closure_members
        below = self.log_softmax[owners]
        # The pairs are sorted by owner, not by the member that collects them, so these reductions cannot be the
        # sorted ones of `propagation`.
        num_labels = self.log_softmax.shape[0]
        peak = jax.lax.stop_gradient(jax.ops.segment_max(below, members, num_labels))
        total = jax.ops.segment_sum(jnp.exp(below - peak[members]), members, num_labels)
        return labels_first(settle(jnp.minimum(peak + jnp.log(total), 0.0), self.index))

    def _most_specific(self, labels: Bool[Array, "batch labels"]) -> Bool[Array, "labels batch"]:
        """Return the labels that are on while none of their children is."""
        on = labels_first(labels)
        # A label above another that is on: reached from a child that is on.
        above = jnp.zeros(on.shape, jnp.int32)
        above = above.at[self.index.edge_parents].max(on[self.index.edge_children].astype(jnp.int32))
        return on & (above == 0)

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return the mean of −log softmax over the most specific labels of the set; 0 for an empty set.

        For a single path this is −`log_prob`; of other sets, which the head cannot give, it learns one path. Of an
        example with unknown labels it is −`log_prob_known`, infinite for what the head cannot give.
        """
        chosen = self._most_specific(labels if labels.dtype == bool else labels > 0.5)
        total = -jnp.where(chosen, self.log_softmax, 0.0).sum(0)
        mean = total / jnp.maximum(chosen.sum(0), 1).astype(total.dtype)
        if labels.dtype == bool:
            return mean
        unknown = jnp.isnan(labels).any(-1)
        return jnp.where(unknown, -self.log_prob_known(labels), mean)

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log softmax of the one most specific label; −inf for a set that is no label's closure."""
        chosen = self._most_specific(labels)
        owners, members = self.index.closure_owners, self.index.closure_members
        num_labels = self.log_softmax.shape[0]
        closure_size = segment_sum(jnp.ones((owners.shape[0], 1)), owners, num_labels)
        members_on = segment_sum(labels_first(labels)[members].astype(closure_size.dtype), owners, num_labels)
        size = labels.sum(-1).astype(closure_size.dtype)
        whole = (chosen & (members_on == closure_size) & (closure_size == size)).any(0)
        value = jnp.where(chosen, self.log_softmax, 0.0).sum(0)
        return jnp.where(whole & (chosen.sum(0) == 1), value, -jnp.inf)

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log P(known labels), NaN standing for unknown: exactly 0 if all are, −inf for the impossible.

        It is log Σ softmax over the labels whose closure holds every label known to be on and none known to be off.
        """
        agrees = self._agree(labels)
        total = jax.nn.logsumexp(jnp.where(agrees, self.log_softmax, -CERTAIN), axis=0)
        return jnp.where(agrees.all(0), 0.0, jnp.where(agrees.any(0), total, -jnp.inf))

    def tilt(self, exponents: Float[Array, "batch labels"]) -> tuple["ClosureOfOneLabel", Float[Array, "batch"]]:
        """Return the softmax of s + the sum of λ over the closure, and log Z."""
        tilted = self.log_softmax + path_sum(labels_first(exponents), self.index)
        total = jax.nn.logsumexp(tilted, axis=0)
        return dataclasses.replace(self, log_softmax=tilted - total), total

    def given(self, known: Float[Array, "batch labels"]) -> "ClosureOfOneLabel":
        """Return the softmax over the labels whose closure agrees with what is known, NaN standing for unknown."""
        left = jnp.where(self._agree(known), self.log_softmax, -CERTAIN)
        return dataclasses.replace(self, log_softmax=jax.nn.log_softmax(left, axis=0))

    def _agree(self, known: Float[Array, "batch labels"]) -> Bool[Array, "labels batch"]:
        """Return the labels whose closure holds every label known to be on and none known to be off."""
        on, off = labels_first(known > 0.5), labels_first(known <= 0.5)
        count = on.astype(self.log_softmax.dtype)
        return (path_sum(count, self.index) == count.sum(0)) & keep_with_parents(~off, self.index)

    def take(self, rows: Int[Array, "rows"]) -> "ClosureOfOneLabel":
        """Return the distributions of some examples of the batch."""
        return dataclasses.replace(self, log_softmax=self.log_softmax[:, rows])

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return the closure of the most probable label."""
        return labels_first(self._close(self.log_softmax.argmax(0)))

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw a label, and return it with its ancestors."""
        logits = labels_first(self.log_softmax)
        drawn = jax.random.categorical(key, logits, shape=(n, logits.shape[0]))
        return jax.vmap(lambda labels: labels_first(self._close(labels)))(drawn)

    def _close(self, labels: Array) -> Bool[Array, "labels batch"]:
        one_hot = jnp.arange(self.log_softmax.shape[0])[:, None] == labels
        drawn_below = jax.ops.segment_max(
            one_hot[self.index.closure_owners].astype(jnp.int32),
            self.index.closure_members,
            self.log_softmax.shape[0],
        )
        return drawn_below > 0


class Head(nnx.Module):
    """Softmax over all labels, closed upwards, on any DAG; raises `UserError` without a hierarchy."""

    scores_per_label = 1
    coherent = True
    soft_labels = False
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
        del dim, param_dtype, rngs
        if hierarchy is None:
            raise UserError("head 'flat_softmax' needs a label hierarchy; use 'independent' for flat labels")
        self.index = Structure(index_hierarchy(hierarchy, closure=True))
        self.num_labels = num_labels

    def begin_with(self, labels: LabelSets) -> Float[np.ndarray, "labels 1"]:
        """Return the scores that give each label the share of examples of which it is the most specific."""
        index = self.index.get_value()
        edges = np.asarray(index.edge_children), np.asarray(index.edge_parents)
        return log_share_most_specific(labels, self.num_labels, *edges)[:, None]

    def __call__(self, label_scores: Float[Array, "batch labels 1"], encoded: Encoded) -> ClosureOfOneLabel:
        """Return the distribution."""
        scores = labels_first(at_least_float32(label_scores[..., 0]))
        return ClosureOfOneLabel(jax.nn.log_softmax(scores, axis=0), self.index.get_value())
