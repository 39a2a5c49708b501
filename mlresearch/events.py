"""TensorBoard's files of a run: its curves while it trains, and its settings with its results at the end."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams


class Events:
    """One file of scalars by step in `folder`; what an earlier one of the same `kind` held is gone.

    kind: ends the file's name, ``events.*.kind``.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        for old in folder.glob(f"events.*.{kind}"):
            old.unlink()
        self._writer = SummaryWriter(logdir=str(folder), filename_suffix=f".{kind}", flush_secs=10)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of a line of ``metrics.jsonl``; those of its ``validation`` under names of their own."""
        for name, value in line.items():
            if isinstance(value, Mapping):
                for place, number in value.items():
                    self._writer.add_scalar(f"{name}/{place}", number, line["step"])
            elif name not in ("step", "epoch"):
                self._writer.add_scalar(name, value, line["step"])

    def write_result(self, settings: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Write a run's settings by dotted key, for TensorBoard's HPARAMS page, and its metrics beside them."""
        numbers = {
            f"{split}/{group}.{name}": value
            for split, groups in metrics.items()
            for group, values in groups.items()
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
        }
        for summary in hparams(plain, numbers):
            self._writer.file_writer.add_summary(summary)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
