"""When does modelling label dependence help, and how near does it come to the best that can be done?

Labels are drawn from a known distribution, so the optimum is known: it is the row `truth`.
"""

from collections.abc import Iterator

from mlresearch.study import Overrides, cross, seeds
from mlresearch.tables import Table

STRENGTHS = [0.0, 1.0, 2.0, 4.0, 8.0]
"""Of the planted dependence: how far apart the components of the truth are, in log-odds."""

SHAPES: dict[str, Overrides] = {
    "flat": {"data.synthetic.num_labels": 12, "data.synthetic.cardinality": 3.0},
    "tree": {"data.synthetic.num_labels": 20, "data.synthetic.cardinality": 4.0},
}
"""Of so many labels that the best subset accuracy is far from 0."""

METRICS = [
    "test.half.hamming_loss",
    "test.mode.subset_accuracy",
    "test.expected_f1.example_f1",
    "test.global_threshold.micro_f1",
    "test.label_thresholds.macro_f1",
]
"""Each under the decision that is the best for it."""


def runs() -> Iterator[Overrides]:
    """Yield the truth, and every model with three seeds, at every strength of dependence."""
    for shape, size in SHAPES.items():
        for strength in STRENGTHS:
            base = size | {
                "config": f"configs/synthetic.py:{shape}",
                "data.synthetic.dependence": strength,
                "data": f"{shape}, dependence {strength:g}",
            }
            yield base | {"baseline": "truth", "row": "truth"}
            yield from cross([base], models(shape), seeds(3))


def models(shape: str) -> list[Overrides]:
    """Return decoders and heads, each with a row of its own."""
    made: list[Overrides] = []
    heads = ["independent", "mixture"] if shape == "flat" else ["independent", "conditional", "mixture"]
    linear: Overrides = {"decoder.name": "linear"}
    attention: Overrides = {"decoder.name": "label_attention", "decoder.label_attention.query_dim": 32}
    attention |= {"decoder.label_attention.dropout": 0.0, "train.num_epochs": 8.0}  # costs four times the epochs
    for decoder in (linear, attention):
        made += [decoder | {"row": f"{decoder['decoder.name']}+{head}", "head.name": head} for head in heads]
    chain: Overrides = {"row": "causal+chain", "decoder.name": "causal", "head.name": "chain"}
    if shape != "flat":
        chain["head.chain.order"] = "hierarchy"
    return [*made, chain]


TABLE = Table(
    columns=METRICS, baseline="linear+independent", by="metric", decimals=4, against="data.synthetic.dependence"
)
