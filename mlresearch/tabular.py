"""Numeric features and categorical columns as vectors, for encoders to read alone or together with text.

How they are fused with text: `bag` adds their vectors to the mean of the text's before its MLP; `text_transformer`
reads them as tokens, by attention; `mlp`, which reads no text, puts features and embeddings side by side.

torchTextClassifiers fuses categorical variables with text as well (`CategoricalVariableNet`). Alike: an embedding table
a column, and two of its three ways, to sum the columns' vectors into the text's (here `bag`) and to put them side by
side (here `mlp`). Different: it sums or concatenates behind the pooled text, just before the classification head, where
here layers follow that read both; it has no tokens for attention to read, and here there is no mean over columns; it
takes no numeric features; and it refuses a value that was not seen in training, which here is id 0, and trained.

Source: InseeFrLab, "torchTextClassifiers" (software), 2025; Guo and Berkhahn, "Entity Embeddings of Categorical
Variables", 2016 (a table a column); Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", 2021 (columns
as tokens of a transformer; there each numeric column is a token of its own, here all of them are one).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mlresearch.dropout import Dropout
from mlresearch.encoders import Inputs, InputSpec
from mlresearch.errors import UserError

CATEGORY_SITE = 900


class CategoryEmbedding(nnx.Module):
    """A learned vector for each id of each categorical column; column c has ``sizes[c]`` ids, 0 to ``sizes[c] − 1``.

    Id 0 stands for a value that is missing or was never seen in training. It has a row of its own, which training must
    reach also where no value is missing there: otherwise the first unseen value would read what chance put there at the
    start. So in training each id becomes 0 with probability `category_dropout`, drawn by example and column. Row 0 then
    learns what serves best where the value is not known, and the other inputs learn to do without it. Nothing is
    scaled, as nothing is lost: one vector takes another's place. An id outside of ``sizes[c]`` reads row 0 too.

    All rows are one table, those of column c after those of the columns before it, so that one gather reads them all.
    Vectors start at a length of about 1, as those of tokens do. A `category_dropout` that is not a probability below 1
    is a `UserError`.

    Source: Kiperwasser and Goldberg, "Simple and Accurate Dependency Parsing Using Bidirectional LSTM Feature
    Representations", 2016 (words become the unknown word; there rare ones more often, here all alike).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        *,
        category_dropout: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if not 0 <= category_dropout < 1:
            raise UserError(f"category_dropout is {category_dropout}; it is a probability below 1")
        init = nnx.initializers.normal(dim**-0.5)
        self.table = nnx.Param(init(rngs.params(), (sum(sizes), dim), param_dtype))
        self.sizes = tuple(sizes)
        self.dropout = Dropout(category_dropout, CATEGORY_SITE)
        self.dtype = dtype

    def __call__(
        self, categories: Int[Array, "batch columns"], dropout_keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch columns dim"]:
        """Return the vectors of `categories`, in `dtype`."""
        categories = categories.astype(jnp.int32)
        sizes = np.array(self.sizes, np.int32)
        starts = np.cumsum(sizes, dtype=np.int32) - sizes
        kept = self.dropout(jnp.ones(categories.shape), dropout_keys) > 0
        known = (categories > 0) & (categories < sizes)
        # Rows are cast after they are gathered, so that the table's gradient is summed in `param_dtype`.
        return self.table[...][starts + jnp.where(known & kept, categories, 0)].astype(self.dtype)


class FeatureGroups(nnx.Module):
    """Tokens of numeric features: of each group of columns side by side one, ``W_g x_g + b_g``.

    Groups have ⌈num_features / number⌉ columns, the last one the rest; with as many groups as features each feature is
    a token of its own. Standardised features give tokens of a length of about 1.

    Source: Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", 2021 (groups of one).
    """

    def __init__(
        self,
        num_features: int,
        number: int,
        dim: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        size = -(-num_features // number)
        shape = (-(-num_features // size), size, dim)
        self.weights = nnx.Param(nnx.initializers.normal((size * dim) ** -0.5)(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(nnx.initializers.normal(dim**-0.5)(rngs.params(), shape[::2], param_dtype))
        self.dtype = dtype

    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch groups dim"]:
        """Return the tokens, in `dtype`."""
        groups, size, _ = self.weights.shape
        padded = jnp.pad(features.astype(self.dtype), ((0, 0), (0, groups * size - features.shape[1])))
        by_group = padded.reshape(-1, groups, size)
        tokens = jnp.einsum("bgs,gsd->bgd", by_group, self.weights[...].astype(self.dtype))
        return tokens + self.bias[...].astype(self.dtype)


class TabularTokens(nnx.Module):
    """A token of width `dim` for all numeric features, ``W x + b``, then one for each categorical column.

    `spec` has features, categorical columns or both. W starts so small that standardised features give a vector of
    length about 1, as those of categories and of text tokens are: none of them outweighs the others in a sum.
    """

    def __init__(
        self,
        spec: InputSpec,
        dim: int,
        *,
        category_dropout: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.features = (
            nnx.Linear(
                spec.num_features,
                dim,
                kernel_init=nnx.initializers.variance_scaling(1 / dim, "fan_in", "normal"),
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            if spec.num_features
            else None
        )
        self.categories = (
            CategoryEmbedding(
                spec.category_sizes,
                dim,
                category_dropout=category_dropout,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            if spec.category_sizes
            else None
        )
        self.dtype = dtype

    def __call__(self, inputs: Inputs, dropout_keys: Key[Array, "batch"] | None) -> Float[Array, "batch columns dim"]:
        """Return the tokens of `inputs.features` and `inputs.categories`, in `dtype`; all of them are real."""
        tokens = []
        if self.features is not None:
            assert inputs.features is not None
            tokens.append(self.features(jnp.asarray(inputs.features, self.dtype))[:, None, :])
        if self.categories is not None:
            assert inputs.categories is not None
            tokens.append(self.categories(jnp.asarray(inputs.categories), dropout_keys))
        return jnp.concatenate(tokens, axis=1)


def prepend(
    columns: Float[Array, "batch columns dim"],
    tokens: Float[Array, "batch length dim"],
    token_mask: Bool[Array, "batch length"],
) -> tuple[Float[Array, "batch columns+length dim"], Bool[Array, "batch columns+length"]]:
    """Return tokens and their mask with `columns`, all real, before them."""
    num_columns = columns.shape[1]
    return (
        jnp.concatenate([columns, tokens], axis=1),
        jnp.pad(token_mask, ((0, 0), (num_columns, 0)), constant_values=True),
    )
