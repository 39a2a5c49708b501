"""Where a run runs: code, versions, devices, folders. Nothing heavy is imported: `doctor` says what is missing."""

import hashlib
import os
import platform
import subprocess
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


def describe() -> dict[str, Any]:
    """Return what a reader of a record needs to know of where it was made."""
    import jax

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
