"""Six data sets with rare labels, each by one small network and a sigmoid a label: the loss is the study's to choose.

``configs/losses.py:medical`` names the data set. Columns are read by a network of one hidden layer, texts by a weighted
bag of subwords. Validation chooses the epoch by mean average precision over labels, whatever the loss is.
"""

from ml_collections import ConfigDict

from mlresearch.config import base_config

TEXTS = {"reuters21578": "reuters21578", "goemotions": "goemotions/none"}

SMALL = ("medical", "enron")
"""Data sets of five and ten steps an epoch: ranks of labels may stand still for many before anything is learnt."""


def get_config(name: str = "medical") -> ConfigDict:
    """Return the config of a data set."""
    config = base_config()
    if name in TEXTS:
        config.data.name = TEXTS[name]
        config.text.max_length = 64 if name == "goemotions" else 256  # comments of a line, stories of some paragraphs
        config.text.num_buckets = 2
        config.encoder.bag.dropout = 0.3
        config.optim.learning_rate = 4e-3
        config.train.batch_size = 256
        config.train.num_epochs = 15.0
    else:
        config.data.name = f"mulan/{name}"
        config.data.split.validation_share = 0.2
        config.columns.scale = "none"  # words that are there or not
        config.encoder.name = "mlp"
        config.encoder.mlp.dim = 256
        config.encoder.mlp.num_layers = 1
        config.encoder.mlp.dropout = 0.5
        config.optim.learning_rate = 1e-3
        config.train.batch_size = 64
        config.train.num_epochs = 300.0 if name == "medical" else 100.0
    config.head.name = "independent"
    config.model.prior = True
    config.decoder.linear.scale = 0.0
    config.optim.schedule = "constant"
    config.train.select = "ranking.macro_average_precision"
    config.train.patience = 60 if name in SMALL else 8
    config.evaluate.every_epochs = 1.0
    config.evaluate.threshold_grid = tuple(place / 40 for place in range(1, 40))
    config.evaluate.label_threshold_positives = 10
    return config
