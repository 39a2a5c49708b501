"""What the runs of a table got right, example by example, from their stored predictions."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mlresearch.data.records import Dataset
from mlresearch.errors import UserError
from mlresearch.inputs import load_dataset
from mlresearch.predictions import read_predictions
from mlresearch.resampling import Outcomes
from mlresearch.tables.results import Result
from mlresearch.workdir import read_decisions

SPLIT = "test"
"""The split whose examples are resampled."""


class OutcomeReader:
    """Reads the outcomes of runs from their folders; each data set is loaded once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def read(self, folder: Path, config: ConfigDict, fingerprint: str, places: Sequence[str]) -> Outcomes:
        """Return what `places` need of the run in `folder`; predictions or data that are not at hand: a `UserError`.

        fingerprint: of the data that the run was made on.
        """
        if fingerprint not in self._datasets:
            dataset = load_dataset(config)
            if dataset.fingerprint != fingerprint:
                raise UserError(f"{dataset.name} is not what it was when the run in {folder} was made")
            self._datasets[fingerprint] = dataset
        dataset = self._datasets[fingerprint]
        scored = read_predictions(folder, SPLIT, dataset)
        frequencies = dataset.train.labels.frequencies(dataset.label_space.num_labels)
        return Outcomes.of(scored, read_decisions(folder), dataset.hierarchy, frequencies, places)

    def of(self, result: Result, places: Sequence[str]) -> Outcomes:
        """Return what `places` need of a result's run; one whose folder is not known is a `UserError`."""
        if result.folder is None or result.config is None:
            raise UserError(f"the folder of the run {result.file} is not known")
        return self.read(result.folder, result.config, result.record["data"]["fingerprint"], places)
