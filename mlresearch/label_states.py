"""Labels that a model is told when it predicts the others: as training shows them, and as predictions assume them.

Of a batch they are numbers [batch, labels], NaN for unknown. Source: Lanchantin et al., "General Multi-label Image
Classification with Transformers", 2021.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.heads import LabelDistribution, Labels

REVEAL_SITE = 1090


def state_of(known: Float[Array, "batch labels"]) -> Int[Array, "batch labels"]:
    """Return 0 where a label is unknown, NaN, 1 where it is on, 2 where it is off."""
    return jnp.where(jnp.isnan(known), 0, jnp.where(known > 0.5, 1, 2))


def reveal(
    labels: Labels, keys: Key[Array, "batch"]
) -> tuple[Float[Array, "batch labels"], Float[Array, "batch labels"]]:
    """Return labels as training shows them, and the rest of them, which it asks for; NaN stands for the others.

    Half of the examples show nothing, the others a share of their labels that is drawn from 0..1. Unknown labels stay
    so in both, and soft ones are never shown.
    """

    def draw(key: Key[Array, ""]) -> Bool[Array, "labels"]:
        key_any, key_share, key_labels = jax.random.split(jax.random.fold_in(key, REVEAL_SITE), 3)
        share = jnp.where(jax.random.bernoulli(key_any), jax.random.uniform(key_share), 0.0)
        return jax.random.uniform(key_labels, labels.shape[1:]) < share

    values = labels.astype(float)
    shown = jax.vmap(draw)(keys) & ((values == 0) | (values == 1))
    return jnp.where(shown, values, jnp.nan), jnp.where(shown, jnp.nan, values)


def take_for_known(
    dist: LabelDistribution, share: float, known: Float[Array, "batch labels"] | None
) -> Float[Array, "batch labels"]:
    """Return `known` and, as known, that share of the labels that a distribution is most certain of; else NaN."""
    logits = dist.logits
    certainty = jnp.abs(logits)
    count = round(share * logits.shape[1])
    places = jnp.argsort(jnp.argsort(-certainty, axis=1), axis=1)
    assumed = jnp.where(places < count, (logits > 0).astype(logits.dtype), jnp.nan)
    return assumed if known is None else jnp.where(jnp.isnan(known), assumed, known.astype(logits.dtype))
