"""Devices: one program over runs, examples and labels, by jit over a mesh or by pmap, with the same numbers."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mlresearch.errors import UserError

T = TypeVar("T")
RUNS_AXIS = "runs"
DATA_AXIS = "data"
LABEL_AXIS = "label"
"""Parameters with the metadata ``label_axis = n`` hold the labels in their dimension n."""


class Parallel:
    """Where states and batches live, and how a program over them is compiled.

    With ``mode = "jit"`` devices form a mesh: runs are divided among its ``runs`` axis, as many devices as divide both,
    and examples among its ``data`` axis, the rest; the compiler adds the sums over devices. Of the devices,
    `label_devices` form a ``label`` axis, which divides what parameters and moments hold a row a label of. With
    ``"pmap"`` every device has all runs and its part of the examples, which names `axis_name` to sum over. A batch size
    that the devices do not divide, and more devices than there are, are `UserError`s.
    """

    def __init__(self, mode: str, num_devices: int, num_runs: int, *batch_sizes: int, label_devices: int = 1) -> None:
        available = jax.devices()
        count = num_devices or len(available)
        if count > len(available):
            raise UserError(f"config.parallel.num_devices is {count}, but there are {len(available)} devices here")
        if label_devices > 1 and (mode != "jit" or count % label_devices):
            raise UserError(
                f"config.parallel.label_devices is {label_devices}: that needs parallel.mode = 'jit', and a "
                f"multiple of it as the number of devices, which is {count}"
            )
        over_runs = math.gcd(count // label_devices, num_runs) if mode == "jit" else 1
        over_data = count // label_devices // over_runs
        for size in batch_sizes:
            if size % over_data:
                raise UserError(
                    f"a batch of {size} cannot be shared by {over_data} devices: choose a multiple of {over_data} for "
                    "config.train.batch_size and config.evaluate.batch_size, or set config.parallel.num_devices"
                )
        self.mode = mode
        self.num_devices = count
        self.devices = available[:count]
        self.axis_name = DATA_AXIS if self.mode == "pmap" else None
        self.label_devices = label_devices
        shape, axes = (over_runs, over_data, label_devices), (RUNS_AXIS, DATA_AXIS, LABEL_AXIS)
        self._mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * 3, devices=self.devices)

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def replicate(self, tree: T) -> T:
        """Put a copy on every device; what is given stays as it is."""
        return self._place(tree, self._sharding())

    def put_runs(self, tree: T) -> T:
        """Divide the leading axis, of runs, among devices; what is given stays as it is, even if this is donated."""
        return self._place(tree, self._of_runs(tree))

    def _place(self, tree: T, shardings: Any) -> T:
        if self.mode == "pmap":
            # From the host: what lies on devices already lies elsewhere than pmap wants it.
            return jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (self.num_devices, *jnp.shape(x))), tree)
        return jax.device_put(jax.tree.map(jnp.copy, tree), shardings)

    def _of_runs(self, tree: Any) -> Any:
        """Return where everything of a tree with a leading axis of runs lies."""

        def of(leaf: Any) -> NamedSharding:
            axis = leaf.get_metadata().get("label_axis") if isinstance(leaf, nnx.Variable) else None
            if axis is None or self.label_devices == 1:
                return self._sharding(RUNS_AXIS)
            rows = leaf.get_value().shape[1 + axis]
            if rows % self.label_devices:
                raise UserError(
                    f"{rows} rows of labels cannot be shared by config.parallel.label_devices = {self.label_devices}: "
                    f"set config.decoder.linear.multiple = {self.label_devices}, which rounds them up"
                )
            return self._sharding(RUNS_AXIS, *[None] * axis, LABEL_AXIS)

        return jax.tree.map(of, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def fetch(self, tree: T) -> T:
        """Return one copy of what every device has."""
        return jax.tree.map(lambda x: x[0], tree) if self.mode == "pmap" else tree

    def put_batch(self, batch: T) -> T:
        """Divide the leading axis, of examples, among devices."""
        return self._divide(batch, 0, DATA_AXIS)

    def put_chunk(self, batches: T) -> T:
        """Divide batches ``[steps, runs, batch, …]`` among devices."""
        return self._divide(batches, 2, None, RUNS_AXIS, DATA_AXIS)

    def _divide(self, tree: T, axis: int, *axes: str | None) -> T:
        if self.mode == "pmap":
            count = self.num_devices

            def divide(x: Any) -> Any:
                shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
                return jnp.moveaxis(x.reshape(shape), axis, 0)

            return jax.tree.map(divide, tree)
        # One device takes arrays of the host as they come, which costs less than placing them.
        return tree if self.num_devices == 1 else jax.device_put(tree, self._sharding(*axes))

    def gather(self, tree: T) -> T:
        """Return results ``[runs, batch, …]`` as one array each."""
        if self.mode != "pmap":
            return tree
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), tree)

    def compile_chunk(self, chunk: Callable[..., T], state: Any) -> Callable[..., T]:
        """Compile ``chunk(state, structure, batches, buckets, number) -> (state, metrics)``; the state is donated.

        state: one like those that it will be given.
        """
        if self.mode == "pmap":
            in_axes = (0, 0, 0, None, None)
            return jax.pmap(chunk, axis_name=DATA_AXIS, in_axes=in_axes, donate_argnums=0, devices=self.devices)
        shardings = (self._of_runs(state), self._sharding(None, RUNS_AXIS))
        return jax.jit(chunk, donate_argnums=0, out_shardings=shardings)

    def compile_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``step(params, numbers, structure, batch)``, whose results are ``[runs, batch, …]``."""
        if self.mode == "pmap":
            return jax.pmap(step, axis_name=DATA_AXIS, devices=self.devices)
        return jax.jit(step, out_shardings=self._sharding(RUNS_AXIS, DATA_AXIS))
