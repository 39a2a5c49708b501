"""C-HMCNN: the score of a label is the maximum over itself and its descendants.

Source: Giunchiglia and Lukasiewicz, "Coherent Hierarchical Multi-Label Classification Networks", 2020.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads import LabelDistribution, LabelLoss, Labels, Structure, labels_first
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import HierarchyIndex, index_hierarchy
from mlresearch.label_space import LabelSets
from mlresearch.logspace import LOGIT_BOUND, at_least_float32
from mlresearch.prior import log_odds_of
from mlresearch.propagation import batch_first, descendant_maximum, settle
from mlresearch.pytree import pytree_dataclass


@pytree_dataclass
class MaximumOverDescendants(LabelDistribution):
    """P(yᵢ = 1) = maxⱼ σ(sⱼ) over label i and its descendants; there is no joint distribution.

    scores: what the decoder gave, labels first.
    """

    normalised: ClassVar[bool] = False

    scores: Float[Array, "labels batch"]
    index: HierarchyIndex

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return log σ of the maxima, settled: the rounding of log σ need not be monotone."""
        maxima = descendant_maximum(self.scores, self.index)
        return batch_first(settle(jax.nn.log_sigmoid(maxima), self.index), self.index)

    @property
    def logits(self) -> Float[Array, "batch labels"]:
        """Return the maxima themselves, which are the log-odds, clipped to ±`LOGIT_BOUND`."""
        maxima = descendant_maximum(self.scores, self.index)
        return batch_first(jnp.clip(maxima, -LOGIT_BOUND, LOGIT_BOUND), self.index)

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return `label_loss`, where a positive label is scored by those below it that are on (MCLoss).

        A positive label takes the maximum over those of itself and its descendants that are on, so that it is not
        taught to rise through a descendant that is off; a negative label takes the maximum over all. A soft label has
        both: for soft labels y and a sum of losses ℓ of each label that is

            Σᵢ yᵢ ℓ(max {sⱼ : yⱼ > 0}, 1) + (1 − yᵢ) ℓ(max sⱼ, 0),    j: label i and its descendants,

        over the labels i that are known. A descendant that is unknown is not on.
        """
        on = labels_first(labels if labels.dtype == bool else labels > 0)
        lowest = jnp.finfo(self.scores.dtype).min
        maxima = descendant_maximum(self.scores, self.index)
        maxima_on = descendant_maximum(jnp.where(on, self.scores, lowest), self.index)
        logits = batch_first(jnp.where(on, maxima_on, maxima), self.index)
        if labels.dtype == bool:
            return label_loss(logits, labels)
        off_logits = batch_first(jnp.where(labels_first(labels == 1), maxima_on, maxima), self.index)
        return label_loss((logits, off_logits), labels)

    def take(self, rows: Int[Array, "rows"]) -> "MaximumOverDescendants":
        """Return the distributions of some examples of the batch."""
        return dataclasses.replace(self, scores=self.scores[:, rows])

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return marginals over ½."""
        return labels_first(descendant_maximum(self.scores, self.index) > 0)


class Head(nnx.Module):
    """The maximum over descendants, on any DAG; raises `UserError` without a hierarchy."""

    scores_per_label = 1
    coherent = True
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
        del dim, param_dtype, rngs
        if hierarchy is None:
            raise UserError("head 'max_constraint' needs a label hierarchy; use 'independent' for flat labels")
        self.index = Structure(index_hierarchy(hierarchy, closure=False))
        self.num_labels = num_labels

    def begin_with(self, labels: LabelSets) -> Float[np.ndarray, "labels 1"]:
        """Return the scores that give each label its frequency."""
        return log_odds_of(labels, self.num_labels)[:, None]

    def __call__(self, label_scores: Float[Array, "batch labels 1"], encoded: Encoded) -> MaximumOverDescendants:
        """Return the distribution."""
        return MaximumOverDescendants(labels_first(at_least_float32(label_scores[..., 0])), self.index.get_value())
