"""A decoder from a coarse map to pixels: a layer that links positions, then upsampling layers."""

from collections.abc import Callable
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers
from colorize_jax.models.norm import DECAY, BatchNorm

# The slope of the leaky ReLU. The papers use ReLU, whose units can die without batch norm.
SLOPE = 0.2


class Links(nn.Module):
    """A fully connected layer within every channel of a map, then a 1x1 convolution.

    All positions are connected, with h^2 w^2 weights for each channel. Connecting the channels as
    well would take many more (Pathak et al., "Context Encoders", CVPR 2016, section 3.1).

    Attributes:
        dtype: the type of the computation; parameters are float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, h, w, channels] -> the same shape."""
        batch, height, width, channels = x.shape
        cells = height * width
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        kernel = self.param("kernel", init, (channels, cells, cells)).astype(self.dtype)
        flat = x.astype(self.dtype).reshape(batch, cells, channels)
        linked = jnp.einsum("bic,cio->boc", flat, kernel).reshape(x.shape)
        mixed = layers.Conv(channels, 1, dtype=self.dtype, name="mix")(linked)
        return nn.leaky_relu(mixed, SLOPE)


class Decoder(nn.Module):
    """A coarse map -> links -> 4x4 transposed convolutions of stride 2 -> values of every pixel.

    Each convolution doubles height and width and has half of the channels of the previous one, with
    batch norm and leaky ReLU, until the map is at least as large as the result. The last layer is
    linear. A larger map is resized to the result.

    Attributes:
        outputs: the number of values of a pixel.
        side: the side of the result in pixels.
        features: the channels of the first transposed convolution.
        norm: "batch" or "none".
        norm_decay, axis_name: see `BatchNorm`.
        dtype: the type of the computation; parameters and outputs are float32.
        out_init: the start of the last layer.
    """

    outputs: int
    side: int
    features: int = 256
    norm: str = "batch"
    norm_decay: float = DECAY
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    out_init: Callable = layers.caffe_xavier

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, h, w, channels] -> [batch, side, side, outputs] in float32."""
        x = Links(self.dtype, name="links")(x)
        steps = max(0, math.ceil(math.log2(self.side / min(x.shape[1:3]))))
        for i in range(steps):
            channels = max(32, self.features >> i)
            x = layers.DoublingConv(channels, self.dtype, name=f"deconv{i + 1}")(x)
            if self.norm == "batch":
                batch_norm = BatchNorm(self.norm_decay, self.axis_name, name=f"batch{i + 1}")
                x = batch_norm(x, train)
            x = nn.leaky_relu(x, SLOPE)
        out = layers.Conv(self.outputs, dtype=self.dtype, kernel_init=self.out_init, name="out")
        x = out(x).astype(jnp.float32)
        if x.shape[1:3] == (self.side, self.side):
            return x
        return jax.image.resize(x, (len(x), self.side, self.side, self.outputs), "linear")


def decoder_of(encoder, outputs: int, side: int, features: int) -> Decoder:
    """A decoder with the same batch norm and type as the encoder."""
    return Decoder(
        outputs, side, features, encoder.norm, encoder.norm_decay, encoder.axis_name, encoder.dtype
    )
