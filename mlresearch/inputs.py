"""From a config to the batches of a run: data set, what is learnt of it before the model, model inputs."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from mlresearch import data
from mlresearch.config import preparation, to_dict
from mlresearch.data.columns import Columns
from mlresearch.data.pipeline import Batches, EncodedSplit, length_buckets
from mlresearch.data.records import Dataset, Records, TrainingRecords, require_training
from mlresearch.data.text import Tokenizer
from mlresearch.encoders import InputSpec
from mlresearch.environment import default_data_dir
from mlresearch.linear_scores import LinearScores


def load_dataset(config: ConfigDict) -> Dataset:
    """Return the data set that the config names, prepared if need be."""
    source = config.data.name.partition("/")[0]
    shared = {option: config.data[option] for option in data.shared_options(source)}
    settings = config.data[source].to_dict() | shared
    return data.load(config.data.name, settings, config.data.dir or default_data_dir(), preparation(config))


def dataset_key(config: ConfigDict) -> str:
    """Return what configs of one data set have in common: all of their section ``data``."""
    return json.dumps(to_dict(config)["data"], sort_keys=True)


class Fingerprints:
    """The fingerprints of data sets by config; each data set is loaded once, and not kept."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, config: ConfigDict) -> str:
        """Return the fingerprint of the data set that a config names, which is prepared if need be."""
        key = dataset_key(config)
        if key not in self._known:
            self._known[key] = load_dataset(config).fingerprint
        return self._known[key]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What is learnt from the training split before the model: subwords, scales, vocabularies of categories.

    tokenizer: None where there are no texts; columns: None where there are no numeric or categorical ones. max_length:
    tokens a text is cut to. linear: scores of linear classifiers, None where they are not asked for; out_of_fold: those
    of the training split, by classifiers that have not seen them, None where nothing was learnt just now.
    """

    tokenizer: Tokenizer | None
    columns: Columns | None
    max_length: int
    linear: LinearScores | None = None
    out_of_fold: Float32[np.ndarray, "examples labels"] | None = None

    @classmethod
    def learn(cls, config: ConfigDict, training: TrainingRecords) -> "Preprocessing":
        """Learn from training records; others are a `TypeError`.

        Equal records give equal results, so a run that goes on learns its own once more. Linear scores, which may take
        minutes, are kept beside the prepared data sets.
        """
        require_training(training)
        tokenizer = columns = linear = out_of_fold = None
        if training.texts is not None:
            tokenizer = Tokenizer.train(
                training.texts,
                vocab_size=config.text.vocab_size,
                algorithm=config.text.algorithm,
                lowercase=config.text.lowercase,
            )
        if training.features is not None or training.categories is not None:
            columns = Columns.learn(training, **config.columns)
        if config.linear_scores.classifier:
            kept = Path(config.data.dir or default_data_dir()).expanduser() / "linear_scores"
            linear, out_of_fold = LinearScores.learn_once(kept, config.linear_scores, config.columns, training)
        return cls(tokenizer, columns, config.text.max_length, linear, out_of_fold)

    @property
    def spec(self) -> InputSpec:
        """What an encoder may read."""
        num_features = 0 if self.columns is None else len(self.columns.feature_names)
        num_linear_scores = 0 if self.linear is None else len(self.linear.offsets)
        return InputSpec(
            vocab_size=None if self.tokenizer is None else self.tokenizer.vocab_size,
            num_features=num_features + num_linear_scores or None,
            category_sizes=() if self.columns is None else self.columns.category_sizes,
            num_linear_scores=num_linear_scores,
        )

    @property
    def identity(self) -> dict[str, str]:
        """Hashes, by the names that errors use."""
        tokenizer = b"" if self.tokenizer is None else self.tokenizer.model
        columns = b"" if self.columns is None else json.dumps(self.columns.to_json()).encode()
        return {
            "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
            "columns": hashlib.sha256(columns).hexdigest(),
            "linear scores": "" if self.linear is None else self.linear.identity,
        }

    def encode_splits(self, dataset: Dataset) -> dict[str, EncodedSplit]:
        """Return the model inputs of all splits, the linear scores of training examples out of fold where known."""
        splits = {name: self.encode(records) for name, records in dataset.splits.items()}
        if self.out_of_fold is not None:
            parts = [None if self.columns is None else self.columns.features(dataset.train), self.out_of_fold]
            splits["train"] = dataclasses.replace(splits["train"], features=_side_by_side(parts))
        return splits

    def encode(self, records: Records) -> EncodedSplit:
        """Return the model inputs of examples that nothing was learnt from."""
        features = [None if self.columns is None else self.columns.features(records)]
        if self.linear is not None:
            features.append(self.linear.scores(records))
        split = EncodedSplit(
            labels=records.labels,
            lengths=np.zeros(len(records), np.int32),
            features=_side_by_side(features),
            categories=None if self.columns is None else self.columns.categories(records),
        )
        if self.tokenizer is None or records.texts is None:
            return split
        encoding = self.tokenizer.encode(records.texts, self.max_length)
        return dataclasses.replace(
            split,
            tokens=encoding.tokens,
            lengths=encoding.lengths,
            num_tokens=encoding.num_tokens,
            num_truncated_tokens=encoding.num_truncated_tokens,
        )


def _side_by_side(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [each for each in columns if each is not None]
    return np.concatenate(there, axis=1) if there else None


def make_batches(config: ConfigDict, splits: Mapping[str, EncodedSplit], num_labels: int) -> dict[str, Batches]:
    """Return the batches of every split, all cut to the same padded lengths, those of the training split."""
    longest = max(int(split.lengths.max(initial=1)) for split in splits.values())
    buckets = length_buckets(np.append(splits["train"].lengths, longest), config.text.num_buckets)
    sizes = {"train": config.train.batch_size}
    process = (jax.process_index(), jax.process_count())
    return {
        name: Batches(split, num_labels, sizes.get(name, config.evaluate.batch_size), buckets, process)
        for name, split in splits.items()
    }
