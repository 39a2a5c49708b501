"""The steps of runs that share a program: from where they stand to where each of them ends."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree
from ml_collections import ConfigDict

from mlresearch.calibration.maps import ScoreMaps
from mlresearch.checkpoint import Checkpoints
from mlresearch.config import watched_group
from mlresearch.data.pipeline import Batch, Batches, Feed
from mlresearch.decisions import Rules
from mlresearch.definitions import direction
from mlresearch.errors import UserError
from mlresearch.evaluate import PREDICTED_SHARE
from mlresearch.events import Events
from mlresearch.files import write_bytes
from mlresearch.parallel import Parallel
from mlresearch.progress import Bar
from mlresearch.step import (
    NO_FAILURE,
    Best,
    HeadInputs,
    Numbers,
    Scored,
    StepMetrics,
    TrainState,
    make_eval_step,
    make_score_step,
    make_train_chunk,
    make_train_step,
)

CHUNK_BYTES = 64 << 20
"""What the batches of one chunk may hold."""

CHUNK_SECONDS = 1.0
"""About how long a chunk takes at most for the runs side by side: between chunks there are checkpoints, and a stop is
heard. Runs that take turns have as long each, since their states are fetched and put back once a chunk."""

CACHE_BYTES = 32 << 20
"""What a processor keeps near: states that are larger together cost more than one after another."""

Validate = Callable[[Callable[[Batch], Scored]], list[dict[str, float | None]]]
"""Scores the validation split with an evaluation step and returns each run's metrics, by their places within it."""


class Stopped(KeyboardInterrupt):
    """Raised after the step in which `stop` asked for it; the state after that step is what is kept."""


class Program:
    """What runs of one program share: the model's definition and structure, devices, and how it scores."""

    def __init__(
        self, config: ConfigDict, graphdef: nnx.GraphDef, structure: PyTree, num_labels: int, parallel: Parallel
    ) -> None:
        self.config = config
        self.graphdef = graphdef
        self.num_labels = num_labels
        self.parallel = parallel
        self.structure = parallel.replicate(structure)
        self._eval_steps: dict[tuple[str, ...], Callable[..., Scored]] = {}

    def scorer(
        self,
        params: PyTree,
        numbers: Numbers,
        sets: Sequence[str] | None = None,
        maps: Sequence[ScoreMaps] = (),
    ) -> Callable[[Batch], Scored]:
        """Return what scores batches with parameters that are on the devices, those of all runs.

        sets: names of the label sets that are wanted, None for all that the config asks for. maps: of each run, which
        calibrate label scores; empty for as they are.
        """
        choosers = Rules.of(self.config).choosers
        chosen = {name: choosers[name] for name in (choosers if sets is None else sets)}
        if tuple(chosen) not in self._eval_steps:
            step = make_eval_step(self.graphdef, self.num_labels, self.parallel.axis_name, chosen)
            self._eval_steps[tuple(chosen)] = self.parallel.compile_eval(step)
        step = self._eval_steps[tuple(chosen)]
        stacked = self.parallel.put_runs(jax.tree.map(lambda *leaves: jnp.stack(leaves), *maps)) if maps else None

        def score(batch: Batch) -> Scored:
            return self.parallel.gather(step(params, numbers, self.structure, self.parallel.put_batch(batch), stacked))

        return score

    def head_inputs(self, params: PyTree, numbers: Numbers) -> Callable[[Batch], HeadInputs]:
        """Return what makes of batches what the heads of all runs are given, as `scorer` does."""
        step = self.parallel.compile_eval(make_score_step(self.graphdef))
        return lambda batch: self.parallel.gather(step(params, numbers, self.structure, self.parallel.put_batch(batch)))


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What came of the steps: the state of all runs, on the devices; the step they went on from; of each run seconds.

    collapses: of each run, what there is to say of predictions that were all alike; None where they never were.
    """

    state: TrainState
    resumed_at: int
    seconds: list[float]
    collapses: list[str | None]


def stack(states: Sequence[TrainState]) -> TrainState:
    """Return the states of several runs as one with a leading axis of runs."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@jax.jit
