"""Heads turn label scores into a distribution: ``Head(...)(label_scores, encoded) -> LabelDistribution``.

A head is one file here with a class ``Head``::

    Head(hierarchy: LabelHierarchy | None, num_labels: int, *, <options with defaults>, rngs)
    head.scores_per_label                          # how many scores a label it wants of the decoder
    head.coherent                                  # whether no child is ever above a parent
    head(label_scores, encoded) -> LabelDistribution

Keyword-only arguments (but ``rngs``) are options, as for encoders, found under ``config.head.<file name>``.
Whatever the compute dtype of encoder and decoder, a head computes in float32 or wider.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from mlresearch.logspace import log_odds

LabelLoss = Callable[[Float[Array, "*shape"], Float[Array, "*shape"]], Float[Array, "*shape"]]
"""A label-wise loss: (logits, labels) to one number a label, both of shape [batch, labels]."""


class Structure(nnx.Variable[Any]):
    """What a head knows of the hierarchy: index arrays, neither trained nor saved, but passed to compiled functions."""


class NotNormalisedError(TypeError):
    """Raised where a joint probability is asked of a head that only has marginals."""


class LabelDistribution(abc.ABC):
    """p(labels | input) for a batch of inputs: everything after the head talks to this alone.

    Marginals and label sets are ``[batch, labels]``; floating point is float32 or wider.
    """

    normalised: ClassVar[bool] = True
    """Whether `log_prob` and `sample` are defined."""

    mode_is_exact: bool = True
    """Whether `mode` is surely the most probable label set."""

    @property
    @abc.abstractmethod
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """``log P(label = 1 | input)``; of a coherent head, no child is above any parent, bit for bit."""

    @property
    def logits(self) -> Float[Array, "batch labels"]:
        """Marginal log-odds, from `log_marginals` without cancellation, clipped to ±`logspace.LOGIT_BOUND`."""
        return log_odds(self.log_marginals)

    @abc.abstractmethod
    def loss(self, labels: Float[Array, "batch labels"], label_loss: LabelLoss) -> Float[Array, "batch"]:
        """What training minimises, summed over labels: −`log_prob`, or `label_loss` on the marginals."""

    @abc.abstractmethod
    def mode(self) -> Bool[Array, "batch labels"]:
        """Return the most probable label set; marginals over ½ where there is no joint distribution."""

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return exact ``log p(labels | input)``, −inf for an impossible set.

        Raises `NotNormalisedError` where the head has marginals only.
        """
        raise NotNormalisedError(f"{type(self).__name__} has marginals but no joint distribution")

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw `n` label sets an input; raises `NotNormalisedError` where the head has marginals only."""
        raise NotNormalisedError(f"{type(self).__name__} has marginals but no joint distribution")


def labels_first(x: Array) -> Array:
    """Turn ``[batch, labels]`` into the ``[labels, batch]`` of `propagation`, or back."""
    return jax.numpy.swapaxes(x, -1, -2)
