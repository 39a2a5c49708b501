"""A mixture of label distributions, gates from the input: correlated labels with exact likelihood and marginals.

Source: Li, Wang, Pavlu and Aslam, "Conditional Bernoulli Mixtures for Multi-label Classification", 2016.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.families import Siblings
from mlresearch.heads import (
    LabelDistribution,
    LabelLoss,
    Labels,
    check_share,
    conditional,
    independent,
    joint_loss,
    labels_first,
)
from mlresearch.heads.conditional import BayesianNetwork, check_one_parent
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import HierarchyIndex
from mlresearch.label_space import LabelSets
from mlresearch.logspace import at_least_float32
from mlresearch.propagation import batch_first, settle
from mlresearch.pytree import pytree_dataclass

MODE_SEARCH_STEPS = 8
"""The most steps of the search for the mode."""


class Candidates(NamedTuple):
    """Label sets, and the log-probability of each under each component."""

    labels: Bool[Array, "batch labels"]
    log_probs: Float[Array, "batch components"]


@pytree_dataclass
class Mixture(LabelDistribution):
    """p(y) = Σₖ πₖ pₖ(y).

    log_gates: log π. components: the pₖ as one batch of ``batch · components`` columns, those of an example together.
    marginal_share: of the marginals' label-wise loss in `loss`.
    """

    log_gates: Float[Array, "batch components"]
    components: BayesianNetwork | ProductOfBernoullis
    marginal_share: float = dataclasses.field(default=0.0, metadata={"static": True})

    @property
    def mode_is_exact(self) -> bool:  # type: ignore[override]
        """True of one component whose own mode is; there is no polynomial algorithm for more."""
        return self.log_gates.shape[1] == 1 and self.components.mode_is_exact

    @property
    def tiltable(self) -> bool:  # type: ignore[override]
        """True where the components are."""
        return self.components.tiltable

    @property
    def index(self) -> HierarchyIndex | None:  # type: ignore[override]
        """Of the components."""
        return self.components.index

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return log Σₖ πₖ Pₖ(label = 1), settled where the components are coherent."""
        components = self.components
        if isinstance(components, BayesianNetwork):
            log_marginals = self._mix(components.log_marginals_by_label)
            return batch_first(settle(log_marginals, components.index), components.index)
        return labels_first(self._mix(labels_first(components.log_marginals)))

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return `joint_loss`: −`log_prob_known`, or a share of it and the rest of `label_loss` on the marginals."""
        return joint_loss(self, labels, label_loss, self.marginal_share)

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log Σₖ πₖ pₖ(y); −inf for a set that no component can give."""
        return self._mix(self.components.log_prob(self._repeat(labels)))

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log P(known labels), NaN standing for unknown; −inf for the impossible, exactly 0 if nothing is known.

        Of Bayesian networks on a DAG, a row with unknown labels gives NaN: `Head.unknown_labels` is False there.
        """
        return self._mix(self.components.log_prob_known(self._repeat(labels)))

    def tilt(self, exponents: Float[Array, "batch labels"]) -> tuple["Mixture", Float[Array, "batch"]]:
        """Return the mixture of tilted components with gates πₖ Zₖ / Z, and log Z = log Σₖ πₖ Zₖ."""
        components, log_normalisers = self.components.tilt(self._repeat(exponents))
        log_gates = self.log_gates + log_normalisers.reshape(self.log_gates.shape)
        total = jax.nn.logsumexp(log_gates, axis=-1)
        return dataclasses.replace(self, log_gates=log_gates - total[:, None], components=components), total

    def given(self, known: Float[Array, "batch labels"]) -> "Mixture":
        """Return the mixture of conditioned components with gates p(k | known labels), NaN standing for unknown."""
        repeated = self._repeat(known)
        log_known = self.components.log_prob_known(repeated).reshape(self.log_gates.shape)
        impossible = jnp.isneginf(log_known).all(-1, keepdims=True)
        log_gates = jax.nn.log_softmax(self.log_gates + jnp.where(impossible, 0.0, log_known))
        return dataclasses.replace(self, log_gates=log_gates, components=self.components.given(repeated))

    def take(self, rows: Int[Array, "rows"]) -> "Mixture":
        """Return the distributions of some examples of the batch."""
        count = self.log_gates.shape[1]
        columns = (rows[:, None] * count + jnp.arange(count)).ravel()
        return dataclasses.replace(self, log_gates=self.log_gates[rows], components=self.components.take(columns))

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return a probable label set, never less so than the mode of any component or the marginals over ½.

        The best of these is improved while that helps, at most `MODE_SEARCH_STEPS` times: with rₖ = p(k | y), the set
        y' of the largest Σₖ rₖ log pₖ(y') has log p(y') − log p(y) ≥ Σₖ rₖ (log pₖ(y') − log pₖ(y)) ≥ 0, by Jensen's
        inequality.

        Source: Carreira-Perpiñán, "Gaussian Mean-Shift Is an EM Algorithm", 2007 (of densities).
        """
        if self.log_gates.shape[1] == 1:
            return self.components.mode()
        modes = self.components.mode().reshape(*self.log_gates.shape, -1)
        over_half = self._scored(self.log_marginals > -jnp.log(2.0))
        # One candidate at a time, so that memory is that of the components.
        best, _ = jax.lax.scan(
            lambda best, labels: (self._better(best, self._scored(labels)), None), over_half, modes.swapaxes(0, 1)
        )

        def improve(carry: tuple[Candidates, Array, Array]) -> tuple[Candidates, Array, Array]:
            found, _, step = carry
            weights = jax.nn.softmax(self.log_gates + found.log_probs)
            better = self._better(found, self._scored(self.components.pooled_mode(weights, found.labels)))
            return better, (better.labels != found.labels).any(), step + 1

        first = (best, jnp.ones((), bool), jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < MODE_SEARCH_STEPS), improve, first)[0].labels

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw a component by the gates, and a set of it."""
        batch, num_components = self.log_gates.shape

        def draw(key: Key[Array, ""]) -> Bool[Array, "batch labels"]:
            key_component, key_labels = jax.random.split(key)
            component = jax.random.categorical(key_component, self.log_gates)
            drawn = self.components.take(jnp.arange(batch) * num_components + component)
            return drawn.sample(key_labels, 1)[0]

        return jax.vmap(draw)(jax.random.split(key, n))

    def _repeat(self, labels: Shaped[Array, "batch labels"]) -> Shaped[Array, "columns labels"]:
        """Return the labels of every example once for each component."""
        return jnp.repeat(labels, self.log_gates.shape[1], axis=0)

    def _mix(self, log_probs: Float[Array, "*shape columns"]) -> Float[Array, "*shape batch"]:
        """Return log Σₖ πₖ pₖ from the log pₖ of all columns."""
        return log_mixture(self.log_gates, log_probs.reshape(*log_probs.shape[:-1], *self.log_gates.shape))

    def _scored(self, labels: Bool[Array, "batch labels"]) -> Candidates:
        log_probs = self.components.log_prob(self._repeat(labels))
        return Candidates(labels, log_probs.reshape(self.log_gates.shape))

    def _better(self, one: Candidates, other: Candidates) -> Candidates:
        """Return of each example the more probable set, the first where they tie."""
        wins = log_mixture(self.log_gates, other.log_probs) > log_mixture(self.log_gates, one.log_probs)
        return jax.tree.map(lambda one, other: jnp.where(wins[:, None], other, one), one, other)


@jax.custom_jvp
def log_mixture(
    log_weights: Float[Array, "*#shape components"], log_probs: Float[Array, "*shape components"]
) -> Float[Array, "*shape"]:
    """Return log Σₖ πₖ pₖ, where Σₖ πₖ = 1: never above the largest log pₖ, and precise where that is near 0.

    With p the largest pₖ it is log p + log(1 − Σₖ πₖ (1 − pₖ/p)), in which nothing cancels while the sum is at most ½.
    The gradient is p(k | y), for weights and components alike; 0 where all components say that y is impossible.
    """
    peak = log_probs.max(-1, keepdims=True)
    impossible = jnp.isneginf(peak)  # where all are: NaN, were it not hidden
    peak, log_probs = jnp.where(impossible, 0.0, peak), jnp.where(impossible, 0.0, log_probs)
    change = (jnp.exp(log_weights) * jnp.expm1(log_probs - peak)).sum(-1)
    near = change > -0.5
    nearby = peak[..., 0] + jnp.log1p(jnp.where(near, change, 0.0))
    total = jnp.where(near, nearby, jax.nn.logsumexp(log_weights + log_probs, axis=-1))
    return jnp.where(impossible[..., 0], -jnp.inf, total)


@log_mixture.defjvp
def _log_mixture_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    log_weights, log_probs = primals
    value = log_mixture(log_weights, log_probs)
    possible = jnp.where(jnp.isneginf(value), jnp.inf, value)
    share = jnp.exp(log_weights + log_probs - possible[..., None])
    return value, (share * (tangents[0] + tangents[1])).sum(-1)


class Head(nnx.Module):
    """K components of `conditional` or `independent`; gates π = softmax(W · pooled + b), in float32 or wider.

    components: K. of: what they are. siblings: the rule of `conditional` components. marginal_share: as for
    `conditional`, of the mixture's marginals.

    Raises `UserError` for fewer than one component, for `siblings` of independent ones, for a `marginal_share` that is
    none, and where components of `conditional` lack what they need.
    """

    soft_labels = False

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        dim: int,
        *,
        components: int = 8,
        of: Literal["conditional", "independent"] = "conditional",
        siblings: Siblings = "any",
        marginal_share: float = 0.0,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        if components < 1:
            raise UserError(f"head.mixture.components is {components}; it must be at least 1")
        if of == "independent" and siblings != "any":
            raise UserError(
                f"head.mixture.siblings = {siblings!r} is a rule of a hierarchy, which components of 'independent' do "
                "not use; set head.mixture.of = 'conditional', or leave siblings at 'any'"
            )
        if of == "conditional" and hierarchy is None:
            raise UserError(
                "head 'mixture' needs a label hierarchy for components of 'conditional'; set head.mixture.of = "
                "'independent' for flat labels"
            )
        if siblings != "any":
            assert hierarchy is not None
            check_one_parent(hierarchy, f"head.mixture.siblings = {siblings!r}", "siblings = 'any'")
        check_share(marginal_share, "head.mixture.marginal_share")
        self.marginal_share = marginal_share
        self.component: conditional.Head | independent.Head
        if of == "conditional":
            self.component = conditional.Head(
                hierarchy, num_labels, dim, siblings=siblings, param_dtype=param_dtype, rngs=rngs
            )
        else:
            self.component = independent.Head(hierarchy, num_labels, dim, param_dtype=param_dtype, rngs=rngs)
        self.scores_per_label = components
        self.coherent = self.component.coherent
        self.unknown_labels = self.component.unknown_labels
        # Equal gates at first: what tells components apart is the decoder's random weights, and each learns from the
        # examples that it happens to explain best. Random gates would only add to the chance that decides that.
        self.gate_weights = nnx.Param(jnp.zeros((dim, components), param_dtype))
        self.gate_bias = nnx.Param(jnp.zeros(components, param_dtype))

    def begin_with(self, labels: LabelSets) -> Float[np.ndarray, "labels components"]:
        """Return those of each component, all alike: the decoder's weights tell the components apart."""
        return np.repeat(self.component.begin_with(labels), self.scores_per_label, axis=1)

    def __call__(self, label_scores: Float[Array, "batch labels components"], encoded: Encoded) -> Mixture:
        """Return the distribution."""
        scores = at_least_float32(label_scores)
        weights, bias = self.gate_weights[...].astype(scores.dtype), self.gate_bias[...].astype(scores.dtype)
        # The default precision is lower than that of the dtype on accelerators.
        gates = jnp.dot(encoded.pooled.astype(scores.dtype), weights, precision="highest") + bias
        batch, num_labels, num_components = scores.shape
        columns = scores.swapaxes(1, 2).reshape(batch * num_components, num_labels, 1)
        return Mixture(jax.nn.log_softmax(gates), self.component(columns, encoded), self.marginal_share)
