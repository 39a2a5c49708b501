"""Diagnosis phrases to ICD-10-CM nodes, down to three-character categories: single-path, 2,237 labels."""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "icd10cm/terms"
    config.head.name = "conditional"
    config.head.conditional.siblings = "one"
    config.text.max_length = 32
    config.text.num_buckets = 2
    config.optim.learning_rate = 4e-3
    config.optim.weight_decay = 0.3
    config.train.batch_size = 256
    config.train.num_epochs = 5.0
    return config
