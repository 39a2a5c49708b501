"""From a config to the batches of a run: data set, tokenizer, model inputs."""

import numpy as np
from ml_collections import ConfigDict

from mlresearch import data
from mlresearch.data.pipeline import Batches, EncodedSplit, encode, length_buckets
from mlresearch.data.text import Tokenizer
from mlresearch.environment import default_data_dir
from mlresearch.hierarchy import LabelHierarchy


def load_dataset(config: ConfigDict) -> data.Dataset:
    """Return the data set that the config names, prepared if need be."""
    source = config.data.name.partition("/")[0]
    return data.load(config.data.name, config.data[source].to_dict(), config.data.dir or default_data_dir())


def hierarchy_of(dataset: data.Dataset) -> LabelHierarchy | None:
    """Return the hierarchy of a data set's labels, None where they are flat."""
    if dataset.parents is None:
        return None
    return LabelHierarchy.from_edges(dataset.label_space.names, dataset.parents)


def train_tokenizer(config: ConfigDict, dataset: data.Dataset) -> Tokenizer | None:
    """Return the run's tokenizer, trained on the training split alone; None where there are no texts.

    Equal texts give an equal tokenizer, so a run that goes on trains its own once more.
    """
    texts = dataset.splits["train"].texts
    if texts is None:
        return None
    settings = config.text
    return Tokenizer.train(
        texts, vocab_size=settings.vocab_size, algorithm=settings.algorithm, lowercase=settings.lowercase
    )


def encode_splits(config: ConfigDict, dataset: data.Dataset, tokenizer: Tokenizer | None) -> dict[str, EncodedSplit]:
    """Return the model inputs of every split."""
    return {name: encode(records, tokenizer, config.text.max_length) for name, records in dataset.splits.items()}


def make_batches(config: ConfigDict, splits: dict[str, EncodedSplit], num_labels: int) -> dict[str, Batches]:
    """Return the batches of every split, all cut to the same padded lengths, those of the training split."""
    longest = max(int(split.lengths.max(initial=1)) for split in splits.values())
    buckets = length_buckets(np.append(splits["train"].lengths, longest), config.text.num_buckets)
    sizes = {"train": config.train.batch_size}
    return {
        name: Batches(split, num_labels, sizes.get(name, config.evaluate.batch_size), buckets)
        for name, split in splits.items()
    }
