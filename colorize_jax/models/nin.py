"""Network in network for photos of 32 pixels, as RotNet trains it on CIFAR-10."""

import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from colorize_jax.models import layers, norm
from colorize_jax.models.encoder import Encoder, Keep, keep_all


class Block(NamedTuple):
    """A convolution and two of 1x1.

    Attributes:
        size: the side of the first kernel.
        channels: of the three.
        pool: what follows.
    """

    size: int
    channels: tuple[int, int, int]
    pool: str = ""


BLOCKS = (
    Block(5, (192, 160, 96), "max"),
    Block(5, (192, 192, 192), "mean"),
    Block(3, (192, 192, 192)),
    Block(3, (192, 192, 192)),
)
_POOLS = {"max": layers.overlapping_max_pool, "mean": layers.overlapping_mean_pool}


def _strides() -> dict[str, int]:
    strides, stride = {"gray": 1}, 1
    for number, block in enumerate(BLOCKS, 1):
        strides |= {f"conv{number}_{i}": stride for i in (1, 2, 3)}
        stride *= 2 if block.pool else 1
    return strides


class Nin(Encoder):
    """Four blocks of three convolutions; the first two end in a pool of 3x3 with stride 2.

    The network is that of Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by
    Predicting Image Rotations" (ICLR 2018), for CIFAR-10. Every convolution has no bias and is
    followed by batch norm with a learned scale and bias, which is kept and trained in transfer too,
    and by ReLU. The last activation of a block, such as conv2_3, is that before its pool.

    Cell i of a map of stride s lies at pixel s i: the alignment "corner" is exact.

    See `Encoder` for the attributes; `norm` is "batch", the only one there is.
    """

    # The stride of every activation in pixels of the input, from the bottom to the top.
    strides: ClassVar = _strides()

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return (*self.frozen, *(f"scale_{layer}" for layer in self.frozen))

    def top_centers(self, side: int) -> np.ndarray:
        """The centers of the top's cells in an input of this side, in pixels: [cells]."""
        stride = self.strides[self.top]
        return np.arange(-(-side // stride)) * float(stride)

    @nn.compact
    def read(self, image: jax.Array, train: bool = False, keep: Keep = keep_all) -> dict[str, Any]:
        """Every activation, after ReLU and before pooling.

        See `Encoder.read`.
        """
        layers.check_channels(image, self.in_channels)
        maps = {}
        x, maps["gray"] = keep("gray", image.astype(self.dtype))
        for number in range(len(BLOCKS)):
            compute = functools.partial(Nin._block, number=number, train=train, keep=keep)
            x, found = (nn.remat(compute) if self.remat else compute)(self, x)
            maps |= found
        return maps

    def _block(self, x, number, train, keep):
        block, maps = BLOCKS[number], {}
        for i, channels in enumerate(block.channels, 1):
            name = f"conv{number + 1}_{i}"
            features, size = max(1, round(channels * self.width)), block.size if i == 1 else 1
            x = layers.Conv(features, size, use_bias=False, dtype=self.dtype, name=name)(x)
            affine = norm.Scale(name=f"scale_{name}")(features)
            batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"batch_{name}")
            x = batch_norm(x, train and name not in self.frozen, affine, relu=True)
            x, maps[name] = keep(name, x)
        return _POOLS[block.pool](x, "BOTH") if block.pool else x, maps
