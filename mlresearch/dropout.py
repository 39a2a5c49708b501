"""Dropout and noise whose draws belong to the example, not to its place in a batch or on a device."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key


class Hyperparameter(nnx.Variable[Any]):
    """A number that a model trains with, not trained itself: replicas in one program may differ in it."""


class Dropout(nnx.Module):
    """Zero each element with probability `rate` and scale the rest by 1 / (1 − rate).

    site: a number of its own for each place where a model drops. The bits of an example depend on its key and the site
    alone, so that every batch layout gives the same numbers. At a rate of 0 none are drawn.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """

    def __init__(self, rate: float, site: int):
        self.rate = Hyperparameter(jnp.asarray(rate, float)) if rate else None
        self.site = site

    def __call__(
        self, x: Float[Array, "batch *shape"], keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch *shape"]:
        """Drop elements of `x`; keys: one an example, None for no dropout."""
        if keys is None or self.rate is None:
            return x
        keep_probability = 1 - self.rate[...]
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, keep_probability, x.shape[1:]))(_at_site(keys, self.site))
        wide = max(x.dtype, keep_probability.dtype, key=lambda dtype: jnp.finfo(dtype).bits)
        return jnp.where(keep, x.astype(wide) / keep_probability.astype(wide), 0).astype(x.dtype)


class Noise(nnx.Module):
    """Add to each element a normal number of standard deviation `scale`.

    site: as that of `Dropout`. At a scale of 0 none are drawn.

    Source: Bishop, "Training with Noise is Equivalent to Tikhonov Regularization", 1995.
    """

    def __init__(self, scale: float, site: int):
        self.scale = scale
        self.site = site

    def __call__(
        self, x: Float[Array, "batch *shape"], keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch *shape"]:
        """Add noise to `x`; keys: one an example, None for no noise."""
        if keys is None or not self.scale:
            return x
        draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
        return x + self.scale * draw(_at_site(keys, self.site))


def _at_site(keys: Key[Array, "batch"], site: int) -> Key[Array, "batch"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, site)
