"""Made texts of GoEmotions' shape: the data that speed is measured on, here and in peers' environments. NumPy alone.

* Length in tokens: ``2 + 48 · Beta(1.6, 2.8)``, rounded: mean 19.5, deviation 10, quartiles 12, 18 and 26, at most 50.
  GoEmotions has this shape: mean 17.3, deviation 8.9, quartiles 10, 17 and 24 where 10,000 subwords are learnt from it.
* Token ids 1 to 9,999 by Zipf's law, ``P(id = k) ∝ 1 / (k + 2)``; 0 is padding.
* Labels: 28; one, two or three an example with probability .835, .15, .015, hence 1.18 on average, by the same law.

Labels say nothing of texts: time is measured, not quality.

Source: Demszky et al., "GoEmotions: A Dataset of Fine-Grained Emotions", 2020.
"""

from typing import NamedTuple

import numpy as np

VOCAB_SIZE = 10_000
NUM_LABELS = 28
MAX_LENGTH = 50
DIM = 128
BATCH = 128
NUM_LAYERS, NUM_HEADS = 3, 8


class Texts(NamedTuple):
    """Token ids filled up with 0, lengths in tokens, and multi-hot labels."""

    tokens: np.ndarray  # int32 [examples, MAX_LENGTH]
    lengths: np.ndarray  # int32 [examples]
    labels: np.ndarray  # bool [examples, NUM_LABELS]


def make_texts(num_examples: int, seed: int = 0) -> Texts:
    """Draw examples; the same seed gives the same ones."""
    rng = np.random.Generator(np.random.PCG64(seed))
    lengths = np.rint(2 + (MAX_LENGTH - 2) * rng.beta(1.6, 2.8, num_examples)).astype(np.int32)
    real = np.arange(MAX_LENGTH) < lengths[:, None]
    ids = rng.choice(np.arange(1, VOCAB_SIZE), real.shape, p=_zipf(VOCAB_SIZE - 1))
    labels = np.zeros((num_examples, NUM_LABELS), bool)
    counts = rng.choice([1, 2, 3], num_examples, p=[0.835, 0.15, 0.015])
    # The k largest of log p + Gumbel noise are k draws without replacement.
    order = np.argsort(-np.log(_zipf(NUM_LABELS)) - rng.gumbel(size=labels.shape))
    np.put_along_axis(labels, order, np.arange(NUM_LABELS) < counts[:, None], axis=1)
    return Texts(np.where(real, ids, 0).astype(np.int32), lengths, labels)


def _zipf(size: int) -> np.ndarray:
    """Return probabilities ∝ 1 / (k + 2) for k = 1 … size."""
    weights = 1 / (np.arange(1, size + 1) + 2)
    return weights / weights.sum()
