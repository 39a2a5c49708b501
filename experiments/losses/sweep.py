"""Which label-wise loss helps rare labels, and what does it cost the frequent ones?

Every loss with its paper's settings on six data sets; macro-F1 over the head, middle and tail third of the labels by
their frequency in training.
"""

from collections.abc import Iterator

from mlresearch.study import Overrides, cross, seeds
from mlresearch.tables import Table

SETS = ["medical", "enron", "bibtex", "corel5k", "reuters21578", "goemotions"]

CROSS_ENTROPY = {"loss.name": "binary_cross_entropy"}

LOSSES: list[Overrides] = [
    CROSS_ENTROPY | {"row": "cross-entropy"},
    CROSS_ENTROPY | {"row": "cross-entropy, balanced", "loss.binary_cross_entropy.class_weights": "balanced"},
    CROSS_ENTROPY | {"row": "cross-entropy, effective numbers", "loss.binary_cross_entropy.class_weights": "effective"},
    {"row": "smoothed cross-entropy", "loss.name": "smoothed_cross_entropy"},
    {"row": "focal", "loss.name": "focal"},
    {"row": "asymmetric", "loss.name": "asymmetric"},
    {"row": "distribution-balanced", "loss.name": "distribution_balanced"},
    {"row": "ZLPR", "loss.name": "zlpr"},
    {"row": "pairwise log-sum-exp", "loss.name": "pairwise_logsumexp"},
    {"row": "two-way", "loss.name": "two_way"},
    {"row": "soft F1", "loss.name": "soft_f1"},
]


def runs() -> Iterator[Overrides]:
    """Yield every loss on every data set, five seeds each."""
    for name in SETS:
        yield from cross([{"config": f"configs/losses.py:{name}", "data": name}], LOSSES, seeds(5))


THIRDS = [f"test.label_thresholds.macro_f1_{part}" for part in ("head", "middle", "tail")]

TABLE = Table(
    columns=[
        *("test.label_thresholds.macro_f1", *THIRDS, "test.global_threshold.micro_f1"),
        *("test.ranking.macro_average_precision", "test.half.hamming_loss"),
    ],
    baseline="cross-entropy",
    by="metric",
    tested=["test.label_thresholds.macro_f1", *THIRDS],
    test="bootstrap",
    unit="examples",
    resamples=2_500,
)
