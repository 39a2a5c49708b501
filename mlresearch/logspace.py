"""Logarithms of probabilities without cancellation, overflow or NaN gradients."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOGIT_BOUND = 80.0
"""Log-odds are clipped to ±80: e⁻⁸⁰ is still a normal float32, so both tails are representable."""


CERTAIN = 1e30
"""Log-odds of what must be, negated of what cannot be: as good as ∞, without its NaN gradients."""


def log1mexp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return log(1 − eˣ) for x ≤ 0; −inf at 0.

    Two forms meet at −log 2, where both lose at most one bit.
    Source: Mächler, "Accurately Computing log(1 − exp(−|a|))", 2012.
    """
    near = x > -jnp.log(2).astype(x.dtype)
    # Each branch sees a harmless argument where the other one is taken: a NaN there would spoil the gradient.
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))),
        jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))),
    )


@jax.custom_jvp
def log_odds(log_probs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return log p − log(1 − p) from log p ≤ 0, clipped to ±`LOGIT_BOUND`.

    The slope, 1 / (1 − p) = 1 + the odds, is that of log p, 1, where clipped below, so that what is nearly impossible
    can still be learnt. It is zero where clipped above, and at most 1/ε: of a p that is nearer to 1 than ε, rounding
    may have made what is missing, and a slope by that would be large and mean nothing.
    """
    smallest = -jnp.exp(jnp.asarray(-LOGIT_BOUND, log_probs.dtype))  # below this distance from 0 the bound holds
    certain = log_probs > smallest
    inside = jnp.where(certain, smallest, log_probs)
    return jnp.where(certain, LOGIT_BOUND, jnp.clip(inside - log1mexp(inside), -LOGIT_BOUND, LOGIT_BOUND))


@log_odds.defjvp
def _log_odds_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = log_odds(primals[0])
    odds = jnp.minimum(jnp.exp(value), 1.0 / jnp.finfo(value.dtype).eps)
    return value, jnp.where(value < LOGIT_BOUND, 1.0 + odds, 0.0) * tangents[0]


@jax.custom_jvp
def log_softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return log log(1 + eˣ), which is x in the limit of small x, where log(1 + eˣ) itself underflows.

    The slope, σ(x) / log(1 + eˣ), is taken as a difference of logarithms: between 0 and 1 it never overflows.
    """
    small = x < -40.0  # log(1 + eˣ) = eˣ (1 − eˣ/2 + …): the correction is below float64's rounding there
    return jnp.where(small, x, jnp.log(jax.nn.softplus(jnp.where(small, 0.0, x))))


@log_softplus.defjvp
def _log_softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value = log_softplus(primals[0])
    return value, jnp.exp(jax.nn.log_sigmoid(primals[0]) - value) * tangents[0]


@jax.custom_jvp
def log_sigmoids(scores: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Return log σ(s) and log σ(−s), which are min(±s, 0) − log(1 + z) with z = e^−|s|, in a fifth of the usual time.

    With t = z / (2 + z) ≤ ⅓, log(1 + z) = 2 artanh t = 2 (t + t³/3 + t⁵/5 + …); eight terms for float32, 17 for
    float64.
    """
    z = jnp.exp(-jnp.abs(scores))
    t = z / (2.0 + z)
    square = jnp.square(t)
    series = jnp.zeros_like(z)
    for power in reversed(range(1, 16 if scores.dtype == jnp.float32 else 34, 2)):
        series = series * square + 2.0 / power
    return jnp.minimum(scores, 0.0) - t * series, jnp.minimum(-scores, 0.0) - t * series


@log_sigmoids.defjvp
def _log_sigmoids_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (scores,), (tangent,) = primals, tangents
    return log_sigmoids(scores), (jax.nn.sigmoid(-scores) * tangent, -jax.nn.sigmoid(scores) * tangent)


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return x in float32, or as it is when it is wider."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
