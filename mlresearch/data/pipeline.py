"""Batches of fixed shapes with a mask, gathered from arrays in memory.

Texts are grouped by length, so that short ones are not padded to the longest: one compiled shape a group.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.encoders import Inputs
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets
from mlresearch.pytree import pytree_dataclass

ArrayLike = Array | np.ndarray


@pytree_dataclass
class Batch:
    """A fixed number of examples; rows whose `mask` is False hold none. Leading axes stack batches of steps and runs.

    rows: the place of each example in its split, which keys its dropout. label_ids: ids of the labels that are listed,
    filled up with the number of labels. label_values: their values (see `LabelSets`), None where all are 1.
    """

    rows: Int[ArrayLike, "*stack batch"]
    mask: Bool[ArrayLike, "*stack batch"]
    inputs: Inputs
    label_ids: Int[ArrayLike, "*stack batch width"]
    label_values: Float[ArrayLike, "*stack batch width"] | None = None

    def cut(self, length: int) -> "Batch":
        """Return the batch with its tokens, if it has any, cut to a padded length."""
        if self.inputs.tokens is None or self.inputs.token_mask is None:
            return self
        inputs = dataclasses.replace(
            self.inputs, tokens=self.inputs.tokens[..., :length], token_mask=self.inputs.token_mask[..., :length]
        )
        return dataclasses.replace(self, inputs=inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A split as model inputs: label sets, subword ids filled up with 0, features, ids of categories.

    lengths: tokens a text. num_tokens counts before cutting; num_truncated_tokens is what cutting to the longest
    allowed length lost.
    """

    labels: LabelSets
    lengths: np.ndarray
    tokens: np.ndarray | None = None
    features: np.ndarray | None = None
    categories: np.ndarray | None = None
    num_tokens: int = 0
    num_truncated_tokens: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def join(self, other: "EncodedSplit") -> "EncodedSplit":
        """Return these examples and, after them, those of another split of the same data set."""

        def columns(mine: np.ndarray | None, its: np.ndarray | None) -> np.ndarray | None:
            return None if mine is None or its is None else np.concatenate([mine, its])

        tokens = None
        if self.tokens is not None and other.tokens is not None:
            width = max(self.tokens.shape[1], other.tokens.shape[1])
            wide = [np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (self.tokens, other.tokens)]
            tokens = np.concatenate(wide)
        return EncodedSplit(
            labels=self.labels.join(other.labels),
            lengths=np.concatenate([self.lengths, other.lengths]),
            tokens=tokens,
            features=columns(self.features, other.features),
            categories=columns(self.categories, other.categories),
            num_tokens=self.num_tokens + other.num_tokens,
            num_truncated_tokens=self.num_truncated_tokens + other.num_truncated_tokens,
        )


