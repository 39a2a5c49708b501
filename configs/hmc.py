"""Gene function, diatoms, mail and X-ray images: numeric columns to labels in a tree or a directed acyclic graph.

The published protocol trains on train and validation, for a number of epochs that validation chose (`train.refit`), and
leaves the roots of Gene Ontology out.
"""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "hmc/cellcycle_FUN"
    config.data.hmc.ontology_roots = "drop"
    config.columns.scale = "quantile"
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 500
    config.encoder.mlp.dropout = 0.7
    config.model.prior = True
    config.decoder.linear.scale = 0.0
    config.head.name = "conditional"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.0
    config.optim.schedule = "constant"
    config.optim.warmup_share = 0.0
    config.optim.average = 5.0
    config.train.batch_size = 128
    config.train.num_epochs = 100.0
    config.train.select = "ranking.micro_average_precision"
    config.train.refit = True
    config.evaluate.every_epochs = 5.0
    return config
