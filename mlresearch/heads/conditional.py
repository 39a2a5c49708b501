"""Every label given its parents: a Bayesian network on the hierarchy, with exact likelihood and marginals."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads import LabelDistribution, LabelLoss, Labels, Structure, labels_first
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.logspace import at_least_float32, log1mexp, log_softplus
from mlresearch.propagation import (
    HierarchyIndex,
    closure_sum,
    index_hierarchy,
    keep_with_parents,
    parents_on,
    path_sum,
    segment_logsumexp,
    segment_max,
    segment_sum,
    settle,
)
from mlresearch.pytree import pytree_dataclass

Siblings = Literal["any", "some", "one"]
"""How many children of a label that is on may be on: any number, at least one, exactly one."""

MODE_SEARCH_STEPS = 256
"""On a DAG, the most labels that the search for the mode flips in one example."""

RULED_OUT = -1e30
"""Log-odds of a label that cannot be on: as good as −∞ among finite ones, without its NaN gradients."""


@pytree_dataclass
class Families:
    """The labels grouped by their parent, on a forest; family 0 holds the roots, whose parent is always on.

    members: label ids by family. segments: the family of each member, ascending. family: the family of each label.
    parent: the parent of each family, 0 standing in for that of the roots. below: the family of a label's children,
    0 where it has none.
    """

    members: Int[Array, "labels"]
    segments: Int[Array, "labels"]
    family: Int[Array, "labels"]
    parent: Int[Array, "families"]
    below: Int[Array, "labels"]


def group_families(hierarchy: LabelHierarchy) -> Families:
    """Return the families of a forest."""
    parent_of = np.full(hierarchy.num_labels, -1)
    parent_of[hierarchy.children] = hierarchy.parents
    parents, family = np.unique(np.concatenate([[-1], parent_of]), return_inverse=True)
    family = family[1:]
    below = np.zeros(hierarchy.num_labels, np.int64)
    below[parents[1:]] = np.arange(1, len(parents))
    members = np.argsort(family, kind="stable")
    arrays = (members, family[members], family, np.maximum(parents, 0), below)
    return Families(*(jnp.asarray(array, jnp.int32) for array in arrays))


class Known(NamedTuple):
    """What is known of labels and of those below them, labels first.

    below: log P(what is known below | the label is on), 0 where nothing is. on: whether the label, or one below it, is
    known to be on. possible: whether the label can be on, by what is known of it and below it.
    """

    below: Float[Array, "labels batch"]
    on: Bool[Array, "labels batch"]
    possible: Bool[Array, "labels batch"]

    def of(self, labels: Int[Array, "some"]) -> "Known":
        """Return what is known of some labels, in their order."""
        return Known(self.below[labels], self.on[labels], self.possible[labels])

    def extend(self, family: "Known", parents: Int[Array, "some"]) -> "Known":
        """Return it with what is known of whole families added to their parents, which are ascending label ids."""
        return Known(
            self.below.at[parents].set(family.below, unique_indices=True, indices_are_sorted=True),
            self.on.at[parents].max(family.on, unique_indices=True, indices_are_sorted=True),
            self.possible.at[parents].min(family.possible, unique_indices=True, indices_are_sorted=True),
        )


@pytree_dataclass
class BayesianNetwork(LabelDistribution):
    """A label with any parent off is off; among labels whose parents are all on, siblings follow a rule.

    - ``any``: each is on with probability σ(s), independently.
    - ``some``: as ``any``, given that at least one child of each label that is on is on.
    - ``one``: exactly one is on, with probability softmax(s) among its siblings.

    The roots are siblings too, as children of a label that is always on: under ``some`` and ``one`` the empty set is
    impossible. scores: labels first. families: None on a DAG with several parents a label, which only ``any`` allows.
    """

    scores: Float[Array, "labels batch"]
    index: HierarchyIndex
    families: Families | None
    siblings: Siblings = dataclasses.field(metadata={"static": True})

    @property
    def mode_is_exact(self) -> bool:  # type: ignore[override]
        """True on a forest; on a DAG the mode is a bounded search."""
        return self.families is not None

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return Σ log P(label on | its parents on) over the label and its ancestors, each once.

        On a forest that is a sum along the path, where rounding is monotone; on a DAG a sum over the closure, settled.
        """
        if self.families is None:
            return labels_first(settle(closure_sum(jax.nn.log_sigmoid(self.scores), self.index), self.index))
        on, _ = self._log_factors()
        if self.siblings == "some":
            on = jnp.minimum(on - self._log_any()[self.families.family], 0.0)
        return labels_first(path_sum(on, self.index))

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return −`log_prob`, or −`log_prob_known` where labels may be unknown; no label-wise loss is needed."""
        return -(self.log_prob(labels) if labels.dtype == bool else self.log_prob_known(labels))

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return Σ log P(label | its parents) over the labels whose parents are all on; −inf for an impossible set."""
        on = labels_first(labels)
        free = parents_on(on, self.index)
        log_on, log_off = self._log_factors()
        total = jnp.where(free, jnp.where(on, log_on, log_off), 0.0).sum(0)
        impossible = (on & ~free).any(0)
        if self.siblings != "any":
            assert self.families is not None
            num_families = self.families.parent.shape[0]
            num_on = segment_sum(on[self.families.members].astype(log_on.dtype), self.families.segments, num_families)
            family_free = on[self.families.parent].at[0].set(True)
            if self.siblings == "some":
                total -= jnp.where(family_free, self._log_any(), 0.0).sum(0)
                impossible |= (family_free & (num_on == 0)).any(0)
            else:
                impossible |= (family_free & (num_on != 1)).any(0)
        return jnp.where(impossible, -jnp.inf, total)

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log P(known labels), NaN standing for unknown; −inf for the impossible, exactly 0 if nothing is known.

        It is log Σ p(y) over the label sets y that agree with what is known, O(labels), by one pass up a forest
        (sum-product; Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988). On a DAG a row with unknown labels
        gives NaN: `Head.unknown_labels` is False there.
        """
        if self.families is None:
            return jnp.where(jnp.isnan(labels).any(-1), jnp.nan, self.log_prob(labels > 0.5))
        known = Known(jnp.zeros_like(self.scores), labels_first(labels > 0.5), labels_first(~(labels <= 0.5)))
        for edges in self.index.upward:
            members, segments = edges.sources, edges.segments
            family = self._sum_siblings(self.scores[members], known.of(members), segments, len(edges.targets))
            known = known.extend(family, edges.targets)
        roots = self._roots()
        family = self._sum_siblings(self.scores[roots], known.of(roots), jnp.zeros_like(roots), 1)
        impossible = (known.on & ~known.possible).any(0) | ~family.possible[0]
        return jnp.where(impossible, -jnp.inf, family.below[0])

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return the most probable label set, O(labels).

        On a forest one pass up adds the best value of each subtree (max-product; Pearl, "Probabilistic Reasoning in
        Intelligent Systems", 1988) and one pass down reads off the choices. On a DAG: the marginals over ½, improved
        label by label while that helps, at most `MODE_SEARCH_STEPS` times, so never less probable than those.
        """
        if self.families is None:
            return labels_first(self._search_mode())
        log_on, log_off = self._log_factors()
        constant = -self._log_any() if self.siblings == "some" else None
        # For each label: the best log-probability of what is below it, given that it is on; and whether it is on
        # in the best set of its family, given that its parent is on.
        below, chosen = jnp.zeros_like(log_on), jnp.zeros(log_on.shape, bool)
        for edges in self.index.upward:
            choice, value = self._best_siblings(
                log_on[edges.sources] + below[edges.sources],
                log_off[edges.sources],
                edges.segments,
                len(edges.targets),
            )
            if constant is not None:
                value += constant[self.families.below[edges.targets]]
            below = below.at[edges.targets].set(value, unique_indices=True, indices_are_sorted=True)
            chosen = chosen.at[edges.sources].set(choice, unique_indices=True)
        roots = self._roots()
        choice, _ = self._best_siblings(log_on[roots] + below[roots], log_off[roots], jnp.zeros_like(roots), 1)
        chosen = chosen.at[roots].set(choice, unique_indices=True)
        return labels_first(keep_with_parents(chosen, self.index))

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw the choices of every family, whether its parent is on or not, and keep those with all parents on."""
        return jax.vmap(lambda one: labels_first(keep_with_parents(self._draw(one), self.index)))(
            jax.random.split(key, n)
        )

    def _log_factors(self) -> tuple[Float[Array, "labels batch"], Float[Array, "labels batch"]]:
        """Return what a label adds when it is on and when it is off, given that its parents are on."""
        if self.siblings == "one":
            assert self.families is not None
            members, segments = self.families.members, self.families.segments
            normaliser = segment_logsumexp(self.scores[members], segments, self.families.parent.shape[0])
            on = jnp.minimum(self.scores - normaliser[self.families.family], 0.0)
            return on, jnp.zeros_like(on)
        return jax.nn.log_sigmoid(self.scores), jax.nn.log_sigmoid(-self.scores)

    def _log_any(self) -> Float[Array, "families batch"]:
        """Return the log-probability that of each family's members, if independent, at least one is on."""
        assert self.families is not None
        members, segments = self.families.members, self.families.segments
        return _log_at_least_one(self.scores[members], segments, self.families.parent.shape[0])

    def _roots(self) -> Int[Array, "roots"]:
        """Return the label ids of the roots, which lead the list of members."""
        assert self.families is not None
        # On a forest every other label has one edge, so that their number is known while tracing.
        return self.families.members[: self.scores.shape[0] - self.index.edge_children.shape[0]]

    def _sum_siblings(
        self,
        scores: Float[Array, "members batch"],
        known: Known,
        segments: Int[Array, "members"],
        num_families: int,
    ) -> Known:
        """Return what is known of whole families: what is known below a label whose children they are.

        scores, known: of the members.
        """

        def any_of(x: Bool[Array, "members batch"]) -> Bool[Array, "families batch"]:
            return segment_max(x.astype(scores.dtype), segments, num_families) > 0

        informed = known.on | ~known.possible | (known.below != 0)
        some_on = any_of(known.on)
        if self.siblings == "one":
            candidate = known.possible & (known.on | ~some_on[segments])
            log_softmax = jnp.minimum(scores - segment_logsumexp(scores, segments, num_families)[segments], 0.0)
            total = segment_logsumexp(
                jnp.where(candidate, log_softmax + known.below, RULED_OUT), segments, num_families
            )
            num_on = segment_sum(known.on.astype(scores.dtype), segments, num_families)
            possible = any_of(candidate) & (num_on <= 1)
        else:
            on, off = jax.nn.log_sigmoid(scores) + known.below, jax.nn.log_sigmoid(-scores)
            either = jnp.where(known.possible, jnp.logaddexp(on, off), off)
            each = jnp.where(known.on, on, jnp.where(informed, either, 0.0))
            total = segment_sum(each, segments, num_families)
            possible = jnp.ones_like(some_on)
            if self.siblings == "some":
                # Given what is known, siblings are independent as they were, at other log-odds.
                log_odds = jnp.where(known.possible, scores + known.below, RULED_OUT)
                at_least_one = _log_at_least_one(log_odds, segments, num_families)
                total += jnp.where(some_on, 0.0, at_least_one) - _log_at_least_one(scores, segments, num_families)
                possible = any_of(known.possible)
        # Where nothing is known, the probability is 1, and not 1 but for rounding.
        return Known(jnp.where(any_of(informed), total, 0.0), some_on, possible)

    def _best_siblings(
        self,
        on: Float[Array, "members batch"],
        off: Float[Array, "members batch"],
        segments: Int[Array, "members"],
        num_segments: int,
    ) -> tuple[Bool[Array, "members batch"], Float[Array, "families batch"]]:
        """Return the best choice of siblings and its value, given the values of each being on and off."""
        if self.siblings == "one":
            return _first_maximum(on, segments, num_segments), segment_max(on, segments, num_segments)
        choice = on > off
        value = segment_sum(jnp.maximum(on, off), segments, num_segments)
        if self.siblings == "some":  # where none is worth it, the one that costs least
            least_cost = segment_max(on - off, segments, num_segments)
            choice |= _first_maximum(on - off, segments, num_segments)
            value += jnp.minimum(least_cost, 0.0)
        return choice, value

    def _search_mode(self) -> Bool[Array, "labels batch"]:
        log_off = jax.nn.log_sigmoid(-self.scores)
        num_labels = self.scores.shape[0]
        children, parents = self.index.edge_children, self.index.edge_parents

        def count(at_edges: Array, ends: Array) -> Array:
            return jax.ops.segment_sum(at_edges, ends, num_labels)

        def gains(on: Array) -> Array:
            num_off = count((~on[parents]).astype(jnp.int32), children)  # parents that are off
            num_on = count(on[children].astype(jnp.int32), parents)  # children that are on
            # The child of an edge is free, or would be if this one parent came on.
            freed = num_off[children] == jnp.where(on[parents], 0, 1)
            cost = count(jnp.where(freed, log_off[children], 0.0), parents)
            gain = jnp.where(on, -1.0, 1.0) * (self.scores + cost)
            return jnp.where(jnp.where(on, num_on == 0, num_off == 0), gain, -jnp.inf)

        def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            on, gain, step = carry
            best = gain.argmax(0)
            flip = (jnp.arange(num_labels)[:, None] == best) & (gain.max(0) > 0)
            on = on ^ flip
            return on, gains(on), step + 1

        start = labels_first(self.log_marginals) > -jnp.log(2.0)
        first = (start, gains(start), jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda carry: (carry[1] > 0).any() & (carry[2] < MODE_SEARCH_STEPS), improve, first)[
            0
        ]

    def _draw(self, key: Key[Array, ""]) -> Bool[Array, "labels batch"]:
        """Draw every label given that its parents are on."""
        key_on, key_first = jax.random.split(key)
        on = jax.random.logistic(key_on, self.scores.shape, self.scores.dtype) < self.scores
        if self.siblings == "any":
            return on
        assert self.families is not None
        members, segments = self.families.members, self.families.segments
        num_families = self.families.parent.shape[0]
        scores = self.scores[members]
        gumbel = jax.random.gumbel(key_first, scores.shape, scores.dtype)
        if self.siblings == "one":
            drawn = _first_maximum(scores + gumbel, segments, num_families)
        else:
            # Which sibling is the first that is on, has the probability that it is and all before it are not;
            # those after it are free.
            none_before = _sum_before(jax.nn.log_sigmoid(-scores), segments)
            first = _first_maximum(jax.nn.log_sigmoid(scores) + none_before + gumbel, segments, num_families)
            after = _sum_before(first.astype(scores.dtype), segments) > 0
            drawn = first | (after & on[members])
        return jnp.zeros_like(drawn).at[members].set(drawn, unique_indices=True)


