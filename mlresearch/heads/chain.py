"""A probabilistic classifier chain: labels in a fixed order, each given those before it.

Source: Dembczyński, Cheng and Hüllermeier, "Bayes Optimal Multilabel Classification via Probabilistic Classifier
Chains", 2010.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.decoders.causal import CausalScores, Links
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads import LabelDistribution, LabelLoss, Labels, Structure, labels_first
from mlresearch.hierarchy import LabelHierarchy, parents_first
from mlresearch.hierarchy_index import HierarchyIndex, index_hierarchy
from mlresearch.label_order import LabelOrder, order_labels
from mlresearch.label_space import Frequencies, LabelSets
from mlresearch.logspace import at_least_float32, log_sigmoids
from mlresearch.prior import log_odds_given_parents, log_odds_of
from mlresearch.propagation import parents_on
from mlresearch.pytree import pytree_dataclass


class Above(NamedTuple):
    """What samples keep of labels for those below them, by slot: whether they are on, e, and log P(on)."""

    on: Bool[Array, "slots samples batch"]
    vector: Float[Array, "slots hidden"]
    log_marginal: Float[Array, "slots batch"]

    def keep(self, slot: Int[Array, ""], label: "Above") -> "Above":
        """Return it with what is known of one label in its slot; nothing of one without a slot."""
        return jax.tree.map(lambda kept, new: kept.at[slot].set(new, mode="drop"), self, label)


@pytree_dataclass
class Chain(LabelDistribution):
    """p(y) = Π σ(sᵢ)^yᵢ (1 − σ(sᵢ))^(1 − yᵢ), where sᵢ depends on the labels before i.

    With a hierarchy, a label with any parent off is off. scores: of labels in the order. beam: how many label sets the
    search for the mode follows. num_samples: how many the marginals are estimated from. index: None without hierarchy.
    """

    scores: CausalScores
    order: LabelOrder
    index: HierarchyIndex | None
    beam: int = dataclasses.field(metadata={"static": True})
    num_samples: int = dataclasses.field(metadata={"static": True})

    @property
    def mode_is_exact(self) -> bool:  # type: ignore[override]
        """True where the beam holds all sets of all labels but the last."""
        return self.beam >= 2 ** (self.order.labels.shape[0] - 1)

    @property
    def marginal_error(self) -> float:  # type: ignore[override]
        """½ / √(S − 1) of S samples, ½ of one."""
        return 0.5 / max(self.num_samples - 1, 1) ** 0.5

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return log (1/S) Σ P(label = 1 | the labels before it, as sampled), over S samples; it has no gradient.

        What is averaged lies in 0..1, so that its variance v is at most ¼, and it varies less than the label itself
        does (Rao and Blackwell). All examples share one fixed table of uniform numbers, S for each place in the order,
        one from each S-th part of 0..1. So an example's marginals depend on the example alone, and their standard error
        is at most √(v / (S − 1)), as of S − 1 independent samples (Owen, "Monte Carlo Variance of Scrambled Net
        Quadrature", 1997): see `marginal_error`. Where rounding decides a label of a sample, they move by 1 / S.

        With a hierarchy, a term is 0 where a parent is off. A label for which that is so in all samples is given the
        least marginal among its ancestors times its mean probability were these on. No label is above a parent.

        Source: McKay, Beckman and Conover, "A Comparison of Three Methods for Selecting Values of Input Variables in
        the Analysis of Output from a Computer Code", 1979 (such tables).
        """
        key, dtype = jax.random.key(0, impl="threefry2x32"), self.scores.start.dtype

        def uniform(place: Int[Array, ""]) -> Float[Array, "samples 1"]:
            key_part, key_within = jax.random.split(jax.random.fold_in(key, place))
            part = jax.random.permutation(key_part, self.num_samples).astype(dtype)
            return ((part + jax.random.uniform(key_within, part.shape, dtype)) / self.num_samples)[:, None]

        _, log_marginals = self._draw(self.num_samples, uniform)
        return self._by_label(log_marginals)

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return −`log_prob`; `label_loss` is not needed."""
        return -(self.log_prob(labels) if labels.dtype == bool else self.log_prob_known(labels))

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return Σ log P(label | the labels before it), all in one pass; −inf for a set that breaks the hierarchy."""
        scores = self._by_label(labels_first(self.scores.given(labels[:, self.order.labels])))
        each = jax.nn.log_sigmoid(jnp.where(labels, scores, -scores))
        if self.index is None:
            return each.sum(-1)
        free = labels_first(parents_on(labels_first(labels), self.index))
        return jnp.where((labels & ~free).any(-1), -jnp.inf, jnp.where(free, each, 0.0).sum(-1))

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return `log_prob`, and NaN for a row with unknown labels, which `Head.unknown_labels` says are not taken."""
        return jnp.where(jnp.isnan(labels).any(-1), jnp.nan, self.log_prob(labels > 0.5))

    def take(self, rows: Int[Array, "rows"]) -> "Chain":
        """Return the distributions of some examples of the batch."""
        links = self.scores.links._replace(direct=self.scores.links.direct[:, rows])
        return dataclasses.replace(self, scores=CausalScores(self.scores.start[rows], links))

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return a probable label set, never less so than what greedy choices give, or the marginals over ½.

        Found by a beam search, which follows the `beam` most probable sets of the labels so far.

        Source: Kumar et al., "Beam Search Algorithms for Multilabel Learning", 2013.
        """
        found = [self._search(beam) for beam in sorted({1, self.beam})]
        candidates = jnp.stack([*found, self.log_marginals > -jnp.log(2.0)])
        best = jax.vmap(self.log_prob)(candidates).argmax(0)
        return jnp.take_along_axis(candidates, best[None, :, None], axis=0)[0]

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw label after label, each given those before it."""
        shape, dtype = (n, self.scores.start.shape[0]), self.scores.start.dtype
        on, _ = self._draw(n, lambda place: jax.random.uniform(jax.random.fold_in(key, place), shape, dtype))
        return jnp.moveaxis(on[self.order.places], 0, -1)

    def _by_label(self, x: Float[Array, "labels batch"]) -> Float[Array, "batch labels"]:
        """Return what is in the order of the chain in that of the label space."""
        return labels_first(x[self.order.places])

    def _draw(
        self, num: int, uniform: Callable[[Int[Array, ""]], Float[Array, "num #batch"]]
    ) -> tuple[Bool[Array, "labels num batch"], Float[Array, "labels batch"]]:
        """Return `num` label sets an example and the log-marginals that they estimate, both in the chain's order.

        uniform: the numbers that decide about the label at a place.
        """
        scores, order = jax.lax.stop_gradient(self.scores), self.order
        (batch, dim), dtype = scores.start.shape, scores.start.dtype
        nothing = Above(
            jnp.ones((order.num_slots, num, batch), bool),
            jnp.zeros((order.num_slots, dim), dtype),
            jnp.zeros((order.num_slots, batch), dtype),
        )

        def step(
            carry: tuple[Array, Above], label: tuple[Links, Array, Array, Array]
        ) -> tuple[tuple[Array, Above], tuple[Array, Array]]:
            (hidden, above), (links, ancestors, slot, place) = carry, label
            off = ~above.on[ancestors]
            free = ~off.any(0)
            # Ancestors that are off are taken for on: that changes no score that counts, and tells what it would be.
            lift = jnp.einsum("anb,ah->nbh", off.astype(dtype), above.vector[ancestors], precision="highest")
            score = links.score(hidden + lift)
            log_on, _ = log_sigmoids(score)
            total = jax.nn.logsumexp(jnp.where(free, log_on, -jnp.inf), axis=0)
            least = above.log_marginal[ancestors].min(0, initial=0.0)
            total = jnp.where(free.any(0), total, least + jax.nn.logsumexp(log_on, axis=0))
            log_marginal = jnp.minimum(total - math.log(num), least)
            on = free & (uniform(place) < jax.nn.sigmoid(score))
            above = above.keep(slot, Above(on, links.vector, log_marginal))
            return (links.extend(hidden, on), above), (on, log_marginal)

        start = jnp.broadcast_to(scores.start, (num, batch, dim))
        labels = (scores.links, order.ancestors, order.slot, jnp.arange(order.labels.shape[0]))
        _, drawn = jax.lax.scan(step, (start, nothing), labels)
        return drawn

    def _search(self, beam: int) -> Bool[Array, "batch labels"]:
        """Return the most probable of the label sets that a search of this width ends with."""
        scores, order = jax.lax.stop_gradient(self.scores), self.order
        batch, dim = scores.start.shape

        def step(
            carry: tuple[Array, Array, Array], label: tuple[Links, Array, Array]
        ) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
            (hidden, above, log_prob), (links, ancestors, slot) = carry, label
            free = above[ancestors].all(0)
            log_on, log_off = log_sigmoids(links.score(hidden))
            both = log_prob + jnp.stack([jnp.where(free, log_off, 0.0), jnp.where(free, log_on, -jnp.inf)])
            best, chosen = jax.lax.top_k(both.reshape(2 * beam, batch).T, beam)
            on, source = beam <= chosen.T, chosen.T % beam
            hidden = links.extend(jnp.take_along_axis(hidden, source[..., None], axis=0), on)
            above = jnp.take_along_axis(above, source[None], axis=1).at[slot].set(on, mode="drop")
            return (hidden, above, best.T), (on, source)

        def back(
            at: Int[Array, "batch"], label: tuple[Bool[Array, "beam batch"], Int[Array, "beam batch"]]
        ) -> tuple[Int[Array, "batch"], Bool[Array, "batch"]]:
            on, source = (jnp.take_along_axis(x, at[None], axis=0)[0] for x in label)
            return source, on

        first = (
            jnp.broadcast_to(scores.start, (beam, batch, dim)),
            jnp.ones((order.num_slots, beam, batch), bool),
            jnp.full((beam, batch), -jnp.inf, scores.start.dtype).at[0].set(0.0),
        )
        _, path = jax.lax.scan(step, first, (scores.links, order.ancestors, order.slot))
        # The best set stands first; from there the path leads back, label by label.
        _, on = jax.lax.scan(back, jnp.zeros(batch, jnp.int32), path, reverse=True)
        return labels_first(on[order.places])


class Head(nnx.Module):
    """A chain over the scores of the decoder `causal`.

    order: "frequency" goes from the most to the least frequent label of the training split, "given" by the label space,
    and both leave a hierarchy aside; "hierarchy" goes from parents to children, and a label with any parent off is off.
    beam: how many label sets the search for the mode follows; where that is half of all there are, it is exact.
    num_samples: from how many label sets an example's marginals are estimated.

    Raises `UserError` for "hierarchy" where labels are flat, and for a beam or a number of samples below 1.
    """

    causal = True
    scores_per_label = 1
    soft_labels = False
    unknown_labels = False

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        dim: int,
        *,
        order: Literal["frequency", "hierarchy", "given"] = "frequency",
        beam: int = 8,
        num_samples: int = 64,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        del dim, param_dtype, rngs
        for option, value in (("beam", beam), ("num_samples", num_samples)):
            if value < 1:
                raise UserError(f"head.chain.{option} is {value}; it must be at least 1")
        self.num_labels = num_labels
        self.by_frequency = order == "frequency"
        self.coherent = order == "hierarchy"
        self.beam = beam
        self.num_samples = num_samples
        labels, obeyed = np.arange(num_labels), None
        if self.coherent:
            if hierarchy is None:
                raise UserError(
                    "head.chain.order = 'hierarchy' needs a label hierarchy; set it to 'frequency' or 'given' for flat "
                    "labels"
                )
            edges = zip(hierarchy.children.tolist(), hierarchy.parents.tolist(), strict=True)
            labels, obeyed = np.array(parents_first(num_labels, edges)), hierarchy
        self.index = Structure(None if obeyed is None else index_hierarchy(obeyed, closure=False))
        self.order = Structure(order_labels(labels, obeyed))

    def use_frequencies(self, frequencies: Frequencies) -> None:
        """Tell how frequent labels are in training: the order of "frequency", which till then is "given"."""
        if self.by_frequency:
            self.order.set_value(order_labels(np.argsort(-frequencies.on, kind="stable"), None))

    def begin_with(self, labels: LabelSets) -> Float[np.ndarray, "labels 1"]:
        """Return the scores that give each label its frequency, with a hierarchy where its parents are on."""
        index = self.index.get_value()
        if index is None:
            return log_odds_of(labels, self.num_labels)[:, None]
        edges = np.asarray(index.edge_children), np.asarray(index.edge_parents)
        return log_odds_given_parents(labels, self.num_labels, *edges)[:, None]

    def __call__(self, label_scores: CausalScores, encoded: Encoded) -> Chain:
        """Return the distribution."""
        order = self.order.get_value()
        scores = jax.tree.map(at_least_float32, label_scores.reorder(order.labels))
        return Chain(scores, order, self.index.get_value(), self.beam, self.num_samples)
