"""Labels drawn from a known distribution given features: what is lost to the truth can be told.

``configs/synthetic.py:flat`` names the shape of the hierarchy, "flat", "tree" or "dag".
"""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config(shape: str = "tree") -> ConfigDict:
    """Return the config of a shape."""
    config = base_config()
    config.data.name = "synthetic/features"
    config.data.synthetic.shape = shape
    config.data.synthetic.num_train = 20_000
    config.data.synthetic.num_test = 5_000
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 128
    config.encoder.mlp.num_layers = 1
    config.encoder.mlp.activation = "gelu"
    config.encoder.mlp.dropout = 0.0
    config.head.name = "independent" if shape == "flat" else "conditional"
    config.head.mixture.of = "independent" if shape == "flat" else "conditional"
    config.model.prior = True
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.01
    config.train.batch_size = 256
    config.train.num_epochs = 20.0
    config.train.select = "loss.mean"
    config.evaluate.every_epochs = 1.0
    config.evaluate.threshold_grid = tuple(place / 40 for place in range(4, 36))
    config.evaluate.expected_f1_labels = 20
    config.evaluate.predictions = False
    return config
