"""Heads: one with a hidden layer for hypercolumns, and a linear one for classes."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import hypercolumn, layers

# The standard deviation of the hidden layer's initial weights, from the released training file.
HIDDEN_STD = 1e-4


class Head(nn.Module):
    """Columns -> hidden layer (ReLU, dropout) -> linear outputs, all from the same hidden units.

    Attributes:
        outputs: {name: width}, for example {"hue": 32, "chroma": 32}.
        hidden: the number of hidden units.
        dropout: the rate of dropout after the hidden layer in training.
        output_init: the initializer of the outputs' kernels.
        dtype: the type of the computation; parameters and outputs are float32.
    """

    outputs: Mapping[str, int]
    hidden: int = 1024
    dropout: float = 0.5
    output_init: Callable = layers.caffe_xavier
    dtype: jnp.dtype = jnp.float32

    def setup(self):  # noqa: D102 (Linen's)
        self.hidden_layer = nn.Dense(
            self.hidden,
            kernel_init=nn.initializers.normal(HIDDEN_STD),
            dtype=self.dtype,
            dot_general=lambda x, kernel, *_, **__: layers.wide_product(x, kernel),
            name="hidden",
        )
        self.drop = nn.Dropout(self.dropout)
        self.output_layers = {
            name: nn.Dense(width, kernel_init=self.output_init, dtype=self.dtype, name=name)
            for name, width in self.outputs.items()
        }

    def __call__(self, columns: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """[..., channels] -> {name: [..., width]} in float32."""
        return self.read_out(self.hidden_units(columns, train))

    def hidden_units(self, columns: jax.Array, train: bool = False) -> jax.Array:
        """[..., channels] -> [..., hidden], after ReLU and dropout."""
        return self.drop(nn.relu(self.hidden_layer(columns)), deterministic=not train)

    def read_out(self, hidden: jax.Array) -> dict[str, jax.Array]:
        """[..., hidden] -> {name: [..., width]} in float32."""
        return {
            name: layer(hidden).astype(jnp.float32) for name, layer in self.output_layers.items()
        }

    def dense(
        self, maps: Mapping[str, jax.Array], strides: Mapping[str, int], alignment: str
    ) -> dict[str, jax.Array]:
        """Outputs on the grid of every fourth pixel: {name: [batch, h / 4, w / 4, width]}."""
        weights = self.hidden_layer.variables["params"]
        hidden = hypercolumn.dense_projection(maps, strides, weights["kernel"], alignment=alignment)
        return self.read_out(nn.relu(hidden + weights["bias"].astype(hidden.dtype)))


class LinearHead(nn.Module):
    """One linear output, "classes".

    Attributes:
        classes: the width of the output.
        dtype: the type of the computation; parameters and outputs are float32.
    """

    classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """[..., channels] -> [..., classes] in float32."""
        linear = nn.Dense(
            self.classes, kernel_init=layers.he_truncated, dtype=self.dtype, name="classes"
        )
        return linear(features).astype(jnp.float32)
