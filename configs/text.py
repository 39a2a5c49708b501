"""A recipe for texts: a weighted bag of subwords and a sigmoid a label.

By default reuters21578 (90 topics, 10,789 documents); another data set by ``--config.data.name=goemotions/ekman``, and
where its labels have a hierarchy ``--config.head.name=conditional``.
"""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "reuters21578"
    config.text.max_length = 256
    config.text.num_buckets = 2
    config.optim.learning_rate = 4e-3
    config.train.num_epochs = 10.0
    return config
