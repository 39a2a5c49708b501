"""A run's folder: what lies in it, and who may continue it."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlresearch.calibration import Method
from mlresearch.calibration.maps import Calibration, calibration_from_json
from mlresearch.config import differences, to_dict
from mlresearch.config import identity as settings_identity
from mlresearch.data import Dataset
from mlresearch.data.columns import Columns
from mlresearch.data.text import Tokenizer
from mlresearch.decisions import Decision, decision_from_json
from mlresearch.encoders import InputSpec
from mlresearch.errors import UserError
from mlresearch.files import write_bytes, write_json
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.inputs import Preprocessing
from mlresearch.label_space import Frequencies, LabelSpace
from mlresearch.linear_scores import LinearScores

REFIT = "refit_"
"""What the names of a refit's checkpoints and log begin with."""


def refuse_other(workdir: Path, config: ConfigDict) -> None:
    """Raise `UserError` if the folder holds a run of another config, with the differences, or something else."""
    if (workdir / "config.json").exists():
        changed = differences(settings_identity(read_config(workdir)), settings_identity(config))
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config; give a new --workdir, or undo the change:\n  "
                + "\n  ".join(changed)
            )
        return
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is not empty and holds no run; give a new or an empty --workdir")


def claim(workdir: Path, config: ConfigDict) -> None:
    """Make the folder of a run of `config`; one that there is stays as it is."""
    if not (workdir / "config.json").exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", to_dict(config))


def by_step(folders: Sequence[Path]) -> list[list[int]]:
    """Divide runs, by their places, into those that have a checkpoint of one step in common, or none at all."""
    parts: list[tuple[set[str], list[int]]] = []
    for place, folder in enumerate(folders):
        steps = _checkpoints(folder)
        near = [part for part in parts if part[0] & steps or not (part[0] or steps)]
        if near:
            near[0][0].intersection_update(steps)
            near[0][1].append(place)
        else:
            parts.append((steps, [place]))
    return [part for _, part in parts]


def _checkpoints(folder: Path) -> set[str]:
    """Return what names the checkpoints that a run may go on from, those of its refit if it is so far."""
    for phase in (REFIT, ""):
        steps = checkpoint_steps(folder, phase)
        if steps:
            return {f"{phase}{step}" for step in steps}
    return set()


