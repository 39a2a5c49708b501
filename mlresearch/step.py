"""One training step and one evaluation step, as pure functions of arrays; and many steps of many runs as one."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32
from ml_collections import ConfigDict

from mlresearch.calibration.maps import ScoreMaps
from mlresearch.data.pipeline import ArrayLike, Batch
from mlresearch.decisions import Chooser
from mlresearch.heads import LabelDistribution, LabelLoss, Labels
from mlresearch.losses import Examples
from mlresearch.optim import NUMBERS, make_optimizer
from mlresearch.pytree import pytree_dataclass

NO_FAILURE = -1

LARGEST_NORM = 1e18
"""Gradients of larger norm count as not finite: their squares, and sums of these, would overflow in float32.

Below it, moments stay finite, and no update is NaN.
"""


@pytree_dataclass
class Numbers:
    """The hyperparameters that are numbers of the computation: runs in one program may differ in them.

    optim: `optim.NUMBERS`; rates: the model's `Hyperparameter`s, dropout rates and the loss's options that are
    fractions.
    """

    optim: dict[str, Float[Array, "*runs"]]
    rates: PyTree


@pytree_dataclass
class Best:
    """What validation chose so far: parameters, after how many steps, and by which value; larger is better."""

    params: PyTree
    step: Int[Array, "*runs"]
    value: Float[Array, "*runs"]


@pytree_dataclass
class TrainState:
    """All that changes while training, and what its randomness and its updates depend on.

    failed_step: the first step whose loss or gradient was not finite (`LARGEST_NORM`), −1 if there is none. From that
    step on the state stands still, so that nothing that is not finite is ever kept. It stands still from step `end` on,
    too.

    average: of the parameters, which is what is validated and tested; None where the parameters themselves are. best:
    None where the last ones are what counts.

    The states of several runs in one program are one state with a leading axis.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, "*runs"]
    failed_step: Int[Array, "*runs"]
    end: Int[Array, "*runs"]
    seed: UInt32[Array, "*runs"]
    numbers: Numbers
    average: PyTree = None
    best: Best | None = None

    @property
    def shown_params(self) -> PyTree:
        """The parameters that are validated: their average, or themselves."""
        return self.params if self.average is None else self.average

    @property
    def chosen_params(self) -> PyTree:
        """The parameters that validation chose, or those shown last."""
        return self.shown_params if self.best is None else self.best.params


@pytree_dataclass
class StepMetrics:
    """What a step reports: the mean loss of its real examples and the norm of its gradient before clipping."""

    loss: Float[Array, "*runs"]
    gradient_norm: Float[Array, "*runs"]


@pytree_dataclass
class Scored:
    """What a model says of a batch. sets: by the decision that takes them, those that were asked for."""

    log_marginals: Float[Array, "*runs batch labels"]
    sets: dict[str, Bool[Array, "*runs batch labels"]]
    loss: Float[Array, "*runs batch"]

    @classmethod
    def of(
        cls, dist: LabelDistribution, labels: Labels, label_loss: LabelLoss, sets: Mapping[str, Chooser]
    ) -> "Scored":
        """Return what is reported of a distribution; sets: what chooses them, which may cost more than all else."""
        chosen = {name: choose(dist) for name, choose in sets.items()}
        return cls(dist.log_marginals, chosen, dist.loss(labels, label_loss))


@pytree_dataclass
class HeadInputs:
    """What heads are given of a batch. pooled: what was encoded, but for its tokens."""

    scores: Float[ArrayLike, "*runs batch labels scores_per_label"]
    pooled: Float[ArrayLike, "*runs batch dim"]


