"""Whether a study that was made again agrees with its committed records."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlresearch.definitions import title
from mlresearch.tables import Table
from mlresearch.tables.results import Results, by_cell

TOLERANCES = {"hamming_loss": 0.0005, "mean": 0.05}
"""By how much a mean may differ when a study is made again, by metric; `TOLERANCE` for the others."""


TOLERANCE = 0.005


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A mean made again beside the committed one, over the same `n` runs; None where there is no number.

    tolerance: by how much they may differ.
    """

    row: str
    data: str
    place: str
    made: float | None
    committed: float | None
    tolerance: float
    n: int

    @property
    def within(self) -> bool:
        """Whether the two agree."""
        if self.made is None or self.committed is None:
            return False
        return abs(self.made - self.committed) <= self.tolerance

    def __str__(self) -> str:
        made, committed = ("no number" if value is None else f"{value:.5f}" for value in (self.made, self.committed))
        verdict = "agrees" if self.within else "DIFFERS"
        runs = f"{self.n} run{'s' * (self.n != 1)}"
        return (
            f"{verdict:7} {self.data}, {self.row}, {title(self.place)}: {made} made again, {committed} committed, "
            f"tolerance {self.tolerance:.5f}, {runs}"
        )


def compare(made: Results, committed: Results, table: Table) -> list[Agreement]:
    """Return how the runs of `made` agree with the committed records of the same runs, a line a row and column.

    The tolerance is the larger of an absolute one (`Table.tolerance`, else `TOLERANCES`) and two standard errors of the
    committed mean, ``2 · sd / √n``, where n > 1. A run without a committed record agrees with nothing.
    Seconds are not compared.
    """
    of_run = {(run.row, run.data, run.seed): run for run in committed.runs}
    lines = []
    for (row, data), own in by_cell(made.runs).items():
        pairs = [(run, of_run.get((run.row, run.data, run.seed))) for run in own]
        for place in table.places:
            if place.startswith("seconds."):  # of another machine, or another day
                continue
            new = [run.value(place) for run in own]
            old = [None if other is None else other.value(place) for _, other in pairs]
            if all(value is None for value in (*new, *old)):
                continue
            made_mean, committed_mean = _mean(new), _mean(old)
            metric = place.rpartition(".")[2]
            tolerance = table.tolerance.get(place, TOLERANCES.get(metric, TOLERANCE))
            if len(old) > 1 and committed_mean is not None:
                deviation = np.std(np.array(old, np.float64), ddof=1)
                tolerance = max(tolerance, float(2 * deviation / np.sqrt(len(old))))
            lines.append(Agreement(row, data, place, made_mean, committed_mean, tolerance, len(own)))
    return lines


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None
