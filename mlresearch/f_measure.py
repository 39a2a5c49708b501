"""The label set of the largest expected example-F1.

For a prediction of k labels the expectation of F1 = 2 |y ∩ h| / (|y| + k) is a sum over them of gains

    gᵢ(k) = E[2 yᵢ / (|y| + k)],

so that the k labels of the largest gains are the best prediction of k labels, and one k is best of all.

Source: Dembczyński, Waegeman, Cheng and Hüllermeier, "An Exact Algorithm for F-Measure Maximization", 2011.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int

from mlresearch.heads import LabelDistribution
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.propagation import settle

NUM_SAMPLES = 256
"""Label sets drawn of each example where a distribution has no exact gains."""

CELLS = 1 << 24
"""Gains held at once: examples are taken in parts."""


def largest_expected_f1(dist: LabelDistribution, most: int, *, of_empty: float = 1.0) -> Bool[Array, "batch labels"]:
    """Return for each example the set of at most `most` labels with the largest expected F1.

    of_empty: the F1 of two empty sets. Of equally good sets the smallest. With coherent marginals, so is the set. See
    `f1_gains` for what is exact. Memory: `CELLS` numbers, and at least labels × most.
    """
    batch, num_labels = dist.log_marginals.shape
    most = min(most, num_labels)
    at_once = max(CELLS // (num_labels * most), 1)

    def choose(rows: Int[Array, "rows"]) -> Bool[Array, "rows labels"]:
        some = dist.take(rows)
        empty = jnp.exp(_normalised(some).log_prob(jnp.zeros((len(rows), num_labels), bool)))
        order = None if dist.index is None else dist.index.parents_first
        return best_of_gains(f1_gains(some, most), of_empty * empty, order)

    if batch <= at_once:
        return choose(jnp.arange(batch))
    count = math.ceil(batch / at_once)
    parts = jnp.minimum(jnp.arange(count * at_once), batch - 1).reshape(count, at_once)
    return jax.lax.map(choose, parts).reshape(-1, num_labels)[:batch]


def f1_gains(dist: LabelDistribution, most: int) -> Float[Array, "batch labels most"]:
    """Return E[2 yᵢ / (|y| + k)] of every label i and k = 1, …, `most`.

    Since 1 / s = ∫ t^(s − 1) dt over 0 ≤ t ≤ 1, a gain is 2 ∫ E[yᵢ t^|y|] t^(k − 1) dt, and that expectation is of the
    distribution tilted by log t for every label: exact, to rounding, for all that are `tiltable`. Of others a gain is
    the mean over `NUM_SAMPLES` label sets, drawn with the same random numbers for every example. A head without a joint
    distribution is taken for independent labels with its marginals. With coherent marginals, so are gains, bit for bit.
    """
    joint = _normalised(dist)
    gains = _by_quadrature(joint, most) if joint.tiltable else _mean_over_samples(joint, most)
    if dist.index is None:
        return gains
    batch, num_labels, _ = gains.shape
    settled = settle(gains.swapaxes(0, 1).reshape(num_labels, -1), dist.index)
    return settled.reshape(num_labels, batch, most).swapaxes(0, 1)


def _by_quadrature(dist: LabelDistribution, most: int) -> Float[Array, "batch labels most"]:
    log_marginals = dist.log_marginals
    shape, dtype = log_marginals.shape, log_marginals.dtype
    nodes, weights = quadrature(shape[1] + most - 1)

    def add(
        gains: Float[Array, "batch labels most"], node: tuple[Float[Array, ""], Float[Array, "most"]]
    ) -> tuple[Float[Array, "batch labels most"], None]:
        log_node, weights = node
        tilted, log_normaliser = dist.tilt(jnp.broadcast_to(log_node, shape))
        moment = jnp.exp(log_normaliser[:, None] + tilted.log_marginals)
        return gains + moment[..., None] * weights, None

    by_size = 2 * weights[:, None] * nodes[:, None] ** np.arange(most)
    steps = jnp.asarray(np.log(nodes), dtype), jnp.asarray(by_size, dtype)
    return jax.lax.scan(add, jnp.zeros((*shape, most), dtype), steps)[0]


def quadrature(degree: int) -> tuple[Float64[np.ndarray, "nodes"], Float64[np.ndarray, "nodes"]]:
    """Return nodes and weights that integrate polynomials of that degree with positive coefficients from 0 to 1.

    Gauss–Legendre with n nodes is exact to degree 2n − 1; and tᵈ has a relative error below 2·10⁻⁸ for all d ≤ n² / 5,
    where float32 rounds.
    """
    count = min(math.ceil((degree + 1) / 2), math.ceil(math.sqrt(5 * degree)) + 4)
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def best_of_gains(
    gains: Float[Array, "batch labels most"], empty: Float[Array, "batch"], order: Int[Array, "labels"] | None = None
) -> Bool[Array, "batch labels"]:
    """Return the set of the largest expected F1 by the gains of labels.

    empty: the expected F1 of the empty set. order: of labels, those first that win ties; None for theirs.
    """
    batch, num_labels, most = gains.shape
    ordered = gains if order is None else gains[:, order]
    values, places = jax.lax.top_k(ordered.swapaxes(1, 2), most)  # of each size the `most` labels of largest gain
    within = jnp.tri(most, dtype=bool)  # of size k the first k
    expected = jnp.where(within, values, 0.0).sum(-1)
    size = jnp.concatenate([empty[:, None], expected], axis=1).argmax(1)
    chosen = jnp.take_along_axis(places, jnp.maximum(size - 1, 0)[:, None, None], axis=1)[:, 0]
    labels = chosen if order is None else order[chosen]
    kept = jnp.where(jnp.arange(most) < size[:, None], labels, num_labels)
    return jnp.zeros((batch, num_labels), bool).at[jnp.arange(batch)[:, None], kept].set(True, mode="drop")


def _normalised(dist: LabelDistribution) -> LabelDistribution:
    return dist if dist.normalised else ProductOfBernoullis(dist.logits)


def _mean_over_samples(dist: LabelDistribution, most: int) -> Float[Array, "batch labels most"]:
    batch, num_labels = dist.log_marginals.shape

    def gains(row: Int[Array, ""]) -> Float[Array, "labels most"]:
        one = dist.take(row[None])
        labels = one.sample(jax.random.key(0), NUM_SAMPLES)[:, 0].astype(one.log_marginals.dtype)
        sizes = labels.sum(1, keepdims=True) + jnp.arange(1, most + 1, dtype=labels.dtype)
        return jnp.einsum("nl,nk->lk", labels, 2 / sizes, precision="highest") / NUM_SAMPLES

    at_once = max(CELLS // (16 * NUM_SAMPLES * num_labels), 1)  # drawing takes several times the space of the sets
    return jax.lax.map(gains, jnp.arange(batch), batch_size=min(at_once, batch))
