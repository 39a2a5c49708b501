"""Twelve multi-label data sets, features and texts, by one network over linear classifiers' scores.

``configs/dependence.py:emotions`` names the data set. The network reads the scores of one linear classifier a label,
out of fold on training rows, and the data set's own columns; decoder and head are the study's to choose.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mlresearch.config import base_config
from mlresearch.study import load_config

FEATURES = ("emotions", "scene", "birds", "medical", "enron", "genbase", "bibtex", "tmc2007", "corel5k")
TEXTS = ("reuters21578", "goemotions", "debtags")

WORDS = ("medical", "enron", "genbase", "bibtex", "tmc2007", "corel5k")
"""Data sets whose features are there or not, most of them not, so that to scale rare ones up would be noise."""

SMALL = ("emotions", "scene", "birds", "medical", "enron", "genbase")
"""Data sets of at most some 1,500 training rows, of which more has to go to validation."""


def get_config(name: str = "emotions") -> ConfigDict:
    """Return the config of a data set."""
    config = load_config(str(Path(__file__).with_name("debtags.py"))) if name == "debtags" else base_config()
    if name in FEATURES:
        config.data.name = f"mulan/{name}"
        config.data.split.validation_share = 0.25 if name in SMALL else 0.1
        config.columns.scale = "none" if name in WORDS else "standard"
    elif name != "debtags":
        config.data.name = {"goemotions": "goemotions/none"}.get(name, name)
    config.linear_scores.classifier = "linear_svm"
    config.linear_scores.min_count = 5 if name == "debtags" else 2
    config.linear_scores.folds = 3 if name == "debtags" else 5
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 256
    config.encoder.mlp.num_layers = 1
    config.encoder.mlp.dropout = 0.5
    config.decoder.name = "linear"
    config.decoder.linear.scale = 0.0
    config.head.name = "independent"
    config.head.mixture.of = "conditional" if name == "debtags" else "independent"
    config.model.prior = True
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.01
    config.train.batch_size = 256 if name in ("debtags", "goemotions", "tmc2007") else 64
    config.train.num_epochs = 20.0 if name in ("debtags", "goemotions", "tmc2007") else 40.0
    config.train.select = "loss.mean"
    config.train.patience = 8
    config.evaluate.every_epochs = 1.0
    config.evaluate.threshold_grid = tuple(place / 40 for place in range(2, 30))
    config.evaluate.label_threshold_positives = 10
    config.evaluate.expected_f1_labels = 20
    return config