def unstack(state: TrainState, run: Int[Array, ""]) -> TrainState:
    """Return the state of one run."""
    return jax.tree.map(lambda leaf: leaf[run], state)


@jax.jit
def choose(
    state: TrainState, values: Float[Array, "runs"], step: Int[Array, ""], patience: Int[Array, ""]
) -> TrainState:
    """Keep the parameters of runs whose value is their best so far, and end those that have waited too long.

    values: what they are chosen by, larger is better; step: that of the validation, at which runs that ended before
    are not looked at; patience: in steps.
    """
    assert state.best is not None
    running = (state.step == step) & (state.failed_step < 0)
    better = running & (values > state.best.value)

    def pick(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    new = Best(state.shown_params, state.step, values.astype(state.best.value.dtype))
    best = jax.tree.map(pick, new, state.best)
    ends = running & (step - best.step >= patience)
    return dataclasses.replace(state, best=best, end=jnp.where(ends, step, state.end))


def runs_at_once(state: TrainState) -> int | None:
    """Return how many of the runs of a state are best trained side by side, None for all.

    On a processor as many as share its cache, in equal parts: ten runs of half a million parameters took .86 of ten
    single ones side by side, .74 five by five, 1.07 one by one.
    """
    if jax.default_backend() != "cpu" or len(jax.devices()) > 1:
        return None
    runs = len(state.step)
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / runs
    return max(
        count for count in range(1, runs + 1) if runs % count == 0 and (count == 1 or count * own <= CACHE_BYTES)
    )


def fit(
    program: Program,
    state: TrainState,
    batches: Batches,
    num_steps: int,
    folders: Sequence[Path],
    identity: dict[str, str],
    stop: Callable[[], bool],
    description: str,
    *,
    phase: str = "",
    validate: Validate | None = None,
) -> Fitted:
    """Train until every run has failed or reached its end, from where its checkpoints stand.

    state: of all runs, before their first step. num_steps: those of the schedule. folders: one a run, where checkpoints
    and ``metrics.jsonl`` lie, with `phase` in their names. identity: what the runs are started on. validate: is asked
    every ``config.evaluate.every_epochs``, and at the end where parameters are chosen by it. `Stopped` is raised where
    `stop` says True, with all that was done saved.
    """
    began = time.time()
    config, parallel = program.config, program.parallel
    train_step = make_train_step(
        config, program.graphdef, program.num_labels, num_steps, parallel.axis_name, batches.buckets
    )
    at_once = runs_at_once(state)
    train_chunk = parallel.compile_chunk(make_train_chunk(train_step, at_once), state)
    chunk_seconds = CHUNK_SECONDS * len(folders) / (at_once or len(folders))
    feed = Feed(batches, np.asarray(state.seed).tolist())
    size = max(min(config.train.chunk_steps, CHUNK_BYTES // feed.bytes_per_step), 1)
    interval = max(round(config.evaluate.every_epochs * batches.steps_per_epoch), 1)
    before = [0.0] * len(folders)

    with contextlib.ExitStack() as resources:
        checkpoints = [
            resources.enter_context(contextlib.closing(Checkpoints(folder, f"{phase}checkpoints")))
            for folder in folders
        ]
        restored = restore_together(checkpoints, unstack(state, jnp.int32(0)), identity)
        if restored is not None:
            state, before = stack(restored[0]), restored[1]
        first = at = int(state.step.max())
        last = int(state.end.max())
        reached, failed = np.asarray(state.step), np.asarray(state.failed_step)
        state = parallel.put_runs(state)
        logs = [
            resources.enter_context(contextlib.closing(MetricsLog(folder / f"{phase}metrics.jsonl", first)))
            for folder in folders
        ]
        meter = _Meter(config.train.log_every_steps, batches.steps_per_epoch, at, logs)
        bar = resources.enter_context(contextlib.closing(Bar(f"train {description}", last, at)))

        def seconds() -> list[float]:
            share = (time.time() - began) / len(folders)
            return [earlier + share for earlier in before]

        def save() -> None:
            meter.flush()
            one = parallel.fetch(state)
            for number, (own, taken) in enumerate(zip(checkpoints, seconds(), strict=True)):
                # A run that failed is tried again by itself, from where it stands.
                step = at if failed[number] < 0 else int(reached[number])
                own.save(step, unstack(one, jnp.int32(number)), identity, taken)

        def prepare(pace: float | None) -> tuple[int, Batch, np.ndarray]:
            """Return the next chunk: as many steps as there is time for, at first one to see how long it takes."""
            number = 1 if pace is None else max(min(size, int(chunk_seconds / max(pace, 1e-9))), 1)
            number = max(min(number, last - at, interval - at % interval if validate else number), 0)
            return number, *feed.chunk(at, number, size)

        pace: float | None = None  # seconds a step; of the first chunk it is not known, as it is compiled then
        saved_at, chunks = time.monotonic(), 0
        upcoming = prepare(pace)
        while at < last:
            number, chunk, buckets = upcoming
            sent_at = time.monotonic()
            state, metrics = train_chunk(
                state, program.structure, parallel.put_chunk(chunk), jnp.asarray(buckets), jnp.int32(number)
            )
            at += number
            upcoming = prepare(pace)  # while the devices compute
            metrics = jax.device_get(parallel.fetch(metrics))
            chunks += 1
            if chunks > 1:
                pace = (time.monotonic() - sent_at) / number
            reached, failed = jax.device_get([parallel.fetch(state).step, parallel.fetch(state).failed_step])
            meter.add(metrics, number, reached)
            bar.advance(number)
            if validate and (at % interval == 0 or (at == last and config.train.select)):
                meter.flush()
                sets = ["mode"] if watched_group(config) == "mode" else []
                reports = validate(program.scorer(state.shown_params, state.numbers, sets))
                for folder, log, report, step in zip(folders, logs, reports, reached, strict=True):
                    if step == at:
                        known = {place: value for place, value in report.items() if value is not None}
                        said = log.collapse
                        log.write({"step": at, "epoch": at / batches.steps_per_epoch, "validation": known})
                        if log.collapse != said:
                            bar.say(f"{folder}: {log.collapse}")
                if config.train.select:
                    values = _values(reports, config.train.select)
                    patience = config.train.patience * interval or np.iinfo(np.int32).max
                    chosen = choose(parallel.fetch(state), values, jnp.int32(at), jnp.int32(patience))
                    state = parallel.put_runs(chosen)
            last = int(np.asarray(parallel.fetch(state).end)[failed < 0].max(initial=0))
            stopping = stop()
            if stopping or time.monotonic() - saved_at > config.train.checkpoint_every_seconds:
                save()
                saved_at = time.monotonic()
            if stopping:
                raise Stopped
        save()
        return Fitted(state, first, seconds(), [log.collapse for log in logs])


def _values(reports: Sequence[dict[str, float | None]], place: str) -> Float[Array, "runs"]:
    """Return each run's number at a place, turned so that larger is better; an infinite loss is the worst."""
    missing = [report for report in reports if place not in report]
    if missing:
        raise UserError(f"config.train.select is {place!r}, which these data do not have: {', '.join(missing[0])}")
    values = [report[place] for report in reports]
    return jnp.array([-jnp.inf if value is None else direction(place) * value for value in values])


class _Meter:
    """The losses and gradient norms of steps, as lines of the runs' logs: means over `every` steps."""

    def __init__(self, every: int, steps_per_epoch: int, step: int, logs: Sequence["MetricsLog"]) -> None:
        self._every = every
        self._steps_per_epoch = steps_per_epoch
        self._step = step
        self._logs = logs
        self._taken: list[np.ndarray] = []  # [steps, 2, runs], NaN where a run stood still

    def add(self, metrics: StepMetrics, number: int, reached: np.ndarray) -> None:
        """Take in the metrics of `number` steps, after which each run has reached a step."""
        values = np.stack([metrics.loss, metrics.gradient_norm], axis=1)[:number].astype(np.float64)
        after = self._step + 1 + np.arange(number)
        values[(after[:, None] > reached)[:, None, :].repeat(2, axis=1)] = np.nan
        while number:
            part = min(self._every - self._step % self._every, number)
            self._taken.append(values[:part])
            values, number, self._step = values[part:], number - part, self._step + part
            if self._step % self._every == 0:
                self.flush()

    def flush(self) -> None:
        """Write what was not written yet; a checkpoint or a stop may end a line early."""
        if not self._taken:
            return
        values = np.concatenate(self._taken)
        self._taken.clear()
        for run, log in enumerate(self._logs):
            took = np.flatnonzero(~np.isnan(values[:, 0, run]))
            if len(took):
                loss, gradient_norm = values[took, :, run].mean(axis=0)
                step = self._step - len(values) + int(took[-1]) + 1  # the last that the run took
                log.write(
                    {
                        "step": step,
                        "epoch": step / self._steps_per_epoch,
                        "train_loss": float(loss),
                        "gradient_norm": float(gradient_norm),
                    }
                )


def restore_together(
    checkpoints: Sequence[Checkpoints], template: TrainState, identity: dict[str, str]
) -> tuple[list[TrainState], list[float]] | None:
    """Return the states of runs at the latest step of which all have a sound checkpoint, and the seconds they took.

    None where none of them has a checkpoint. Runs that have no step in common are a `UserError`.
    """
    among = set.intersection(*(each.steps for each in checkpoints))
    if not any(each.steps for each in checkpoints):
        return None
    while among:
        found = [each.restore(template, identity, among) for each in checkpoints]
        latest = min(step for step, _, _ in found)
        if all(step == latest for step, _, _ in found):
            for each in checkpoints:
                each.drop_after(latest)
            # What failed may work now.
            anew = jnp.full((), NO_FAILURE, jnp.int32)
            states = [dataclasses.replace(state, failed_step=anew) for _, state, _ in found]
            return states, [seconds for _, _, seconds in found]
        among = {step for step in among if step <= latest}
    raise UserError("these runs have no checkpoint of one step in common: train them one by one")


class MetricsLog:
    """``metrics.jsonl``: a line a log step or validation; lines after the step that a run goes on from are dropped.

    A line has ``step`` and ``epoch``, and either ``train_loss`` and ``gradient_norm``, means since the line before, or
    ``validation``: metrics by their places. TensorBoard's file says the same, and is made anew where the log goes on.

    collapse: a sentence on the first validation, among lines that are kept too, at which no label of any example was
    predicted, or all were.
    """

    def __init__(self, path: Path, first: int) -> None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if self._step(line) <= first]
        write_bytes(path, "".join(kept).encode())
        self._file = path.open("a")
        self._events = Events(path.parent, path.stem)
        self.collapse: str | None = None
        for line in kept:
            self._note(json.loads(line))

    @staticmethod
    def _step(line: str) -> int | float:
        """Return the step of a line, infinity if the line is damaged or half written."""
        try:
            return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
        except (ValueError, KeyError, TypeError):
            return math.inf

    def write(self, values: dict[str, Any]) -> None:
        """Append a line, on disk at once."""
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        self._file.flush()
        self._note(values)

    def _note(self, values: dict[str, Any]) -> None:
        self._events.write(values)
        share = values.get("validation", {}).get(PREDICTED_SHARE)
        if self.collapse is None and share in (0, 1):
            self.collapse = f"after epoch {values['epoch']:.4g} every prediction on validation was " + (
                "empty: no label was on" if share == 0 else "full: all labels were on"
            )

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._events.close()
