"""Diagnosis phrases to all 98,505 nodes of ICD-10-CM, down to seventh-character extensions, on a laptop."""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "icd10cm/terms"
    config.data.icd10cm.depth = "extensions"
    config.head.name = "conditional"
    config.head.conditional.siblings = "at_most_one"  # a phrase may stand under a code that has finer ones
    config.head.conditional.sparse = True  # some hundred scores an example in place of 98,505
    config.decoder.linear.multiple = 8  # so that parallel.label_devices may be 2, 4 or 8
    config.text.max_length = 32
    config.text.num_buckets = 2
    config.optim.learning_rate = 4e-3
    config.optim.weight_decay = 0.3
    config.train.batch_size = 256
    config.train.num_epochs = 1.0
    config.evaluate.batch_size = 64
    return config
