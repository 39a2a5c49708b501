"""Batches of fixed shapes with a mask, gathered from arrays in memory.

Texts are grouped by length, so that short ones are not padded to the longest: one compiled shape a group.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mlresearch.encoders import Inputs
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets
from mlresearch.pytree import pytree_dataclass

ArrayLike = Array | np.ndarray


@pytree_dataclass
class Batch:
    """A fixed number of examples; rows whose `mask` is False hold none.

    rows: the place of each example in its split, which keys its dropout. label_ids: ids of the labels that are listed,
    filled up with the number of labels. label_values: their values (see `LabelSets`), None where all are 1.
    """

    rows: Int[ArrayLike, "batch"]
    mask: Bool[ArrayLike, "batch"]
    inputs: Inputs
    label_ids: Int[ArrayLike, "batch width"]
    label_values: Float[ArrayLike, "batch width"] | None = None


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


def length_buckets(lengths: np.ndarray, num_buckets: int) -> tuple[int, ...]:
    """Return ascending padded lengths, multiples of 8, for about equally many examples each; the last holds all."""
    shares = np.linspace(0, 1, num_buckets + 1)[1:]
    quantiles = np.quantile(lengths, shares, method="higher") if len(lengths) else np.ones(1)
    return tuple(sorted({int(-(-max(length, 1) // 8) * 8) for length in quantiles}))


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a split: `epoch` in random order for training, `once` in order of length for evaluation.

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

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from the `start`-th on; their order depends on seed and number alone."""
        rng = np.random.Generator(np.random.PCG64([seed, number]))
        batches = self._deal(rng.permutation(len(self.split)))
        for place in rng.permutation(len(batches))[start:]:
            yield self._gather(*batches[place])

    def once(self) -> Iterator[Batch]:
        """Yield every example once."""
        for rows, length in self._deal(np.arange(len(self.split))):
            yield self._gather(rows, length)

    def _deal(self, rows: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Cut rows into full batches of one bucket each, and a last one that may not be full."""
        bucket = np.searchsorted(self.buckets, self.split.lengths[rows])
        batches, left = [], rows[:0]
        for number, length in enumerate(self.buckets):
            left = np.concatenate([left, rows[bucket == number]])
            full = len(left) // self.batch_size * self.batch_size
            batches += [(part, length) for part in left[:full].reshape(-1, self.batch_size)]
            left = left[full:]
        if len(left):
            batches.append((left, self.buckets[-1]))
        return batches

    def _gather(self, rows: np.ndarray, length: int) -> Batch:
        """Return the rows that this process holds of a batch."""
        index, count = self.process
        part = self.batch_size // count
        rows = rows[index * part : (index + 1) * part]
        mask = np.arange(part) < len(rows)
        rows = np.concatenate([rows, np.zeros(part - len(rows), rows.dtype)]).astype(np.int32)
        split, width = self.split, max(self.split.labels.width, 1)
        tokens = token_mask = None
        if split.tokens is not None:
            tokens = split.tokens[rows, :length]
            tokens = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
            token_mask = np.arange(length) < split.lengths[rows][:, None]
        return Batch(
            rows=rows,
            mask=mask,
            inputs=Inputs(
                tokens=tokens,
                token_mask=token_mask,
                features=None if split.features is None else split.features[rows],
                categories=None if split.categories is None else split.categories[rows],
            ),
            label_ids=split.labels.take(rows, self.num_labels, width),
            label_values=None if split.labels.values is None else split.labels.take_values(rows, width),
        )
