"""Which settings does each row of the study `dependence` want on each data set, by validation alone?

Four settings a row and a data set, the same number for all rows, one seed; the study takes what is best here by
micro-F1 at a threshold that is fitted on the same validation split.
"""

from collections.abc import Iterator

from mlresearch.study import Overrides, cross, grid
from mlresearch.tables import Table

SETS = [
    *("emotions", "scene", "birds", "medical", "enron", "genbase", "bibtex", "tmc2007", "corel5k"),
    *("reuters21578", "goemotions", "debtags"),
]

WITH_OTHER_DECODERS = ["emotions", "scene", "birds", "medical", "reuters21578", "goemotions"]
"""At most 64 labels or so, which a chain and attention can walk over on two cores."""

PENALTIES = [0.3, 3.0]

BASELINES = ["linear_svm", "logistic_regression"]


def runs() -> Iterator[Overrides]:
    """Yield every row with every setting on every data set."""
    for name in SETS:
        base = {"config": f"configs/dependence.py:{name}", "data": name, "evaluate.predictions": False}
        yield from cross([base], [*baselines(), *models(name)])


def baselines() -> list[Overrides]:
    """Return scikit-learn's rows: two penalties, rare labels weighted up or not."""
    made: list[Overrides] = []
    for name in BASELINES:
        settings = grid({f"baseline.{name}.c": PENALTIES, f"baseline.{name}.class_weight": ["none", "balanced"]})
        for setting in settings:
            c, weight = setting.values()
            made.append(setting | {"baseline": name, "row": f"{name}, {c:g}, {weight}"})
    return made


def models(name: str) -> list[Overrides]:
    """Return decoders and heads: two penalties of the linear classifiers below, two dropout rates."""
    made: list[Overrides] = []
    settings = grid({"linear_scores.c": PENALTIES, "encoder.mlp.dropout": [0.3, 0.6]})
    for model in rows(name):
        made += [
            model
            | setting
            | {"row": f"{model['row']}, {setting['linear_scores.c']:g}, {setting['encoder.mlp.dropout']:g}"}
            for setting in settings
        ]
    return made


def rows(name: str) -> list[Overrides]:
    """Return decoders with heads, each with a row of its own."""
    mixture: Overrides = {"head.name": "mixture", "head.mixture.components": 8}
    made: list[Overrides] = [
        {"row": "linear+independent"},
        mixture | {"row": "linear+mixture", "decoder.linear.scale": 0.3},
    ]
    if name == "debtags":
        made += [{"row": f"linear+{head}", "head.name": head} for head in ("max_constraint", "conditional")]
    if name in WITH_OTHER_DECODERS:
        attention: Overrides = {"decoder.name": "label_attention", "encoder.mlp.feature_tokens": 16}
        attention |= {"decoder.label_attention.query_dim": 64}
        if name == "reuters21578":  # of 90 labels
            attention["decoder.label_attention.num_queries"] = 64
        made += [
            {"row": "causal+chain", "decoder.name": "causal", "head.name": "chain"},
            attention | {"row": "label_attention+independent"},
            attention | mixture | {"row": "label_attention+mixture"},
        ]
    return made


TABLE = Table(
    columns=[
        *("validation.global_threshold.micro_f1", "validation.label_thresholds.macro_f1"),
        *("validation.mode.subset_accuracy", "validation.expected_f1.example_f1", "validation.half.hamming_loss"),
        *("validation.ranking.macro_average_precision", "validation.ranking.r_precision"),
        *("selected.epoch", "seconds.train"),
    ],
)
