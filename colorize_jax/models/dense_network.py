"""A head that answers at every place of a grid twice as fine as the encoder's top, and its network.

It is the upper part of the colorizer of Zhang, Isola and Efros (ECCV 2016), on any encoder.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers

_CHANNELS = 256  # of the three convolutions, at width 1


class DenseHead(nn.Module):
    """conv8_1, which doubles height and width, conv8_2 and conv8_3, all with ReLU; then one linear
    output each.

    Attributes:
        outputs: {name: width}, for example {"bins": 313}.
        width: multiplies the channels.
        dtype: of the computation; parameters are float32 and so are the outputs.
    """

    outputs: Mapping[str, int]
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32

    def setup(self):  # noqa: D102 (Linen's)
        channels = max(1, round(_CHANNELS * self.width))
        self.conv8_1 = layers.DoublingConv(channels, self.dtype)
        self.conv8_2 = layers.Conv(channels, padding=1, dtype=self.dtype)
        self.conv8_3 = layers.Conv(channels, padding=1, dtype=self.dtype)
        self.output_layers = {
            name: nn.Dense(width, kernel_init=layers.caffe_xavier, dtype=self.dtype, name=name)
            for name, width in self.outputs.items()
        }

    def __call__(self, top: jax.Array) -> dict[str, jax.Array]:
        """[batch, h, w, channels] -> {name: [batch, 2 h, 2 w, width]} in float32."""
        for conv in (self.conv8_1, self.conv8_2, self.conv8_3):
            top = nn.relu(conv(top))
        return {name: layer(top).astype(jnp.float32) for name, layer in self.output_layers.items()}


class DenseNetwork(nn.Module):
    """Encoder -> head that reads its top.

    Attributes:
        encoder: an encoder, with the name of its `top` and `strides`.
        head: reads the top.
    """

    encoder: nn.Module
    head: DenseHead

    @property
    def grid(self) -> int:
        """Pixels of the input from one answer to the next: half the stride of the top."""
        return self.encoder.strides[self.encoder.top] // 2

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Outputs on the grid: {name: [batch, height / grid, width / grid, width]}.

        Args:
            image: [batch, height, width, channels] network input, whose sides the stride of the
                encoder's top divides.
            train: batch statistics and dropout.
        """
        return self.head(self.encoder(image, train)[self.encoder.top])

    def dense(self, image: jax.Array) -> dict[str, jax.Array]:
        """As `__call__`, not in training; called as the point network's."""
        return self(image)
