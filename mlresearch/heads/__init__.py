"""Heads turn label scores into a distribution: ``Head(...)(label_scores, encoded) -> LabelDistribution``.

A head is one file here with a class ``Head``::

    Head(hierarchy: LabelHierarchy | None, num_labels: int, dim: int, *, <options with defaults>, param_dtype, rngs)
    head.scores_per_label                          # how many scores a label it wants of the decoder
    head.coherent                                  # whether no child is ever above a parent
    head.soft_labels                               # whether its loss takes probabilities between 0 and 1
    head.unknown_labels                            # whether its loss takes unknown labels, NaN
    head.begin_with(labels) -> scores              # and its own parameters, as the training split says
    head(label_scores, encoded) -> LabelDistribution

With ``config.model.prior`` scores begin with what ``begin_with`` makes of the training split's label sets: floats,
[labels, scores_per_label]. Parameters that a head has itself it sets accordingly.

`dim` is the width of ``encoded.pooled``. Keyword-only arguments (but ``param_dtype`` and ``rngs``) are options, as for
encoders, found under ``config.head.<file name>``. Whatever the compute dtype of encoder and decoder, a head computes in
float32 or wider; `param_dtype` is that of its parameters, if it has any. A head whose loss touches few labels may have
``sparse = True`` as well, with ``expect`` and ``sparse_loss``; see `conditional`. A head with ``causal = True`` asks
for each label's score given the labels before it: `chain`, which goes with the decoder `causal` alone. A head that
orders labels by how often they are on in training is told that by ``use_frequencies(frequencies)``.

A label-wise loss leaves unknown labels out and takes soft ones (`mlresearch.losses`). A joint likelihood sums over what
unknown labels may be, and knows no soft ones. `check_label_values` refuses by name what a head cannot take, so that a
head that takes neither only ever sees labels that are on or off.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.errors import UserError
from mlresearch.hierarchy_index import HierarchyIndex
from mlresearch.logspace import log_odds

Labels = Bool[Array, "batch labels"] | Float[Array, "batch labels"]
"""The truth of a batch: bool where every label is on or off; else float, a label's probability or NaN for unknown.

The dtype is what a compiled program is chosen by, so that data without such labels never pay for them.
"""

Logits = Float[Array, "batch labels"] | tuple[Float[Array, "batch labels"], Float[Array, "batch labels"]]
"""Log-odds that labels are on; or a pair of them, which score a label as one that is on and as one that is off."""

LabelLoss = Callable[[Logits, Labels], Float[Array, "batch"]]
"""A label-wise loss of a batch: (logits, labels) to one number an example, the model's (`mlresearch.losses`)."""


class Structure(nnx.Variable[Any]):
    """What a head or a loss knows of the hierarchy and of training labels: arrays that compiled functions are given.

    They are neither trained nor saved.
    """


class NotNormalisedError(TypeError):
    """Raised where a joint probability is asked of a head that only has marginals."""


class NotTiltableError(TypeError):
    """Raised where a distribution is to be tilted, or conditioned on labels, that has no exact form of it."""