def length_buckets(lengths: np.ndarray, num_buckets: int) -> tuple[int, ...]:
    """Return at most so many ascending padded lengths, multiples of 8, with the least padding; the last holds all.

    The least sum over texts of the padded length, each text at the shortest that holds it, by dynamic programming over
    where buckets end: O(num_buckets · (longest / 8)²).
    """
    steps = np.maximum(-(-lengths // 8), 1)
    longest = int(steps.max(initial=1))
    below = np.concatenate([[0], np.cumsum(np.bincount(steps, minlength=longest + 1)[1:])])  # texts of 8 k or shorter
    cost = np.where(np.arange(longest + 1) == 0, 0.0, np.inf)  # of the texts up to a length, with the buckets so far
    ends: list[np.ndarray] = []
    for _ in range(min(num_buckets, longest)):
        # Texts from one length up to the next are all padded to the next.
        added = cost[:, None] + (below[None, :] - below[:, None]) * np.arange(longest + 1)[None, :]
        added[np.tril_indices(longest + 1, -1)] = np.inf
        ends.append(added.argmin(axis=0))
        cost = added.min(axis=0)
    chosen, end = [], longest
    for before in reversed(ends):
        if end and before[end] < end:
            chosen.append(8 * end)
        end = int(before[end])
    return tuple(reversed(chosen))


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a split: in random order for training, in order of length for evaluation.

    buckets: from `length_buckets`. Every example stands in one batch of an epoch exactly once; examples that do not
    fill a batch of their bucket move to the next longer one, so that only the last batch is padded.

    process: which of how many processes this is; each gathers its equal part of every batch, and `batch_size`, which
    their number must divide, counts all parts. The position in an epoch is the number of batches taken: with the seed
    and the epoch's number, which a run's step gives, it is all that is needed to go on.
    """

    split: EncodedSplit
    num_labels: int
    batch_size: int
    buckets: tuple[int, ...]
    process: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.batch_size % self.process[1]:
            raise UserError(f"a batch of {self.batch_size} cannot be shared by {self.process[1]} processes")

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold all examples."""
        return -(-len(self.split) // self.batch_size)

    def order(self, seed: int, number: int) -> tuple[Int[np.ndarray, "steps batch"], Int[np.ndarray, "steps"]]:
        """Return the rows of each batch of an epoch, filled up with −1, and the number of its bucket.

        Which rows stand together depends on seed and epoch, the sequence of buckets on the epoch alone: runs of
        different seeds have batches of one padded length at every step, so that one program can train them all.
        """
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        rows, buckets = self._deal(rng.permutation(len(self.split)))
        places = np.random.Generator(np.random.PCG64(number)).permutation(len(rows))
        return rows[places], buckets[places]

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from the `start`-th on, each cut to its bucket's length."""
        for rows, bucket in zip(*self.order(seed, number), strict=True):
            if start <= 0:
                yield self.gather(rows, self.buckets[bucket])
            start -= 1

    def once(self) -> Iterator[Batch]:
        """Yield every example once."""
        for rows, bucket in zip(*self._deal(np.arange(len(self.split))), strict=True):
            yield self.gather(rows, self.buckets[bucket])

    def _deal(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut rows into full batches of one bucket each, and a last one that may not be full."""
        bucket = np.searchsorted(self.buckets, self.split.lengths[rows])
        batches, numbers, left = [rows[:0].reshape(0, self.batch_size)], [], rows[:0]
        for number in range(len(self.buckets)):
            left = np.concatenate([left, rows[bucket == number]])
            full = len(left) // self.batch_size
            batches.append(left[: full * self.batch_size].reshape(full, self.batch_size))
            numbers += [number] * full
            left = left[full * self.batch_size :]
        if len(left):
            batches.append(np.pad(left, (0, self.batch_size - len(left)), constant_values=-1)[None])
            numbers.append(len(self.buckets) - 1)
        return np.concatenate(batches).astype(np.int32), np.array(numbers, np.int32)

    def gather(self, rows: Int[np.ndarray, "*stack batch"], length: int) -> Batch:
        """Return the examples of `rows`, none where they are −1, tokens padded to `length`: this process's part."""
        index, count = self.process
        part = self.batch_size // count
        rows = rows[..., index * part : (index + 1) * part]
        mask = rows >= 0
        rows = np.maximum(rows, 0)
        flat, split, width = rows.reshape(-1), self.split, max(self.split.labels.width, 1)

        def stacked(taken: np.ndarray) -> np.ndarray:
            return taken.reshape(*rows.shape, *taken.shape[1:])

        tokens = token_mask = None
        if split.tokens is not None:
            tokens = split.tokens[flat, :length]
            tokens = stacked(np.pad(tokens, ((0, 0), (0, length - tokens.shape[1]))))
            token_mask = np.arange(length) < split.lengths[rows][..., None]
        return Batch(
            rows=rows,
            mask=mask,
            inputs=Inputs(
                tokens=tokens,
                token_mask=token_mask,
                features=None if split.features is None else stacked(split.features[flat]),
                categories=None if split.categories is None else stacked(split.categories[flat]),
            ),
            label_ids=stacked(split.labels.take(flat, self.num_labels, width)),
            label_values=None if split.labels.values is None else stacked(split.labels.take_values(flat, width)),
        )


class Feed:
    """The batches of runs of several seeds over one split, many steps at a time."""

    def __init__(self, batches: Batches, seeds: Sequence[int]) -> None:
        self._batches = batches
        self._seeds = tuple(seeds)
        self._epoch = -1
        self._rows = np.zeros((0, 0, 0), np.int32)
        self._buckets = np.zeros(0, np.int32)

    @property
    def bytes_per_step(self) -> int:
        """Bytes of the batches of one step."""
        batch = self._batches.gather(np.zeros((len(self._seeds), self._batches.batch_size), np.int32), self._longest)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(batch))

    @property
    def _longest(self) -> int:
        return self._batches.buckets[-1]

    def chunk(self, first: int, number: int, size: int) -> tuple[Batch, Int[np.ndarray, "size"]]:
        """Return the batches ``[size, runs, batch, …]`` of `number` steps from step `first` on, and their buckets.

        All are as long as the longest bucket; steps from `number` to `size` hold no examples.
        """
        rows = np.full((size, len(self._seeds), self._batches.batch_size), -1, np.int32)
        buckets = np.zeros(size, np.int32)
        for place in range(number):
            epoch, step = divmod(first + place, self._batches.steps_per_epoch)
            if epoch != self._epoch:
                orders = [self._batches.order(seed, epoch) for seed in self._seeds]
                self._rows, self._buckets = np.stack([of for of, _ in orders], axis=1), orders[0][1]
                self._epoch = epoch
            rows[place], buckets[place] = self._rows[step], self._buckets[step]
        return self._batches.gather(rows, self._longest), buckets
