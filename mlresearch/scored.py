"""What models say of a split, a block of examples at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets
from mlresearch.metrics import NO_EXAMPLES

BLOCK_CELLS = 1 << 22
"""Cells of a block, so that what is computed of one stays small."""

KEPT_BYTES = 256 << 20
"""What the blocks of one run may hold to be kept for the next pass; larger splits are scored again."""

CELL_BYTES = 8
"""Bytes of a cell of a block: its score, two label sets, the truth, and whether that is known."""

Said: TypeAlias = tuple[np.ndarray, np.ndarray, Mapping[str, np.ndarray], np.ndarray]
"""Places of some examples in their split; of all runs log-marginals, label sets by name, and losses."""


class ScoredRows(NamedTuple):
    """What one run says of some examples of a split, and the truth.

    rows: their places in the split. sets: label sets by the decision that takes them, those that were asked for. loss:
    one an example, NaN where there is none. labels: the truth, of soft labels whether they are over ½. known: whether
    the truth is known, None where all of it is.
    """

    rows: Int[np.ndarray, "rows"]
    log_marginals: Float32[np.ndarray, "rows labels"]
    sets: dict[str, Bool[np.ndarray, "rows labels"]]
    loss: Float[np.ndarray, "rows"]
    labels: Bool[np.ndarray, "rows labels"]
    known: Bool[np.ndarray, "rows labels"] | None = None


class ScoredSplit:
    """Blocks of scored examples of a split, as often as it is walked over: kept from the first pass, or made anew.

    fingerprint: of the data set. score: makes one pass; every pass has to say the same of an example. whole: whether
    that is all scores, and not the highest ones of an example alone. A block has `BLOCK_CELLS` cells at most, or one
    example. A split without examples is a `UserError`.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        labels: LabelSets,
        num_labels: int,
        score: Callable[[], Iterator[Said]],
        *,
        whole: bool = True,
    ) -> None:
        if not len(labels):
            raise UserError(NO_EXAMPLES)
        self.name = name
        self.fingerprint = f"{fingerprint}/{name}"
        self.labels = labels
        self.num_labels = num_labels
        self.whole = whole
        self._score = score
        self._keeps = len(labels) * num_labels * CELL_BYTES <= KEPT_BYTES
        self._kept: list[list[ScoredRows]] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[list[ScoredRows]]:
        """Yield blocks: what each run says of the same examples. Each example stands in one block, in any order."""
        if self._kept:
            yield from self._kept
            return
        kept = []
        for block in self._blocks():
            if self._keeps:
                kept.append(block)
            yield block
        self._kept = kept

    def _blocks(self) -> Iterator[list[ScoredRows]]:
        height = max(BLOCK_CELLS // self.num_labels, 1)
        parts: list[Said] = []
        room = height
        for rows, log_marginals, sets, loss in self._score():
            start = 0
            while start < len(rows):
                part = slice(start, start + room)
                of_part = {name: on[:, part] for name, on in sets.items()}
                parts.append((rows[part], log_marginals[:, part], of_part, loss[:, part]))
                start, room = part.stop, room - len(rows[part])
                if not room:
                    yield self._join(parts)
                    parts, room = [], height
        if parts:
            yield self._join(parts)

    def _join(self, parts: Sequence[Said]) -> list[ScoredRows]:
        rows = np.concatenate([part[0] for part in parts])
        log_marginals, loss = (np.concatenate([part[of] for part in parts], axis=1) for of in (1, 3))
        sets = {name: np.concatenate([part[2][name] for part in parts], axis=1) for name in parts[0][2]}
        truth = self.labels.multi_hot(self.num_labels, rows), self.labels.known(self.num_labels, rows)
        return [
            ScoredRows(
                rows,
                log_marginals[run].astype(np.float32, copy=False),
                {name: on[run] for name, on in sets.items()},
                loss[run],
                *truth,
            )
            for run in range(len(loss))
        ]
