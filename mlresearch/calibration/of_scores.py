"""Maps of each label's scores before the head, fitted on what heads are given of validation."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float64, Int
from scipy import optimize

from mlresearch.calibration import require_validation
from mlresearch.calibration.maps import STEEPEST, ScoreMaps
from mlresearch.data.pipeline import Batches
from mlresearch.encoders import Encoded
from mlresearch.fit import Program
from mlresearch.heads import Labels, Logits
from mlresearch.logspace import LOGIT_BOUND
from mlresearch.losses import both_sides, cross_entropy
from mlresearch.scored import KEPT_BYTES, ScoredSplit
from mlresearch.step import HeadInputs, TrainState, multi_hot

MAX_ITERATIONS = 200
"""Of the optimizer of maps of scores."""


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """The labels of a batch as lists (`Batch`), and which of its rows are examples."""

    label_ids: Int[np.ndarray, "batch width"]
    label_values: Float[np.ndarray, "batch width"] | None
    mask: Bool[np.ndarray, "batch"]


@dataclasses.dataclass(frozen=True, eq=False)
class ValidationScores:
    """What heads are given of the validation split, and its labels: the only thing that maps of scores are fitted on.

    fingerprint: of the split's data. batches: one pass over it, of all runs, on the host; every pass is the same. Any
    other split is a `TypeError`.
    """

    split: str
    fingerprint: str
    batches: Callable[[], Iterator[tuple[HeadInputs, Truth]]]

    def __post_init__(self) -> None:
        require_validation(self.split, type(self).__name__)


def gather_scores(program: Program, state: TrainState, plain: ScoredSplit, batches: Batches) -> ValidationScores:
    """Return what heads are given of a split: kept where that is `KEPT_BYTES` a run at most, else made each pass."""
    make = program.head_inputs(state.chosen_params, state.numbers)
    kept: list[tuple[HeadInputs, Truth]] = []

    def once() -> Iterator[tuple[HeadInputs, Truth]]:
        if kept:
            yield from kept
            return
        for batch in batches.once():
            values = None if batch.label_values is None else np.asarray(batch.label_values)
            truth = Truth(np.asarray(batch.label_ids), values, np.asarray(batch.mask))
            yield jax.device_get(make(batch)), truth

    of_batch = sum(leaf[0].nbytes for leaf in jax.tree.leaves(next(once())[0]))
    if of_batch * batches.steps_per_epoch <= KEPT_BYTES:
        kept = list(once())
    return ValidationScores(plain.name, plain.fingerprint, once)


def fit_score_maps(scores: ValidationScores, run: int, head: Any, kind: str) -> ScoreMaps | None:
    """Return the maps of one run's scores of each label that minimise the loss of its head's distribution,

        Σ −log p(known labels) + ½ Σᵢ (log aᵢ)² + bᵢ²,

    over examples and over labels i. Of a head without a joint distribution the first term is the cross-entropy of the
    marginals; so is the share of it that a head's loss may have, whatever label-wise loss the run was trained with,
    since only of such losses true probabilities are the best ones. The second is that of normal priors, by which a
    label without a positive or without a negative keeps finite numbers, and rare labels stay near the identity. Label
    sets that are impossible under the head are left out. None for a run that has diverged: its loss is NaN.

    Scores of another split are a `TypeError`. By L-BFGS from the identity, deterministic (Liu and Nocedal, "On the
    Limited Memory BFGS Method for Large Scale Optimization", 1989).
    """
    if not isinstance(scores, ValidationScores):
        raise TypeError(f"maps of scores are fitted on ValidationScores only, not on {type(scores).__name__}")
    graphdef, state = nnx.split(head)
    num_labels = next(scores.batches())[0].scores.shape[-2]

    def maps_of(numbers: Float64[np.ndarray, "numbers"]) -> ScoreMaps:
        of_all = np.append(numbers, np.zeros(num_labels))[: 2 * num_labels]  # no shifts: they are 0
        log_scale, shift = of_all.astype(np.float32).reshape(2, num_labels)
        return ScoreMaps(np.exp(log_scale), shift, kind, scores.fingerprint)

    def loss(numbers: Float64[np.ndarray, "numbers"]) -> tuple[float, Float64[np.ndarray, "numbers"]]:
        total, slope, maps = 0.5 * float(numbers @ numbers), numbers.copy(), maps_of(numbers)
        for inputs, truth in scores.batches():
            # The head is given an array of its own, as in training: where a program computes scores anew for each use
            # of them, and rounds them differently, a head that compares them finds no maximum.
            mapped = maps(jnp.asarray(inputs.scores[run]))
            listed = jnp.asarray(truth.label_ids), truth.label_values
            value, gradient = _loss_and_slope(graphdef, state, mapped, inputs.pooled[run], listed, truth.mask)
            total += float(value)
            by_score = np.asarray(gradient)
            of_log_scale = by_score * (np.asarray(mapped) - maps.shift[:, None])
            by_label = np.stack([of_log_scale, by_score]).sum((1, 3), dtype=np.float64)
            slope += by_label.ravel()[: len(slope)]
        return total, slope

    start = np.zeros((1 if kind == "temperature" else 2) * num_labels)
    if np.isnan(loss(start)[0]):
        return None
    widest = np.repeat([math.log(STEEPEST), LOGIT_BOUND], num_labels)[: len(start)]  # as of maps of marginals
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=optimize.Bounds(-widest, widest),
        options={"ftol": 1e-8, "maxiter": MAX_ITERATIONS},
    )
    return maps_of(found.x)


@functools.partial(jax.jit, static_argnums=0)
def _loss_and_slope(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    scores: Float[Array, "batch labels scores_per_label"],
    pooled: Float[Array, "batch dim"],
    listed: tuple[Int[Array, "batch width"], Float[Array, "batch width"] | None],
    mask: Bool[Array, "batch"],
) -> tuple[Float[Array, ""], Float[Array, "batch labels scores_per_label"]]:
    """Return the loss of a batch by its scores, and its gradient."""
    batch, num_labels, _ = scores.shape
    labels = multi_hot(*listed, num_labels)
    encoded = Encoded(jnp.zeros((batch, 0, pooled.shape[1]), pooled.dtype), jnp.zeros((batch, 0), bool), pooled)

    def total(scores: Float[Array, "batch labels scores_per_label"]) -> Float[Array, ""]:
        dist = nnx.merge(graphdef, state)(scores, encoded)
        loss = dist.loss(labels, _label_loss) if dist.normalised else _label_loss(dist.logits, labels)
        return jnp.where(mask & ~jnp.isposinf(loss), loss, 0.0).sum()

    return jax.value_and_grad(total)(scores)


def _label_loss(logits: Logits, labels: Labels) -> Float[Array, "batch"]:
    return cross_entropy(both_sides(logits, labels))
