"""Debian packages to debtags: a table of one's own, with text, a categorical column, facets as parents, and groups.

The table is ``debtags/debtags.jsonl`` in the folder that MLRESEARCH_MANUAL_DIR or config.data.manual_dir names: 29,795
packages, a line ``{"id", "section", "summary", "text", "labels"}`` each. Labels are 597 tags such as "game::strategy",
3.7 a package, and the 31 facets that they stand under. No splits are given. Those that are drawn keep packages together
whose descriptions begin with the same 80 characters, as those of one source do.

7,727 packages have only tags of the facet "role". Most likely nobody has looked at their other facets: what counts as a
wrong label there may be a right one that is missing.

One seed, untuned, test split: micro-F1 .696, subset accuracy .443, in 77 s on two CPU cores with the preparation.
"""

from ml_collections import ConfigDict

from mlresearch.config import base_config


def get_config() -> ConfigDict:
    """Return the config."""
    config = base_config()
    config.data.name = "table"
    config.data.table.train = "debtags/debtags.jsonl"
    config.data.table.text = "summary,text"
    config.data.table.categories = "section"
    config.data.table.labels = "labels"
    config.data.table.form = "ragged"
    config.data.table.hierarchy_separator = "::"
    config.data.table.key = "id"
    config.data.table.group = "text"
    config.data.table.group_pattern = "(?s).{1,80}"
    config.head.name = "conditional"
    config.head.conditional.siblings = "some"
    config.text.max_length = 128
    config.optim.learning_rate = 4e-3
    config.optim.weight_decay = 0.3
    config.train.batch_size = 256
    config.train.num_epochs = 10.0
    return config
