"""What a reader must know of each reported number: its definition, which way is better, how it is headed.

A place is where a number stands in a run record: split, decision (or one of `GROUPS`) and metric,
``test.mode.micro_f1``; or one of `OTHERS`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlresearch.errors import UserError, suggest
from mlresearch.metrics import BINS, NUM_BINS, PRECISION_AT

SPLITS = {"validation": "the validation split", "test": "the test split (scored once)"}
"""Splits of which records have metrics, in the order in which they stand side by side."""

DECISIONS = {
    "mode": "each head's most probable label set",
    "half": "labels with a marginal over ½",
    "global_threshold": "labels with a marginal over one threshold, which was fitted on the validation split",
    "label_thresholds": "labels with a marginal over their own threshold, which was fitted on the validation split",
    "closed_thresholds": "as by a threshold a label, then made coherent with the hierarchy",
    "expected_f1": "the label set of the largest expected example-F1 by each head's distribution",
}

_RATIOS = {"precision": "TP / (TP + FP)", "recall": "TP / (TP + FN)", "f1": "2 TP / (2 TP + FP + FN)"}
_MEANS = {
    "micro_{}": "{} of the sums over all labels; 0/0 = 0",
    "macro_{}": "mean over all labels, those without a positive in the split too, of {}; 0/0 = 0",
    "macro_{}_present": "mean over the labels with a positive in the split of {}; 0/0 = 0",
    "weighted_{}": "mean over labels, weighted by their positives in the split, of {}; 0/0 = 0",
    "example_{}": "mean over examples of {}; 0/0 = 0",
}
_EXTENDED = {
    "hierarchical": "of predicted and true labels, each with all their ancestors but the root",
    "cophe": "of numbers of most specific predicted and true labels at or below a label, a hit as often as both have "
    "it, summed over all labels but the root and over examples",
}
_CALIBRATION = (
    f"distance of the positives' share from the mean marginal in {NUM_BINS} bins of equal width, weighted by cells"
)
_AVERAGE_PRECISION = (
    "average precision, which does not interpolate: the mean over positives of the precision among the items that "
    "score no less"
)

HIGHER: dict[str, str] = {
    **{mean.format(ratio): text.format(formula) for ratio, formula in _RATIOS.items() for mean, text in _MEANS.items()},
    "example_f1": f"mean over examples of {_RATIOS['f1']}; 0/0 = 1",
    **{
        f"macro_f1_{part}": f"mean of {_RATIOS['f1']} over the {part} of three equal parts of the labels that occur in "
        "training, the most frequent first; 0/0 = 0"
        for part in BINS
    },
    **{
        f"{kind}_{ratio}": f"{formula} {text}; 0/0 = 0"
        for kind, text in _EXTENDED.items()
        for ratio, formula in _RATIOS.items()
    },
    "subset_accuracy": "share of examples with every known label right",
    "micro_average_precision": f"all cells ranked in one list, AU(PRC) by {_AVERAGE_PRECISION}",
    "macro_average_precision": f"mean over the labels with a positive in the split of {_AVERAGE_PRECISION}",
    "weighted_average_precision": "mean over labels, weighted by their positives in the split, of "
    f"{_AVERAGE_PRECISION}",
    **{
        f"precision_at_{k}": f"share of true labels among an example's {k} of highest score, mean" for k in PRECISION_AT
    },
    **{
        f"ndcg_at_{k}": f"sum of 1 / log2(place + 1) over the true labels among an example's {k} of highest score, "
        "over what it is at best, mean over examples with a true label"
        for k in PRECISION_AT
    },
    **{
        f"propensity_precision_at_{k}": f"sum of 1 / p over the true labels among an example's {k} of highest score, p "
        "the propensity of a label by its frequency in training, over the greatest possible sum"
        for k in PRECISION_AT
    },
    "r_precision": "share of true labels among an example's as many of highest score as it has, mean",
    "label_ranking_average_precision": "share of true labels among those that score no less than one of them, mean "
    "over an example's true labels and over examples; 1 where none is true",
}
"""Definitions of metrics of which more is better, by name."""

RANKING = frozenset(
    {
        *(f"{mean}_average_precision" for mean in ("micro", "macro", "weighted", "label_ranking")),
        *("r_precision", "coverage_error", "ranking_loss"),
        *(f"{name}_at_{k}" for name in ("precision", "ndcg", "propensity_precision") for k in PRECISION_AT),
    }
)
"""Metrics of the order of scores."""

PROBABILITIES = frozenset({"calibration_error", "macro_calibration_error", "brier_score", "log_loss"})
"""Metrics of marginals as probabilities."""

GROUPS = {"ranking": RANKING, "probabilities": PROBABILITIES, "loss": frozenset({"mean"})}
"""The metrics that are of no decision, by where they stand."""

WATCHED = ("mode", "half", *GROUPS)
"""Of whom a metric may choose runs by validation: decisions that are fitted would be judged where they were fitted."""

LOWER: dict[str, str] = {
    "hamming_loss": "share of wrong cells among those that are known",
    "violation_rate": "share of examples with a child predicted without one of its parents",
    "coverage_error": "how many labels score no less than an example's lowest true one, mean",
    "ranking_loss": "share of an example's pairs of a true and a false label with the false one scoring no less, mean",
    "calibration_error": f"{_CALIBRATION}, all cells together",
    "macro_calibration_error": f"{_CALIBRATION}, by label, mean over labels",
    "brier_score": "mean over cells of the squared distance of a marginal from the truth",
    "log_loss": "mean over cells of -log P(truth) by marginals",
    "mean": "what the head minimises in training, the mean over examples",
}
"""Definitions of metrics of which less is better; ``mean`` is the loss's."""

