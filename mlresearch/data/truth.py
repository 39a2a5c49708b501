"""A distribution of label sets that is known exactly: mixtures of Bayesian networks on a hierarchy, given inputs.

`mlresearch.data.synthetic` states the distribution and draws data sets from it. NumPy in float64, no JAX.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import special

from mlresearch.errors import UserError

BEAM_WIDTHS = (8, 128, 2048, 32_768)
"""Partial label sets that the search for the mode keeps at a time: the next width where one does not do."""

BEAM_ENTRIES = 2**16  # partial label sets of all examples that are searched at once
BLOCK_ENTRIES = 2**20  # examples × components × labels that are computed at once

Inputs = Float32[np.ndarray, "examples features"] | Sequence[str]
"""What the model sees of examples: ``Records.features`` or ``Records.texts``."""


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """The distribution of label sets given inputs that a data set was drawn from; ``Truth.from_json(dataset.truth)``.

    parents: int64 [edges, 2] of (child, parent) label ids, the parent the smaller. The scores of component k are
    ``weights @ x + offsets[k]`` (float64 [labels, features], [components, labels]), its log-gate, but for a constant,
    ``gate_weights[k] @ x + gate_offsets[k]``. words, word_vectors: None where inputs are features, else the vocabulary
    and float64 [words, features].

    Inputs are ``Records.features`` or ``Records.texts``; what x cannot be computed from is a `UserError`. Everything is
    exact up to float64's rounding, and takes O(components × labels × ancestors of a label) an example, but for `mode`.
    """

    parents: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    gate_weights: np.ndarray
    gate_offsets: np.ndarray
    words: tuple[str, ...] | None = None
    word_vectors: np.ndarray | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Truth":
        """Inverse of `to_json`, bit for bit; anything else is a `UserError`."""
        try:
            arrays = {
                name: np.array(stored[name], np.float64)
                for name in ("weights", "offsets", "gate_weights", "gate_offsets")
            }
            if stored["words"] is not None:
                arrays["word_vectors"] = np.array(stored["word_vectors"], np.float64)
            words = None if stored["words"] is None else tuple(stored["words"])
            return cls(parents=np.array(stored["parents"], np.int64).reshape(-1, 2), words=words, **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"this is not the truth of a data set of source 'synthetic': {error!r}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as lists of Python numbers."""
        return {
            "parents": self.parents.tolist(),
            "weights": self.weights.tolist(),
            "offsets": self.offsets.tolist(),
            "gate_weights": self.gate_weights.tolist(),
            "gate_offsets": self.gate_offsets.tolist(),
            "words": None if self.words is None else list(self.words),
            "word_vectors": None if self.word_vectors is None else self.word_vectors.tolist(),
        }

    def log_prob(self, inputs: Inputs, labels: Bool[np.ndarray, "examples labels"]) -> Float64[np.ndarray, "examples"]:
        """Return log p(labels | inputs); -inf for a label without one of its parents."""
        return np.concatenate([mixture.log_prob(labels[rows]) for rows, mixture in self._blocks(inputs)])

    def network_log_prob(
        self, inputs: Inputs, labels: Bool[np.ndarray, "examples labels"]
    ) -> Float64[np.ndarray, "examples"]:
        """Return log-probabilities under the best distribution in which labels depend by the hierarchy alone.

        A label whose parents are all on is on with its true probability given that; `log_prob` itself at dependence 0.
        """
        return np.concatenate([mixture.network_log_prob(labels[rows]) for rows, mixture in self._blocks(inputs)])

    def independent_log_prob(
        self, inputs: Inputs, labels: Bool[np.ndarray, "examples labels"]
    ) -> Float64[np.ndarray, "examples"]:
        """Return log-probabilities under the best independent labels: the product of the true marginals."""
        return np.concatenate([mixture.independent_log_prob(labels[rows]) for rows, mixture in self._blocks(inputs)])

    def log_marginals(self, inputs: Inputs) -> Float64[np.ndarray, "examples labels"]:
        """Return log P(label on | inputs), never larger for a label than for any of its parents."""
        return np.concatenate([mixture.log_marginals() for _, mixture in self._blocks(inputs)])

    def mode(self, inputs: Inputs) -> Bool[np.ndarray, "examples labels"]:
        """Return the most probable label sets, by branch and bound; one of them where several are.

        Labels are decided one after the other, parents first. What a partial set can at best become is bounded by the
        best of each component on its own: Σ_k g_k max p_k(y) is at least max Σ_k g_k p_k(y). On a tree the best of a
        component is computed exactly (max-product: Pearl, "Probabilistic Reasoning in Intelligent Systems", 1988); on a
        DAG a label with several parents is taken to cost nothing until they are all decided.

        The search keeps the most promising partial sets, as many as the first of `BEAM_WIDTHS`; an example whose best
        set is less probable than the largest bound of what was left out is searched again with the next width. So a
        result is always exact, at O(width × labels × (components + labels)) an example. If the last width
        does not do, there is a `UserError` instead: where very many sets are nearly as probable as the best.
        """
        return np.concatenate([mixture.mode() for _, mixture in self._blocks(inputs)])

    def scores(
        self, inputs: Inputs
    ) -> tuple[Float64[np.ndarray, "components examples"], Float64[np.ndarray, "labels components examples"]]:
        """Return log-gates and the labels' scores."""
        x, divisor = self._sums(inputs)
        gates = (self.gate_weights @ x.T) / divisor.T + self.gate_offsets[:, None]
        scores = (self.weights @ x.T) / divisor.T
        return special.log_softmax(gates, axis=0), scores[:, None] + self.offsets.T[:, :, None]

    def sample(self, inputs: Inputs, rng: np.random.Generator) -> Bool[np.ndarray, "examples labels"]:
        """Draw one label set an example, from ``labels + 1`` doubles each: its component, then label by label."""
        log_gates, scores = self.scores(inputs)
        num_labels, _, num_examples = scores.shape
        uniforms = rng.random((num_examples, num_labels + 1))
        bounds = np.cumsum(np.exp(log_gates[:-1]), axis=0)
        components = (uniforms[:, 0] >= bounds).sum(0)
        labels = uniforms[:, 1:] < special.expit(scores[:, components, np.arange(num_examples)].T)
        for label, above in enumerate(self.parents_of):
            labels[:, label] &= labels[:, above].all(1)
        return labels

    def mean_log_likelihoods(self, inputs: Inputs, labels: Bool[np.ndarray, "examples labels"]) -> dict[str, float]:
        """Return means over examples: what the best possible model of three kinds is expected to reach.

        "true": `log_prob`. "network": `network_log_prob`, what a single network on the hierarchy can reach.
        "independent": `independent_log_prob`.
        """
        return {
            "true": float(self.log_prob(inputs, labels).mean()),
            "network": float(self.network_log_prob(inputs, labels).mean()),
            "independent": float(self.independent_log_prob(inputs, labels).mean()),
        }

    @functools.cached_property
    def parents_of(self) -> tuple[np.ndarray, ...]:
        """The parents of each label, int64."""
        children, parents = self.parents.T
        return tuple(np.sort(parents[children == label]) for label in range(self.weights.shape[0]))

    @functools.cached_property
    def ancestors(self) -> tuple[np.ndarray, ...]:
        """The proper ancestors of each label, each once, int64."""
        ancestors: list[np.ndarray] = []
        for above in self.parents_of:
            ancestors.append(np.unique(np.concatenate([above, *(ancestors[parent] for parent in above)])))
        return tuple(ancestors)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words or ())}

    def _blocks(self, inputs: Inputs) -> Iterator[tuple[slice, "Mixture"]]:
        """Yield the distribution of a few examples at a time."""
        step = max(1, BLOCK_ENTRIES // self.offsets.size)
        for start in range(0, max(len(inputs), 1), step):
            rows = slice(start, start + step)
            log_gates, scores = self.scores(inputs[rows])
            yield rows, Mixture(self.parents_of, self.ancestors, log_gates, log_sigmoid(scores), log_sigmoid(-scores))

    def _sums(
        self, inputs: Inputs
    ) -> tuple[Float64[np.ndarray, "examples features"], Float64[np.ndarray, "examples 1"]]:
        """Return x as a sum and its divisor: sums of multiples of `GRID` are exact, so that only dividing rounds."""
        num_features = self.weights.shape[1]
        if self.word_vectors is None:
            if not isinstance(inputs, np.ndarray) or inputs.shape[1:] != (num_features,):
                raise UserError(f"the truth of this data set is given float32 features, {num_features} an example")
            if not np.isfinite(inputs).all():
                raise UserError(
                    "the truth of this data set is given features without gaps; some are missing or infinite"
                )
            return inputs.astype(np.float64), np.ones((len(inputs), 1))
        if isinstance(inputs, np.ndarray):
            raise UserError("the truth of this data set is given texts, not features")
        sums, lengths = np.zeros((len(inputs), num_features)), np.ones((len(inputs), 1))
        for number, text in enumerate(inputs):
            words = text.split()
            unknown = [word for word in words if word not in self._rows]
            if unknown or not words:
                found = f"has the word {unknown[0]!r}, which" if unknown else "has no words; an empty text"
                raise UserError(f"text {number} {found} is not of this data set's distribution")
            sums[number] = self.word_vectors[[self._rows[word] for word in words]].sum(0)
            lengths[number] = len(words)
        return sums, lengths


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """The distribution of label sets given the inputs of some examples.

    parents_of, ancestors: of each label, all of them smaller ids. log_gates: float64 [components, examples]. log_on,
    log_off: float64 [labels, components, examples], log-probabilities of a label whose parents are all on.
    """

    parents_of: tuple[np.ndarray, ...]
    ancestors: tuple[np.ndarray, ...]
    log_gates: np.ndarray
    log_on: np.ndarray
    log_off: np.ndarray

    def log_prob(self, labels: np.ndarray) -> np.ndarray:
        """See `Truth.log_prob`."""
        on = labels.T[:, None]
        free = self._free(labels)[:, None]
        totals = self.log_gates + np.where(free, np.where(on, self.log_on, self.log_off), 0.0).sum(0)
        mixed = np.minimum(np.logaddexp.reduce(totals, axis=0), 0.0)
        return np.where((on & ~free).any((0, 1)), -np.inf, mixed)

    def network_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """See `Truth.network_log_prob`."""
        on, free = labels.T, self._free(labels)
        reached = self.log_gates + self._log_ancestors_on
        log_reached = np.logaddexp.reduce(reached, axis=1)
        log_on = np.minimum(np.logaddexp.reduce(reached + self.log_on, axis=1) - log_reached, 0.0)
        log_off = np.minimum(np.logaddexp.reduce(reached + self.log_off, axis=1) - log_reached, 0.0)
        total = np.where(free, np.where(on, log_on, log_off), 0.0).sum(0)
        return np.where((on & ~free).any(0), -np.inf, total)

    def independent_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """See `Truth.independent_log_prob`."""
        # The probability of being off is summed from that of each component: 1 - P(on) would cancel.
        log_off = np.logaddexp.reduce(self.log_gates + log1mexp(self._log_ancestors_on + self.log_on), axis=1)
        return np.where(labels, self.log_marginals(), np.minimum(log_off, 0.0).T).sum(1)

    def log_marginals(self) -> np.ndarray:
        """See `Truth.log_marginals`."""
        log_marginals = np.logaddexp.reduce(self.log_gates + self._log_ancestors_on + self.log_on, axis=1)
        log_marginals = np.minimum(log_marginals, 0.0)
        for label, above in enumerate(self.parents_of):  # sums over different sets of labels round differently
            log_marginals[label] = np.minimum(log_marginals[label], log_marginals[above].min(0, initial=0.0))
        return log_marginals.T

    def mode(self) -> np.ndarray:
        """See `Truth.mode`."""
        num_labels, _, num_examples = self.log_on.shape
        best = np.zeros((num_examples, num_labels), bool)
        log_prob = self.log_prob(best)
        unsolved = np.arange(num_examples)
        for width in BEAM_WIDTHS:
            step = max(1, BEAM_ENTRIES // width)
            searched, unsolved = unsolved, unsolved[:0]
            for start in range(0, len(searched), step):
                rows = searched[start : start + step]
                better, sets, values, left_out = self._search(rows, log_prob[rows], width)
                best[better], log_prob[better] = sets, values
                unsolved = np.append(unsolved, rows[left_out > log_prob[rows]])
                if len(unsolved) and width == BEAM_WIDTHS[-1]:
                    raise UserError(
                        f"the mode of {num_labels} labels is not found with {width:,} partial label sets; make "
                        "num_labels, num_components or cardinality smaller"
                    )
        return best

    def _search(
        self, rows: np.ndarray, floor: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Search the examples `rows` for label sets more probable than `floor`, with `width` partial sets at a time.

        Returns the examples that have such sets, the best found for each and its log-probability, and for each of
        `rows` the largest bound of what was left out.
        """
        ahead = self._log_ahead[:, :, rows].transpose(0, 2, 1)  # [labels, rows, components]
        log_on, log_off = (factors[:, :, rows].transpose(0, 2, 1) for factors in (self.log_on, self.log_off))
        roots = [label for label, above in enumerate(self.parents_of) if not len(above)]
        # One entry a partial set: which of `rows` it belongs to, its labels so far, and for each component the
        # log-probability of what is decided and the most that what is open can add.
        owner = np.arange(len(rows))
        on = np.zeros((len(rows), len(self.parents_of)), bool)
        bounds = self.log_gates[:, rows].T + ahead[roots].sum(0)
        left_out = np.full(len(rows), -np.inf)
        for label, above in enumerate(self.parents_of):
            free = on[:, above].all(1)
            with_label, owner_with = on[free], owner[free]
            with_label[:, label] = True
            bounds_with = bounds[free] + (log_on[label] - ahead[label])[owner_with]
            for child in self._settled_by[label]:
                opened = with_label[:, self.parents_of[child]].all(1)
                bounds_with[opened] += ahead[child][owner_with[opened]]
            bounds[free] += (log_off[label] - ahead[label])[owner[free]]
            owner = np.concatenate([owner, owner_with])
            on = np.concatenate([on, with_label])
            bounds = np.concatenate([bounds, bounds_with])

            bound = np.logaddexp.reduce(bounds, axis=1)
            order = np.lexsort((-bound, owner))
            order = order[bound[order] > floor[owner[order]]]
            rank = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
            np.maximum.at(left_out, owner[order[rank >= width]], bound[order[rank >= width]])
            kept = order[rank < width]
            owner, on, bounds = owner[kept], on[kept], bounds[kept]
        found, first = np.unique(owner, return_index=True)  # entries stand best first
        return rows[found], on[first], np.logaddexp.reduce(bounds[first], axis=1), left_out

    def _free(self, labels: np.ndarray) -> np.ndarray:
        """Whether all parents of a label are on, bool [labels, examples]."""
        return np.stack([labels[:, above].all(1) for above in self.parents_of])

    @functools.cached_property
    def _log_ancestors_on(self) -> np.ndarray:
        """Log-probability that all proper ancestors of a label are on, float64 [labels, components, examples]."""
        return np.stack([self.log_on[above].sum(0) for above in self.ancestors])

    @functools.cached_property
    def _log_ahead(self) -> np.ndarray:
        """The most that a label whose parents are on, and all that hangs on it alone, can add to a log-probability."""
        ahead = np.zeros_like(self.log_on)
        below = np.zeros_like(self.log_on)
        for label in reversed(range(len(self.parents_of))):
            ahead[label] = np.maximum(self.log_on[label] + below[label], self.log_off[label])
            if len(self.parents_of[label]) == 1:
                below[self.parents_of[label][0]] += ahead[label]
        return ahead

    @functools.cached_property
    def _settled_by(self) -> list[list[int]]:
        """The labels whose last parent a label is."""
        settled: list[list[int]] = [[] for _ in self.parents_of]
        for label, above in enumerate(self.parents_of):
            if len(above):
                settled[above[-1]].append(label)
        return settled


def dependence_recovered(model: float, independent: float, true: float) -> float:
    """Return (model - independent) / (true - independent), of mean log-likelihoods of the same label sets.

    1: as good as the truth; 0: no better than independent labels with the true marginals; below 0: worse than those.
    With the value of the best network (`Truth.mean_log_likelihoods`) in place of `independent`, it is the share of what
    the hierarchy does not explain. A `UserError` where the truth is not above `independent`, with nothing to recover.
    """
    if not true > independent:
        raise UserError(
            f"there is no dependence to recover: the mean log-likelihood of the truth, {true}, is not above that of "
            f"independent labels, {independent}; draw more examples or a larger dependence"
        )
    return (model - independent) / (true - independent)


def log_sigmoid(scores: np.ndarray) -> np.ndarray:
    """Return log σ(scores)."""
    return -np.logaddexp(0.0, -scores)


def log1mexp(x: np.ndarray) -> np.ndarray:
    """Return log(1 - e^x) for x <= 0 without cancellation; -inf at 0.

    Source: Mächler, "Accurately Computing log(1 - exp(-|a|))", 2012.
    """
    with np.errstate(divide="ignore"):
        return np.where(x > -math.log(2), np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
