"""Points in a plane and flat labels: which half-planes a point lies in. Some lie in none."""

import numpy as np
import tensorflow_datasets.public_api as tfds

from mlresearch.data import Source
from mlresearch.label_space import LabelSpace

NAMES = ("right", "up", "far")
SIZES = {"train": 200, "validation": 41, "test": 43}


class Builder(Source):
    """No subsets, no text, no hierarchy."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data_dir):
        super().__init__(data_dir=data_dir, options={})

    def _info(self):
        return self.describe(
            label_space=LabelSpace(NAMES, NAMES),
            parents=None,
            description="",
            citation="",
            homepage="",
            license="",
            feature_names=("x", "y"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split):
        rng = np.random.Generator(np.random.PCG64(list(split.encode())))
        for number, point in enumerate(rng.normal(size=(SIZES[split], 2)).astype(np.float32)):
            labels = np.flatnonzero([point[0] > 0, point[1] > 0, (point**2).sum() > 2]).tolist()
            yield number, {"features": point, "labels": labels, "key": str(number)}
