"""Does noise on the features help where the settings of `hmc_grid` fall short of the best in print?

The study `hmc` takes what is best here, by validation alone.
"""

from collections.abc import Iterator
from typing import Any

from mlresearch.study import Overrides, cross, grid, seeds
from mlresearch.tables import Table

NUM_SEEDS = 3

AS_IT_STANDS: Overrides = {"data.split.method": "last", "data.split.validation_share": 0.3}
"""Validation on the last of enron's messages: neighbours in the file are alike, and a drawn split would hold them."""

BASES: dict[str, Overrides] = {
    "enron": AS_IT_STANDS | {"optim.learning_rate": 1e-3},
    "derisi_FUN": {"optim.learning_rate": 1e-3},
}
SETTINGS: dict[str, dict[str, list[Any]]] = {
    "enron": {
        "encoder.mlp.num_layers": [1, 2],
        "encoder.mlp.feature_dropout": [0.0, 0.3, 0.6],
        "encoder.mlp.dropout": [0.5, 0.7],
    },
    "derisi_FUN": {"encoder.mlp.feature_noise": [0.0, 0.5], "encoder.mlp.dropout": [0.6, 0.7]},
}

HEADS: list[Overrides] = [
    {"row": "independent", "head.name": "independent"},
    {"row": "max_constraint", "head.name": "max_constraint"},
    {"row": "conditional", "head.name": "conditional", "head.conditional.siblings": "any"},
    {"row": "mixture", "head.name": "mixture", "head.mixture.siblings": "hurdle", "decoder.linear.scale": 0.3},
]
"""With the rules of siblings of `hmc`."""


def runs() -> Iterator[Overrides]:
    """Yield every head with every setting and seed."""
    for name, settings in SETTINGS.items():
        base = {"config": f"configs/hmc.py:{name}", "train.refit": False, "evaluate.predictions": False} | BASES[name]
        heads = HEADS if name == "enron" else HEADS[:3]  # derisi's mixture is not its best
        for run in cross([base], heads, grid(settings), seeds(NUM_SEEDS)):
            yield run | {"row": ", ".join([str(run["row"]), *(f"{run[key]:g}" for key in settings)])}


TABLE = Table(
    columns=[
        *("validation.ranking.micro_average_precision", "validation.mode.subset_accuracy", "validation.mode.micro_f1"),
        *("selected.epoch", "seconds.train"),
    ],
)