def init_state(config: ConfigDict, params: PyTree, rates: PyTree, num_steps: int, *, select: bool) -> TrainState:
    """Return the state of one run before the first of `num_steps` steps; `select`: validation is to choose."""
    numbers = Numbers({name: jnp.asarray(config.optim[name], float) for name in NUMBERS}, rates)
    return TrainState(
        params,
        make_optimizer(config.optim, num_steps).init(params),
        step=jnp.zeros((), jnp.int32),
        failed_step=jnp.full((), NO_FAILURE, jnp.int32),
        end=jnp.asarray(num_steps, jnp.int32),
        seed=jnp.asarray(config.seed, jnp.uint32),
        numbers=numbers,
        average=jax.tree.map(jnp.copy, params) if config.optim.average else None,
        best=Best(jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32), jnp.full((), -jnp.inf)) if select else None,
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
    config: ConfigDict,
    graphdef: nnx.GraphDef,
    num_labels: int,
    num_steps: int,
    axis_name: str | None,
    lengths: Sequence[int] = (),
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Return the step of one run, ``step(state, structure, batch, bucket)``.

    With `axis_name` it sees one device's part of the batch and sums over that axis. Sums over examples are divided by
    the number of real examples in the whole batch, whatever its layout. The learning rate's schedule is that of
    `num_steps` steps. lengths: padded lengths that a batch is cut to, `bucket` says to which: each is a branch of the
    program, so that a step costs what its own length costs. Without them a batch is taken as it is.
    """

    def sum_over_devices(tree: PyTree) -> PyTree:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def gradient_of(state: TrainState, structure: PyTree, batch: Batch) -> tuple[Float[Array, ""], PyTree]:
        """Return the mean loss and its gradient; of one device's part, its share of them."""
        count = jnp.maximum(sum_over_devices(batch.mask.sum()), 1)
        keys = dropout_keys(state.seed, state.step, batch.rows)

        def mean_loss(params: PyTree) -> Float[Array, ""]:
            model = nnx.merge(graphdef, params, state.numbers.rates, structure)
            if model.sparse:
                loss = model.sparse_loss(batch.inputs, jnp.asarray(batch.label_ids), keys)
            else:
                labels = multi_hot(batch.label_ids, batch.label_values, num_labels)
                label_loss = functools.partial(model.loss, examples=Examples(batch.mask, axis_name))
                loss = model.training_loss(batch.inputs, labels, label_loss, keys)
            return jnp.where(batch.mask, loss, 0.0).sum() / count.astype(loss.dtype)

        return jax.value_and_grad(mean_loss)(state.params)

    def train_step(
        state: TrainState, structure: PyTree, batch: Batch, bucket: Int[Array, ""] | int = 0
    ) -> tuple[TrainState, StepMetrics]:
        # The gradient alone differs by length: an update in each branch would be copied out of it.
        by_length = [lambda length=length: gradient_of(state, structure, batch.cut(length)) for length in lengths]
        shares = jax.lax.switch(bucket, by_length) if by_length else gradient_of(state, structure, batch)
        loss, gradient = sum_over_devices(shares)
        gradient_norm = optax.tree.norm(gradient)
        optimizer = make_optimizer(config.optim, num_steps, state.numbers.optim)

        def update(params: PyTree, opt_state: PyTree, average: PyTree) -> tuple[PyTree, PyTree, PyTree]:
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer step counts
                updates, new = optimizer.update(gradient, opt_state, params)
            # Moments keep their dtype, whatever that of the numbers they are made with.
            opt_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new, opt_state)
            params = jax.tree.map(_bound, optax.apply_updates(params, updates))
            if average is not None:
                share = average_share(config, num_steps, state.step)
                average = jax.tree.map(
                    lambda old, new: _bound(old + share.astype(old.dtype) * (new - old)), average, params
                )
            return params, opt_state, average

        running = (state.failed_step < 0) & (state.step < state.end)
        moves = running & jnp.isfinite(loss) & (gradient_norm < LARGEST_NORM)
        # A branch, and not a choice of each number: that would take twice the memory traffic of the update itself.
        old = state.params, state.opt_state, state.average
        params, opt_state, average = jax.lax.cond(moves, update, lambda *kept: kept, *old)
        kept = dataclasses.replace(
            state,
            params=params,
            average=average,
            opt_state=opt_state,
            step=state.step + moves.astype(jnp.int32),
            failed_step=jnp.where(running & ~moves, state.step, state.failed_step),
        )
        return kept, StepMetrics(loss, gradient_norm)

    return train_step


def average_share(config: ConfigDict, num_steps: int, step: Int[Array, ""]) -> Float[Array, ""]:
    """Return by how much the average of parameters moves to new ones at a step, 0, 1, ….

    ``1 − e^(−1/h)`` for a horizon of h steps, ``optim.average`` epochs; at first 1/(step + 1), a plain mean, so that
    the initial parameters do not count.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
    """
    horizon = config.optim.average * num_steps / config.train.num_epochs
    return jnp.maximum(-math.expm1(-1 / horizon), 1 / (step + 1).astype(float))


def _bound(x: Array) -> Array:
    """Return the nearest finite numbers: what overflows in a step is stopped by the loss of the next, and not kept."""
    largest = jnp.finfo(x.dtype).max
    return jnp.clip(x, -largest, largest)


