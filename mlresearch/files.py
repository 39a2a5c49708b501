"""Files written whole or not at all: a crash or a full disk leaves what was there before."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to a temporary file beside `path`, then rename it into place."""
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, indented, keys in the order given; NaN is refused, since JSON has none."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
