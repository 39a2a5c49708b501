"""A masked pass over a split, and every number reported of it."""

import io
from collections.abc import Callable, Mapping, Sequence
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
from mlresearch.metrics import Edges, label_metrics
from mlresearch.progress import track
from mlresearch.step import Scored

FULL_SCORES = 1000
"""Above so many labels, stored predictions are the most probable `TOP_SCORES` an example."""

TOP_SCORES = 100


@overload
def score_split(
    score: Callable[[Batch], Scored], batches: Batches, split: Literal["validation"], fingerprint: str
) -> list[tuple[ValidationScores, float | None] | None]: ...


@overload
def score_split(
    score: Callable[[Batch], Scored], batches: Batches, split: str, fingerprint: str
) -> list[tuple[SplitScores, float | None] | None]: ...


def score_split(
    score: Callable[[Batch], Scored], batches: Batches, split: str, fingerprint: str
) -> Sequence[tuple[SplitScores, float | None] | None]:
    """Score every example of a split once, by all runs together; returns each run's scores and mean loss.

    Examples stand in the split's order. The loss is None where a label set of the split is impossible under the head,
    so that it would be infinite. None stands for a run that has diverged: some of its marginals are NaN.

    score: the compiled evaluation step. The split "validation" gives `ValidationScores`, which decisions are fitted on.
    """
    total = len(batches.split)
    log_marginals = mode = np.empty(0)
    loss = np.zeros(0)
    for batch in track(batches.once(), f"score {split}", batches.steps_per_epoch):
        scored = jax.device_get(score(batch))
        runs = len(scored.loss)
        if not len(loss):
            log_marginals = np.empty((runs, total, batches.num_labels), np.float32)
            mode = np.empty((runs, total, batches.num_labels), bool)
            loss = np.zeros(runs)
        rows = batch.rows[batch.mask]
        log_marginals[:, rows] = scored.log_marginals[:, batch.mask]
        mode[:, rows] = scored.mode[:, batch.mask]
        loss += scored.loss[:, batch.mask].sum(axis=1, dtype=np.float64)
    labels = batches.split.labels.multi_hot(batches.num_labels)
    known = batches.split.labels.known(batches.num_labels)
    everyone = np.ones(total, bool)
    return [
        None
        if np.isnan(log_marginals[run]).any()
        else (
            collect_scores(
                split, [ScoredBatch(log_marginals[run], labels, mode[run], everyone, known)], f"{fingerprint}/{split}"
            ),
            float(loss[run]) / total if np.isfinite(loss[run]) else None,
        )
        for run in range(len(loss))
    ]


def validation_metrics(
    scores: ValidationScores, loss: float | None, group: str, hierarchy: LabelHierarchy | None
) -> dict[str, float | None]:
    """Return what is watched while a run trains: the metrics of one group, ``mode``, ``half``, ``ranking``, ``loss``.

    By their places within the split, ``mode.micro_f1``; the loss is among them whatever the group.
    """
    values: dict[str, float | None] = {}
    if group == "ranking":
        values = {**scores.table.compute()}
    elif group != "loss":
        preds = {decision.kind: decision for decision in (Mode(), Half())}[group].apply(scores)
        values = {**label_metrics(preds, scores.labels, _edges(hierarchy), scores.known)}
    return {f"{group}.{name}": value for name, value in values.items()} | {"loss.mean": loss}


def fit_decisions(scores: ValidationScores, metric: str, grid: tuple[float, ...]) -> dict[str, Decision]:
    """Return all decisions by name, those with thresholds fitted on validation."""
    decisions = (Mode(), Half(), fit_global_threshold(scores, metric, grid), fit_label_thresholds(scores))
    return {decision.kind: decision for decision in decisions}


def report(
    scores: SplitScores, loss: float | None, decisions: Mapping[str, Decision], hierarchy: LabelHierarchy | None
) -> dict[str, dict[str, float | None]]:
    """Return the metrics of each decision by its name, under ``ranking`` those that need none, and ``loss``."""
    edges = _edges(hierarchy)
    metrics: dict[str, dict[str, float | None]] = {
        name: {**label_metrics(decision.apply(scores), scores.labels, edges, scores.known)}
        for name, decision in decisions.items()
    }
    return metrics | {"ranking": {**scores.table.compute()}, "loss": {"mean": loss}}


def _edges(hierarchy: LabelHierarchy | None) -> Edges | None:
    return None if hierarchy is None else (hierarchy.children, hierarchy.parents)


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
