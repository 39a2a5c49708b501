"""Speed of torchTextClassifiers, measured in its own environment: ``torch_text_classifiers MODEL FORM`` prints JSON.

MODEL: ``bag``, its mean of embeddings, or ``text_transformer``, the same under 3 layers of 8 heads. FORM:

* ``shipped``: its own `train` and `predict`, with its defaults, batch after batch;
* ``float32``: the same, with matrix products in full float32: `train` asks for "medium", which on CPUs with bfloat16
  instructions converts every operand;
* ``loop``: its model, its loss and its optimiser in the plainest loop, full float32, batches of like lengths, each as
  long as its longest text; prediction without gradients.

Texts come as token ids: its tokeniser is replaced by one that only looks them up. Labels are multi-hot, with binary
cross-entropy. Times are of the process, all threads together.
"""

import json
import logging
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torchTextClassifiers import ModelConfig, TrainingConfig, torchTextClassifiers
from torchTextClassifiers.model.components import AttentionConfig
from torchTextClassifiers.tokenizers import BaseTokenizer
from torchTextClassifiers.tokenizers.base import TokenizerOutput

from experiments.bench.texts import BATCH, DIM, MAX_LENGTH, NUM_HEADS, NUM_LABELS, NUM_LAYERS, VOCAB_SIZE, make_texts

WARM_UP = 4  # batches
BATCHES = {"bag": 100, "text_transformer": 16}

TEXTS = make_texts((WARM_UP + max(BATCHES.values())) * BATCH)


class Lookup(BaseTokenizer):
    """Turns "17" into the token ids of text 17, as tensors as long as the longest text, and notes when it was asked."""

    def __init__(self) -> None:
        super().__init__(vocab_size=VOCAB_SIZE, padding_idx=0)
        self.asked: list[float] = []

    def tokenize(self, text: Any, **options: Any) -> TokenizerOutput:
        """Return the ids of a batch."""
        self.asked.append(time.process_time())
        return TokenizerOutput(*batch_of(np.array([int(row) for row in text])))

    @classmethod
    def load_from_s3(cls, s3_path: str, filesystem: Any) -> "Lookup":
        """Return the same as ever; its base class asks for the method."""
        return cls()


def batch_of(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids of texts and their mask, as long as the longest of them."""
    ids = torch.from_numpy(TEXTS.tokens[rows, : TEXTS.lengths[rows].max()].astype(np.int64))
    return ids, (ids != 0).long()


def samples_per_second(times: list[float]) -> float:
    """Return samples a CPU-second from the process times at which batches began, but for the first few."""
    return BATCH * (len(times) - 1 - WARM_UP) / (times[-1] - times[WARM_UP])


def shipped(classifier: torchTextClassifiers, tokenizer: Lookup, num_batches: int) -> tuple[float, float]:
    """Return samples a CPU-second of `train` and of `predict`."""
    rows = np.arange(num_batches * BATCH)
    classifier.train(
        rows.astype(str),
        TEXTS.labels[rows].astype(np.int64),
        TrainingConfig(
            num_epochs=1,
            batch_size=BATCH,
            lr=1e-3,
            raw_labels=False,
            loss=torch.nn.BCEWithLogitsLoss(),
            num_workers=0,  # so that the time of making batches counts, as ours does
            trainer_params={"enable_progress_bar": False, "enable_model_summary": False},
        ),
    )
    training = samples_per_second(tokenizer.asked)
    tokenizer.asked.clear()
    for part in rows.reshape(-1, BATCH):
        classifier.predict(part.astype(str))
    return training, samples_per_second(tokenizer.asked)


def loop(classifier: torchTextClassifiers, num_batches: int) -> tuple[float, float]:
    """Return samples a CPU-second of a plain loop over batches of like lengths, training and prediction."""
    rows = np.argsort(TEXTS.lengths[: num_batches * BATCH], kind="stable").reshape(-1, BATCH)
    batches = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    model = classifier.pytorch_model
    loss = torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train(part: np.ndarray) -> None:
        labels = torch.from_numpy(TEXTS.labels[part]).float()
        optimizer.zero_grad()
        loss(model(*batch_of(part), None), labels).backward()
        optimizer.step()

    def predict(part: np.ndarray) -> None:
        with torch.inference_mode():
            torch.sigmoid(model(*batch_of(part), None)).numpy()

    model.train()
    training = samples_per_second(list(clocked(train, batches)))
    model.eval()
    return training, samples_per_second(list(clocked(predict, batches)))


def clocked(step: Callable[[np.ndarray], None], batches: list[np.ndarray]) -> Iterator[float]:
    """Yield the process time before each batch, and after the last."""
    for part in batches:
        yield time.process_time()
        step(part)
    yield time.process_time()


def main(model: str, form: str) -> None:
    """Measure one model in one form and print it."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    attention = AttentionConfig(NUM_LAYERS, NUM_HEADS, NUM_HEADS, MAX_LENGTH) if model == "text_transformer" else None
    tokenizer = Lookup()
    config = ModelConfig(embedding_dim=DIM, num_classes=NUM_LABELS, attention_config=attention)
    classifier = torchTextClassifiers(tokenizer, config)
    num_batches = WARM_UP + BATCHES[model]
    if form == "float32":
        torch.set_float32_matmul_precision = lambda precision: None
    with tempfile.TemporaryDirectory() as folder:  # `train` writes checkpoints and logs where it stands
        os.chdir(folder)
        training, inference = (
            loop(classifier, num_batches) if form == "loop" else shipped(classifier, tokenizer, num_batches)
        )
        os.chdir("/")
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"training": training, "inference": inference, "megabytes": megabytes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
