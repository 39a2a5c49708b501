"""Multi-layer perceptron over numeric features and categorical columns."""

import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from mlresearch.dropout import Dropout, Noise
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError
from mlresearch.tabular import CategoryEmbedding, FeatureGroups

DROPPED_SITE = 98
NOISE_SITE = 99
SITE = 100  # and one more a layer
Activation = Literal["gelu", "relu", "tanh"]
ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}


class Encoder(nnx.Module):
    """Pooled is ``h`` after `num_layers` times ``h ← dropout(activation(W h + b))``; also the only token.

    At first h is the numeric features and, beside them, an embedding of width `category_dim` of each categorical column
    (`mlresearch.tabular.CategoryEmbedding`, where `category_dropout` is the probability that training takes a category
    for an unknown one). Either alone will do. Features are scaled, and missing values imputed, before they come
    here. With a linear decoder, and on features alone, this is the network of the C-HMCNN experiments.

    feature_noise: standard deviation of normal noise that training adds to each feature; feature_dropout: the
    probability that training then takes a feature for 0, which is its mean if it is standardised. Words that are there
    or not want the second.

    feature_tokens: for a decoder that reads tokens. Each of about so many groups of numeric features side by side is a
    token (`mlresearch.tabular.FeatureGroups`), followed by one a categorical column; 0: pooled is the only token.

    Raises `UserError` where the data set has neither features nor categorical columns, where it has text, which would
    not be read but for linear scores of it, and for no layers.

    Source: Giunchiglia and Lukasiewicz, "Coherent Hierarchical Multi-Label Classification Networks", 2020.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        dim: int = 512,
        num_layers: int = 2,
        activation: Activation = "relu",
        dropout: float = 0.5,
        feature_noise: float = 0.0,
        feature_dropout: float = 0.0,
        category_dim: int = 16,
        category_dropout: float = 0.05,
        feature_tokens: int = 0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if spec.vocab_size is not None and not spec.num_linear_scores:
            raise UserError(
                "encoder 'mlp' reads numeric features and categories alone and would ignore this data set's text; "
                "choose an encoder that reads text, 'bag' or 'text_transformer', leave the text column out, or give "
                "linear scores of it (config.linear_scores.classifier)"
            )
        if not spec.has_columns:
            raise UserError(
                "encoder 'mlp' reads numeric features and categories, but this data set has neither (num_features and "
                "category_sizes are not set); give it a column to read"
            )
        if num_layers < 1:
            raise UserError(f"encoder 'mlp' needs num_layers of at least 1, not {num_layers}")
        if feature_noise < 0:
            raise UserError(f"encoder 'mlp' adds noise of a standard deviation, feature_noise, not of {feature_noise}")
        self.categories = (
            CategoryEmbedding(
                spec.category_sizes,
                category_dim,
                category_dropout=category_dropout,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
            if spec.category_sizes
            else None
        )
        width = (spec.num_features or 0) + len(spec.category_sizes) * category_dim
        widths = [width] + [dim] * num_layers
        self.layers = nnx.List(
            nnx.Linear(width_in, width_out, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for width_in, width_out in itertools.pairwise(widths)
        )
        self.reads_features = bool(spec.num_features)
        self.feature_noise = Noise(feature_noise, NOISE_SITE)
        self.feature_dropout = Dropout(feature_dropout, DROPPED_SITE)
        self.feature_tokens = (
            FeatureGroups(spec.num_features, feature_tokens, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            if feature_tokens and spec.num_features
            else None
        )
        self.category_tokens = (
            nnx.Linear(category_dim, dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            if feature_tokens and spec.category_sizes
            else None
        )
        self.activation = activation
        self.dim = dim
        self.dropouts = nnx.List(Dropout(dropout, SITE + number) for number in range(num_layers))
        self.dtype = dtype

    def __call__(self, inputs: Inputs, dropout_keys: Key[Array, "batch"] | None) -> Encoded:
        """Encode `inputs.features` and `inputs.categories`."""
        columns, tokens = [], []
        if self.reads_features:
            assert inputs.features is not None
            features = self.feature_noise(jnp.asarray(inputs.features, self.dtype), dropout_keys)
            columns.append(self.feature_dropout(features, dropout_keys))
            if self.feature_tokens is not None:
                tokens.append(self.feature_tokens(columns[0]))
        if self.categories is not None:
            assert inputs.categories is not None
            embedded = self.categories(jnp.asarray(inputs.categories), dropout_keys)
            columns.append(embedded.reshape(embedded.shape[0], -1))
            if self.category_tokens is not None:
                tokens.append(self.category_tokens(embedded))
        pooled = jnp.concatenate(columns, axis=-1)
        for layer, drop in zip(self.layers, self.dropouts, strict=True):
            pooled = drop(ACTIVATIONS[self.activation](layer(pooled)), dropout_keys)
        all_tokens = jnp.concatenate(tokens or [pooled[:, None, :]], axis=1)
        return Encoded(tokens=all_tokens, token_mask=jnp.ones(all_tokens.shape[:2], bool), pooled=pooled)
