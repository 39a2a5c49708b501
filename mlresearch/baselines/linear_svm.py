"""One linear support vector machine a label."""

from ml_collections import ConfigDict
from sklearn.svm import LinearSVC

from mlresearch.baselines import ClassWeight, LinearModel, balance
from mlresearch.data.records import Dataset


class Baseline(LinearModel):
    """Weights w and intercept b of each label minimise ``(|w|² + b²) / 2 + c Σᵢ vᵢ max(0, 1 − yᵢ (w · xᵢ + b))²``.

    yᵢ = ±1. class_weight: "balanced" weighs the n₁ positives of n examples by vᵢ = n / 2n₁ and the others by n / 2n₀,
    "none" all alike. Its scores are taken for log-odds, which they are not: decisions with thresholds that are fitted
    make up for that. See `LinearModel`.

    Source: Fan et al., "LIBLINEAR: A Library for Large Linear Classification", 2008.
    """

    def __init__(
        self, dataset: Dataset, config: ConfigDict, *, c: float = 1.0, class_weight: ClassWeight = "none"
    ) -> None:
        classifier = LinearSVC(C=c, class_weight=balance(class_weight), random_state=config.seed)
        super().__init__(classifier, dataset, config, min_count=1)
