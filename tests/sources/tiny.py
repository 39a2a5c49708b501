"""Nine labels in a tree, and texts whose words give them away: enough for every part of a run, in seconds."""

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source
from mlresearch.label_space import LabelSpace

NAMES = ("animal", "plant", "bird", "fish", "tree", "herb", "owl", "wren", "oak")
PARENTS = ((2, 0), (3, 0), (4, 1), (5, 1), (6, 2), (7, 2), (8, 4))
LEAVES = {"fish": (0, 3), "herb": (1, 5), "owl": (0, 2, 6), "wren": (0, 2, 7), "oak": (1, 4, 8)}
FILLERS = ("the", "a", "near", "under", "grey", "old", "seen", "again", "today", "quiet")
SIZES = {"train": 150, "validation": 37, "test": 29}  # no multiple of any batch size in use


class Builder(Source):
    """One leaf a text in the subset "paths", one to three in "sets"."""

    VERSION = tfds.core.Version("1.0.0")
    SUBSETS = {"paths": (), "sets": ()}

    def __init__(self, *, subset, data_dir):
        self.subset = subset
        super().__init__(subset=subset, data_dir=data_dir, options={})

    def _info(self):
        return self.describe(
            label_space=LabelSpace(NAMES, tuple(f"any {name}" for name in NAMES)),
            parents=PARENTS,
            description="",
            citation="",
            homepage="",
            license="",
            text=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        rng = np.random.Generator(np.random.PCG64(list(split.encode())))
        most = 1 if self.subset == "paths" else 3
        for number in range(SIZES[split]):
            leaves = rng.choice(list(LEAVES), rng.integers(1, most + 1), replace=False)
            words = [*leaves, *rng.choice(FILLERS, rng.integers(1, 12))]
            labels = sorted({label for leaf in leaves for label in LEAVES[leaf]})
            yield number, {"text": " ".join(rng.permutation(words)), "labels": labels, "key": str(number)}
