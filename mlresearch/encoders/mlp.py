"""Multi-layer perceptron over numeric features."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from mlresearch.dropout import dropout
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError, suggest

SITE = 100  # and one more a layer
ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu, "tanh": jnp.tanh}


class Encoder(nnx.Module):
    """Pooled is ``h`` after `num_layers` times ``h ← dropout(activation(W h + b))``; also the only token.

    With a linear decoder this is the network of the C-HMCNN experiments. Features are standardised, and
    missing values imputed, before they come here.

    Raises `UserError` where the data set has no features, and for an unknown activation.

    Source: Giunchiglia and Lukasiewicz, "Coherent Hierarchical Multi-Label Classification Networks", 2020.
    """

    def __init__(
        self,
        spec: InputSpec,
        *,
        dim: int = 512,
        num_layers: int = 2,
        activation: str = "relu",
        dropout: float = 0.5,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if spec.num_features is None:
            raise UserError(
                "encoder 'mlp' reads numeric features, but this data set has none (num_features is not set); "
                "choose an encoder of tokens, such as 'bag' or 'text_transformer'"
            )
        if num_layers < 1:
            raise UserError(f"encoder 'mlp' needs num_layers of at least 1, not {num_layers}")
        if activation not in ACTIVATIONS:
            raise UserError(f"encoder 'mlp' has no activation {activation!r}{suggest(activation, ACTIVATIONS)}")
        widths = [spec.num_features] + [dim] * num_layers
        self.layers = nnx.List(
            nnx.Linear(width_in, width_out, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for width_in, width_out in itertools.pairwise(widths)
        )
        self.activation = activation
        self.dim = dim
        self.dropout = dropout
        self.dtype = dtype

    def __call__(self, inputs: Inputs, dropout_keys: Key[Array, "batch"] | None) -> Encoded:
        """Encode `inputs.features`."""
        assert inputs.features is not None
        pooled = jnp.asarray(inputs.features, self.dtype)
        for number, layer in enumerate(self.layers):
            pooled = dropout(ACTIVATIONS[self.activation](layer(pooled)), self.dropout, dropout_keys, SITE + number)
        token_mask = jnp.ones((pooled.shape[0], 1), bool)
        return Encoded(tokens=pooled[:, None, :], token_mask=token_mask, pooled=pooled)
