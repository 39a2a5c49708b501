"""Notes of one to six co-occurring diagnoses to ICD-10-CM nodes, down to three-character categories."""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "icd10cm/encounters"
    config.head.name = "conditional"
    config.head.conditional.siblings = "some"
    config.text.max_length = 96
    config.text.num_buckets = 2
    config.optim.learning_rate = 4e-3
    config.optim.weight_decay = 0.3
    config.train.batch_size = 256
    config.train.num_epochs = 12.0
    return config
