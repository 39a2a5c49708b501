"""Predictions of a run on a small test split, and the split."""

import json

import jax
import numpy as np

from mlresearch.data.records import Dataset, Records
from mlresearch.decisions import GlobalThreshold, Half, Mode
from mlresearch.label_space import Frequencies, LabelSets, LabelSpace
from mlresearch.predictions import Predictions
from mlresearch.scored import ScoredRows

EDGES = np.array([[1, 0], [2, 0], [4, 3], [5, 3], [5, 4]], np.int32)
DECISIONS = {
    "mode": Mode(),
    "half": Half(),
    "global_threshold": GlobalThreshold("micro_f1", 0.3, 0.5, (0.2, 0.3, 0.4), False, "print/validation"),
}
FREQUENCIES = Frequencies(np.array([9.0, 4, 0, 7, 7, 2, 1, 3]), np.full(8, 30))
"""Of labels in training: one is never on, two as often as each other."""


def make_dataset(kind, num_examples=40, num_labels=8):
    """A test split: labels are ``flat``, have a ``hierarchy``, or some are ``unknown``; one is rare, one absent."""
    rng = np.random.default_rng(1)
    labels = rng.random((num_examples, num_labels)) < 0.35
    labels[:, 6] = labels[:, 7] = False
    labels[10, 7] = True
    unknown = (rng.random(labels.shape) < 0.3) & (kind == "unknown")
    if kind == "unknown":
        unknown[10, 7], unknown[3] = False, True  # an example of which nothing is known counts nowhere
    rows = [np.flatnonzero(on | odd).tolist() for on, odd in zip(labels, unknown, strict=True)]
    values = [np.where(unknown[at, ids], np.nan, 1.0).tolist() for at, ids in enumerate(rows)]
    sets = LabelSets.from_rows(rows, values if kind == "unknown" else None)
    names = tuple(f"label {at}" for at in range(num_labels))
    records = Records(sets, tuple(map(str, range(num_examples))))
    parents = None if kind == "flat" else EDGES
    return Dataset("made/up", {"test": records}, LabelSpace(names, names), parents, "print", {})


def write(folder, scores, mode, labels, known=None):
    """Write predictions as a run does, and return what it said."""
    losses = np.random.default_rng(5).random(len(labels))
    rows = ScoredRows(np.arange(len(labels)), scores, {"mode": mode}, losses, labels, known)
    kept = Predictions(*scores.shape)
    for part in np.array_split(np.random.default_rng(3).permutation(len(labels)), 4):  # in any order
        kept.add(jax.tree.map(lambda of, part=part: of[part], rows))
    kept.write(folder, "test")
    return rows


def store(folder, dataset):
    """Write random predictions and `DECISIONS` as a run does, and return what it said."""
    rng = np.random.default_rng(2)
    labels, num_labels = dataset.splits["test"].labels, dataset.label_space.num_labels
    scores = np.log(rng.random((len(labels), num_labels)).round(1).clip(0.01, 0.98) + 0.01)  # with ties
    mode = rng.random(scores.shape) < 0.4
    folder.mkdir(exist_ok=True)
    made = write(folder, scores.astype(np.float32), mode, labels.multi_hot(num_labels), labels.known(num_labels))
    stored = {name: decision.to_json() for name, decision in DECISIONS.items()}
    (folder / "decisions.json").write_text(json.dumps(stored))
    return made
