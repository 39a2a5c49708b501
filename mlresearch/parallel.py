"""Devices: one program over runs and examples, by jit over a mesh or by pmap, with the same numbers."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mlresearch.errors import UserError

T = TypeVar("T")
RUNS_AXIS = "runs"
DATA_AXIS = "data"


class Parallel:
    """Where states and batches live, and how a program over them is compiled.

    With ``mode = "jit"`` devices form a mesh: runs are divided among its ``runs`` axis, as many devices as divide both,
    and examples among its ``data`` axis, the rest; the compiler adds the sums over devices. With ``"pmap"`` every
    device has all runs and its part of the examples, which names `axis_name` to sum over. A batch size that the devices
    do not divide, and more devices than there are, are `UserError`s.
    """

    def __init__(self, mode: str, num_devices: int, num_runs: int, *batch_sizes: int) -> None:
        available = jax.devices()
        count = num_devices or len(available)
        if count > len(available):
            raise UserError(f"config.parallel.num_devices is {count}, but there are {len(available)} devices here")
        over_runs = math.gcd(count, num_runs) if mode == "jit" else 1
        over_data = count // over_runs
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
        shape, axes = (over_runs, over_data), (RUNS_AXIS, DATA_AXIS)
        mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto, AxisType.Auto), devices=self.devices)
        self._mesh = mesh

    def _sharding(self, *axes: str | None) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    def replicate(self, tree: T) -> T:
        """Put a copy on every device; what is given stays as it is."""
        return self._everywhere(tree)

    def put_runs(self, tree: T) -> T:
        """Divide the leading axis, of runs, among devices; what is given stays as it is, even if this is donated."""
        return self._everywhere(tree, RUNS_AXIS)

    def _everywhere(self, tree: T, *axes: str) -> T:
        if self.mode == "pmap":
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_devices, *jnp.shape(x))), tree)
        return jax.device_put(jax.tree.map(jnp.copy, tree), self._sharding(*axes))

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

    def compile_chunk(self, chunk: Callable[..., T]) -> Callable[..., T]:
        """Compile ``chunk(state, structure, batches, buckets, number) -> (state, metrics)``; the state is donated."""
        if self.mode == "pmap":
            in_axes = (0, 0, 0, None, None)
            return jax.pmap(chunk, axis_name=DATA_AXIS, in_axes=in_axes, donate_argnums=0, devices=self.devices)
        shardings = (self._sharding(RUNS_AXIS), self._sharding(None, RUNS_AXIS))
        return jax.jit(chunk, donate_argnums=0, out_shardings=shardings)

    def compile_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``step(params, numbers, structure, batch)``, whose results are ``[runs, batch, …]``."""
        if self.mode == "pmap":
            return jax.pmap(step, axis_name=DATA_AXIS, devices=self.devices)
        return jax.jit(step, out_shardings=self._sharding(RUNS_AXIS, DATA_AXIS))
