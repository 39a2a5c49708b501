"""Dropout whose bits belong to the example, not to its place in a batch or on a device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def dropout(
    x: Float[Array, "batch *shape"], rate: float, keys: Key[Array, "batch"] | None, site: int
) -> Float[Array, "batch *shape"]:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 − rate).

    keys: one key an example (None: no dropout); site: a number of its own for each place where a model drops.
    The bits of an example depend on its key and the site alone, so that every batch layout gives the same numbers.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """
    if keys is None or rate == 0.0:
        return x
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, site)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
