"""Calibrations of the runs of a program, fitted on what they say of validation, and what they do to scored splits."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlresearch.calibration import Method
from mlresearch.calibration.maps import Calibration, MarginalMap, ScoreMaps
from mlresearch.calibration.of_marginals import FITS, cross_entropies, pool_cells
from mlresearch.calibration.of_scores import fit_score_maps, gather_scores
from mlresearch.data.pipeline import Batches
from mlresearch.files import write_json
from mlresearch.fit import Program
from mlresearch.scored import ScoredRows, ScoredSplit
from mlresearch.step import TrainState


class MappedSplit(ScoredSplit):
    """A scored split whose log-marginals are those under each run's map, None for as they are."""

    def __init__(self, split: ScoredSplit, maps: Sequence[MarginalMap | None]) -> None:
        self.name, self.fingerprint, self.whole = split.name, split.fingerprint, split.whole
        self.labels, self.num_labels = split.labels, split.num_labels
        self._split, self._maps = split, maps

    def __iter__(self) -> Iterator[list[ScoredRows]]:
        for block in self._split:
            yield [
                each if own is None else each._replace(log_marginals=own(each.log_marginals))
                for each, own in zip(block, self._maps, strict=True)
            ]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrations:
    """Those of all runs of a program, and what they do to scored splits.

    each: one a run, None for a run that has diverged; empty where there is none.
    """

    method: Method = dataclasses.field(default_factory=Method)
    each: Sequence[Calibration | None] = ()

    @classmethod
    def of_marginals(cls, plain: ScoredSplit, method: Method) -> "Calibrations":
        """Return each run's map of marginals, fitted on what it says of validation, where the method is one of these.

        Another split is a `TypeError`.
        """
        if not method.kind or method.place != "marginals":
            return cls()
        pooled = pool_cells(plain)
        return cls(method, [None if cells is None else FITS[method.kind](cells) for cells in pooled])

    def apply(
        self, plain: ScoredSplit, say: Callable[[str, Sequence[ScoreMaps]], ScoredSplit] | None = None
    ) -> ScoredSplit:
        """Return a scored split calibrated.

        say: scores a split by its name anew, with maps of each run's scores; where there are none, it is not needed.
        """
        if not self.each:
            return plain
        if self.method.place == "marginals":
            return MappedSplit(plain, [own for own in self.each if not isinstance(own, ScoreMaps)])
        assert say is not None
        return say(plain.name, score_maps(self.each))

    def note(self, records: Sequence[dict[str, Any]], plain: ScoredSplit, calibrated: ScoredSplit) -> None:
        """Write into run records the marginals' cross-entropy of a split before and after calibration, if there is one.

        See `cross_entropies`.
        """
        if not self.each:
            return
        for record, before, after in zip(records, cross_entropies(plain), cross_entropies(calibrated), strict=True):
            known = record.setdefault("calibration", {"kind": self.method.kind, "of": self.method.place})
            known[plain.name] = {"before": before, "after": after}

    def write(self, folder: Path, run: int = 0) -> None:
        """Write ``calibration.json`` of a run, if it has one."""
        own = self.each[run] if self.each else None
        if own is not None:
            write_json(folder / "calibration.json", own.to_json())


def score_maps(calibrations: Sequence[Calibration | None]) -> list[ScoreMaps]:
    """Return the maps of scores among the calibrations of runs, the identity of one that diverged."""
    found = [own for own in calibrations if isinstance(own, ScoreMaps)]
    if not found:
        return []
    scale = np.ones_like(found[0].scale)
    identity = dataclasses.replace(found[0], scale=scale, shift=np.zeros_like(scale))
    return [own if isinstance(own, ScoreMaps) else identity for own in calibrations]


def fit_calibrations(program: Program, state: TrainState, plain: ScoredSplit, batches: Batches) -> Calibrations:
    """Return the calibrations of all runs that the config asks for.

    state: of all runs, on the devices. plain: what they say of validation. batches: of that split. Another split is a
    `TypeError`.
    """
    method = Method.of(program.config)
    if not method.kind or method.place == "marginals":
        return Calibrations.of_marginals(plain, method)
    scores = gather_scores(program, state, plain, batches)
    of_runs = program.parallel.fetch((state.chosen_params, state.numbers.rates))
    of_runs, structure = jax.device_get((of_runs, program.parallel.fetch(program.structure)))
    fitted = []
    for run in range(len(program.parallel.fetch(state.step))):
        own = jax.tree.map(lambda leaf, run=run: leaf[run], of_runs)
        model = nnx.merge(program.graphdef, *jax.tree.map(jnp.asarray, (*own, structure)))
        fitted.append(fit_score_maps(scores, run, model.head, method.kind))
    return Calibrations(method, fitted)
