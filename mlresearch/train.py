"""Runs, top to bottom: data, model, steps, validation, decisions, test once, record. Several can share a program."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mlresearch import environment, workdir
from mlresearch.calibration import Method
from mlresearch.calibration.maps import ScoreMaps
from mlresearch.calibration.of_runs import fit_calibrations
from mlresearch.config import check_together, replicas, resolve, watched_group
from mlresearch.config import identity as settings_identity
from mlresearch.data import Dataset
from mlresearch.data.pipeline import Batch, Batches, EncodedSplit
from mlresearch.decisions import Decision, GlobalThreshold, Rules
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate, evaluate_validation, score_split, validation_metrics, write_evaluations
from mlresearch.events import Events
from mlresearch.files import write_json
from mlresearch.fit import Program, Stopped, fit, stack
from mlresearch.inputs import Preprocessing, load_dataset, make_batches
from mlresearch.model import create_model
from mlresearch.model_card import write_model_card
from mlresearch.parallel import Parallel
from mlresearch.scored import ScoredSplit
from mlresearch.step import Scored, TrainState, init_state

Record = dict[str, Any]


class NonFiniteError(UserError):
    """Raised where a loss or gradient was not finite; the state before that step is what is kept."""


def _never() -> bool:
    return False


def train(
    config: ConfigDict, folder: str | Path, stop: Callable[[], bool] = _never, sources: Sequence[Path] = ()
) -> Record:
    """Train, evaluate and record one run in `folder`, or go on where it was left; returns the run record.

    stop: asked often; where it says True, a checkpoint is written and `Stopped` raised. sources: files beside the
    package's that are part of the run's code. A finished run is returned as it is. A config that cannot work, another
    one than the folder's, and other data are `UserError`s.
    """
    config = resolve(config)
    if config.train.replicas > 1 or config.train.replica_overrides:
        raise UserError("config.train.replicas asks for several runs: train_replicas() returns all their records")
    return train_together([config], [Path(folder)], stop, sources)[0]


def train_replicas(
    config: ConfigDict, folder: str | Path, stop: Callable[[], bool] = _never, sources: Sequence[Path] = ()
) -> list[Record]:
    """Train the replicas that a config asks for, each as `train` would alone, in a folder of its own in `folder`.

    A single run has `folder` for itself. Those that stand at different steps are trained in programs of their own.
    """
    folder = Path(folder)
    made = [(folder / name, own) for name, own in replicas(resolve(config))]
    if len(made) > 1 and (folder / "config.json").exists():
        raise UserError(f"{folder} holds a single run; give a new --workdir for {len(made)} replicas")
    records: dict[Path, Record] = {}
    errors = []
    for places in workdir.by_step([own_folder for own_folder, _ in made]):
        folders, configs = [made[place][0] for place in places], [made[place][1] for place in places]
        try:
            records |= dict(zip(folders, train_together(configs, folders, stop, sources), strict=True))
        except NonFiniteError as error:
            errors.append(str(error))
    if errors:
        raise NonFiniteError(" ".join(errors))
    return [records[own_folder] for own_folder, _ in made]


def train_together(
    configs: Sequence[ConfigDict],
    folders: Sequence[Path],
    stop: Callable[[], bool] = _never,
    sources: Sequence[Path] = (),
) -> list[Record]:
    """Train runs in one program, each as `train` would alone; returns their records.

    configs: resolved, of runs that can share a program (`config.check_together`). Where some runs fail, the others are
    finished before `NonFiniteError` is raised.
    """
    for config, folder in zip(configs, folders, strict=True):
        check_together(configs[0], config)
        workdir.refuse_other(folder, config)
    finished = {folder: record for folder in folders if (record := workdir.finished_record(folder)) is not None}
    dataset = load_dataset(configs[0])
    for folder, record in finished.items():
        workdir.refuse_changed(folder, record, dataset)
    left = [(config, folder) for config, folder in zip(configs, folders, strict=True) if folder not in finished]
    if left:
        made = _train([config for config, _ in left], [folder for _, folder in left], dataset, stop, sources)
        finished |= dict(zip([folder for _, folder in left], made, strict=True))
    return [finished[folder] for folder in folders]


def _train(
    configs: Sequence[ConfigDict],
    folders: Sequence[Path],
    dataset: Dataset,
    stop: Callable[[], bool],
    sources: Sequence[Path],
) -> list[Record]:
    """Train runs of which none is finished."""
    config = configs[0]  # what all have in common is read off the first
    sizes = (config.train.batch_size, config.evaluate.batch_size)
    layout = config.parallel
    parallel = Parallel(layout.mode, layout.num_devices, len(configs), *sizes, label_devices=layout.label_devices)

    # Data
    hierarchy, num_labels = dataset.hierarchy, dataset.label_space.num_labels
    preprocessing = Preprocessing.learn(config, dataset.train)
    splits = preprocessing.encode_splits(dataset)
    batches = make_batches(config, splits, num_labels)

    # Model
    spec = preprocessing.spec
    label_sets = {name: split.labels for name, split in splits.items()}
    Method.of(config).check(label_sets["validation"])
    frequencies = splits["train"].labels.frequencies(num_labels)
    models = [create_model(own, spec, num_labels, hierarchy, label_sets, frequencies) for own in configs]
    graphdef, _, _, structure = models[0]
    assert all(own == graphdef for own, *_ in models), "configs that can share a program make one model"
    program = Program(config, graphdef, structure, num_labels, parallel)

    def init(num_steps: int, *, select: bool) -> TrainState:
        """Return the states of all runs before the first step."""
        both = zip(configs, models, strict=True)
        return stack([init_state(own, params, rates, num_steps, select=select) for own, (_, params, rates, _) in both])

    num_steps = num_steps_of(config, batches["train"])
    state = init(num_steps, select=bool(config.train.select))

    # The folders
    identity = workdir.identity(dataset, preprocessing.identity)
    shared = {
        **environment.describe(sources),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "notes": dataset.notes},
        "label_space": {"hash": dataset.label_space.hash, "num_labels": num_labels},
        "identity": identity,
        "inputs": dataclasses.asdict(spec) | {"category_sizes": list(spec.category_sizes)},
        "examples": {name: len(split) for name, split in splits.items()},
        "truncated_token_share": {
            name: split.num_truncated_tokens / max(split.num_tokens, 1) for name, split in splits.items()
        },
        "num_parameters": sum(leaf[0].size for leaf in jax.tree.leaves(state.params)),
        "num_steps": num_steps,
        "mode_is_exact": _mode_is_exact(models[0], next(batches["train"].once())),
        "replicas": len(configs),
    }
    records: list[Record] = [
        {"status": "running", "name": run_name(own), "seed": own.seed, **shared, "seconds": {}} for own in configs
    ]
    for own, folder in zip(configs, folders, strict=True):
        workdir.claim(folder, own)
    with contextlib.ExitStack() as held:
        for folder, record in zip(folders, records, strict=True):
            held.enter_context(workdir.hold(folder))
            workdir.write_labels(folder, dataset.label_space, frequencies, hierarchy)
            workdir.write_preprocessing(folder, preprocessing)
            write_json(folder / "run.json", record)
        try:
            # Steps
            def watch(score: Callable[[Batch], Scored]) -> list[dict[str, float | None]]:
                group = watched_group(config)
                scored = score_split(score, batches["validation"], "validation", dataset.fingerprint)
                worst: dict[str, float | None] = {config.train.select: None}  # where probabilities are NaN
                found = validation_metrics(scored, len(configs), group, hierarchy, frequencies)
                return [each or worst for each in found]

            name = records[0]["name"] + (f", {len(records)} runs" if len(records) > 1 else "")
            validate = watch if config.evaluate.every_epochs else None
            fitted = fit(program, state, batches["train"], num_steps, folders, identity, stop, name, validate=validate)
            errors = _failures(program, fitted.state, batches["train"], dataset, folders, records)
            collapses = fitted.collapses
            for number, record in enumerate(records):
                record["resumed_at"] = fitted.resumed_at or None
                record["seconds"] = {"train": fitted.seconds[number]}
            _stop_if_none_is_left(errors, records)

            # Validation; calibrations, and after them decisions, are fitted on it
            def say(split: str, maps: Sequence[ScoreMaps] = ()) -> ScoredSplit:
                score = program.scorer(fitted.state.chosen_params, fitted.state.numbers, maps=maps)
                return score_split(score, batches[split], split, dataset.fingerprint)

            began = time.time()
            plain = say("validation")
            calibrations = fit_calibrations(program, fitted.state, plain, batches["validation"])
            scored = calibrations.apply(plain, say)
            rules = Rules.of(config)
            stored = config.evaluate.predictions
            validation = evaluate_validation(scored, len(configs), hierarchy, rules, frequencies, predictions=stored)
            calibrations.note(records, plain, scored)
            del plain, scored  # which hold the split's scores
            errors = _diverged(validation, folders) | errors
            _stop_if_none_is_left(errors, records)
            decisions = [{} if each is None else each[1] for each in validation]
            evaluated = time.time() - began
            _note_selection(records, config, parallel.fetch(fitted.state), batches["train"].steps_per_epoch)

            # Refit on train and validation, for the epochs that validation chose
            if config.train.refit:
                both = dataclasses.replace(batches["train"], split=splits["train"].join(splits["validation"]))
                ends = [
                    0 if number in errors else max(round(record["selected"]["epoch"] * both.steps_per_epoch), 1)
                    for number, record in enumerate(records)
                ]
                again = num_steps_of(config, both)
                state = dataclasses.replace(init(again, select=False), end=jnp.array(ends, jnp.int32))
                fitted = fit(
                    program, state, both, again, folders, identity, stop, f"{name}, refit", phase=workdir.REFIT
                )
                errors |= _failures(program, fitted.state, both, dataset, folders, records)
                for number, record in enumerate(records):
                    record["refit"] = {"steps": ends[number], "examples": len(both.split)}
                    record["seconds"]["refit"] = fitted.seconds[number]
                _stop_if_none_is_left(errors, records)

            # Test, once
            began = time.time()
            plain = say("test")
            scored = calibrations.apply(plain, say)
            test = evaluate(scored, decisions, hierarchy, frequencies, predictions=stored)
            calibrations.note(records, plain, scored)
            errors = _diverged(test, folders) | errors
            evaluated += time.time() - began
        except Stopped:
            for folder, record in zip(folders, records, strict=True):
                write_json(folder / "run.json", record | {"status": "interrupted"})
            raise
        except NonFiniteError:
            for number, folder in enumerate(folders):
                write_json(folder / "run.json", records[number] | {"status": "failed", "error": errors[number]})
            raise

        # Records
        for number, (folder, record) in enumerate(zip(folders, records, strict=True)):
            if number in errors:
                write_json(folder / "run.json", record | {"status": "failed", "error": errors[number]})
                continue
            began = time.time()
            on_validation, on_test, chosen = validation[number], test[number], decisions[number]
            assert on_validation is not None
            assert on_test is not None
            calibrations.write(folder, number)
            metrics = write_evaluations(folder, dataset, chosen, {"validation": on_validation[0], "test": on_test})
            remarks = _remarks(dataset, splits, chosen, collapses[number])
            record |= {"status": "finished", "remarks": remarks, "metrics": metrics}
            with contextlib.closing(Events(folder, "result")) as events:
                events.write_result(settings_identity(configs[number]), metrics)
            record["seconds"]["evaluate"] = evaluated / len(records) + time.time() - began
            write_model_card(folder, record, configs[number], dataset)
            write_json(folder / "run.json", record)
    if errors:
        raise NonFiniteError(" ".join(errors.values()))
    return records


def _mode_is_exact(model: tuple[nnx.GraphDef, *tuple[nnx.State, ...]], batch: Batch) -> bool:
    """Return whether the most probable label set of what a model says is surely found; shapes alone tell."""
    graphdef, *states = model
    return jax.eval_shape(
        lambda states, inputs: nnx.merge(graphdef, *states)(inputs), states, batch.inputs
    ).mode_is_exact


def num_steps_of(config: ConfigDict, batches: Batches) -> int:
    """Return how many steps the epochs of a config are."""
    return max(round(config.train.num_epochs * batches.steps_per_epoch), 1)


def _note_selection(records: Sequence[Record], config: ConfigDict, state: TrainState, steps_per_epoch: int) -> None:
    """Write into the records after how many steps each run's parameters were chosen, the last ones or by validation."""
    steps = state.step if state.best is None else state.best.step
    for record, step in zip(records, np.asarray(steps).tolist(), strict=True):
        record["selected"] = {"step": step, "epoch": step / steps_per_epoch, "by": config.train.select or None}


