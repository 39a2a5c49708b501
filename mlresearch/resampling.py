"""Metrics of a scored split on resampled examples: the states of each resample, and what they compute.

A resample is how often each example was drawn. Its counts, and its means over examples, are weighted sums over what is
kept of each example, and so are the hits and false alarms of each positive, which average precision is the mean of. The
metrics' own code computes the rest, so that each number is that of the rows copied.

Where N examples have P positives among L labels, R resamples at a time take O(R · (N + L + P)) numbers beside the
scores, with R chosen such that these are some hundreds of megabytes, and each takes O(N + L + P) steps, after
O(cells · log P) for all R.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import jax
import numpy as np
import scipy.sparse
from jaxtyping import Float, Float64, Int

from mlresearch.decisions import Decision
from mlresearch.evaluate import evaluate
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies, LabelSets
from mlresearch.metrics import (
    Edges,
    ExampleRanks,
    ExampleValues,
    ExtendedTruth,
    HierarchicalCounts,
    LabelCounts,
    Positives,
    Reliability,
    frequency_bins,
    inverse_propensities,
    macro_f1_in_bins,
)
from mlresearch.scored import Said, ScoredSplit

Sparse: TypeAlias = scipy.sparse.csr_array

BLOCK_ELEMENTS = 1 << 22
"""Elements of the blocks in which resamples are drawn."""

SUMMED_CELLS = 1 << 24
"""Cells up to which their marginals are binned example by example, in 24 bytes a cell, or rows are copied."""

EXTENDED = frozenset(HierarchicalCounts(0, 0, 0, 0, 0, 0).compute())
"""Metrics of label sets with their ancestors."""


def draw_weights(units: int, resamples: int, seed: int, width: int = 1) -> Iterator[Int[np.ndarray, "block units"]]:
    """Yield how often each of `units` stands in each of `resamples` resamples of equal size, in blocks.

    The same seed draws the same, whatever the blocks; they are such that ``block · max(units, width)`` fits memory.
    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
    """
    generator = np.random.default_rng(seed)
    height = max(BLOCK_ELEMENTS // max(units, width), 1)
    for start in range(0, resamples, height):
        rows = min(height, resamples - start)
        drawn = generator.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """Predictions of one decision against the truth, among known labels.

    hits, predicted, true, unknown: sparse 0/1 [examples, labels]. counted: whether an example has a known label;
    orphaned: whether a child is predicted without one of its parents, None where there is no hierarchy. All of them are
    those of `metrics.LabelCounts`.
    """

    hits: Sparse
    predicted: Sparse
    true: Sparse
    unknown: Sparse
    counted: np.ndarray
    values: ExampleValues
    orphaned: np.ndarray | None

    @classmethod
    def of(cls, preds: Sparse, labels: LabelSets, num_labels: int, edges: Edges | None) -> "Outcome":
        """Compare predictions, sparse 0/1 [examples, labels], with label sets."""
        true, unknown = labels.sparse(num_labels), _unknown(labels, num_labels)
        counted = unknown.sum(axis=1) < num_labels
        orphaned = None
        if edges is not None:
            children, parents = preds[:, edges[0]], preds[:, edges[1]]
            orphaned = (children.sum(axis=1) > children.multiply(parents).sum(axis=1)) & counted
        preds = Sparse(preds - preds.multiply(unknown))
        hits = Sparse(preds.multiply(true))
        num_hits, num_preds, num_true = (matrix.sum(axis=1) for matrix in (hits, preds, true))
        return cls(
            *(hits, preds, true, unknown, counted),
            values=ExampleValues.of(num_hits, num_preds, num_true, counted),
            orphaned=orphaned,
        )

    def counts(self, weights: Int[np.ndarray, "resamples examples"]) -> LabelCounts:
        """Return the states of all resamples, stacked; example i stands ``weights[·, i]`` times in a resample."""
        times = np.ascontiguousarray(weights.T)
        hits, predicted, true, unknown = (
            np.ascontiguousarray((matrix.T @ times).T)
            for matrix in (self.hits, self.predicted, self.true, self.unknown)
        )
        orphaned = np.zeros(len(times)) if self.orphaned is None else self.orphaned
        by_example = np.column_stack([self.counted, orphaned, *self.values]).astype(np.float64)
        examples, violations, exact, precision, recall, f1 = (weights.astype(np.float64) @ by_example).T
        examples, violations, exact = (each.astype(np.int64) for each in (examples, violations, exact))
        return LabelCounts(
            tp=hits,
            fp=predicted - hits,
            fn=true - hits,
            # An example without a known label adds to `unknown` for every label, but counts nowhere.
            known=weights.sum(axis=1)[:, None] - unknown,
            examples=examples,
            exact=exact,
            checked=np.zeros_like(examples) if self.orphaned is None else examples,
            violations=violations,
            example_precision=precision,
            example_recall=recall,
            example_f1=f1,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RankedCells:
    """All scores of a split's known cells, ranked in each resample.

    rows: the example of each positive; ranked_rows: the same in the order of ``positives.ranked``.
    """

    scored: ScoredSplit
    positives: Positives
    rows: Int[np.ndarray, "positives"]
    ranked_rows: Int[np.ndarray, "positives"]

    @classmethod
    def of(cls, scored: ScoredSplit) -> "RankedCells":
        """Find the positives of a split."""
        positives, rows = Positives(), [np.zeros(0, np.int64)]
        for [block] in scored:
            positives = positives.merge(Positives.of(block.log_marginals, block.labels, block.known))
            true = block.labels if block.known is None else block.labels & block.known
            rows.append(block.rows[np.nonzero(true)[0]])
        by_label = np.concatenate(rows)[np.argsort(np.concatenate([np.zeros(0, np.complex64), *positives.parts]))]
        return cls(scored, positives, by_label, by_label[np.argsort(positives.scores)])

    def metrics(self, weights: Int[np.ndarray, "resamples examples"]) -> dict[str, Float64[np.ndarray, "resamples"]]:
        """Return the average precisions of `Ranks.compute` in each resample; positive j stands tⱼ times in one.

        Of hits hⱼ, the sum of t over positives that score no less, and as many false alarms aⱼ, they are means of
        ``hⱼ / (hⱼ + aⱼ)``, weighted by t: within each label and then over labels that have any, and over all.
        """
        positives, num_resamples = self.positives, len(weights)
        if not len(self.rows):
            return {f"{mean}_average_precision": np.zeros(num_resamples) for mean in ("micro", "macro", "weighted")}
        cells = len(self.scored) * self.scored.num_labels
        drawn = weights.T.astype(np.int32 if cells < 1 << 31 else np.int64, order="C")
        alarms, all_alarms = self._alarms(drawn)
        times = drawn[self.rows]
        sums = _sums_from(times)
        equal = positives.first[positives.group] + positives.lower  # the first of those that score the same
        stop = positives.first + positives.count
        found = _share(times, sums[equal] - sums[stop][positives.group], alarms)
        by_label, drawn_by_label = np.add.reduceat(found, positives.first), sums[positives.first] - sums[stop]
        means = by_label / np.maximum(drawn_by_label, 1)
        total = np.maximum(sums[0], 1)
        times = drawn[self.ranked_rows]
        all_hits = _sums_from(times)[np.searchsorted(positives.ranked, positives.ranked)]
        return {
            "micro_average_precision": _share(times, all_hits, all_alarms).sum(axis=0) / total,
            "macro_average_precision": means.sum(axis=0) / np.maximum((drawn_by_label > 0).sum(axis=0), 1),
            "weighted_average_precision": found.sum(axis=0) / total,
        }

    def _alarms(
        self, drawn: Int[np.ndarray, "examples resamples"]
    ) -> tuple[Int[np.ndarray, "positives resamples"], Int[np.ndarray, "positives resamples"]]:
        """Return how many negatives score no less than each positive, of its label and of all labels.

        A negative adds its weight to the highest positive that it scores no less than, and sums from above do the rest.
        """
        positives, num_positives, dtype = self.positives, len(self.rows), drawn.dtype
        own, all_labels = np.zeros((2, num_positives, drawn.shape[1]), dtype)
        for [block] in self.scored:
            negative = ~block.labels if block.known is None else block.known & ~block.labels
            rivals = (
                _met(positives, block.log_marginals, negative),
                _met_by_any(positives.ranked, block.log_marginals, negative),
            )
            for alarms, (met, rows) in zip((own, all_labels), rivals, strict=True):
                shape = (num_positives, len(block.rows))
                alarms += Sparse((np.ones(len(met), dtype), (met, rows)), shape=shape) @ drawn[block.rows]
        for alarms in (own, all_labels):
            np.cumsum(alarms[::-1], axis=0, dtype=dtype, out=alarms[::-1])
        stop = (positives.first + positives.count)[positives.group]  # where the next label's begin
        inner = stop < num_positives
        own[inner] -= own[stop[inner]]  # which is still the sum over all labels that follow
        return own, all_labels


def _sums_from(times: Int[np.ndarray, "positives resamples"]) -> Int[np.ndarray, "positives+1 resamples"]:
    """Return sums from each place on to the end, where there is 0."""
    sums = np.zeros((len(times) + 1, times.shape[1]), times.dtype)
    np.cumsum(times[::-1], axis=0, dtype=times.dtype, out=sums[-2::-1])
    return sums


def _share(times: np.ndarray, hits: np.ndarray, alarms: np.ndarray) -> Float64[np.ndarray, "positives resamples"]:
    """Return ``t · h / (h + a)``, and 0 where nothing is found."""
    return times * (hits / np.maximum(hits + alarms, 1))


def _met(
    positives: Positives, scores: Float[np.ndarray, "rows labels"], negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest positive of its label that a negative scores no less than, and its row; of those that do."""
    columns, counted = scores[:, positives.labels].T.copy(), negative[:, positives.labels].T.copy()
    met, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for column, among, first, count in zip(columns, counted, positives.first, positives.count, strict=True):
        ranked = positives.scores[first : first + count]
        own = np.flatnonzero(among & (column >= ranked[0]))
        rows.append(own)
        met.append(first - 1 + np.searchsorted(ranked, column[own], side="right"))
    return np.concatenate(met), np.concatenate(rows)


