"""How long a call takes on a machine that others share."""

import time
from collections.abc import Callable
from typing import Any

import jax

REPEATS = 15


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the lower quartile of the seconds that a compiled function takes: others share the machine."""
    jax.block_until_ready(function(*arguments))
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - began)
    return sorted(taken)[REPEATS // 4]