def _log_at_least_one(
    scores: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Float[Array, "segments batch"]:
    """Return log(1 − Π σ(−s)) of rows by ascending segment number: of independent labels at least one is on.

    With t = Σ log(1 + eˢ) it is log(1 − e⁻ᵗ); where t would underflow, its series about log t is taken.
    """
    log_t = segment_logsumexp(log_softplus(scores), segments, num_segments)
    small = log_t < -10.0
    t = segment_sum(jax.nn.softplus(scores), segments, num_segments)
    series = log_t - t / 2 + jnp.square(t) / 24  # the next term, t⁴ / 2880, is below float64's rounding
    return jnp.where(small, series, log1mexp(-jnp.where(small, 1.0, t)))


def _first_maximum(
    x: Float[Array, "rows batch"], segments: Int[Array, "rows"], num_segments: int
) -> Bool[Array, "rows batch"]:
    """Return for each column and segment which row holds its maximum, the first of those that tie."""
    largest = x == segment_max(x, segments, num_segments)[segments]
    place = jnp.arange(x.shape[0])[:, None]
    places = jnp.where(largest, place, x.shape[0])
    first = jax.ops.segment_min(places, segments, num_segments, indices_are_sorted=True)
    return place == first[segments]


def _sum_before(x: Float[Array, "rows batch"], segments: Int[Array, "rows"]) -> Float[Array, "rows batch"]:
    """Return the sum of the rows of the same segment that come before, by a segmented scan (no differences)."""
    starts = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])[:, None]
    shifted = jnp.where(starts, 0.0, jnp.roll(x, 1, axis=0)).astype(x.dtype)

    def combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        return jnp.where(right[1], right[0], left[0] + right[0]), left[1] | right[1]

    return jax.lax.associative_scan(combine, (shifted, jnp.broadcast_to(starts, x.shape)))[0]