def _met_by_any(
    ranked: Float[np.ndarray, "positives"], scores: Float[np.ndarray, "rows labels"], negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest positive of any label that a negative scores no less than, and its row; of those that do."""
    rows, ids = np.nonzero(negative & (scores >= ranked.min(initial=np.inf)))
    return np.searchsorted(ranked, scores[rows, ids], side="right") - 1, rows


State = TypeVar("State", ExampleRanks, HierarchicalCounts, Reliability)


@dataclasses.dataclass(frozen=True, eq=False)
class Sums(Generic[State]):
    """States of single examples, whose numbers add up to those of resamples.

    like: one of them. numbers: those of all, sparse [examples, numbers].
    """

    like: State
    numbers: Sparse

    def states(self, weights: Int[np.ndarray, "resamples examples"]) -> Iterator[State]:
        """Yield the state of each resample."""
        leaves, structure = _flatten(self.like)
        ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
        height = max(BLOCK_ELEMENTS // self.numbers.shape[1], 1)
        for start in range(0, len(weights), height):
            for row in (self.numbers.T @ weights[start : start + height].T.astype(np.float64)).T:
                parts = [
                    part.astype(np.asarray(leaf).dtype).reshape(np.shape(leaf))
                    for part, leaf in zip(np.split(row, ends), leaves, strict=True)
                ]
                fields = jax.tree.unflatten(structure, [part if part.ndim else part.item() for part in parts])
                yield type(self.like)(**fields)


def _flatten(state: ExampleRanks | HierarchicalCounts | Reliability) -> tuple[list[Any], Any]:
    """Return the numbers and arrays of a state, and how they stand in it."""
    return jax.tree.flatten({field.name: getattr(state, field.name) for field in dataclasses.fields(state)})


class Gathered(Generic[State]):
    """Takes in the states of single examples, which are kept as what of them is not 0."""

    def __init__(self) -> None:
        self._like: State | None = None
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._size = 0

    def add(self, state: State) -> None:
        """Take in the state of the next example."""
        numbers = np.concatenate([np.ravel(leaf) for leaf in _flatten(state)[0]])
        kept = np.flatnonzero(numbers).astype(np.int32)
        self._like, self._size = state, len(numbers)
        self._rows.append((kept, numbers[kept].astype(np.float64)))

    def sums(self, order: Int[np.ndarray, "examples"]) -> Sums[State] | None:
        """Return the states in the order of their places, None where there are none."""
        if self._like is None:
            return None
        ids, values = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        offsets = np.cumsum([0, *(len(kept) for kept, _ in self._rows)])
        return Sums(self._like, Sparse((values, ids, offsets), shape=(len(self._rows), self._size))[order])


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """What is kept of one run's scores of a split, to compute its metrics on resampled examples.

    decisions, hierarchical: by name. bins: of `frequency_bins`. example_ranks, reliability, ranked: None where they are
    not asked for, or where not all scores are there that it takes. losses: one an example, NaN where there is none.
    whole: whether all scores are there.
    """

    split: str
    num_examples: int
    num_labels: int
    bins: Mapping[str, np.ndarray]
    decisions: Mapping[str, Outcome]
    hierarchical: Mapping[str, Sums[HierarchicalCounts]]
    example_ranks: Sums[ExampleRanks] | None
    reliability: Sums[Reliability] | None
    ranked: RankedCells | None
    losses: np.ndarray
    whole: bool

    @classmethod
    def of(
        cls,
        scored: ScoredSplit,
        decisions: Mapping[str, Decision],
        hierarchy: LabelHierarchy | None,
        frequencies: Frequencies,
        places: Sequence[str],
    ) -> "Outcomes":
        """Take what `places` need from one pass over a split, or two; frequencies: of the training split's labels."""
        wanted: dict[str, set[str]] = {}
        for place in places:
            _, group, metric = place.split(".")
            wanted.setdefault(group, set()).add(metric)
        edges = None if hierarchy is None else (hierarchy.children, hierarchy.parents)
        inverse = inverse_propensities(frequencies)
        calibrated = "probabilities" in wanted and scored.whole and len(scored) * scored.num_labels <= SUMMED_CELLS
        preds: dict[str, list[Sparse]] = {name: [] for name in decisions if name in wanted}
        extended: dict[str, Gathered[HierarchicalCounts]] = {
            name: Gathered() for name in preds if hierarchy is not None and wanted[name] & EXTENDED
        }
        rows, losses = [], []
        ranks: Gathered[ExampleRanks] = Gathered()
        reliability: Gathered[Reliability] = Gathered()
        for [block] in scored:
            rows.append(block.rows)
            losses.append(block.loss)
            on = {name: decisions[name].apply(block) for name in preds}
            for name, parts in preds.items():
                parts.append(Sparse(on[name].astype(np.int64)))
            for at in range(len(block.rows)):
                one = slice(at, at + 1)
                known = None if block.known is None else block.known[one]
                cells = block.log_marginals[one], block.labels[one], known
                if extended and hierarchy is not None:
                    truth = ExtendedTruth.of(block.labels[one], hierarchy, known)
                    for name, states in extended.items():
                        states.add(truth.compare(on[name][one]))
                if "ranking" in wanted:
                    ranks.add(ExampleRanks.of(*cells, inverse))
                if calibrated:
                    reliability.add(Reliability.of(*cells))
        order = np.argsort(np.concatenate(rows))
        example_ranks = ranks.sums(order)
        further = wanted.get("ranking", set()) - set(() if example_ranks is None else example_ranks.like.sums)
        return cls(
            scored.name,
            len(scored),
            scored.num_labels,
            frequency_bins(frequencies),
            {
                name: Outcome.of(Sparse(scipy.sparse.vstack(parts))[order], scored.labels, scored.num_labels, edges)
                for name, parts in preds.items()
            },
            {name: sums for name, states in extended.items() if (sums := states.sums(order)) is not None},
            example_ranks,
            reliability.sums(order),
            RankedCells.of(scored) if scored.whole and further else None,
            np.concatenate(losses)[order],
            scored.whole,
        )

    @property
    def width(self) -> int:
        """The width of a resample for `draw_weights`; its states hold a few times as many numbers."""
        return max(self.num_labels, 0 if self.ranked is None else len(self.ranked.rows) // 2)

    def metrics(
        self, places: Sequence[str], weights: Int[np.ndarray, "resamples examples"]
    ) -> dict[str, Float[np.ndarray, "resamples"]]:
        """Return metrics of each resample by place, of those places that are at hand and have values in all of them."""
        given = {}
        for group in dict.fromkeys(place.split(".")[1] for place in places):
            computed = self._computed(group, weights)
            for place in places:
                split, of, metric = place.split(".")
                if (split, of) == (self.split, group) and metric in computed:
                    given[place] = computed[metric]
        if (place := f"{self.split}.loss.mean") in places and np.isfinite(self.losses).all():
            given[place] = weights @ self.losses.astype(np.float64) / self.num_examples
        return given

    def _computed(
        self, group: str, weights: Int[np.ndarray, "resamples examples"]
    ) -> dict[str, Float[np.ndarray, "resamples"]]:
        """Return the metrics of a group in each resample; those of known cells only if all have any."""
        computed: dict[str, np.ndarray] = {}
        if group in self.decisions:
            counts = self.decisions[group].counts(weights)
            computed |= counts.each() | macro_f1_in_bins(counts, self.bins) if counts.examples.all() else {}
        if group in self.hierarchical:
            computed |= _together(state.compute() for state in self.hierarchical[group].states(weights))
        if group == "ranking" and self.example_ranks is not None:
            computed |= _together(self._at_hand(state.compute()) for state in self.example_ranks.states(weights))
        if group == "ranking" and self.ranked is not None:
            computed |= self.ranked.metrics(weights)
        if group == "probabilities" and self.reliability is not None:
            states = self.reliability.states(weights)
            computed |= _together(state.compute() if state.cells.any() else {} for state in states)
        return computed

    def _at_hand(self, ranking: dict[str, float]) -> dict[str, float]:
        """Return those metrics of a ranking that its highest scores give, where these alone are there."""
        return {name: value for name, value in ranking.items() if self.whole or "_at_" in name}


def _together(each: Iterable[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return numbers of each by name, of those names that all have."""
    every = list(each)
    return {name: np.array([one[name] for one in every]) for name in every[0] if all(name in one for one in every)}


def agrees(recorded: float | None, computed: float) -> bool:
    """Return whether a number of a record is one that was computed again."""
    return recorded is not None and abs(recorded - computed) < 1e-6


def evaluate_copies(
    scored: ScoredSplit,
    decisions: Mapping[str, Decision],
    hierarchy: LabelHierarchy | None,
    frequencies: Frequencies,
    weights: Int[np.ndarray, "resamples examples"],
) -> Iterator[dict[str, float | None]]:
    """Yield every metric of each resample by place, from passes over its rows, copied: slow, whatever the metrics.

    All scores are held in memory, twice.
    """
    blocks = [block for [block] in scored]
    order = np.argsort(np.concatenate([block.rows for block in blocks]))
    log_marginals, losses = (
        np.concatenate(parts)[order]
        for parts in ([block.log_marginals for block in blocks], [block.loss for block in blocks])
    )
    sets = {name: np.concatenate([block.sets[name] for block in blocks])[order] for name in blocks[0].sets}
    for times in weights:
        rows = np.repeat(np.arange(len(scored)), times)

        def said(rows: np.ndarray = rows) -> Iterator[Said]:
            of_rows = {name: on[rows][None] for name, on in sets.items()}
            yield np.arange(len(rows)), log_marginals[rows][None], of_rows, losses[rows][None]

        copies = ScoredSplit(scored.name, "", scored.labels.select(rows), scored.num_labels, said)
        [found] = evaluate(copies, [decisions], hierarchy, frequencies)
        assert found is not None, "probabilities that are stored are not NaN"
        yield {
            f"{scored.name}.{group}.{name}": value
            for group, numbers in found.metrics().items()
            for name, value in numbers.items()
        }


def _unknown(labels: LabelSets, num_labels: int) -> Sparse:
    """Return the sparse 0/1 [examples, labels] matrix of labels that are unknown."""
    unknown = np.zeros(len(labels.ids), bool) if labels.values is None else np.isnan(labels.values)
    cells = (labels.rows[unknown], labels.ids[unknown])
    return Sparse((np.ones(len(cells[0]), np.int64), cells), shape=(len(labels), num_labels))
