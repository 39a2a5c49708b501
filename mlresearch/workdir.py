"""A run's folder: what lies in it, and who may continue it."""

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mlresearch.config import differences, flatten, to_dict
from mlresearch.errors import UserError
from mlresearch.files import write_bytes, write_json
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSpace

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "sentencepiece",
)
"""Packages whose versions a run records."""

MAY_CHANGE = ("parallel.", "data.dir", "train.log_every_steps", "train.checkpoint_every_seconds")
"""Settings that may differ when a run goes on: they do not change what it computes."""


def default_data_dir() -> Path:
    """Return where prepared data sets lie unless the config says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("MLRESEARCH_DATA_DIR") or f"{cache}/mlresearch/data").expanduser()


def refuse_other(workdir: Path, config: ConfigDict) -> None:
    """Raise `UserError` if the folder holds a run of another config, with the differences, or something else."""
    if (workdir / "config.json").exists():
        changed = differences(_identity(to_dict(read_config(workdir))), _identity(to_dict(config)))
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


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if not key.startswith(MAY_CHANGE)}


def read_config(workdir: Path) -> ConfigDict:
    """Return the config of a run; a folder without one is a `UserError`."""
    return ConfigDict(_read_json(workdir, "config.json"))


def read_record(workdir: Path) -> dict[str, Any]:
    """Return the run record; a folder without one is a `UserError`."""
    return _read_json(workdir, "run.json")


def _read_json(workdir: Path, name: str) -> Any:
    try:
        return json.loads((workdir / name).read_text())
    except FileNotFoundError:
        raise UserError(f"{workdir} holds no run: there is no {name} in it") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{workdir / name} is damaged: line {error.lineno}: {error.msg}") from None


def write_labels(workdir: Path, label_space: LabelSpace, hierarchy: LabelHierarchy | None) -> None:
    """Write ``labels.txt`` (name and description) and, for a hierarchy, ``parents.txt`` (child and parent), by tabs."""
    lines = [
        f"{name}\t{' '.join(description.split())}\n"
        for name, description in zip(label_space.names, label_space.descriptions, strict=True)
    ]
    write_bytes(workdir / "labels.txt", "".join(lines).encode())
    if hierarchy is not None:
        names = label_space.names
        pairs = zip(hierarchy.children, hierarchy.parents, strict=True)
        text = "".join(f"{names[child]}\t{names[parent]}\n" for child, parent in pairs)
        write_bytes(workdir / "parents.txt", text.encode())


def read_labels(workdir: Path) -> tuple[LabelSpace, LabelHierarchy | None]:
    """Return what `write_labels` wrote."""
    try:
        rows = [line.split("\t") for line in (workdir / "labels.txt").read_text().splitlines()]
    except FileNotFoundError:
        raise UserError(f"{workdir} holds no run: there is no labels.txt in it") from None
    names, descriptions = zip(*rows, strict=True)
    label_space = LabelSpace(names, descriptions)
    path = workdir / "parents.txt"
    if not path.exists():
        return label_space, None
    pairs = [line.split("\t") for line in path.read_text().splitlines()]
    edges = np.array([[label_space.id(name) for name in pair] for pair in pairs], np.int32)
    return label_space, LabelHierarchy.from_edges(names, edges)


def environment() -> dict[str, Any]:
    """Return what a reader needs to know of where a run ran: code, versions, devices."""
    return {
        "code_hash": code_hash(),
        "git": _git(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.default_backend(),
        "cpu_count": os.cpu_count(),
    }


def code_hash() -> str:
    """Return the hexadecimal SHA-256 of the package's source files and, in a checkout, of the lock file."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    lock = package.parent / "requirements.lock"
    for path in [*sorted(package.rglob("*.py")), *([lock] if lock.exists() else [])]:
        digest.update(f"{path.relative_to(package.parent)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _git() -> dict[str, Any] | None:
    """Return the commit and whether the tree differs from it; None outside a checkout."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
