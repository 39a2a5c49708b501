"""Files written whole or not at all, so that a crash or a full disk leaves what was there before; and read whole."""

import contextlib
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it into place.

    A link is followed, and what is no ordinary file (a device, a pipe) is written to as it is.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(content)
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # as if it had been opened, not made for this user alone
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, indented, keys in the order given; NaN is refused, since JSON has none."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an ``.npz``, without objects; of a damaged file, or another one, a `ValueError`.

    A file that cannot be opened is an `OSError`. Arrays have checksums, the list of their names has none: damage there
    may lose one, but changes none.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except (EOFError, KeyError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(str(error)) from error