def _failures(
    program: Program,
    state: TrainState,
    batches: Batches,
    dataset: Dataset,
    folders: Sequence[Path],
    records: Sequence[Record],
) -> dict[int, str]:
    """Return what to say of the runs that failed, by their number."""
    steps, seeds = jax.device_get([program.parallel.fetch(each) for each in (state.failed_step, state.seed)])
    errors = {}
    for number, step in enumerate(steps.tolist()):
        if step < 0:
            continue
        epoch, place = divmod(step, batches.steps_per_epoch)
        batch = next(batches.epoch(int(seeds[number]), epoch, place))
        losses = jax.device_get(program.scorer(state.params, state.numbers)(batch)).loss[number]
        errors[number] = (
            f"loss or gradient was not finite at step {step}; {folders[number]} keeps the state before it. "
            + _explain(batch, losses, dataset, records[number]["name"])
        )
    return errors


def _stop_if_none_is_left(errors: dict[int, str], records: Sequence[Record]) -> None:
    """Raise `NonFiniteError` where every run has failed."""
    if len(errors) == len(records):
        raise NonFiniteError(" ".join(errors.values()))


def _diverged(found: Sequence[Any], folders: Sequence[Path]) -> dict[int, str]:
    """Return what to say of the runs that gave no scores, by their number."""
    return {
        number: f"{folders[number]}: probabilities are NaN, the model has diverged. A lower config.optim.learning_rate "
        "or config.optim.clip_norm may help"
        for number, each in enumerate(found)
        if each is None
    }


