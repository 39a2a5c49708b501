"""One training step and one evaluation step, as pure functions of arrays."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

from mlresearch.data.pipeline import ArrayLike, Batch
from mlresearch.heads import LabelLoss, Labels
from mlresearch.pytree import pytree_dataclass

NO_FAILURE = -1


@pytree_dataclass
class TrainState:
    """All that changes while training, and the seed of its randomness.

    failed_step: the first step whose loss, gradient or update was not finite, −1 if there is none. From that step on
    the state stands still, so that nothing that is not finite is ever kept.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    failed_step: Int[Array, ""]
    seed: UInt32[Array, ""]


@pytree_dataclass
class StepMetrics:
    """What a step reports: the mean loss of its real examples and the norm of its gradient before clipping."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


@pytree_dataclass
class Scored:
    """What a model says of a batch."""

    log_marginals: Float[Array, "batch labels"]
    mode: Bool[Array, "batch labels"]
    loss: Float[Array, "batch"]


def init_state(params: PyTree, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        params,
        optimizer.init(params),
        jnp.zeros((), jnp.int32),
        jnp.full((), NO_FAILURE, jnp.int32),
        jnp.asarray(seed, jnp.uint32),
    )


def multi_hot(
    label_ids: Int[ArrayLike, "batch width"], label_values: Float[ArrayLike, "batch width"] | None, num_labels: int
) -> Labels:
    """Return the truth of every label from the listed ones; ids equal to `num_labels` fill up rows and stand for none.

    bool, which labels are on, without `label_values`; with them float32: probabilities, NaN for unknown.
    """
    rows = jnp.arange(label_ids.shape[0])[:, None]
    on = True if label_values is None else label_values
    dense = jnp.zeros((label_ids.shape[0], num_labels), bool if label_values is None else jnp.float32)
    return dense.at[rows, label_ids].set(on, mode="drop")


def dropout_keys(seed: UInt32[Array, ""], step: Int[Array, ""], rows: Int[ArrayLike, "batch"]) -> Key[Array, "batch"]:
    """Return one key an example, from seed, step and the example's place in its split."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    label_loss: LabelLoss,
    num_labels: int,
    axis_name: str | None,
) -> Callable[[TrainState, PyTree, Batch], tuple[TrainState, StepMetrics]]:
    """Return the step; with `axis_name` it sees one device's part of the batch and sums over that axis.

    Sums over examples are divided by the number of real examples in the whole batch, whatever its layout.
    """

    def sum_over_devices(tree: PyTree) -> PyTree:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def train_step(state: TrainState, structure: PyTree, batch: Batch) -> tuple[TrainState, StepMetrics]:
        count = jnp.maximum(sum_over_devices(batch.mask.sum()), 1)
        keys = dropout_keys(state.seed, state.step, batch.rows)
        labels = multi_hot(batch.label_ids, batch.label_values, num_labels)

        def mean_loss(params: PyTree) -> Float[Array, ""]:
            loss = nnx.merge(graphdef, params, structure)(batch.inputs, keys).loss(labels, label_loss)
            return jnp.where(batch.mask, loss, 0.0).sum() / count.astype(loss.dtype)

        loss, gradient = sum_over_devices(jax.value_and_grad(mean_loss)(state.params))
        gradient_norm = optax.tree.norm(gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer step counts
            updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Finite gradients may still make what is not: all that would be kept is looked at.
        outcome = (loss, gradient_norm, params, opt_state)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(outcome)]).all()
        failed_step = jnp.where((state.failed_step < 0) & ~finite, state.step, state.failed_step)
        moved = TrainState(params, opt_state, state.step + 1, failed_step, state.seed)
        stood = TrainState(state.params, state.opt_state, state.step, failed_step, state.seed)
        kept = jax.tree.map(lambda new, old: jnp.where(failed_step < 0, new, old), moved, stood)
        return kept, StepMetrics(loss, gradient_norm)

    return train_step


def make_eval_step(
    graphdef: nnx.GraphDef, label_loss: LabelLoss, num_labels: int
) -> Callable[[PyTree, PyTree, Batch], Scored]:
    """Return the step that scores a batch, without dropout."""

    def eval_step(params: PyTree, structure: PyTree, batch: Batch) -> Scored:
        dist = nnx.merge(graphdef, params, structure)(batch.inputs, None)
        labels = multi_hot(batch.label_ids, batch.label_values, num_labels)
        return Scored(dist.log_marginals, dist.mode(), dist.loss(labels, label_loss))

    return eval_step
