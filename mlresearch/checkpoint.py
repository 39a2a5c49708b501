"""Checkpoints of the training state, by Orbax: written beside the last good one, then renamed into place."""

import json
from pathlib import Path
from typing import Any

import absl.logging
import jax
import orbax.checkpoint as ocp

from mlresearch.errors import UserError
from mlresearch.step import TrainState


class Checkpoints:
    """The checkpoints of one run, of which the latest two are kept.

    Next to the state stand facts in JSON (the label space's hash, the step), which `restore` returns as well. The
    place in the data needs no more than the step: the order of an epoch is a function of seed and epoch.
    """

    def __init__(self, workdir: Path) -> None:
        absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax tells of every file
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=2),
            item_names=("state", "facts"),
        )

    @property
    def latest_step(self) -> int | None:
        """The step of the last complete checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, facts: dict[str, Any]) -> None:
        """Write a checkpoint in the background; nothing happens if this step has one."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        json.dumps(facts)  # refused here rather than in the background
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_as_dict(state)), facts=ocp.args.JsonSave(facts)),
        )

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Return the latest state, in the shapes and dtypes of `template`, and its facts."""
        step = self.latest_step
        if step is None:
            raise UserError("the run has no checkpoint yet: train it first")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(template))
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), facts=ocp.args.JsonRestore()),
        )
        leaves = jax.tree.leaves(restored["state"])
        return jax.tree.unflatten(jax.tree.structure(template), leaves), restored["facts"]

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _as_dict(state: TrainState) -> dict[str, jax.Array]:
    """Return the leaves by their path in the state: a form that outlives changes of the classes around them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    # Numbered, so that sorting the keys, as pytrees of dicts do, keeps the order of the leaves.
    return {f"{number:04d}{jax.tree_util.keystr(path)}": leaf for number, (path, leaf) in enumerate(leaves)}
