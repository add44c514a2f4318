"""VGG-16, fully convolutional, as the paper pretrains it: gray in, every activation out by name."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers, norm

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions


def _strides() -> dict[str, int]:
    strides = {"gray": 1}
    for block, (_, convolutions) in enumerate(BLOCKS):
        for i in range(convolutions):
            strides[f"conv{block + 1}_{i + 1}"] = 2**block
    return strides | {"fc6": 32, "fc7": 32}


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions in five blocks, then fc6 and fc7 as convolutions.

    Attributes:
        width: multiplies the channels of every layer.
        fc6_kernel: side of fc6's kernel; 7 in the paper, smaller for small machines.
        norm: "batch" for parameter-free batch norm after every convolution, "none" once it is
            absorbed into the weights.
        dropout: rate after fc6 and fc7, while training.
        remat: keep only the input of every block for the backward pass, and compute the rest again.
        dtype: of the computation; parameters and statistics are float32.
        axis_name: see `norm.BatchNorm`.
    """

    width: float = 1.0
    fc6_kernel: int = 7
    norm: str = "batch"
    dropout: float = 0.5
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    # Every activation in the order of the hypercolumn, with its stride in pixels of the input.
    strides = _strides()
    top = "fc7"

    @nn.compact
    def __call__(self, gray: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """[batch, height, width, 1] mean-free gray -> {layer name: [batch, h, w, channels]}.

        Activations are taken after ReLU (fc6 and fc7: after dropout) and before pooling; "gray" is
        the input itself.
        """
        maps = {"gray": gray.astype(self.dtype)}
        x = maps["gray"]
        for block in range(len(BLOCKS)):
            compute = functools.partial(Vgg16._block, block=block, train=train)
            x, found = (nn.remat(compute) if self.remat else compute)(self, x)
            maps |= found
        for name, kernel_size in (("fc6", self.fc6_kernel), ("fc7", 1)):
            x = self._layer(x, name, 4096, kernel_size, train)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"drop_{name}")(x)
            maps[name] = x
        return maps

    def _block(self, x, block, train):
        maps, (channels, convolutions) = {}, BLOCKS[block]
        for i in range(convolutions):
            name = f"conv{block + 1}_{i + 1}"
            x = maps[name] = self._layer(x, name, channels, 3, train)
        return layers.max_pool(x), maps

    def _layer(self, x, name, channels, kernel_size, train):
        normalized = self.norm == "batch"
        features = max(1, round(channels * self.width))
        x = layers.Conv(features, kernel_size, frozen_bias=normalized, dtype=self.dtype, name=name)(
            x
        )
        if normalized:
            x = norm.BatchNorm(self.axis_name, name=f"batch_{name}")(x, train)
        return nn.relu(x)
