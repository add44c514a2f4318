"""Two blocks on top of an encoder, which widen the field of view of the head."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers


class FieldOfView(nn.Module):
    """Two blocks of 2x2 max pooling and a 3x3 convolution with ReLU; a transfer starts them anew.

    Attributes:
        width: multiplies the 1024 channels of each block.
        dtype: the type of the computation; parameters are float32.
        below: the stride of the encoder's top, in pixels of the input.
    """

    width: float = 1.0
    dtype: jnp.dtype = jnp.float32
    below: int = 32

    @property
    def strides(self) -> dict[str, int]:
        """The strides in pixels of the input, in the order of the hypercolumn."""
        return {"conv8_1": 2 * self.below, "conv9_1": 4 * self.below}

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
