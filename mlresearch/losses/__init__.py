"""Label-wise losses: ``Loss(...)(logits, labels, examples)``, one number an example.

A loss family is one file here with a class ``Loss``, a part of the model as head and decoder are::

    Loss(hierarchy: LabelHierarchy | None, num_labels: int, *, <options with defaults>)
    loss.use_frequencies(frequencies)                     # only of a loss that asks how frequent training labels are
    loss(logits, labels, examples) -> Float[Array, "batch"]

Keyword-only arguments are options, as for encoders, found under ``config.loss.<file name>``. An option that is a
fraction becomes a `Hyperparameter` (`number`), so that replicas of one program may differ in it. What a loss knows of
the hierarchy or of training labels are `Structure` variables; before ``use_frequencies`` all labels are equally
frequent.

A loss is summed over the labels of an example. Unknown labels are left out of it: neither its value nor its gradient is
ever NaN, and with nothing known it is exactly 0. Soft labels y enter by the weights y and 1 − y of being on and off
(`both_sides`). Logits may be large, ±10⁴, and of any floating dtype; the loss is float32 or wider. What one example
adds may depend on the others of its batch; `Examples` says which these are, so that no layout of it matters.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64

from mlresearch.dropout import Hyperparameter
from mlresearch.errors import UserError
from mlresearch.heads import Labels, Logits
from mlresearch.label_space import Frequencies
from mlresearch.logspace import at_least_float32, log_sigmoids

NOTHING = -1e30
"""The logarithm of an empty sum: as good as −∞ among finite numbers, without its NaN gradients."""


class Examples(NamedTuple):
    """The examples of a batch.

    mask: True = real, padding is False. axis_name: of the devices that hold a part of the batch each, under `pmap`;
    None where an array is the whole batch.
    """

    mask: Bool[Array | np.ndarray, "batch"]
    axis_name: str | None = None


class Sides(NamedTuple):
    """Both sides of each label, float32 or wider: its logits and its weights as one that is on, and as one that is off.

    on, off: y and 1 − y, both 0 where the label is unknown.
    """

    on_logits: Float[Array, "batch labels"]
    off_logits: Float[Array, "batch labels"]
    on: Float[Array, "batch labels"]
    off: Float[Array, "batch labels"]


def both_sides(logits: Logits, labels: Labels) -> Sides:
    """Return both sides of the labels of a batch."""
    on_logits, off_logits = map(at_least_float32, logits if isinstance(logits, tuple) else (logits, logits))
    if labels.dtype == bool:
        on = labels.astype(on_logits.dtype)
        return Sides(on_logits, off_logits, on, 1 - on)
    known = ~jnp.isnan(labels)
    on = jnp.where(known, labels, 0.0).astype(on_logits.dtype)
    return Sides(on_logits, off_logits, on, known.astype(on.dtype) - on)


def cross_entropy(sides: Sides) -> Float[Array, "batch"]:
    """Return −Σ w⁺ log σ(z⁺) + w⁻ log σ(−z⁻), with the weights w and logits z of either side."""
    log_on, _ = log_sigmoids(sides.on_logits)
    _, log_off = log_sigmoids(sides.off_logits)
    return -(sides.on * log_on + sides.off * log_off).sum(-1)


def log_sum_exp(
    x: Float[Array, "batch labels"], weights: Float[Array, "batch labels"], axis: int = -1, axis_name: str | None = None
) -> Float[Array, "rest"]:
    """Return log Σ w eˣ over labels (axis −1) or examples (axis 0); `NOTHING` where all weights are 0.

    axis_name: of devices that hold examples, too.
    """
    counted = weights > 0
    x = jnp.where(counted, x + jnp.log(jnp.where(counted, weights, 1.0)), NOTHING)
    peak = jax.lax.stop_gradient(x).max(axis)
    if axis_name is not None:
        peak = jax.lax.pmax(peak, axis_name)
    total = jnp.where(counted, jnp.exp(x - jnp.expand_dims(peak, axis)), 0.0).sum(axis)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    return jnp.where(total > 0, peak + jnp.log(jnp.where(total > 0, total, 1.0)), NOTHING)


def number(value: float) -> Hyperparameter:
    """Return an option that is a fraction, as a variable of the loss."""
    return Hyperparameter(jnp.asarray(value, float))


def check(setting: str, value: float, rule: str, *, holds: bool) -> None:
    """Raise a `UserError` that names the setting and its rule, unless this holds of its value."""
    if not holds:
        raise UserError(f"config.loss.{setting} is {value}; {rule}")


def on_and_off(frequencies: Frequencies) -> Float64[np.ndarray, "2 labels"]:
    """Return in how many examples each label is on and in how many off, half an example more (`mlresearch.prior`)."""
    return np.stack([frequencies.on, frequencies.known - frequencies.on]) + 0.5
