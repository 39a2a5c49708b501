"""What a run says of every example of a split, as its folder keeps it."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlresearch.data.records import Dataset
from mlresearch.errors import UserError
from mlresearch.files import read_arrays, write_bytes
from mlresearch.scored import BLOCK_CELLS, Said, ScoredRows, ScoredSplit

FULL_SCORES = 1000
"""Above so many labels, stored predictions are the most probable `TOP_SCORES` an example."""

TOP_SCORES = 100


class Predictions:
    """Log-marginals and label sets of a split, gathered a few examples at a time."""

    def __init__(self, num_examples: int, num_labels: int) -> None:
        top = num_labels > FULL_SCORES
        shape = (num_examples, TOP_SCORES if top else num_labels)
        self._log_marginals = np.empty(shape, np.float32)
        self._losses = np.empty(num_examples)
        self._label_ids = np.empty(shape, np.int32) if top else None
        self._sets: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, scores: ScoredRows) -> None:
        """Take in some examples."""
        rows, values = scores.rows, scores.log_marginals
        self._losses[rows] = scores.loss
        for name, on in scores.sets.items():
            at, ids = np.nonzero(on)
            self._sets.setdefault(name, []).append((rows[at], ids.astype(np.int32)))
        if self._label_ids is not None:
            top = np.argpartition(-values, TOP_SCORES, axis=1)[:, :TOP_SCORES]
            values = np.take_along_axis(values, top, 1)
            order = np.argsort(-values, axis=1, kind="stable")
            self._label_ids[rows] = np.take_along_axis(top, order, 1)
            values = np.take_along_axis(values, order, 1)
        self._log_marginals[rows] = values

    def write(self, folder: Path, split: str) -> None:
        """Write ``predictions_<split>.npz``, rows in the split's order.

        log_marginals: float32, all labels, or above `FULL_SCORES` labels those of the `TOP_SCORES` most probable, whose
        ids stand in label_ids. loss: of each example, NaN where there is none. mode_ids, mode_offsets: the
        distribution's mode as label sets; expected_f1_ids, expected_f1_offsets: those of the decision of this name,
        where it was made.
        """
        stored: dict[str, Any] = {"log_marginals": self._log_marginals, "loss": self._losses}
        for name, parts in self._sets.items():
            rows, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
            order = np.argsort(rows, kind="stable")
            stored[f"{name}_ids"] = ids[order]
            stored[f"{name}_offsets"] = np.searchsorted(rows[order], np.arange(len(self._log_marginals) + 1))
        if self._label_ids is not None:
            stored["label_ids"] = self._label_ids
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **stored)
        write_bytes(folder / f"predictions_{split}.npz", buffer.getvalue())


def read_predictions(folder: Path, split: str, dataset: Dataset) -> ScoredSplit:
    """Return what `Predictions.write` kept of a split, of one run; losses that were not kept are NaN.

    Labels whose scores were not kept count as impossible. A folder without predictions of the split, a damaged file,
    and predictions of another number of examples are a `UserError`.
    """
    path = folder / f"predictions_{split}.npz"
    if not path.is_file():
        raise UserError(f"there is no {path}")
    labels, num_labels = dataset.splits[split].labels, dataset.label_space.num_labels
    try:
        stored = read_arrays(path)
        count = len(stored["log_marginals"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and commands that can do without it score by the model; to have "
            "it again, train the run in a new folder"
        ) from None
    if count != len(labels):
        raise UserError(f"{folder} holds predictions of {count} examples, the split has {len(labels)}")
    whole = "label_ids" not in stored
    return ScoredSplit(split, dataset.fingerprint, labels, num_labels, lambda: _said(stored, num_labels), whole=whole)


def _said(stored: Mapping[str, np.ndarray], num_labels: int) -> Iterator[Said]:
    """Yield what was stored of a few examples at a time, in order."""
    height = max(BLOCK_CELLS // num_labels, 1)
    sets = [name.removesuffix("_offsets") for name in stored if name.endswith("_offsets")]
    num_examples = len(stored["log_marginals"])
    losses = stored.get("loss", np.full(num_examples, np.nan))
    for start in range(0, num_examples, height):
        rows = np.arange(start, min(start + height, num_examples))
        log_marginals = stored["log_marginals"][rows]
        if "label_ids" in stored:
            top, log_marginals = log_marginals, np.full((len(rows), num_labels), -np.inf, np.float32)
            np.put_along_axis(log_marginals, stored["label_ids"][rows], top, 1)
        on = {name: np.zeros((1, len(rows), num_labels), bool) for name in sets}
        for name in sets:
            offsets = stored[f"{name}_offsets"][start : rows[-1] + 2]
            ids = stored[f"{name}_ids"][offsets[0] : offsets[-1]]
            on[name][0, np.repeat(np.arange(len(rows)), np.diff(offsets)), ids] = True
        yield rows, log_marginals[None], on, losses[None, rows]