def checkpoint_steps(workdir: Path, phase: str = "") -> set[int]:
    """Return the steps of a run's checkpoints, with `REFIT` as the phase those of its refit."""
    return {int(path.name) for path in (workdir / f"{phase}checkpoints").glob("*") if path.name.isdigit()}


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Keep the folder for this process; a `UserError` if another one is at work in it."""
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{workdir}: process {file.read().strip()} is at work in this folder") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def identity(dataset: Dataset, preprocessing: Mapping[str, str]) -> dict[str, str]:
    """Return hashes of what a run is started on, without which its parameters mean nothing."""
    return {
        "data set": dataset.fingerprint,
        **label_identity(dataset.label_space, dataset.hierarchy),
        **preprocessing,
    }


def label_identity(label_space: LabelSpace, hierarchy: LabelHierarchy | None) -> dict[str, str]:
    """Return hashes of the labels and of their hierarchy."""
    edges = b"" if hierarchy is None else hierarchy.children.tobytes() + hierarchy.parents.tobytes()
    return {"label space": label_space.hash, "hierarchy": hashlib.sha256(edges).hexdigest()}


def read_config(workdir: Path) -> ConfigDict:
    """Return the config of a run; a folder without one is a `UserError`."""
    return ConfigDict(_read_json(workdir, "config.json", "data", "seed"))


def read_record(workdir: Path) -> dict[str, Any]:
    """Return the run record; a folder without one is a `UserError`."""
    return _read_json(workdir, "run.json", "status", "name", "seconds", "data", "inputs", "num_steps")


def finished_record(workdir: Path) -> dict[str, Any] | None:
    """Return the record of a finished run, None where there is none."""
    record = read_record(workdir) if (workdir / "run.json").exists() else None
    return record if record is not None and record["status"] == "finished" else None


def refuse_changed(workdir: Path, record: Mapping[str, Any], dataset: Dataset) -> None:
    """Raise `UserError` if a data set is not what it was when the run of `record` was made."""
    if dataset.fingerprint != record["data"]["fingerprint"]:
        raise UserError(
            f"{workdir}: {dataset.name} is not what it was when the run was trained on it; make it so again, or "
            "give a new --workdir"
        )


def read_decisions(workdir: Path) -> dict[str, Decision]:
    """Return the decisions that the run has fitted, by name; a folder without them is a `UserError`."""
    stored = _read_json(workdir, "decisions.json", "mode", "half")
    hierarchy = read_labels(workdir)[2] if (workdir / "parents.txt").exists() else None
    return {name: decision_from_json(stored[name], hierarchy) for name in stored}


def read_calibration(workdir: Path, config: ConfigDict) -> Calibration | None:
    """Return the calibration that the run has fitted, None where its config asks for none."""
    if not Method.of(config).kind:
        return None
    stored = _read_json(workdir, "calibration.json", "kind", "of")
    try:
        return calibration_from_json(stored)
    except UserError as error:
        raise UserError(f"{workdir / 'calibration.json'}: {error}") from None


def _read_json(workdir: Path, name: str, *needed: str) -> dict[str, Any]:
    try:
        content = json.loads((workdir / name).read_text())
    except (FileNotFoundError, NotADirectoryError):
        inside = sorted(str(path.parent) for path in workdir.glob(f"*/{name}"))
        instead = f"; name a run in it, such as {inside[0]}" if inside else ""
        raise UserError(f"{workdir} holds no run: there is no {name} in it{instead}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{workdir / name} is damaged: line {error.lineno}: {error.msg}") from None
    missing = set(needed) - set(content) if isinstance(content, dict) else {"an object"}
    if missing:
        raise UserError(f"{workdir / name} is damaged: it lacks {', '.join(sorted(missing))}")
    return content


def write_preprocessing(workdir: Path, preprocessing: Preprocessing) -> None:
    """Write ``tokenizer.model``, ``columns.json`` and ``linear_scores.npz``, where the run has them."""
    if preprocessing.tokenizer is not None:
        preprocessing.tokenizer.save(workdir / "tokenizer.model")
    if preprocessing.columns is not None:
        write_json(workdir / "columns.json", preprocessing.columns.to_json())
    if preprocessing.linear is not None:
        preprocessing.linear.save(workdir / "linear_scores.npz")


def read_preprocessing(workdir: Path, spec: InputSpec, max_length: int) -> Preprocessing:
    """Return what `write_preprocessing` wrote; `spec` says which files there must be."""
    tokenizer = columns = None
    if spec.vocab_size is not None:
        tokenizer = Tokenizer.load(workdir / "tokenizer.model")
    if spec.has_own_columns:
        stored = _read_json(workdir, "columns.json")
        try:
            columns = Columns.from_json(stored)
        except UserError as error:
            raise UserError(f"{workdir / 'columns.json'}: {error}") from None
    linear = LinearScores.load(workdir / "linear_scores.npz") if spec.num_linear_scores else None
    return Preprocessing(tokenizer, columns, max_length, linear)


def write_labels(
    workdir: Path, label_space: LabelSpace, frequencies: Frequencies, hierarchy: LabelHierarchy | None
) -> None:
    """Write ``labels.txt`` and, for a hierarchy, ``parents.txt`` (child and parent), by tabs.

    A line of ``labels.txt`` is a name, a description, in how many training examples the label is on, and in how many it
    is known; the first of these numbers is a fraction where soft labels make it one.
    """
    rows = zip(
        label_space.names, label_space.descriptions, frequencies.on.tolist(), frequencies.known.tolist(), strict=True
    )
    lines = [
        f"{name}\t{' '.join(description.split())}\t{int(on) if on.is_integer() else repr(on)}\t{known}\n"
        for name, description, on, known in rows
    ]
    write_bytes(workdir / "labels.txt", "".join(lines).encode())
    if hierarchy is not None:
        names = label_space.names
        pairs = zip(hierarchy.children, hierarchy.parents, strict=True)
        text = "".join(f"{names[child]}\t{names[parent]}\n" for child, parent in pairs)
        write_bytes(workdir / "parents.txt", text.encode())


def read_labels(workdir: Path) -> tuple[LabelSpace, Frequencies, LabelHierarchy | None]:
    """Return what `write_labels` wrote."""
    try:
        lines = (workdir / "labels.txt").read_text().split("\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{workdir} holds no run: there is no labels.txt in it") from None
    rows = []
    for number, line in enumerate(lines or [""], 1):
        try:
            name, description, on, known = line.split("\t")
            rows.append((name, description, float(on), int(known)))
        except ValueError:
            raise UserError(
                f"{workdir / 'labels.txt'} is damaged: line {number} is not a name, a description, and in how many "
                "training examples the label is on and known, by tabs"
            ) from None
    names, descriptions, num_on, num_known = zip(*rows, strict=True)
    label_space = LabelSpace(names, descriptions)
    frequencies = Frequencies(np.array(num_on, np.float64), np.array(num_known, np.int64))
    path = workdir / "parents.txt"
    if not path.exists():
        return label_space, frequencies, None
    pairs = [line.split("\t") for line in path.read_text().split("\n")[:-1]]
    edges = np.array([[label_space.id(name) for name in pair] for pair in pairs], np.int32)
    return label_space, frequencies, LabelHierarchy.from_edges(names, edges)
