"""One run, top to bottom: data, model, steps, validation, decisions, test once, record."""

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mlresearch import environment, workdir
from mlresearch.checkpoint import Checkpoints
from mlresearch.config import part_class, resolve
from mlresearch.data import Dataset
from mlresearch.data.pipeline import Batch, Batches, EncodedSplit
from mlresearch.decisions import Decision, GlobalThreshold
from mlresearch.errors import UserError
from mlresearch.evaluate import fit_decisions, report, score_split, write_predictions
from mlresearch.files import write_bytes, write_json
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.inputs import Preprocessing, load_dataset, make_batches
from mlresearch.model import create_model
from mlresearch.optim import make_optimizer
from mlresearch.parallel import Parallel
from mlresearch.progress import track
from mlresearch.step import NO_FAILURE, Scored, init_state, make_eval_step, make_train_step


class NonFiniteError(UserError):
    """Raised where a loss, gradient or update was not finite; the state before that step is what is kept."""


class Stopped(KeyboardInterrupt):
    """Raised after the step in which `stop` asked for it; the state after that step is what is kept."""


def train(config: ConfigDict, folder: str | Path, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Train, evaluate and record one run in `folder`, or go on where it was left; returns the run record.

    stop: asked after every step; where it says True, a checkpoint is written and `Stopped` raised. A finished run is
    returned as it is. A config that cannot work, another one than the folder's, and other data are `UserError`s.
    """
    config = resolve(config)
    folder = Path(folder)
    workdir.refuse_other(folder, config)
    record = workdir.finished_record(folder)
    if record is not None:
        workdir.refuse_changed(folder, record, load_dataset(config))
        return record
    started = time.time()
    parallel = Parallel(
        config.parallel.mode, config.parallel.num_devices, config.train.batch_size, config.evaluate.batch_size
    )

    # Data
    dataset = load_dataset(config)
    hierarchy = dataset.hierarchy
    num_labels = dataset.label_space.num_labels
    preprocessing = Preprocessing.learn(config, dataset.train)
    splits = {name: preprocessing.encode(records) for name, records in dataset.splits.items()}
    batches = make_batches(config, splits, num_labels)

    # Model
    spec = preprocessing.spec
    label_sets = [split.labels for split in splits.values()]
    graphdef, params, structure = create_model(config, spec, num_labels, hierarchy, label_sets)
    steps_per_epoch = batches["train"].steps_per_epoch
    num_steps = max(round(config.train.num_epochs * steps_per_epoch), 1)
    optimizer = make_optimizer(config.optim, num_steps)
    label_loss = part_class("loss", config.loss.name)(**config.loss[config.loss.name])
    train_step = parallel.compile_train(
        make_train_step(graphdef, optimizer, label_loss, num_labels, parallel.axis_name)
    )
    eval_step = parallel.compile_eval(make_eval_step(graphdef, label_loss, num_labels))

    # The folder, and where the run stands
    identity = workdir.identity(dataset, preprocessing.identity)
    state = init_state(params, optimizer, config.seed)
    workdir.claim(folder, config)
    with contextlib.ExitStack() as resources:
        resources.enter_context(workdir.hold(folder))
        checkpoints = resources.enter_context(contextlib.closing(Checkpoints(folder)))
        before = 0.0  # seconds that earlier sessions of this run took
        if checkpoints.latest_step is not None:
            state, before = checkpoints.restore(state, identity)
            state = dataclasses.replace(state, failed_step=jnp.full((), NO_FAILURE, jnp.int32))  # it may work now
        workdir.write_labels(folder, dataset.label_space, hierarchy)
        workdir.write_preprocessing(folder, preprocessing)
        first = int(state.step)
        log = resources.enter_context(contextlib.closing(MetricsLog(folder / "metrics.jsonl", first)))
        record = {
            "status": "running",
            "name": run_name(config),
            **environment.describe(),
            "seed": config.seed,
            "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "notes": dataset.notes},
            "label_space": {"hash": dataset.label_space.hash, "num_labels": num_labels},
            "identity": identity,
            "inputs": dataclasses.asdict(spec) | {"category_sizes": list(spec.category_sizes)},
            "examples": {name: len(split) for name, split in splits.items()},
            "truncated_token_share": {
                name: split.num_truncated_tokens / max(split.num_tokens, 1) for name, split in splits.items()
            },
            "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "num_steps": num_steps,
            "resumed_at": first or None,
            "seconds": {},
        }
        write_json(folder / "run.json", record)

        # Steps
        state, structure = parallel.replicate(state), parallel.replicate(structure)
        waiting: list[Any] = []  # metrics still on the device: reading them would hold up the next step
        saved_at = time.monotonic()

        def score(batch: Batch) -> Scored:
            return parallel.gather(eval_step(state.params, structure, parallel.shard(batch)))

        def settle(step: int) -> None:
            """Read what the device has computed up to `step`, log it, and stop if it was not finite."""
            failed = int(parallel.fetch(state).failed_step)
            finite = [value for value in jax.device_get(waiting) if np.isfinite(value.loss + value.gradient_norm)]
            waiting.clear()
            if finite:  # every step is in one line; a checkpoint or a stop may end one early
                log.write(
                    {
                        "step": step if failed < 0 else failed,
                        "epoch": (step if failed < 0 else failed) / steps_per_epoch,
                        "train_loss": float(np.mean([value.loss for value in finite])),
                        "gradient_norm": float(np.mean([value.gradient_norm for value in finite])),
                    }
                )
            if failed >= 0:
                [batch] = _steps(batches["train"], config.seed, failed, failed + 1)
                losses = jax.device_get(score(batch)).loss
                raise NonFiniteError(
                    f"loss, gradient or update was not finite at step {failed}; {folder} keeps the state before it. "
                    + _explain(batch, losses, dataset, record["name"])
                )

        def save() -> None:
            checkpoints.save(parallel.fetch(state), identity, before + time.time() - started)

        try:
            upcoming = _steps(batches["train"], config.seed, first, num_steps)
            for step, batch in enumerate(track(upcoming, f"train {record['name']}", num_steps, first), first + 1):
                state, metrics = train_step(state, structure, parallel.shard(batch))
                waiting.append(parallel.fetch(metrics))
                if step % config.train.log_every_steps == 0 or step == num_steps:
                    settle(step)
                if time.monotonic() - saved_at > config.train.checkpoint_every_seconds or stop():
                    settle(step)
                    save()
                    saved_at = time.monotonic()
                if stop():
                    raise Stopped
            save()
        except Stopped:
            write_json(folder / "run.json", record | {"status": "interrupted"})
            raise
        except NonFiniteError as error:
            save()
            write_json(folder / "run.json", record | {"status": "failed", "error": str(error)})
            raise
        trained = before + time.time() - started
        return _conclude(config, folder, dataset, splits, batches, hierarchy, score, record, trained)


def _conclude(
    config: ConfigDict,
    folder: Path,
    dataset: Dataset,
    splits: dict[str, EncodedSplit],
    batches: dict[str, Batches],
    hierarchy: LabelHierarchy | None,
    score: Callable[[Batch], Scored],
    record: dict[str, Any],
    trained: float,
) -> dict[str, Any]:
    """Score validation, fit the decisions on it, score test once, and write the record; `trained` is in seconds."""
    began = time.time()
    # Validation, decisions, test once
    validation, validation_loss = score_split(score, batches["validation"], "validation", dataset.fingerprint)
    decisions = fit_decisions(validation, config.evaluate.threshold_metric, tuple(config.evaluate.threshold_grid))
    test, test_loss = score_split(score, batches["test"], "test", dataset.fingerprint)

    # Record
    write_json(folder / "decisions.json", {name: decision.to_json() for name, decision in decisions.items()})
    if config.evaluate.predictions:
        for scores in (validation, test):
            write_predictions(folder, scores)
    record |= {
        "status": "finished",
        "remarks": _remarks(dataset, splits, decisions),
        "seconds": {"train": trained, "evaluate": time.time() - began},
        "metrics": {
            "validation": report(validation, validation_loss, decisions, hierarchy),
            "test": report(test, test_loss, decisions, hierarchy),
        },
    }
    write_json(folder / "run.json", record)
    return record


def _remarks(dataset: Dataset, splits: dict[str, EncodedSplit], decisions: dict[str, Decision]) -> list[str]:
    """Return what a reader of the results must know, a sentence each."""
    shares = {name: split.num_truncated_tokens / max(split.num_tokens, 1) for name, split in splits.items()}
    cut = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
    remarks = [f"share of tokens cut off by config.text.max_length: {cut}"] if any(shares.values()) else []
    overlaps = [f"{count} of {where}" for where, count in dataset.notes["overlaps"].items() if count]
    if overlaps:
        remarks.append(f"inputs that stand in two splits (config.data.overlaps = 'drop'): {', '.join(overlaps)}")
    threshold = decisions["global_threshold"]
    if isinstance(threshold, GlobalThreshold) and threshold.at_edge:
        remarks.append(
            f"the best threshold for {threshold.metric}, {threshold.threshold}, stands at the edge of its grid: "
            "widen config.evaluate.threshold_grid"
        )
    return remarks


def _explain(batch: Batch, losses: np.ndarray, dataset: Dataset, model: str) -> str:
    """Say which label set of a batch is impossible under the model, if that is why its loss was not finite."""
    impossible = batch.rows[batch.mask & np.isposinf(losses)]
    if not len(impossible):
        return "A lower config.optim.learning_rate or config.optim.clip_norm may help"
    row = int(impossible[0])
    labels = dataset.splits["train"].labels.select(np.array([row]))
    names = [dataset.label_space.names[label] for label in labels.ids[labels.on]]
    return (
        f"train, row {row} ({dataset.splits['train'].keys[row]}): the label set {{{', '.join(names)}}} has "
        f"probability 0 under {model}, whatever the input. Choose a head, or an option of it, that allows such sets"
    )


def run_name(config: ConfigDict) -> str:
    """Return the parts of a model as one word: encoder, decoder, head and the head's options."""
    options = [str(value) for value in config.head[config.head.name].values()]
    return "+".join([config.encoder.name, config.decoder.name, "-".join([config.head.name, *options])])


def _steps(batches: Batches, seed: int, first: int, num_steps: int) -> Iterator[Batch]:
    """Yield the batches of the steps from `first` on, epoch after epoch."""
    epoch, start = divmod(first, batches.steps_per_epoch)
    endless = itertools.chain.from_iterable(
        batches.epoch(seed, number, start if number == epoch else 0) for number in itertools.count(epoch)
    )
    return itertools.islice(endless, num_steps - first)


class MetricsLog:
    """``metrics.jsonl``: one line a log step; lines after the step that a run goes on from are dropped."""

    def __init__(self, path: Path, first: int) -> None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        write_bytes(path, "".join(line for line in lines if self._step(line) <= first).encode())
        self._file = path.open("a")

    @staticmethod
    def _step(line: str) -> int | float:
        """Return the step of a line, infinity if the line is damaged or half written."""
        try:
            return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
        except (ValueError, KeyError, TypeError):
            return math.inf

    def write(self, values: dict[str, int | float]) -> None:
        """Append a line, on disk at once."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
