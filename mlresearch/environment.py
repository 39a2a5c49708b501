"""Where a run runs: code, versions, devices, folders. Nothing heavy is imported: `doctor` says what is missing."""

import datetime
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn"),
    *("tensorflow-datasets", "array-record", "sentencepiece", "ml-collections", "simple-icd-10-cm"),
)
"""Packages whose versions a run records."""


def default_data_dir() -> Path:
    """Return where prepared data sets lie unless the config says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("MLRESEARCH_DATA_DIR") or f"{cache}/mlresearch/data").expanduser()


def describe(sources: Sequence[Path] = ()) -> dict[str, Any]:
    """Return what a reader of a record needs to know of where it was made; `sources` are part of its code."""
    import jax

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "code_hash": code_hash(sources),
        "git": _git(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": jax.default_backend(),
        "cpu_count": os.cpu_count(),
    }


def code_hash(sources: Sequence[Path] = ()) -> str:
    """Return the hexadecimal SHA-256 of the package's source files and, in a checkout, of the lock file.

    sources: more files that are part of the code, such as a study's, by their names.
    """
    package = Path(__file__).parent
    lock = package.parent / "requirements.lock"
    paths = {str(path.relative_to(package.parent)): path for path in package.rglob("*.py")}
    paths |= {lock.name: lock} if lock.exists() else {}
    paths |= {f"{path.resolve().parent.name}/{path.name}": path for path in sources}
    digest = hashlib.sha256()
    for name in sorted(paths):
        digest.update(f"{name}\n".encode() + paths[name].read_bytes())
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
