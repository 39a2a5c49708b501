"""Devices: one train step, by jit over a mesh or by pmap, with the same numbers."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mlresearch.errors import UserError

T = TypeVar("T")
DATA_AXIS = "data"


class Parallel:
    """Where state and batches live, and how a step over them is compiled.

    With ``mode = "jit"`` batches are sharded over the mesh's ``data`` axis and the compiler adds the sums over devices;
    with ``"pmap"`` each device runs the step on its part, which names `axis_name` to sum over. A batch size that the
    devices do not divide, and more devices than there are, are `UserError`s.
    """

    def __init__(self, mode: str, num_devices: int, *batch_sizes: int) -> None:
        available = jax.devices()
        count = num_devices or len(available)
        if count > len(available):
            raise UserError(f"config.parallel.num_devices is {count}, but there are {len(available)} devices here")
        for size in batch_sizes:
            if size % count:
                raise UserError(
                    f"a batch of {size} cannot be shared by {count} devices: choose a multiple of {count} for "
                    "config.train.batch_size and config.evaluate.batch_size, or set config.parallel.num_devices"
                )
        self.mode = mode
        self.num_devices = count
        self.devices = available[:count]
        self.axis_name = DATA_AXIS if self.mode == "pmap" else None
        mesh = jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=self.devices)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def replicate(self, tree: T) -> T:
        """Put a copy on every device; what is given stays as it is, even if the copy is donated later."""
        if self.mode == "pmap":
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_devices, *jnp.shape(x))), tree)
        return jax.device_put(jax.tree.map(jnp.copy, tree), self._replicated)

    def fetch(self, tree: T) -> T:
        """Return one copy of what is replicated."""
        return jax.tree.map(lambda x: x[0], tree) if self.mode == "pmap" else tree

    def shard(self, batch: T) -> T:
        """Divide the leading axis of every array among the devices."""
        if self.mode == "pmap":
            return jax.tree.map(
                lambda x: x.reshape(self.num_devices, x.shape[0] // self.num_devices, *x.shape[1:]), batch
            )
        return jax.device_put(batch, self._sharded)

    def gather(self, tree: T) -> T:
        """Return per-example results with one leading axis again."""
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree) if self.mode == "pmap" else tree

    def compile_train(self, step: Callable[..., T]) -> Callable[..., T]:
        """Compile ``step(state, structure, batch) -> (state, metrics)``; the state given is donated."""
        if self.mode == "pmap":
            return jax.pmap(step, axis_name=DATA_AXIS, donate_argnums=0, devices=self.devices)
        return jax.jit(step, donate_argnums=0, out_shardings=self._replicated)

    def compile_eval(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``step(params, structure, batch)``, whose results are one row an example."""
        if self.mode == "pmap":
            return jax.pmap(step, axis_name=DATA_AXIS, devices=self.devices)
        return jax.jit(step, out_shardings=self._sharded)
