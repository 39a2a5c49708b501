"""Label attention: learned label queries read the tokens, then one another, and score their labels."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mlresearch.attention import AttentionBlock, LayerNorm, MLPBlock
from mlresearch.dropout import Hyperparameter
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets
from mlresearch.label_states import state_of

MAX_QUERIES = 512
LAYER_SITE = 1100  # and three more a layer


class AttentionWeights(NamedTuple):
    """How much each label reads, layer by layer, the mean over heads; each adds up to 1 over what is read.

    tokens: of the encoder's tokens, the pooled vector before them. labels: of the labels.
    """

    tokens: Float[Array, "batch layers labels keys"]
    labels: Float[Array, "batch layers labels others"]


class Layer(nnx.Module):
    """One layer: queries read the context, then one another, then pass an MLP; all pre-norm with residuals.

    The context comes first: before it, every example has the same queries, with nothing to tell one another.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_ratio: int,
        dropout: float,
        site: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def attention(site: int) -> AttentionBlock:
            return AttentionBlock(
                dim,
                num_heads=num_heads,
                dropout=dropout,
                site=site,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.read_context = attention(site)
        self.read_queries = attention(site + 1)
        self.mlp = MLPBlock(
            dim,
            hidden_dim=mlp_ratio * dim,
            dropout=dropout,
            site=site + 2,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        queries: Float[Array, "#batch queries dim"],
        context: Float[Array, "batch keys dim"],
        context_mask: Bool[Array, "batch keys"],
        linked: Bool[Array, "queries queries"] | None,
        dropout_keys: Key[Array, "batch"] | None,
    ) -> Float[Array, "batch queries dim"]:
        """Return the queries one layer on; linked: which read one another, None for all."""
        mask = None if linked is None else linked[None]
        queries = self.read_context(queries, context, mask=context_mask[:, None, :], dropout_keys=dropout_keys)
        queries = self.read_queries(queries, mask=mask, dropout_keys=dropout_keys)
        return self.mlp(queries, dropout_keys=dropout_keys)

    def weights(
        self,
        queries: Float[Array, "#batch queries dim"],
        context: Float[Array, "batch keys dim"],
        context_mask: Bool[Array, "batch keys"],
        linked: Bool[Array, "queries queries"] | None,
    ) -> tuple[Float[Array, "batch queries keys"], Float[Array, "batch queries queries"]]:
        """Return how much queries read of the context and of one another."""
        mask = context_mask[:, None, :]
        of_context = self.read_context.weights(queries, context, mask=mask)
        queries = self.read_context(queries, context, mask=mask, dropout_keys=None)
        return of_context, self.read_queries.weights(queries, mask=None if linked is None else linked[None])


class GroupedScores(nnx.Module):
    """``label_scores[label, s] = weights[label, s] · queries[group(label)] + bias[label, s]``.

    Groups are contiguous ranges of labels whose sizes differ by at most one, the larger ones first: with
    ``size, larger = divmod(num_labels, num_queries)``, the first `larger` groups have ``size + 1`` labels.
    No vector a label and example is ever made: the queries of a group meet its weights in one product.
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        scores_per_label: int,
        *,
        num_queries: int,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (num_labels, scores_per_label, dim)
        self.weights = nnx.Param(nnx.initializers.normal(dim**-0.5)(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros(shape[:2], param_dtype))
        self.num_queries = num_queries
        self.dtype = dtype

    def __call__(self, queries: Float[Array, "batch queries dim"]) -> Float[Array, "batch labels scores_per_label"]:
        """Return the label scores, in `dtype`."""
        weights, bias = self.weights[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        size, larger = divmod(weights.shape[0], self.num_queries)
        split = larger * (size + 1)

        def scores(queries: Array, weights: Array, size: int) -> Array:
            grouped = weights.reshape(-1, size, *weights.shape[1:])
            by_group = jnp.einsum("bqd,qlsd->bqls", queries, grouped)
            return by_group.reshape(by_group.shape[0], -1, by_group.shape[-1])

        label_scores = scores(queries[:, larger:], weights[split:], size)
        if larger:
            first = scores(queries[:, :larger], weights[:split], size + 1)
            label_scores = jnp.concatenate([first, label_scores], axis=1)
        return label_scores + bias


class Decoder(nnx.Module):
    """The attention-based label-correlation decoder.

    `num_layers` times, learned queries read the encoder's tokens and pooled vector by cross-attention, then
    one another by self-attention, then pass an MLP of width ``mlp_ratio · query_dim``. Each query then scores
    its labels by weights of their own: ``label_scores[label] = weights[label] · query[group(label)] +
    bias[label]``.

    edges: which labels read one another: "all"; "hierarchy", children and parents; or "cooccurrence", pairs i, j of
    which one is on in a share of at least `min_cooccurrence` of the training examples that have the other. Every label
    reads itself. What is not all needs a query a label.

    label_states: each query also gets a learned vector for its label's state: unknown, known to be on, or known to be
    off. In training, half of the examples know nothing; of each other one a share drawn from 0..1 of the labels is
    known, and the loss is that of the rest (`mlresearch.label_states`). Then predictions can be conditioned on known
    labels. It needs a query a label, and a head that takes unknown labels. refinements: rounds in which a prediction's
    most certain labels, a share growing from round to round, are taken for known and the rest predicted anew; 0: one
    prediction.

    num_queries: 0 or None is one query a label, for up to 512 labels; otherwise labels form that many groups,
    and the labels of a group share a query (`GroupedScores` says which). query_dim: the decoder's own width,
    to which tokens and pooled vector are projected. The pooled vector is read as one more token that is
    always real, so that an example without tokens has something to read. Positions of tokens are the
    encoder's business: here tokens are a set.

    Memory: with Q queries, N labels of S scores, T tokens, batch B, heads H, width D and M = mlp_ratio, a training
    step keeps at most about ``B · num_layers · (3HQ(Q + T + 1) + (21 + 6M)QD + 3(T + 1)D) + 6B(T + 1)D + B · N · S``
    numbers for the gradient (what XLA fuses is not kept), and the parameters that grow with labels and queries are
    ``N · S · (D + 1) + Q · D``. Grouped, nothing grows as B · N · D or B · N².

    Raises `UserError` for more than 512 queries, for more queries than labels, for no layers, for a `query_dim` that
    `num_heads` does not divide, for edges or label states with grouped queries, and for refinements without label
    states.

    Source: Ridnik et al., "ML-Decoder: Scalable and Versatile Classification Head", 2021 (grouped queries);
    Liu et al., "Query2Label: A Simple Transformer Way to Multi-Label Classification", 2021 (label queries);
    Lanchantin et al., "General Multi-label Image Classification with Transformers", 2021 (label states).
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        scores_per_label: int,
        *,
        num_queries: int | None = 0,
        query_dim: int = 128,
        num_layers: int = 1,
        num_heads: int = 4,
        mlp_ratio: int = 2,
        dropout: float = 0.1,
        edges: Literal["all", "hierarchy", "cooccurrence"] = "all",
        min_cooccurrence: float = 0.1,
        label_states: bool = False,
        refinements: int = 0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        num_queries = num_queries or num_labels
        if num_queries > MAX_QUERIES:
            raise UserError(
                f"decoder 'label_attention' would have {num_queries} queries for {num_labels} labels, but "
                f"{MAX_QUERIES} is the most: set num_queries to a number of groups of labels that share a "
                "query each, such as 100"
            )
        if not 1 <= num_queries <= num_labels:
            raise UserError(
                f"decoder 'label_attention' cannot deal {num_labels} labels to num_queries = {num_queries} "
                f"groups; set it between 1 and {num_labels}, or to 0 for one query a label"
            )
        if num_layers < 1:
            raise UserError(f"decoder 'label_attention' needs num_layers of at least 1, not {num_layers}")
        for option, value in (("label_states", label_states), ("edges", edges != "all")):
            if value and num_queries != num_labels:
                raise UserError(
                    f"decoder.label_attention.{option} needs one query a label: set num_queries = 0, for up to "
                    f"{MAX_QUERIES} labels, or leave {option} out"
                )
        if not 0 <= min_cooccurrence <= 1:
            raise UserError(f"decoder.label_attention.min_cooccurrence is {min_cooccurrence}; it is a share, 0 to 1")
        if refinements and not label_states:
            raise UserError("decoder.label_attention.refinements needs label_states = True")

        def project() -> nnx.Linear:
            return nnx.Linear(dim, query_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        self.project_pooled, self.project_tokens = project(), project()
        self.context_norm = LayerNorm(query_dim, dtype=dtype, param_dtype=param_dtype)
        self.queries = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (num_queries, query_dim), param_dtype))
        self.states = (
            nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (3, query_dim), param_dtype))
            if label_states
            else None
        )
        # Learnt from training labels, and kept with the run as its numbers are: 1 where one label reads another.
        self.links = None if edges == "all" else Hyperparameter(jnp.ones((num_labels, num_labels), float))
        self.edges, self.min_cooccurrence = edges, min_cooccurrence
        self.label_states, self.refinements = label_states, refinements
        self.layers = nnx.List(
            Layer(
                query_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                dropout=dropout,
                site=LAYER_SITE + 3 * layer,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            for layer in range(num_layers)
        )
        self.query_norm = LayerNorm(query_dim, dtype=dtype, param_dtype=param_dtype)
        self.scores = GroupedScores(
            query_dim,
            num_labels,
            scores_per_label,
            num_queries=num_queries,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.dtype = dtype

    def begin_with(self, scores: Float[np.ndarray, "labels scores_per_label"]) -> None:
        """Set the bias."""
        self.scores.bias[...] = jnp.asarray(scores, self.scores.bias[...].dtype)

    def connect(self, hierarchy: LabelHierarchy | None, labels: LabelSets | None) -> None:
        """Tell which labels are linked: by a hierarchy, or by the label sets of the training split.

        Raises `UserError` where there is no hierarchy and there should be one.
        """
        if self.links is None:
            return
        num_labels = len(self.links[...])
        linked = np.eye(num_labels, dtype=bool)
        if self.edges == "hierarchy":
            if hierarchy is None:
                raise UserError(
                    "decoder.label_attention.edges = 'hierarchy' needs a label hierarchy; set it to 'all' or "
                    "'cooccurrence' for flat labels"
                )
            linked[hierarchy.children, hierarchy.parents] = linked[hierarchy.parents, hierarchy.children] = True
        elif labels is not None:
            linked |= cooccurring(labels, num_labels, self.min_cooccurrence)
        self.links[...] = jnp.asarray(linked, float)

    def __call__(
        self,
        encoded: Encoded,
        dropout_keys: Key[Array, "batch"] | None,
        known: Float[Array, "batch labels"] | None = None,
    ) -> Float[Array, "batch labels scores_per_label"]:
        """Return the label scores, in `dtype`; known: labels with NaN for unknown, of a decoder with label states."""
        *_, (queries, _, _) = self._walk(encoded, dropout_keys, known)
        return self.scores(self.query_norm(queries))

    def weights(self, encoded: Encoded, known: Float[Array, "batch labels"] | None = None) -> AttentionWeights:
        """Return how much each label reads of what."""
        *before, _ = self._walk(encoded, None, known)
        read = [
            layer.weights(queries, context, context_mask, self._linked)
            for layer, (queries, context, context_mask) in zip(self.layers, before, strict=True)
        ]
        return AttentionWeights(*(jnp.stack(of_layers, axis=1) for of_layers in zip(*read, strict=True)))

    def _walk(
        self, encoded: Encoded, dropout_keys: Key[Array, "batch"] | None, known: Float[Array, "batch labels"] | None
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Yield queries before every layer and after the last, with what they read."""
        pooled = self.project_pooled(encoded.pooled)[:, None, :]
        context = self.context_norm(jnp.concatenate([pooled, self.project_tokens(encoded.tokens)], axis=1))
        # The pooled vector leads and is always real.
        context_mask = jnp.pad(encoded.token_mask, ((0, 0), (1, 0)), constant_values=True)
        queries = self.queries[...].astype(self.dtype)[None]
        if self.states is not None:
            states = jnp.zeros((1, queries.shape[1]), jnp.int32) if known is None else state_of(known)
            queries = queries + self.states[...].astype(self.dtype)[states]
        yield queries, context, context_mask
        for layer in self.layers:
            queries = layer(queries, context, context_mask, self._linked, dropout_keys)
            yield queries, context, context_mask

    @property
    def _linked(self) -> Bool[Array, "queries queries"] | None:
        return None if self.links is None else self.links[...] > 0


def cooccurring(labels: LabelSets, num_labels: int, share: float) -> Bool[np.ndarray, "labels labels"]:
    """Return which pairs of labels occur together in at least a share of the examples that have one of them."""
    on = labels.sparse(num_labels)
    together = (on.T @ on).toarray()
    counts = np.maximum(together.diagonal(), 1)
    linked = together / counts >= share
    return linked | linked.T