class LabelDistribution(abc.ABC):
    """p(labels | input) for a batch of inputs: everything after the head talks to this alone.

    Marginals and label sets are ``[batch, labels]``; floating point is float32 or wider.
    """

    normalised: ClassVar[bool] = True
    """Whether `log_prob` and `sample` are defined."""

    mode_is_exact: bool = True
    """Whether `mode` is surely the most probable label set."""

    tiltable: bool = False
    """Whether `tilt` and `given` are defined: what they return is a distribution of the same kind, exactly."""

    index: HierarchyIndex | None
    """Of the hierarchy that marginals are coherent with, None where there is none."""

    marginal_error: float = 0.0
    """The largest standard error of a marginal probability; 0 where marginals are computed and not estimated."""

    @property
    @abc.abstractmethod
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """``log P(label = 1 | input)``; of a coherent head, no child is above any parent, bit for bit."""

    @property
    def logits(self) -> Float[Array, "batch labels"]:
        """Marginal log-odds, from `log_marginals` without cancellation, clipped to ±`logspace.LOGIT_BOUND`."""
        return log_odds(self.log_marginals)

    @abc.abstractmethod
    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """What training minimises, summed over labels: −`log_prob`, `label_loss` on the marginals, or some of each.

        Neither the value nor its gradient is NaN where labels are unknown; with nothing known the loss is exactly 0.
        """

    @abc.abstractmethod
    def take(self, rows: Int[Array, "rows"]) -> "LabelDistribution":
        """Return the distributions of some examples of the batch."""

    @abc.abstractmethod
    def mode(self) -> Bool[Array, "batch labels"]:
        """Return the most probable label set; marginals over ½ where there is no joint distribution."""

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return exact ``log p(labels | input)``, −inf for an impossible set.

        Raises `NotNormalisedError` where the head has marginals only.
        """
        raise NotNormalisedError(f"{type(self).__name__} has marginals but no joint distribution")

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return exact log P(known labels), NaN standing for unknown; exactly 0 if nothing is known.

        Raises `NotNormalisedError` where the head has marginals only.
        """
        raise NotNormalisedError(f"{type(self).__name__} has marginals but no joint distribution")

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw `n` label sets an input; raises `NotNormalisedError` where the head has marginals only."""
        raise NotNormalisedError(f"{type(self).__name__} has marginals but no joint distribution")

    def tilt(self, exponents: Float[Array, "batch labels"]) -> tuple["LabelDistribution", Float[Array, "batch"]]:
        """Return p'(y) = p(y) exp(λ · y) / Z and log Z = log E[exp(λ · y)], for exponents λ.

        Raises `NotTiltableError` unless `tiltable`. Source: Efron, "Exponential Families in Theory and Practice", 2022.
        """
        raise NotTiltableError(f"{type(self).__name__} has no exact tilting")

    def given(self, known: Float[Array, "batch labels"]) -> "LabelDistribution":
        """Return p(labels | known labels), NaN standing for unknown.

        Of what is impossible, with `log_prob_known` −inf, it says something, which means nothing. Raises
        `NotTiltableError` unless `tiltable`.
        """
        raise NotTiltableError(f"{type(self).__name__} has no exact conditioning on known labels")


def joint_loss(
    dist: LabelDistribution, labels: Labels, label_loss: LabelLoss, marginal_share: float
) -> Float[Array, "batch"]:
    """Return −(1 − w) log p(known labels) + w `label_loss`(marginal log-odds, labels), w: `marginal_share`.

    The likelihood judges a label given what the truth says of others, a marginal without their help, as rankings do. A
    term without a share is not computed.

    Source: Varin, Reid and Firth, "An Overview of Composite Likelihood Methods", 2011 (such sums in general).
    """
    if marginal_share == 1:
        return label_loss(dist.logits, labels)
    loss = -(dist.log_prob(labels) if labels.dtype == bool else dist.log_prob_known(labels))
    if marginal_share == 0:
        return loss
    return (1 - marginal_share) * loss + marginal_share * label_loss(dist.logits, labels)


def check_share(share: float, setting: str) -> None:
    """Raise `UserError`, which names the setting, unless it is a share."""
    if not 0 <= share <= 1:
        raise UserError(f"{setting} is {share}; it is a share, 0 to 1")


def check_label_values(head: Any, name: str, *, has_soft: bool, has_unknown: bool) -> None:
    """Raise `UserError` where the data have soft or unknown labels and the head, called `name`, cannot take them."""
    if has_soft and not head.soft_labels:
        raise UserError(
            f"head {name!r} models label sets and cannot take soft labels (probabilities); use 'independent' or "
            "'max_constraint', or give labels that are on or off"
        )
    if has_unknown and not head.unknown_labels:
        raise UserError(
            f"head {name!r} models label sets and has no exact sum over unknown labels (NaN) in this hierarchy; use "
            "'independent' or 'max_constraint', which leave them out, or give labels that are on or off"
        )


def labels_first(x: Array) -> Array:
    """Turn ``[batch, labels]`` into the ``[labels, batch]`` of `propagation`, or back."""
    return jnp.swapaxes(x, -1, -2)