def _remarks(
    dataset: Dataset, splits: dict[str, EncodedSplit], decisions: dict[str, Decision], collapse: str | None
) -> list[str]:
    """Return what a reader of the results must know, a sentence each; collapse: one of them, of a run that has one."""
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
    return remarks if collapse is None else [*remarks, collapse]


def _explain(batch: Batch, losses: np.ndarray, dataset: Dataset, model: str) -> str:
    """Say which label set of a batch is impossible under the model, if that is why its loss was not finite.

    Rows are those of the training split and, in a refit, of the validation split after it.
    """
    impossible = batch.rows[batch.mask & np.isposinf(losses)]
    if not len(impossible):
        return "A lower config.optim.learning_rate or config.optim.clip_norm may help"
    split, row = "train", int(impossible[0])
    if row >= len(dataset.splits["train"]):
        split, row = "validation", row - len(dataset.splits["train"])
    records = dataset.splits[split]
    labels = records.labels.select(np.array([row]))
    names = [dataset.label_space.names[label] for label in labels.ids[labels.on]]
    return (
        f"{split}, row {row} ({records.keys[row]}): the label set {{{', '.join(names)}}} has probability 0 "
        f"under {model}, whatever the input. Choose a head, or an option of it, that allows such sets"
    )


def run_name(config: ConfigDict) -> str:
    """Return the parts of a model as one word: encoder, decoder, head and what the head's options choose.

    Switches and numbers that are 0 choose nothing.
    """
    chosen = config.head[config.head.name].values()
    options = [str(value) for value in chosen if value and not isinstance(value, bool)]
    return "+".join([config.encoder.name, config.decoder.name, "-".join([config.head.name, *options])])
