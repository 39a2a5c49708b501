"""One linear support vector machine a label."""

from ml_collections import ConfigDict

from mlresearch.baselines import LinearModel
from mlresearch.data.records import Dataset
from mlresearch.linear import ClassWeight, support_vectors


class Baseline(LinearModel):
    """`mlresearch.linear.support_vectors` of each label; see `LinearModel`.

    Their scores are taken for log-odds, which they are not: decisions with thresholds that are fitted make up for that.
    """

    def __init__(
        self, dataset: Dataset, config: ConfigDict, *, c: float = 1.0, class_weight: ClassWeight = "none"
    ) -> None:
        super().__init__(support_vectors(c, class_weight, config.seed), dataset, config, min_count=1)
