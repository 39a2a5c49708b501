"""Every label given its parents: a Bayesian network on the hierarchy, with exact likelihood and marginals."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.families import Families, Siblings, group_families, log_at_least_one, log_normaliser
from mlresearch.heads import (
    LabelDistribution,
    LabelLoss,
    Labels,
    NotTiltableError,
    Structure,
    check_share,
    joint_loss,
    labels_first,
)
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.hierarchy_index import HierarchyIndex, Lists, index_hierarchy
from mlresearch.label_space import LabelSets
from mlresearch.logspace import at_least_float32, log_sigmoids
from mlresearch.prior import log_odds_given_parents, log_odds_of_hurdle, log_share_among_siblings
from mlresearch.propagation import (
    apart,
    batch_first,
    first_maximum,
    keep_with_parents,
    parent_minimum,
    parents_on,
    path_sum,
    segment_sum,
    settle,
    sum_before,
    take,
    total,
    walk,
)
from mlresearch.pytree import pytree_dataclass
from mlresearch.sum_product import Forest, Known
from mlresearch.touched import count_touched, log_prob_touched, touched_labels

MODE_SEARCH_STEPS = 256
"""On a DAG, the most labels that the search for the mode flips in one example."""


OfFamilies: TypeAlias = tuple[Float[Array, "families batch"] | None, Float[Array, "families batch"] | None]
"""What families whose parents are on add to a log-probability where some of their members are on, and where none is."""


@pytree_dataclass
class BayesianNetwork(LabelDistribution):
    """A label with any parent off is off; among labels whose parents are all on, siblings follow a rule.

    - ``any``: each is on with probability σ(s), independently.
    - ``some``: as ``any``, given that at least one child of each label that is on is on.
    - ``one``: exactly one is on, with probability softmax(s) among its siblings.
    - ``at_most_one``: as ``one``, with one more choice, of score 0: that none is on.
    - ``hurdle``: with probability σ(g) as ``some``, else none is on; g is the family's own score.

    The roots are siblings too, as children of a label that is always on: under ``some`` and ``one`` the empty set is
    impossible. scores: labels first. families: None on a DAG with several parents a label, which only ``any`` allows.
    family_scores: g, of ``hurdle`` alone. marginal_share: of the marginals' label-wise loss in `loss`.

    Source of the name: Mullahy, "Specification and Testing of Some Modified Count Data Models", 1986.
    """

    scores: Float[Array, "labels batch"]
    index: HierarchyIndex
    families: Families | None
    siblings: Siblings = dataclasses.field(metadata={"static": True})
    family_scores: Float[Array, "families batch"] | None = None
    marginal_share: float = dataclasses.field(default=0.0, metadata={"static": True})

    @property
    def mode_is_exact(self) -> bool:  # type: ignore[override]
        """True on a forest; on a DAG the mode is a bounded search."""
        return self.families is not None

    @property
    def tiltable(self) -> bool:  # type: ignore[override]
        """True on a forest."""
        return self.families is not None

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return `log_marginals_by_label`, turned."""
        return batch_first(self.log_marginals_by_label, self.index)

    @property
    def log_marginals_by_label(self) -> Float[Array, "labels batch"]:
        """Return Σ log P(label on | its parents on) over the label and its ancestors, each once; labels first.

        On a forest that is a sum along the path, where rounding is monotone; on a DAG a sum over the closure, settled.
        """
        on, _ = self._log_factors()
        if self.families is None:
            return settle(path_sum(on, self.index), self.index)
        if self.siblings in ("some", "hurdle"):
            some, _ = self._log_of_families()
            assert some is not None
            on = jnp.minimum(on + some[self.families.family], 0.0)
        return path_sum(on, self.index)

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return `joint_loss`: −`log_prob_known`, or a share of it and the rest of `label_loss` on the marginals."""
        return joint_loss(self, labels, label_loss, self.marginal_share)

    def log_prob(self, labels: Bool[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return Σ log P(label | its parents) over the labels whose parents are all on; −inf for an impossible set."""
        on = labels_first(labels)
        free = parents_on(on, self.index)
        log_on, log_off = self._log_factors()
        factors = jnp.where(on, log_on, log_off)
        impossible = (on & ~free).any(0)
        if self.siblings == "any":
            return jnp.where(impossible, -jnp.inf, jnp.where(free, factors, 0.0).sum(0))
        assert self.families is not None
        num_families = self.families.parent.shape[0]
        num_on = segment_sum(on[self.families.members].astype(log_on.dtype), self.families.segments, num_families)
        family_free = on[self.families.parent].at[0].set(True)
        # Members count where one of them is on; of a family without any, what it adds itself is all.
        total = jnp.where(free & (num_on > 0)[self.families.family], factors, 0.0).sum(0)
        some, none = self._log_of_families()
        if some is not None:
            total += jnp.where(family_free & (num_on > 0), some, 0.0).sum(0)
        if none is not None:
            total += jnp.where(family_free & (num_on == 0), none, 0.0).sum(0)
        else:
            impossible |= (family_free & (num_on == 0)).any(0)
        if self.siblings in ("one", "at_most_one"):
            impossible |= (family_free & (num_on > 1)).any(0)
        return jnp.where(impossible, -jnp.inf, total)

    def log_prob_known(self, labels: Float[Array, "batch labels"]) -> Float[Array, "batch"]:
        """Return log P(known labels), NaN standing for unknown; −inf for the impossible, exactly 0 if nothing is known.

        It is log Σ p(y) over the label sets y that agree with what is known, O(labels), by one pass up a forest
        (sum-product; Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988). On a DAG a row with unknown labels
        gives NaN: `Head.unknown_labels` is False there.
        """
        if self.families is None:
            return jnp.where(jnp.isnan(labels).any(-1), jnp.nan, self.log_prob(labels > 0.5))
        known, family = self._forest.sum_upwards(Known.of_labels(labels_first(labels)))
        impossible = (known.on & ~known.possible).any(0) | ~family.possible[0]
        return jnp.where(impossible, -jnp.inf, family.below[0])

    def tilt(self, exponents: Float[Array, "batch labels"]) -> tuple["BayesianNetwork", Float[Array, "batch"]]:
        """Return p(y) exp(λ · y) / Z and log Z, O(labels): on a forest that is a network of other scores.

        Given that a label is on, what is below adds a factor to its odds.
        """
        known, family = self._forest.sum_upwards(Known.of_factors(labels_first(exponents)))
        return self._with(self._forest.posterior(known)), family.below[0]

    def given(self, known: Float[Array, "batch labels"]) -> "BayesianNetwork":
        """Return p(labels | known labels), NaN standing for unknown; on a forest that is a network of other scores."""
        found, _ = self._forest.sum_upwards(Known.of_labels(labels_first(known)))
        return self._with(self._forest.posterior(found))

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return the most probable label set, O(labels).

        On a forest one pass up adds the best value of each subtree (max-product; Pearl, "Probabilistic Reasoning in
        Intelligent Systems", 1988) and one pass down reads off the choices. On a DAG: the marginals over ½, improved
        label by label while that helps, at most `MODE_SEARCH_STEPS` times, so never less probable than those.
        """
        if self.families is None:
            start = labels_first(self.log_marginals) > -jnp.log(2.0)
            return labels_first(self._search(self.scores, jax.nn.log_sigmoid(-self.scores), start))
        return labels_first(self._maximise(*self._log_factors(), self._log_of_families()))

    def pooled_mode(
        self, weights: Float[Array, "examples components"], start: Bool[Array, "examples labels"]
    ) -> Bool[Array, "examples labels"]:
        """Return the set y of the largest Σₖ wₖ log pₖ(y), over the components of each example.

        The batch has the components of the first example, then those of the second, and so on. On a forest that is
        the pass of `mode` with averaged terms; on a DAG, the search from `start`, a possible set.
        """

        def pool(terms: Float[Array, "rows batch"]) -> Float[Array, "rows examples"]:
            return (terms.reshape(terms.shape[0], *weights.shape) * weights).sum(-1)

        if self.families is None:
            on = self._search(pool(self.scores), pool(jax.nn.log_sigmoid(-self.scores)), labels_first(start))
            return labels_first(on)
        log_on, log_off = self._log_factors()
        return labels_first(self._maximise(pool(log_on), pool(log_off), jax.tree.map(pool, self._log_of_families())))

    def take(self, rows: Int[Array, "rows"]) -> "BayesianNetwork":
        """Return the distributions of some examples of the batch."""
        family_scores = None if self.family_scores is None else self.family_scores[:, rows]
        return dataclasses.replace(self, scores=self.scores[:, rows], family_scores=family_scores)

    def sample(self, key: Key[Array, ""], n: int) -> Bool[Array, "n batch labels"]:
        """Draw the choices of every family, whether its parent is on or not, and keep those with all parents on."""
        return jax.vmap(lambda one: labels_first(keep_with_parents(self._draw(one), self.index)))(
            jax.random.split(key, n)
        )

    def _log_factors(self) -> tuple[Float[Array, "labels batch"], Float[Array, "labels batch"]]:
        """Return what a label adds when it is on and when it is off, given that its parents are on."""
        if self.siblings in ("one", "at_most_one"):
            assert self.families is not None
            on = jnp.minimum(self.scores - self._log_normaliser()[self.families.family], 0.0)
            return on, jnp.zeros_like(on)
        return log_sigmoids(self.scores)

    def _log_any(self) -> Float[Array, "families batch"]:
        """Return the log-probability that of each family's members, if independent, at least one is on."""
        assert self.families is not None
        members, segments = self.families.members, self.families.segments
        return log_at_least_one(self.scores[members], segments, self.families.parent.shape[0])

    def _log_normaliser(self) -> Float[Array, "families batch"]:
        assert self.families is not None
        members, segments = self.families.members, self.families.segments
        rest = self.siblings == "at_most_one"
        return log_normaliser(self.scores[members], segments, self.families.parent.shape[0], rest=rest)

    def _log_of_families(self) -> OfFamilies:
        """Return what families add whose parents are on: where some members are on, and where none is.

        The first is beside what members add, None where it is nothing; the second in place of it, None where none on is
        impossible, or the members' own affair.
        """
        if self.siblings == "some":
            return -self._log_any(), None
        if self.siblings == "at_most_one":
            return None, -self._log_normaliser()
        if self.siblings == "hurdle":
            assert self.family_scores is not None
            log_some, log_none = log_sigmoids(self.family_scores)
            return log_some - self._log_any(), log_none
        return None, None

    @property
    def _forest(self) -> Forest:
        if self.families is None:
            raise NotTiltableError("a network on a DAG has no exact tilting, and none given known labels")
        return Forest(self.scores, self.family_scores, self.index, self.families, self.siblings)

    def _with(self, forest: Forest) -> "BayesianNetwork":
        return dataclasses.replace(self, scores=forest.scores, family_scores=forest.family_scores)

    def _maximise(
        self,
        log_on: Float[Array, "labels batch"],
        log_off: Float[Array, "labels batch"],
        of_families: OfFamilies,
    ) -> Bool[Array, "labels batch"]:
        """Return the best set on a forest, given what labels add when on and off, and what families add."""
        assert self.families is not None
        families, siblings = self.families, self.siblings
        some, none = of_families
        alone = siblings in ("one", "at_most_one")
        log_on, log_off = apart(log_on, self.index), apart(log_off, self.index)  # gathered by every level
        # For each label, given that it is on: what its children add at best, each free to choose; and the most that one
        # of them gains by coming on, or, where one at most does, the best of these and of none.
        leaf = (families.below == 0)[:, None]
        nothing = jnp.zeros_like(log_on)
        free = nothing if some is None else jnp.where(leaf, 0.0, some[families.below])
        single = jnp.where(leaf, 0.0, none[families.below] if alone and none is not None else -jnp.inf)
        single = jnp.broadcast_to(single, log_on.shape)
        without = None  # what is below labels none of whose children is on
        if siblings == "hurdle":
            assert none is not None
            without = apart(jnp.where(leaf, -jnp.inf, none[families.below]), self.index)

        def best(free: Array, single: Array, slot: Int[Array, "some"] | None = None) -> Array:
            """Return the best log-probability of what is below labels that are on, those of a slot or all."""
            if alone or siblings == "any":
                return single if alone else free
            with_some = free + jnp.minimum(single, 0.0)
            if without is None:
                return with_some
            return jnp.maximum(with_some, without if slot is None else take(without, slot))

        def up(carry: tuple[Array, Array], children: Lists) -> tuple[Array, Array]:
            slots = children.members
            free, single = carry
            on = [take(log_on, slot, -jnp.inf) + best(take(free, slot), take(single, slot), slot) for slot in slots]
            off = [take(log_off, slot, 0.0) for slot in slots]
            if not alone:
                sums = total([jnp.maximum(*values) for values in zip(on, off, strict=True)])
                free = free.at[children.targets].add(sums, indices_are_sorted=True)
            if siblings != "any":
                maxima = functools.reduce(jnp.maximum, [on - off for on, off in zip(on, off, strict=True)])
                single = single.at[children.targets].max(maxima, indices_are_sorted=True)
            return free, single

        on = log_on + best(*walk(self.index.upward, (free, single), up))
        gain = on - log_off
        if siblings == "any":
            return parent_minimum(gain, self.index) > 0
        members, segments = families.members, families.segments
        first = first_maximum(gain[members], segments, families.parent.shape[0])
        chosen = jnp.zeros(gain.shape, bool).at[members].set(first, unique_indices=True)
        if not alone:
            chosen |= gain > 0
        if none is not None:
            some_on = on
            if not alone:
                assert some is not None
                num_families = families.parent.shape[0]
                sums = segment_sum(jnp.where(chosen, on, log_off)[members], segments, num_families)
                some_on = (some + sums)[families.family]
            chosen &= some_on > none[families.family]
        return keep_with_parents(chosen, self.index)

    def _search(
        self,
        log_odds: Float[Array, "labels batch"],
        log_off: Float[Array, "labels batch"],
        start: Bool[Array, "labels batch"],
    ) -> Bool[Array, "labels batch"]:
        """Return `start`, improved label by label on a DAG, given log-odds and what a label adds when it is off."""
        num_labels = log_odds.shape[0]
        children, parents = self.index.edge_children, self.index.edge_parents

        def count(at_edges: Array, ends: Array) -> Array:
            return jax.ops.segment_sum(at_edges, ends, num_labels)

        def gains(on: Array) -> Array:
            num_off = count((~on[parents]).astype(jnp.int32), children)  # parents that are off
            num_on = count(on[children].astype(jnp.int32), parents)  # children that are on
            # The child of an edge is free, or would be if this one parent came on.
            freed = num_off[children] == jnp.where(on[parents], 0, 1)
            cost = count(jnp.where(freed, log_off[children], 0.0), parents)
            gain = jnp.where(on, -1.0, 1.0) * (log_odds + cost)
            return jnp.where(jnp.where(on, num_on == 0, num_off == 0), gain, -jnp.inf)

        def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            on, gain, step = carry
            best = gain.argmax(0)
            flip = (jnp.arange(num_labels)[:, None] == best) & (gain.max(0) > 0)
            on = on ^ flip
            return on, gains(on), step + 1

        first = (start, gains(start), jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda carry: (carry[1] > 0).any() & (carry[2] < MODE_SEARCH_STEPS), improve, first)[
            0
        ]

    def _draw(self, key: Key[Array, ""]) -> Bool[Array, "labels batch"]:
        """Draw every label given that its parents are on."""
        key_on, key_first, key_hurdle = jax.random.split(key, 3)
        on = jax.random.logistic(key_on, self.scores.shape, self.scores.dtype) < self.scores
        if self.siblings == "any":
            return on
        assert self.families is not None
        members, segments = self.families.members, self.families.segments
        num_families = self.families.parent.shape[0]
        scores = self.scores[members]
        gumbel = jax.random.gumbel(key_first, scores.shape, scores.dtype)
        if self.siblings in ("one", "at_most_one"):
            drawn = first_maximum(scores + gumbel, segments, num_families)
            if self.siblings == "at_most_one":
                rest = jax.random.gumbel(key_on, (num_families, scores.shape[1]), scores.dtype)
                drawn &= (scores + gumbel) > rest[segments]
        else:
            # Which sibling is the first that is on, has the probability that it is and all before it are not;
            # those after it are free.
            none_before = sum_before(jax.nn.log_sigmoid(-scores), segments)
            first = first_maximum(jax.nn.log_sigmoid(scores) + none_before + gumbel, segments, num_families)
            after = sum_before(first.astype(scores.dtype), segments) > 0
            drawn = first | (after & on[members])
            if self.siblings == "hurdle":
                assert self.family_scores is not None
                noise = jax.random.logistic(key_hurdle, self.family_scores.shape, scores.dtype)
                drawn &= (noise < self.family_scores)[segments]
        return jnp.zeros_like(drawn).at[members].set(drawn, unique_indices=True)


def check_one_parent(hierarchy: LabelHierarchy, setting: str, instead: str) -> None:
    """Raise `UserError`, which names a setting and what to use instead, if a label has several parents."""
    if not hierarchy.is_forest:
        several = int(np.flatnonzero(hierarchy.num_parents > 1)[0])
        raise UserError(
            f"{setting} needs one parent a label, but {hierarchy.names[several]!r} has "
            f"{hierarchy.num_parents[several]}; use {instead}"
        )


class Head(nnx.Module):
    """A Bayesian network on the hierarchy: ``siblings = "any"`` on any DAG, the others on forests.

    The scores of families under ``hurdle`` are parameters of the head, the same whatever the input.

    sparse: on forests, training computes the scores of those labels alone that the likelihood of an example touches,
    the roots and the children of labels that are on (`mlresearch.touched`); the same loss at a fraction of the cost
    where labels are many. Unknown labels need all scores, and so do marginals.

    marginal_share: w in a training loss of −(1 − w) log p(labels) + w Σ ℓ(marginal, label), with the config's
    label-wise ℓ: some of it makes better rankings, the likelihood better sets.

    Raises `UserError` without a hierarchy, where `siblings` or `sparse` needs a forest and a label has several parents,
    and for a `marginal_share` that is none or that `sparse` cannot compute.
    """

    scores_per_label = 1
    coherent = True
    soft_labels = False

    def __init__(
        self,
        hierarchy: LabelHierarchy | None,
        num_labels: int,
        dim: int,
        *,
        siblings: Siblings = "any",
        sparse: bool = False,
        marginal_share: float = 0.0,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        del dim, rngs
        if hierarchy is None:
            raise UserError("head 'conditional' needs a label hierarchy; use 'independent' for flat labels")
        if siblings != "any":
            check_one_parent(hierarchy, f"head.conditional.siblings = {siblings!r}", "siblings = 'any'")
        if sparse:
            check_one_parent(hierarchy, "head.conditional.sparse = True", "sparse = False")
        check_share(marginal_share, "head.conditional.marginal_share")
        if sparse and marginal_share:
            raise UserError(
                f"head.conditional.marginal_share = {marginal_share} needs the marginals of all labels, which "
                "head.conditional.sparse = True does not compute; set one of them to 0 or False"
            )
        self.num_labels = num_labels
        self.siblings = siblings
        self.sparse = sparse
        self.marginal_share = marginal_share
        self.num_touched = 0
        self.unknown_labels = hierarchy.is_forest and not sparse
        self.index = Structure(index_hierarchy(hierarchy, closure=False))
        families = group_families(hierarchy) if hierarchy.is_forest else None
        self.families = Structure(families)
        num_families = 0 if families is None else len(families.parent)
        self.family_scores = nnx.Param(jnp.zeros(num_families, param_dtype)) if siblings == "hurdle" else None

    def __call__(self, label_scores: Float[Array, "batch labels 1"], encoded: Encoded) -> BayesianNetwork:
        """Return the distribution."""
        scores = labels_first(at_least_float32(label_scores[..., 0]))
        family_scores = None
        if self.family_scores is not None:
            column = self.family_scores[...].astype(scores.dtype)[:, None]
            family_scores = jnp.broadcast_to(column, (len(column), scores.shape[1]))
        return BayesianNetwork(
            scores,
            self.index.get_value(),
            self.families.get_value(),
            self.siblings,
            family_scores,
            self.marginal_share,
        )

    def begin_with(self, labels: LabelSets) -> Float[np.ndarray, "labels 1"]:
        """Return the scores that give each label its frequency where its parents are on; of `some`, nearly so."""
        index = self.index.get_value()
        edges = np.asarray(index.edge_children), np.asarray(index.edge_parents)
        if self.siblings in ("any", "some"):
            return log_odds_given_parents(labels, self.num_labels, *edges)[:, None]
        if self.family_scores is not None:
            families = self.families.get_value()
            assert families is not None
            family, parent = np.asarray(families.family), np.asarray(families.parent)
            of_labels, of_families = log_odds_of_hurdle(labels, self.num_labels, family, parent)
            self.family_scores[...] = jnp.asarray(of_families, self.family_scores.dtype)
            return of_labels[:, None]
        return log_share_among_siblings(labels, self.num_labels, *edges, rest=self.siblings == "at_most_one")[:, None]

    def expect(self, label_sets: Iterable[LabelSets]) -> None:
        """Make room for the labels that the sparse losses of these label sets touch."""
        families = self.families.get_value()
        assert families is not None
        self.num_touched = max((count_touched(labels, families) for labels in label_sets), default=0)

    def sparse_loss(
        self,
        label_ids: Int[Array, "batch width"],
        scores_of: Callable[[Int[Array, "batch some"]], Float[Array, "batch some 1"]],
    ) -> Float[Array, "batch"]:
        """Return the distribution's loss from the scores of the labels that it touches alone.

        label_ids: of the labels that are on, filled up with the number of labels. No label set may be larger than those
        that were to be expected.
        """
        families = self.families.get_value()
        assert families is not None
        touched = touched_labels(label_ids, families, self.num_touched)
        scores = at_least_float32(scores_of(touched.labels)[..., 0])
        family_scores = None if self.family_scores is None else self.family_scores[...].astype(scores.dtype)
        return -log_prob_touched(scores, touched, self.siblings, family_scores)
