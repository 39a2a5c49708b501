"""One logistic regression a label, solved exactly."""

from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

from mlresearch.baselines import ClassWeight, LinearModel, balance
from mlresearch.data.records import Dataset


class Baseline(LinearModel):
    """Weights w and intercept b of each label minimise ``(|w|² + b²) / 2 + c Σᵢ vᵢ log(1 + exp(−yᵢ (w · xᵢ + b)))``.

    yᵢ = ±1. class_weight: "balanced" weighs the n₁ positives of n examples by vᵢ = n / 2n₁ and the others by n / 2n₀,
    "none" all alike. See `LinearModel`.

    Source: Fan et al., "LIBLINEAR: A Library for Large Linear Classification", 2008.
    """

    def __init__(
        self, dataset: Dataset, config: ConfigDict, *, c: float = 10.0, class_weight: ClassWeight = "balanced"
    ) -> None:
        classifier = LogisticRegression(
            C=c, class_weight=balance(class_weight), solver="liblinear", random_state=config.seed
        )
        super().__init__(classifier, dataset, config, min_count=1)
