"""Which settings does each row of the study `dependence` want on each data set, by validation alone?

One seed a setting; the study takes what is best here by micro-F1 at a threshold that is fitted on the same validation
split.
"""

from collections.abc import Iterator, Sequence

from mlresearch.study import Overrides, cross, grid
from mlresearch.tables import Table

FEATURES = ["emotions", "scene", "birds", "medical", "enron", "genbase", "bibtex", "tmc2007", "corel5k"]
TEXTS = ["reuters21578", "goemotions", "debtags"]
SETS = [*FEATURES, *TEXTS]

WITH_OTHER_DECODERS = ["emotions", "scene", "birds", "medical", "genbase", "reuters21578"]
"""At most 90 labels and some 10,000 rows, which a chain and attention can walk over on two cores."""

PENALTIES = {name: [0.3, 3.0] for name in SETS} | {"debtags": [0.3]}
"""On debtags a solver takes minutes, by its labels and terms."""

WEIGHTS = ["none", "balanced"]
"""Of classes in a linear classifier: whether rare labels are weighted up."""

BASELINES = ["linear_svm", "logistic_regression"]


def runs() -> Iterator[Overrides]:
    """Yield every row with every setting on every data set."""
    for name in SETS:
        base = {"config": f"configs/dependence.py:{name}", "data": name, "evaluate.predictions": False}
        yield from cross([base], [*baselines(name), *models(name)])


def baselines(name: str) -> list[Overrides]:
    """Return scikit-learn's rows of a data set, their scores made probabilities on validation: a margin is none."""
    made: list[Overrides] = []
    for classifier in BASELINES:
        row: Overrides = {"baseline": classifier, "row": classifier, "evaluate.calibration": "platt"}
        made += with_settings(row, f"baseline.{classifier}", name)
    return made


def models(name: str) -> list[Overrides]:
    """Return decoders and heads over scores of the baselines' classifiers, logistic regressions without weights.

    On texts of support vector machines alone, which are the better classifiers there, and faster: the scores of debtags
    take four fits of a quarter of an hour each by logistic regressions.
    """
    made: list[Overrides] = []
    for row in rows(name):
        made += with_settings(row, "linear_scores", name)
        if name in FEATURES:
            logistic: Overrides = {"linear_scores.classifier": "logistic_regression"}
            logistic["row"] = f"{row['row']}, logistic_regression"
            made += with_settings(row | logistic, "linear_scores", name, WEIGHTS[:1])
    return made


def with_settings(row: Overrides, section: str, name: str, weights: Sequence[str] = WEIGHTS) -> list[Overrides]:
    """Return a row with every setting that a data set tries of its linear classifiers, a section of the config."""
    made: list[Overrides] = []
    for setting in grid({f"{section}.c": PENALTIES[name], f"{section}.class_weight": weights}):
        c, weight = setting.values()
        made.append(row | setting | {"row": f"{row['row']}, {c:g}, {weight}"})
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
