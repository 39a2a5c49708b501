"""Checkpoints of the training state, by Orbax: written beside the last good one, then renamed into place."""

import warnings
from collections.abc import Collection
from pathlib import Path

import absl.logging
import jax
import orbax.checkpoint as ocp

from mlresearch.errors import UserError
from mlresearch.step import TrainState


class Checkpoints:
    """The checkpoints of one run, of which the latest two are kept.

    Beside the state stand facts in JSON: the identity of what the run was started on, and the seconds it has taken. The
    place in the data needs no more than the step: the order of an epoch is a function of seed and epoch.
    """

    def __init__(self, workdir: Path, name: str = "checkpoints") -> None:
        absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax tells of every file
        self._workdir = workdir
        self._manager = ocp.CheckpointManager(
            (workdir / name).absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=2),
            item_names=("state", "facts"),
        )

    @property
    def steps(self) -> set[int]:
        """The steps of the complete checkpoints."""
        return set(self._manager.all_steps())

    def save(self, step: int, state: TrainState, identity: dict[str, str], seconds: float) -> None:
        """Write a checkpoint of `step` in the background; nothing happens if this step has one."""
        if step in self.steps:
            return
        facts = {"identity": identity, "seconds": seconds}
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_as_dict(state)), facts=ocp.args.JsonSave(facts)),
        )

    def restore(
        self, template: TrainState, identity: dict[str, str], among: Collection[int] | None = None
    ) -> tuple[int, TrainState, float]:
        """Return the latest sound checkpoint: its step, the state, and the seconds taken so far.

        The state has the shapes and dtypes of `template`. among: steps that may be taken, None for all. A run that was
        started on something else is a `UserError`, and so is one without a sound checkpoint.
        """
        steps = sorted(self.steps if among is None else self.steps & set(among), reverse=True)
        if not steps:
            raise UserError(f"{self._workdir}: the run has no checkpoint yet; train it first")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(template))
        for step in steps:
            try:
                only_facts = ocp.args.Composite(facts=ocp.args.JsonRestore())
                facts = self._manager.restore(step, args=only_facts)["facts"]
            except (ValueError, OSError, KeyError) as error:
                warnings.warn(f"{self._workdir}: the checkpoint of step {step} is damaged: {error}", stacklevel=2)
                continue
            changed = sorted(name for name in identity if facts["identity"].get(name) != identity[name])
            if changed:
                raise UserError(
                    f"{self._workdir}: the run was started on another {' and another '.join(changed)}; "
                    "give a new --workdir"
                )
            try:
                only_state = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                leaves = jax.tree.leaves(self._manager.restore(step, args=only_state)["state"])
            except (ValueError, OSError, KeyError) as error:
                warnings.warn(f"{self._workdir}: the checkpoint of step {step} is damaged: {error}", stacklevel=2)
                continue
            return step, jax.tree.unflatten(jax.tree.structure(template), leaves), facts["seconds"]
        raise UserError(f"{self._workdir}: none of the checkpoints can be read; train again in a new --workdir")

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which a run that goes on from `step` writes anew."""
        for later in self.steps:
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _as_dict(state: TrainState) -> dict[str, jax.Array]:
    """Return the leaves by their path in the state: a form that outlives changes of the classes around them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    # Numbered, so that sorting the keys, as pytrees of dicts do, keeps the order of the leaves.
    return {f"{number:04d}{jax.tree_util.keystr(path)}": leaf for number, (path, leaf) in enumerate(leaves)}
