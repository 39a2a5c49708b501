"""What is known of labels, carried up a forest: exact sums over label sets of a `conditional` distribution.

Source: Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988 (sum-product).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mlresearch.families import Families, Siblings, log_at_least_one, log_normaliser
from mlresearch.hierarchy_index import HierarchyIndex, LevelEdges
from mlresearch.logspace import CERTAIN, log_sigmoids
from mlresearch.propagation import segment_any, segment_logsumexp, segment_sum, walk


class Known(NamedTuple):
    """What is known of labels and of those below them, labels first.

    below: log P(what is known below | the label is on), 0 where nothing is; or log E of factors of labels that are on.
    on: whether the label, or one below it, is known to be on. possible: whether the label can be on, by what is known
    of it and below it.
    """

    below: Float[Array, "labels batch"]
    on: Bool[Array, "labels batch"]
    possible: Bool[Array, "labels batch"]

    @classmethod
    def of_labels(cls, labels: Float[Array, "labels batch"]) -> "Known":
        """Return what is known of labels alone, NaN standing for unknown."""
        return cls(jnp.zeros_like(labels), labels > 0.5, ~(labels <= 0.5))

    @classmethod
    def of_factors(cls, exponents: Float[Array, "labels batch"]) -> "Known":
        """Return factors exp λ of labels that are on, with nothing known."""
        nobody = jnp.zeros(exponents.shape, bool)
        return cls(exponents, nobody, ~nobody)

    @property
    def anything(self) -> Bool[Array, "labels batch"]:
        """Whether anything is known of a label or of those below it."""
        return self.on | ~self.possible | (self.below != 0)

    def of(self, labels: Int[Array, "some"]) -> "Known":
        """Return what is known of some labels, in their order."""
        return Known(self.below[labels], self.on[labels], self.possible[labels])

    def extend(self, family: "Known", parents: Int[Array, "some"]) -> "Known":
        """Return it with what is known of whole families added to their parents, which are ascending label ids."""
        return Known(
            self.below.at[parents].add(family.below, unique_indices=True, indices_are_sorted=True),
            self.on.at[parents].max(family.on, unique_indices=True, indices_are_sorted=True),
            self.possible.at[parents].min(family.possible, unique_indices=True, indices_are_sorted=True),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Forest:
    """A distribution in which each label depends on its parent, labels first; see `heads.conditional`."""

    scores: Float[Array, "labels batch"]
    family_scores: Float[Array, "families batch"] | None
    index: HierarchyIndex
    families: Families
    siblings: Siblings

    def sum_upwards(self, known: Known) -> tuple[Known, Known]:
        """Return what is known of labels and of those below them, from what is of labels alone; and that of the roots.

        One pass up a forest.
        """
        below = self.families.below

        def extend(known: Known, edges: LevelEdges) -> Known:
            members, numbers = edges.sources, below[edges.targets]
            family = self._sum_siblings(self.scores[members], known.of(members), edges.segments, numbers)
            return known.extend(family, edges.targets)

        known = known._replace(below=known.below.astype(self.scores.dtype))
        known = walk(self.index.levels, known, extend)
        # The roots lead the list of members; all others have one edge, so that their number is known while tracing.
        roots = self.families.members[: self.scores.shape[0] - self.index.edge_children.shape[0]]
        numbers = jnp.zeros(1, below.dtype)
        return known, self._sum_siblings(self.scores[roots], known.of(roots), jnp.zeros_like(roots), numbers)

    def posterior(self, known: Known) -> "Forest":
        """Return the distribution given what is known of labels and of those below them."""
        members, segments, num_families = self.families.members, self.families.segments, self.families.parent.shape[0]
        some_on = segment_any(known.on[members], segments, num_families)
        scores = jnp.where(known.possible, self.scores + known.below, -CERTAIN)
        if self.siblings in ("one", "at_most_one"):
            scores = jnp.where(some_on[self.families.family] & ~known.on, -CERTAIN, scores)
        scores = jnp.where(known.on, CERTAIN, scores)
        family_scores = self.family_scores
        if family_scores is not None:
            possible = segment_any(known.possible[members], segments, num_families)
            total = _log_given_some(self.scores[members], known.of(members), segments, num_families)
            family_scores = jnp.where(possible, family_scores + total, -CERTAIN)
            family_scores = jnp.where(some_on, CERTAIN, family_scores)
        return dataclasses.replace(self, scores=scores, family_scores=family_scores)

    def _sum_siblings(
        self,
        scores: Float[Array, "members batch"],
        known: Known,
        segments: Int[Array, "members"],
        numbers: Int[Array, "families"],
    ) -> Known:
        """Return what is known of whole families: what is known below a label whose children they are.

        scores, known: of the members. segments: to which of the families they belong; numbers: which families these
        are.
        """
        num_families = len(numbers)
        some_on = segment_any(known.on, segments, num_families)
        if self.siblings in ("one", "at_most_one"):
            rest = self.siblings == "at_most_one"
            candidate = known.possible & (known.on | ~some_on[segments])
            normaliser = log_normaliser(scores, segments, num_families, rest=rest)
            log_softmax = jnp.minimum(scores - normaliser[segments], 0.0)
            total = segment_logsumexp(jnp.where(candidate, log_softmax + known.below, -CERTAIN), segments, num_families)
            num_on = segment_sum(known.on.astype(scores.dtype), segments, num_families)
            possible = (segment_any(candidate, segments, num_families) | (rest & ~some_on)) & (num_on <= 1)
            if rest:
                total = jnp.logaddexp(total, jnp.where(some_on, -CERTAIN, -normaliser))
        elif self.siblings == "any":
            total = _log_of_free(scores, known, segments, num_families)
            possible = jnp.ones_like(some_on)
        else:
            total = _log_given_some(scores, known, segments, num_families)
            possible = segment_any(known.possible, segments, num_families)
            if self.siblings == "hurdle":
                assert self.family_scores is not None
                log_some, log_none = log_sigmoids(self.family_scores[numbers])
                total = jnp.where(possible, total + log_some, -CERTAIN)
                total = jnp.logaddexp(total, jnp.where(some_on, -CERTAIN, log_none))
                possible |= ~some_on
        # Where nothing is known, the probability is 1, and not 1 but for rounding.
        below = jnp.where(segment_any(known.anything, segments, num_families), total, 0.0)
        return Known(below, some_on, possible)


def _log_of_free(
    scores: Float[Array, "members batch"], known: Known, segments: Int[Array, "members"], num_families: int
) -> Float[Array, "families batch"]:
    """Return log P(what is known of families), where members are independent."""
    log_on, log_off = log_sigmoids(scores)
    on = log_on + known.below
    either = jnp.where(known.possible, jnp.logaddexp(on, log_off), log_off)
    return segment_sum(jnp.where(known.on, on, jnp.where(known.anything, either, 0.0)), segments, num_families)


def _log_given_some(
    scores: Float[Array, "members batch"], known: Known, segments: Int[Array, "members"], num_families: int
) -> Float[Array, "families batch"]:
    """Return log P(what is known of families | some member of each is on), where members are independent but for that.

    Given what is known, too, they are independent but for that, at other log-odds.
    """
    some_on = segment_any(known.on, segments, num_families)
    log_odds = jnp.where(known.possible, scores + known.below, -CERTAIN)
    at_least_one = log_at_least_one(log_odds, segments, num_families)
    total = _log_of_free(scores, known, segments, num_families)
    return total + jnp.where(some_on, 0.0, at_least_one) - log_at_least_one(scores, segments, num_families)
