"""Two blocks on top of an encoder that widen the field of view of what reads them."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers


class FieldOfView(nn.Module):
    """Twice 2x2 max pooling and a 3x3 convolution with ReLU, new at the start of a transfer.

    Attributes:
        width: multiplies the 1024 channels of each block.
        dtype: of the computation; parameters are float32.
    """

    width: float = 1.0
    dtype: jnp.dtype = jnp.float32

    # In the order of the hypercolumn, in pixels of the input, on an encoder of stride 32.
    strides: ClassVar[dict[str, int]] = {"conv8_1": 64, "conv9_1": 128}

    @nn.compact
    def __call__(self, top: jax.Array) -> dict[str, jax.Array]:
        """[batch, h, w, channels] of the encoder's top -> {layer: [batch, h', w', features]}.

        Each block halves height and width, rounded up.
        """
        maps, x = {}, top
        for name in self.strides:
            conv = layers.Conv(
                max(1, round(1024 * self.width)),
                kernel_init=layers.he_truncated,
                dtype=self.dtype,
                name=name,
            )
            x = maps[name] = nn.relu(conv(layers.max_pool(x)))
        return maps
