"""Gene function, diatoms, mail and X-ray images: numeric columns to labels in a tree or a directed acyclic graph.

``configs/hmc.py:diatoms`` names the data set. The published protocol trains on train and validation, for a number of
epochs that validation chose (`train.refit`), and leaves the roots of Gene Ontology out. Rules of siblings follow from
the data: yeast genes have several functions of any depth, a diatom or an X-ray image has one class.
"""

from typing import Any

from ml_collections import ConfigDict

from mlresearch.config import base_config

RECIPES: dict[str, dict[str, Any]] = {
    "FUN": {"num_epochs": 120.0, "batch_size": 128, "siblings": "hurdle"},
    "GO": {"num_epochs": 120.0, "batch_size": 128, "siblings": "any"},
    "diatoms": {"num_epochs": 200.0, "batch_size": 128, "siblings": "at_most_one"},
    "enron": {"num_epochs": 60.0, "batch_size": 64, "siblings": "hurdle"},
    "imclef07d": {"num_epochs": 100.0, "batch_size": 128, "siblings": "one"},
}
"""By data set, or of several by what the second part of their names says."""


def get_config(name: str = "cellcycle_FUN") -> ConfigDict:
    """Return the config of a data set."""
    recipe = RECIPES.get(name) or RECIPES.get(name.partition("_")[2]) or RECIPES["FUN"]
    config = base_config()
    config.data.name = f"hmc/{name}"
    config.data.hmc.ontology_roots = "drop"
    config.columns.scale = "quantile"
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 500
    config.encoder.mlp.dropout = 0.7
    config.model.prior = True
    config.decoder.linear.scale = 0.0
    config.head.name = "conditional"
    for head in ("conditional", "mixture"):
        config.head[head].siblings = recipe["siblings"]
        config.head[head].marginal_share = 0.5
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.0
    config.optim.schedule = "constant"
    config.optim.warmup_share = 0.0
    config.optim.average = 5.0
    config.train.batch_size = recipe["batch_size"]
    config.train.num_epochs = recipe["num_epochs"]
    config.train.select = "ranking.micro_average_precision"
    config.train.refit = True
    config.evaluate.every_epochs = 5.0
    return config
