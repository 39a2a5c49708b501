"""Damage to files: what a test reads must be right data or a mistake that is told."""

import numpy as np


def mutate(data, rng, marks):
    """Change, insert (one of `marks`), delete, repeat or cut: one to three of these."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        match rng.integers(5):
            case 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            case 1:
                data[at:at] = rng.choice(list(marks), 1).astype(np.uint8).tobytes()
            case 2:
                del data[at : at + int(rng.integers(1, 8))]
            case 3:
                data[at:at] = data[at : at + int(rng.integers(1, 30))]
            case 4:
                del data[at : at + (1 if rng.random() < 0.9 else len(data))]
    return bytes(data)