NEITHER: dict[str, str] = {
    "num_examples": "examples counted",
    "num_labels_absent": "labels without a positive in the split",
    "label_cardinality": "mean number of true labels an example",
    "predicted_cardinality": "mean number of predicted labels an example",
}

OTHERS: dict[str, str] = {
    "num_parameters": "numbers that were trained",
    "num_steps": "steps of the optimizer",
    "selected.epoch": "the epoch that validation chose",
    "seconds.train": "wall-clock time of training",
    "seconds.refit": "wall-clock time of training anew on train and validation",
    "seconds.evaluate": "wall-clock time of scoring validation and test",
}
"""Places of a record outside its metrics."""

TITLES = {
    "macro_average_precision": "mAP",
    "micro_average_precision": "AU(PRC)",
    "mean": "loss",
    **{f"precision_at_{k}": f"P@{k}" for k in PRECISION_AT},
    **{f"ndcg_at_{k}": f"nDCG@{k}" for k in PRECISION_AT},
    "r_precision": "R-precision",
    **{f"propensity_precision_at_{k}": f"PSP@{k}" for k in PRECISION_AT},
    "label_ranking_average_precision": "LRAP",
    "calibration_error": "ECE",
    "macro_calibration_error": "macro ECE",
}
"""How metrics are headed whose names are long."""


def check_place(place: str) -> None:
    """Raise `UserError` unless there may be a number at `place`; which decisions there are, records say."""
    if place in OTHERS:
        return
    split, _, rest = place.partition(".")
    group, _, metric = rest.partition(".")
    if split not in SPLITS or not group or not metric:
        raise UserError(
            f"the column {place!r} is no place of a number: write a split ({', '.join(SPLITS)}), a decision "
            f"({', '.join(GROUPS)}) and a metric, such as 'test.mode.micro_f1', or one of {', '.join(OTHERS)}"
        )
    known = HIGHER | LOWER | NEITHER
    if metric not in known:
        raise UserError(f"the column {place!r}: there is no metric {metric!r}{suggest(metric, known)}")
    own = next((name for name, metrics in GROUPS.items() if metric in metrics), "a decision, such as mode")
    if group != own and (group in GROUPS or own in GROUPS):
        raise UserError(f"the column {place!r}: the metric {metric!r} is one of {own}")


def direction(place: str) -> int:
    """Return 1 where more is better, −1 where less is, 0 where neither is."""
    metric = place.rpartition(".")[2]
    return 0 if place in OTHERS else (metric in HIGHER) - (metric in LOWER)


def title(place: str) -> str:
    """Return the heading of a place: the metric, and what is not the test split's ``mode``."""
    if place in OTHERS:
        return {
            "selected.epoch": "epoch",
            "seconds.train": "seconds",
            "seconds.refit": "seconds to refit",
            "seconds.evaluate": "seconds to evaluate",
        }.get(place, place)
    split, group, metric = place.split(".")
    before = "" if split == "test" else f"{split} "
    after = "" if group in ("mode", *GROUPS) else f" ({group})"
    return f"{before}{TITLES.get(metric, metric)}{after}"


def define(places: Sequence[str]) -> list[str]:
    """Return what is to be read under a table of these places: a line a metric, and how labels were decided."""
    known = HIGHER | LOWER | NEITHER
    metrics = dict.fromkeys(place.rpartition(".")[2] for place in places if place not in OTHERS)
    lines = [f"{TITLES.get(metric, metric)}: {known[metric]}." for metric in metrics]
    lines += [f"{title(place)}: {OTHERS[place]}." for place in places if place in OTHERS]
    if any(formula in line for line in lines for formula in _RATIOS.values()):
        lines.append("TP, FP, FN: true positives, false positives and false negatives among the known cells.")
    if any("cells" in line for line in lines):
        lines.append("A cell is a label of an example.")
    groups = dict.fromkeys(place.split(".")[1] for place in places if place not in OTHERS)
    lines += [f"Predicted labels ({group}): {DECISIONS[group]}." for group in groups if group in DECISIONS]
    splits = dict.fromkeys(place.split(".")[0] for place in places if place not in OTHERS)
    if splits:
        lines.append(f"Numbers are of {' and of '.join(SPLITS[split] for split in splits)}.")
    return lines


def calibrated(found: Mapping[str, Any]) -> str:
    """Return what a record's ``calibration`` says: which map, and the cross-entropy of a split before and after it."""
    shown = {
        split: " → ".join("no number" if value is None else f"{value:.4g}" for value in (of["before"], of["after"]))
        for split, of in found.items()
        if isinstance(of, Mapping)
    }
    numbers = ", ".join(f"{split} {text}" for split, text in shown.items())
    return f"{found['kind']} of {found['of']}, fitted on validation; cross-entropy of marginals an example: {numbers}"
