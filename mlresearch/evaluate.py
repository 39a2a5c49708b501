"""A masked pass over a split, and every number reported of it."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import jax
import numpy as np

from mlresearch.data.pipeline import Batch, Batches
from mlresearch.decisions import (
    Decision,
    Half,
    Mode,
    ScoredBatch,
    SplitScores,
    ValidationScores,
    collect_scores,
    fit_global_threshold,
    fit_label_thresholds,
)
from mlresearch.files import write_bytes
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.metrics import label_metrics
from mlresearch.progress import track
from mlresearch.step import Scored

FULL_SCORES = 1000
"""Above so many labels, stored predictions are the most probable `TOP_SCORES` an example."""

TOP_SCORES = 100


@overload
def score_split(
    score: Callable[[Batch], Scored], batches: Batches, split: Literal["validation"], fingerprint: str
) -> tuple[ValidationScores, float | None]: ...


@overload
def score_split(
    score: Callable[[Batch], Scored], batches: Batches, split: str, fingerprint: str
) -> tuple[SplitScores, float | None]: ...


def score_split(
    score: Callable[[Batch], Scored], batches: Batches, split: str, fingerprint: str
) -> tuple[SplitScores, float | None]:
    """Score every example of a split once, in the split's order, and return the scores and the mean loss.

    The loss is None where a label set of the split is impossible under the head, so that it would be infinite.

    score: the compiled evaluation step. The split "validation" gives `ValidationScores`, which decisions are fitted on.
    """
    total = len(batches.split)
    log_marginals = np.empty((total, batches.num_labels), np.float32)
    mode = np.empty((total, batches.num_labels), bool)
    loss = 0.0
    for batch in track(batches.once(), f"score {split}", batches.steps_per_epoch):
        scored = jax.device_get(score(batch))
        rows = batch.rows[batch.mask]
        log_marginals[rows] = scored.log_marginals[batch.mask]
        mode[rows] = scored.mode[batch.mask]
        loss += float(scored.loss[batch.mask].sum(dtype=np.float64))
    labels = batches.split.labels
    whole = ScoredBatch(
        log_marginals,
        labels.multi_hot(batches.num_labels),
        mode,
        np.ones(total, bool),
        labels.known(batches.num_labels),
    )
    return collect_scores(split, [whole], f"{fingerprint}/{split}"), loss / total if np.isfinite(loss) else None


def fit_decisions(scores: ValidationScores, metric: str, grid: tuple[float, ...]) -> dict[str, Decision]:
    """Return all decisions by name, those with thresholds fitted on validation."""
    decisions = (Mode(), Half(), fit_global_threshold(scores, metric, grid), fit_label_thresholds(scores))
    return {decision.kind: decision for decision in decisions}


def report(
    scores: SplitScores, loss: float | None, decisions: Mapping[str, Decision], hierarchy: LabelHierarchy | None
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each decision by its name, under ``ranking`` those that need none, and ``loss``."""
    edges = None if hierarchy is None else (hierarchy.children, hierarchy.parents)
    metrics: dict[str, dict[str, float | None]] = {
        name: {**label_metrics(decision.apply(scores), scores.labels, edges, scores.known)}
        for name, decision in decisions.items()
    }
    return metrics | {"ranking": {**scores.table.compute()}, "loss": {"mean": loss}}


def write_predictions(folder: Path, scores: SplitScores) -> None:
    """Write ``predictions_<split>.npz``, rows in the split's order.

    log_marginals: float32, all labels, or above `FULL_SCORES` labels those of the `TOP_SCORES` most probable, whose ids
    stand in label_ids. mode_ids, mode_offsets: the distribution's mode as label sets.
    """
    rows, ids = np.nonzero(scores.mode)
    stored: dict[str, Any] = {
        "mode_ids": ids.astype(np.int32),
        "mode_offsets": np.searchsorted(rows, np.arange(len(scores.mode) + 1)),
        "log_marginals": scores.log_marginals,
    }
    if scores.log_marginals.shape[1] > FULL_SCORES:
        top = np.argpartition(-scores.log_marginals, TOP_SCORES, axis=1)[:, :TOP_SCORES]
        values = np.take_along_axis(scores.log_marginals, top, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        stored["label_ids"] = np.take_along_axis(top, order, 1).astype(np.int32)
        stored["log_marginals"] = np.take_along_axis(values, order, 1)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **stored)
    write_bytes(folder / f"predictions_{scores.split}.npz", buffer.getvalue())
