"""Batches of fixed shapes with a mask, gathered from arrays in memory.

Texts are grouped by length, so that short ones are not padded to the longest: one compiled shape a group.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Bool, Int

from mlresearch.data import Records
from mlresearch.data.text import Tokenizer
from mlresearch.encoders import Inputs, InputSpec
from mlresearch.label_space import LabelSets
from mlresearch.pytree import pytree_dataclass

ArrayLike = Array | np.ndarray


@pytree_dataclass
class Batch:
    """A fixed number of examples; rows whose `mask` is False hold none.

    rows: the place of each example in its split, which keys its dropout. label_ids: ids of the labels that are on,
    filled up with the number of labels.
    """

    rows: Int[ArrayLike, "batch"]
    mask: Bool[ArrayLike, "batch"]
    inputs: Inputs
    label_ids: Int[ArrayLike, "batch width"]


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A split as model inputs: subword ids filled up with 0, features, and label sets.

    num_tokens counts before cutting; num_truncated_tokens is what cutting to the longest allowed length lost.
    """

    tokens: np.ndarray | None
    lengths: np.ndarray
    features: np.ndarray | None
    labels: LabelSets
    num_tokens: int = 0
    num_truncated_tokens: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def spec(self, tokenizer: Tokenizer | None) -> InputSpec:
        """Return what an encoder may read."""
        return InputSpec(
            vocab_size=None if tokenizer is None else tokenizer.vocab_size,
            num_features=None if self.features is None else self.features.shape[1],
        )


def encode(records: Records, tokenizer: Tokenizer | None, max_length: int) -> EncodedSplit:
    """Return the split's model inputs; texts are cut to `max_length` tokens."""
    if tokenizer is None or records.texts is None:
        return EncodedSplit(None, np.zeros(len(records), np.int32), records.features, records.labels)
    encoding = tokenizer.encode(records.texts, max_length)
    return EncodedSplit(
        encoding.tokens,
        encoding.lengths,
        records.features,
        records.labels,
        encoding.num_tokens,
        encoding.num_truncated_tokens,
    )


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
    """

    split: EncodedSplit
    num_labels: int
    batch_size: int
    buckets: tuple[int, ...]

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
        mask = np.arange(self.batch_size) < len(rows)
        rows = np.concatenate([rows, np.zeros(self.batch_size - len(rows), rows.dtype)]).astype(np.int32)
        tokens = token_mask = None
        if self.split.tokens is not None:
            tokens = self.split.tokens[rows, :length]
            tokens = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
            token_mask = np.arange(length) < self.split.lengths[rows][:, None]
        features = None if self.split.features is None else self.split.features[rows]
        return Batch(
            rows=rows,
            mask=mask,
            inputs=Inputs(tokens=tokens, token_mask=token_mask, features=features),
            label_ids=self.split.labels.take(rows, self.num_labels, max(self.split.labels.width, 1)),
        )
