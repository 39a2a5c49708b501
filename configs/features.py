"""A recipe for numeric and categorical columns: two hidden layers and a sigmoid a label.

By default mulan/emotions (72 features, 6 labels, 593 rows); another data set by ``--config.data.name=hmc/diatoms``, and
where its labels have a hierarchy ``--config.head.name=conditional``.
"""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "mulan/emotions"
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 256
    config.train.num_epochs = 60.0
    config.train.log_every_steps = 50
    return config
