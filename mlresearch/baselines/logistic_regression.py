"""One logistic regression a label, solved exactly."""

from ml_collections import ConfigDict

from mlresearch.baselines import LinearModel
from mlresearch.data.records import Dataset
from mlresearch.linear import ClassWeight, logistic_regression


class Baseline(LinearModel):
    """`mlresearch.linear.logistic_regression` of each label; see `LinearModel`."""

    def __init__(
        self, dataset: Dataset, config: ConfigDict, *, c: float = 10.0, class_weight: ClassWeight = "balanced"
    ) -> None:
        super().__init__(logistic_regression(c, class_weight, config.seed), dataset, config, min_count=1)
