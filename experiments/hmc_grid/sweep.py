"""Which dropout rate, learning rate and rule of siblings does each head want, by validation alone?

One data set of each family; the study `hmc` takes what is best here.
"""

from collections.abc import Iterator

from mlresearch.study import Overrides, cross, grid
from mlresearch.tables import Table

SETTINGS = {
    "cellcycle_FUN": {"optim.learning_rate": [5e-4, 1e-3], "encoder.mlp.dropout": [0.6, 0.7, 0.8]},
    "cellcycle_GO": {"optim.learning_rate": [1e-3], "encoder.mlp.dropout": [0.6, 0.7, 0.8]},
    "diatoms": {"optim.learning_rate": [1e-3], "encoder.mlp.dropout": [0.3, 0.5, 0.7]},
    "enron": {"optim.learning_rate": [5e-4, 1e-3], "encoder.mlp.dropout": [0.5, 0.6, 0.7]},
    "imclef07d": {"optim.learning_rate": [1e-3], "encoder.mlp.dropout": [0.3, 0.5, 0.7]},
}
RULES = {"cellcycle_FUN": "hurdle", "diatoms": "at_most_one", "enron": "hurdle", "imclef07d": "one"}
"""Of siblings, beside any."""


def runs() -> Iterator[Overrides]:
    """Yield every head with every setting, one seed."""
    for name, settings in SETTINGS.items():
        base = {"config": f"configs/hmc.py:{name}", "train.refit": False, "evaluate.predictions": False}
        for run in cross([base], heads(name), grid(settings)):
            rate, dropout = run["optim.learning_rate"], run["encoder.mlp.dropout"]
            yield run | {"row": f"{run['row']}, {rate:g}, {dropout:g}"}


def heads(name: str) -> list[Overrides]:
    """Return the heads, each with a row of its own."""
    made = [{"row": head, "head.name": head} for head in ("independent", "max_constraint")]
    conditional = {"head.name": "conditional", "head.conditional.siblings": "any"}
    made.append(conditional | {"row": "conditional any"})
    if name not in RULES:  # on a DAG there is one rule; mixtures, which take an hour, follow what is best here
        return [*made, conditional | {"row": "conditional any, likelihood", "head.conditional.marginal_share": 0.0}]
    rule = RULES[name]
    made.append({"row": f"conditional {rule}", "head.name": "conditional", "head.conditional.siblings": rule})
    mixture = {"head.name": "mixture", "head.mixture.siblings": rule, "decoder.linear.scale": 0.3}
    return [*made, mixture | {"row": f"mixture {rule}"}]


TABLE = Table(
    columns=[
        *("validation.ranking.micro_average_precision", "validation.mode.subset_accuracy", "validation.mode.micro_f1"),
        *("selected.epoch", "seconds.train"),
    ],
)