def make_train_chunk(
    train_step: Callable[..., tuple[TrainState, StepMetrics]], at_once: int | None = None
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Return many steps of several runs as one function: ``chunk(states, structure, batches, buckets, number)``.

    states: with a leading axis of runs; batches: ``[steps, runs, batch, …]``, of one padded length; buckets: what each
    step is given as its own; number: how many of the steps to take. Metrics are ``[steps, runs]``.

    at_once: how many runs take their steps side by side, None for all; the others follow when these have taken theirs,
    as many at a time.
    """

    def one_run(
        state: TrainState,
        batches: Batch,
        structure: PyTree,
        buckets: Int[Array, "steps"],
        number: Int[Array, ""],
    ) -> tuple[TrainState, StepMetrics]:
        def step(place: Int[Array, ""] | int, state: TrainState) -> tuple[TrainState, StepMetrics]:
            batch = jax.tree.map(lambda leaf: leaf[place], batches)
            return train_step(state, structure, batch, buckets[place])

        def body(place: Int[Array, ""], carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
            state, metrics = carry
            state, new = step(place, state)
            return state, jax.tree.map(lambda all_, one: all_.at[place].set(one), metrics, new)

        _, like = jax.eval_shape(functools.partial(step, 0), state)
        metrics = jax.tree.map(lambda leaf: jnp.zeros((len(buckets), *leaf.shape), leaf.dtype), like)
        return jax.lax.fori_loop(0, number, body, (state, metrics))

    def chunk(
        state: TrainState, structure: PyTree, batches: Batch, buckets: Int[Array, "steps"], number: Int[Array, ""]
    ) -> tuple[TrainState, StepMetrics]:
        each = functools.partial(one_run, structure=structure, buckets=buckets, number=number)
        by_run = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batches)

        def some(state: TrainState, by_run: Batch) -> tuple[TrainState, StepMetrics]:
            return over_runs(lambda run: each(*run), (state, by_run))

        if at_once is None or at_once >= len(state.step):
            state, metrics = some(state, by_run)
        else:
            state, metrics = in_turn(some, state, by_run, at_once)
        return state, jax.tree.map(jnp.transpose, metrics)

    return chunk


def in_turn(function: Callable[[Any, Any], tuple[Any, Any]], states: Any, inputs: PyTree, at_once: int) -> Any:
    """Apply a function of states and inputs to `at_once` runs of a leading axis at a time; returns states and outputs.

    A state is put back where it was taken from, so that no second copy of all states is written, as a scan's is. Where
    `at_once` does not divide the number of runs, that is a `ValueError`.
    """

    def part(leaf: Array, place: Int[Array, ""]) -> Array:
        return jax.lax.dynamic_slice_in_dim(leaf, place * at_once, at_once)

    def body(place: Int[Array, ""], carry: tuple[Any, Any]) -> tuple[Any, Any]:
        states = carry[0]
        new = function(*jax.tree.map(lambda leaf: part(leaf, place), (states, inputs)))
        return jax.tree.map(
            lambda all_, own: jax.lax.dynamic_update_slice_in_dim(all_, own, place * at_once, 0), carry, new
        )

    runs = len(jax.tree.leaves(inputs)[0])
    if runs % at_once:
        raise ValueError(f"{runs} runs cannot take turns {at_once} at a time: some are left over")
    _, like = jax.eval_shape(function, *jax.tree.map(lambda leaf: leaf[:at_once], (states, inputs)))
    outputs = jax.tree.map(lambda leaf: jnp.zeros((runs, *leaf.shape[1:]), leaf.dtype), like)
    return jax.lax.fori_loop(0, runs // at_once, body, (states, outputs))


def over_runs(function: Callable[[Any], Any], runs: PyTree) -> Any:
    """Apply a function to every run of a leading axis, side by side.

    One run by itself has no axis inside: XLA on CPU makes slower products of matrices where there is one of length 1.
    """
    count = len(jax.tree.leaves(runs)[0])
    if count == 1:
        alone = function(jax.tree.map(lambda leaf: leaf[0], runs))
        return jax.tree.map(lambda leaf: leaf[None], alone)
    return jax.vmap(function)(runs)


def make_eval_step(
    graphdef: nnx.GraphDef, num_labels: int, axis_name: str | None, sets: Mapping[str, Chooser]
) -> Callable[..., Scored]:
    """Return the step that scores a batch by several runs, without dropout: ``(params, numbers, structure, batch)``.

    params and numbers have a leading axis of runs, and so has what they say of the batch; after the batch there may be
    maps that calibrate label scores, of each run its own. sets: what chooses the label sets that are among that. With
    `axis_name` it sees one device's part of the batch.
    """

    def eval_step(
        params: PyTree, numbers: Numbers, structure: PyTree, batch: Batch, maps: ScoreMaps | None = None
    ) -> Scored:
        labels = multi_hot(batch.label_ids, batch.label_values, num_labels)

        def one_run(run: tuple[PyTree, Numbers, ScoreMaps | None]) -> Scored:
            params, numbers, maps = run
            model = nnx.merge(graphdef, params, numbers.rates, structure)
            label_loss = functools.partial(model.loss, examples=Examples(batch.mask, axis_name))
            return Scored.of(model(batch.inputs, maps=maps), labels, label_loss, sets)

        return over_runs(one_run, (params, numbers, maps))

    return eval_step


def make_score_step(graphdef: nnx.GraphDef) -> Callable[[PyTree, Numbers, PyTree, Batch], HeadInputs]:
    """Return the step that makes of a batch what the heads of several runs are given, as `make_eval_step`'s."""

    def score_step(params: PyTree, numbers: Numbers, structure: PyTree, batch: Batch) -> HeadInputs:
        def one_run(run: tuple[PyTree, Numbers]) -> HeadInputs:
            params, numbers = run
            scores, encoded = nnx.merge(graphdef, params, numbers.rates, structure).score(batch.inputs)
            return HeadInputs(scores, encoded.pooled)

        return over_runs(one_run, (params, numbers))

    return score_step