class Head(nnx.Module):
    """A Bayesian network on the hierarchy: ``siblings = "any"`` on any DAG, ``"some"`` and ``"one"`` on forests.

    Raises `UserError` without a hierarchy, and where `siblings` needs a forest and a label has several parents.
    """

    scores_per_label = 1
    coherent = True
    soft_labels = False

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        *,
        siblings: Siblings = "any",
        rngs: nnx.Rngs,
    ) -> None:
        del num_labels, rngs
        if hierarchy is None:
            raise UserError("head 'conditional' needs a label hierarchy; use 'independent' for flat labels")
        if siblings != "any" and not hierarchy.is_forest:
            several = int(np.flatnonzero(hierarchy.num_parents > 1)[0])
            raise UserError(
                f"head.conditional.siblings = {siblings!r} needs one parent a label, but "
                f"{hierarchy.names[several]!r} has {hierarchy.num_parents[several]}; use siblings = 'any'"
            )
        self.siblings = siblings
        self.unknown_labels = hierarchy.is_forest
        self.index = Structure(index_hierarchy(hierarchy, closure=not hierarchy.is_forest))
        self.families = Structure(group_families(hierarchy) if hierarchy.is_forest else None)

    def __call__(self, label_scores: Float[Array, "batch labels 1"], encoded: Encoded) -> BayesianNetwork:
        """Return the distribution."""
        return BayesianNetwork(
            labels_first(at_least_float32(label_scores[..., 0])),
            self.index.get_value(),
            self.families.get_value(),
            self.siblings,
        )
