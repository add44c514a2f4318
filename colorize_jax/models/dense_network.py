"""A head that predicts on a grid twice as fine as the encoder's top, and the network with it.

It is the upper part of the colorizer of Zhang, Isola and Efros (ECCV 2016), on any encoder.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers

_CHANNELS = 256  # the channels of the three convolutions at width 1


class DenseHead(nn.Module):
    """Three convolutions with ReLU, then linear outputs.

    conv8_1 doubles height and width; conv8_2 and conv8_3 keep them.

    Attributes:
        outputs: {name: width}, for example {"bins": 313}.
        width: multiplies the channels.
        dtype: the type of the computation; parameters and outputs are float32.
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
    """Encoder -> head on its top.

    Attributes:
        encoder: an encoder with `top` and `strides`.
        head: the head, which reads the top.
    """

    encoder: nn.Module
    head: DenseHead

    @property
    def grid(self) -> int:
        """The distance of two predictions in pixels of the input: half the stride of the top."""
        return self.encoder.strides[self.encoder.top] // 2

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Outputs on the grid: {name: [batch, height / grid, width / grid, width]}.

        Args:
            image: network input [batch, height, width, channels]; height and width are multiples of
                the stride of the encoder's top.
            train: whether to use batch statistics and dropout.
        """
        return self.head(self.encoder(image, train)[self.encoder.top])

    def dense(self, image: jax.Array) -> dict[str, jax.Array]:
        """As `__call__`, not in training; called as the point network's."""
        return self(image)
