"""A trained run, loaded: ``mlresearch.load(workdir).predict(texts)``."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from mlresearch import workdir
from mlresearch.checkpoint import Checkpoints
from mlresearch.config import part_class
from mlresearch.data import Records
from mlresearch.data.pipeline import Batch, Batches, encode, length_buckets
from mlresearch.data.text import Tokenizer
from mlresearch.decisions import Decision, SplitScores
from mlresearch.encoders import InputSpec
from mlresearch.errors import UserError, suggest
from mlresearch.evaluate import report, score_split
from mlresearch.inputs import encode_splits, load_dataset, make_batches
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.optim import make_optimizer
from mlresearch.parallel import Parallel
from mlresearch.step import Scored, init_state, make_eval_step


@dataclasses.dataclass(frozen=True)
class LabelPrediction:
    """One label of one input: its marginal probability, and whether the decision switches it on."""

    name: str
    description: str
    probability: float
    on: bool


class Run:
    """A trained run: its config, labels, hierarchy, decisions and model, ready to score.

    A folder that holds no trained run is a `UserError`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config: ConfigDict = workdir.read_config(self.folder)
        if "baseline" in self.config:
            raise UserError(f"{self.folder} holds a baseline, of which only results are kept")
        self.record = workdir.read_record(self.folder)
        if self.record["status"] != "finished":
            raise UserError(
                f"{self.folder}: the run is {self.record['status']}; train it to its end with the same command"
            )
        self.label_space, self.hierarchy = workdir.read_labels(self.folder)
        self.decisions = workdir.read_decisions(self.folder)
        spec = InputSpec(**self.record["inputs"])
        self.tokenizer = None if spec.vocab_size is None else Tokenizer.load(self.folder / "tokenizer.model")
        num_labels = self.label_space.num_labels
        graphdef, params, structure = create_model(self.config, spec, num_labels, self.hierarchy)
        optimizer = make_optimizer(self.config.optim, self.record["num_steps"])
        # The data set need not be there any more, so its fingerprint is taken as recorded.
        tokenizer = b"" if self.tokenizer is None else self.tokenizer.model
        identity = {
            "data set": self.record["data"]["fingerprint"],
            **workdir.label_identity(self.label_space, self.hierarchy),
            "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        }
        with contextlib.closing(Checkpoints(self.folder)) as checkpoints:
            state, _ = checkpoints.restore(init_state(params, optimizer, self.config.seed), identity)
        loss = part_class("loss", self.config.loss.name)(**self.config.loss[self.config.loss.name])
        # Prediction needs no particular layout: as many devices as there are here and as divide the batch.
        size = self.config.evaluate.batch_size
        count = max(n for n in range(1, len(jax.devices()) + 1) if size % n == 0)
        self._parallel = Parallel("jit", count, size)
        self._params, self._structure = self._parallel.replicate((state.params, structure))
        self._eval_step = self._parallel.compile_eval(make_eval_step(graphdef, loss, num_labels))

    def score(self, batch: Batch) -> Scored:
        """Score one batch of `config.evaluate.batch_size` rows."""
        return self._parallel.gather(self._eval_step(self._params, self._structure, self._parallel.shard(batch)))

    def decision(self, name: str) -> Decision:
        """Return a decision by name: mode, half, global_threshold or label_thresholds."""
        if name not in self.decisions:
            raise UserError(f"there is no decision {name!r}{suggest(name, self.decisions)}")
        return self.decisions[name]

    def score_texts(self, texts: Sequence[str]) -> SplitScores:
        """Return marginals and mode of each text, in order."""
        if self.tokenizer is None:
            raise UserError(f"{self.folder}: the run was trained on features, not on texts")
        if not texts:
            raise UserError("there is no text to predict labels of")
        for number, text in enumerate(texts, 1):
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise UserError(f"text {number} is not Unicode: {text[:40]!r}")
        none = LabelSets.from_rows([()] * len(texts))
        records = Records(texts=tuple(texts), features=None, labels=none, keys=("",) * len(texts))
        split = encode(records, self.tokenizer, self.config.text.max_length)
        num_labels, size = self.label_space.num_labels, self.config.evaluate.batch_size
        batches = Batches(split, num_labels, size, length_buckets(split.lengths, self.config.text.num_buckets))
        return score_split(self.score, batches, "texts", fingerprint="")[0]

    def evaluate(self, split: str) -> dict[str, dict[str, float | None]]:
        """Return the metrics of a split of the run's data set, under the decisions that the run has fitted."""
        dataset = load_dataset(self.config)
        if dataset.fingerprint != self.record["data"]["fingerprint"]:
            raise UserError(f"{self.folder}: {dataset.name} is not what it was when the run was trained on it")
        splits = encode_splits(self.config, dataset, self.tokenizer)
        batches = make_batches(self.config, splits, self.label_space.num_labels)[split]
        batches = dataclasses.replace(batches, batch_size=self.config.evaluate.batch_size)
        scores, loss = score_split(self.score, batches, split, dataset.fingerprint)
        return report(scores, loss, self.decisions, self.hierarchy)

    def predict(
        self, texts: Sequence[str], *, decision: str = "mode", min_probability: float = 0.05
    ) -> list[list[LabelPrediction]]:
        """Return for each text the labels that `decision` switches on or that are at least `min_probability` probable.

        Labels stand in the order of the label space, so that with a hierarchy in that order parents come first.
        """
        scores = self.score_texts(texts)
        on = self.decision(decision).apply(scores)
        listed = on | (np.exp(scores.log_marginals) >= min_probability)
        names, descriptions = self.label_space.names, self.label_space.descriptions
        return [
            [
                LabelPrediction(
                    names[label],
                    descriptions[label],
                    float(np.exp(scores.log_marginals[row, label])),
                    bool(on[row, label]),
                )
                for label in np.flatnonzero(listed[row])
            ]
            for row in range(len(texts))
        ]
