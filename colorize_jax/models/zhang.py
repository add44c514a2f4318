"""The colorizer of Zhang, Isola and Efros (ECCV 2016) up to conv7: strides in place of pools."""

import functools
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from colorize_jax.color import spaces
from colorize_jax.models import layers, norm
from colorize_jax.models.encoder import Encoder


class Block(NamedTuple):
    """Some 3x3 convolutions.

    Attributes:
        channels: of each.
        convolutions: how many.
        stride: of the last one.
        dilation: of all.
    """

    channels: int
    convolutions: int
    stride: int = 1
    dilation: int = 1


BLOCKS = (
    Block(64, 2, stride=2),
    Block(128, 2, stride=2),
    Block(256, 3, stride=2),
    Block(512, 3),
    Block(512, 3, dilation=2),
    Block(512, 3, dilation=2),
    Block(512, 3),
)
_INPUTS = {1: spaces.lightness_input, 3: spaces.channels_lightness_input}


def _strides() -> dict[str, int]:
    strides, stride = {"gray": 1}, 1
    for number, block in enumerate(BLOCKS, 1):
        for i in range(1, block.convolutions + 1):
            stride *= block.stride if i == block.convolutions else 1
            strides[f"conv{number}_{i}"] = stride
    return strides


class Zhang(Encoder):
    """Nineteen 3x3 convolutions with ReLU in seven blocks; every block ends in batch norm.

    Cell i of a map of stride s lies at pixel s i: the alignment "corner" is exact. The activation
    of a block's last convolution is that behind its batch norm, as the next block reads it.

    Batch norm is never absorbed: it comes after the ReLU, so that it belongs into the weights of
    the block above, where the zeros around a map would have to become other numbers.

    See `Encoder` for the other attributes; `norm` is "batch", the only one there is.

    Attributes:
        norm_scale: batch norm has a scale and a bias, which are learned.
    """

    norm_scale: bool = False

    SETTINGS: ClassVar = {
        # Batch norm learns a scale and a bias, as the released PyTorch weights have them. The
        # network was trained without.
        "norm_scale": False,
    }
    # Every activation from the bottom to the top, with its stride in pixels of the input.
    strides = _strides()
    hypercolumn = strides
    layers = tuple(strides)[1:]
    architecture = ("width", "norm_scale")

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        scales = [
            _scale(last)
            for last in map(_last, range(len(BLOCKS)))
            if self.norm_scale and last in self.frozen
        ]
        return (*self.frozen, *scales)

    @staticmethod
    def layer_of(group: str) -> str:
        """The layer that a group of parameters or of batch statistics belongs to."""
        return group.removesuffix("norm").removesuffix("scale")

    def top_centers(self, side: int) -> np.ndarray:
        """Where the cells of the top lie in an input of so many pixels: [cells] pixels."""
        stride = self.strides[self.top]
        return np.arange(-(-side // stride)) * float(stride)

    def network_input(self, rgb: jax.Array) -> jax.Array:
        """RGB uint8 [..., 3] -> the lightness L of Lab, as (L - 50) / 100, [..., in_channels]."""
        return _INPUTS[self.in_channels](rgb)

    @nn.compact
    def __call__(self, lightness: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Every activation, after ReLU and, at the end of a block, batch norm.

        Args:
            lightness: [batch, height, width, in_channels] from `network_input`.
            train: batch statistics.

        Returns:
            {layer: [batch, h, w, channels]}; "gray" is the input itself.

        Raises:
            ConfigError: the input has another number of channels.
        """
        layers.check_channels(lightness, self.in_channels)
        maps = {"gray": lightness.astype(self.dtype)}
        x = maps["gray"]
        for number in range(len(BLOCKS)):
            compute = functools.partial(Zhang._block, number=number, train=train)
            x, found = (nn.remat(compute) if self.remat else compute)(self, x)
            maps |= found
        return maps

    def _block(self, x, number, train):
        block, last, maps = BLOCKS[number], _last(number), {}
        for i in range(1, block.convolutions + 1):
            name = f"conv{number + 1}_{i}"
            x = layers.Conv(
                max(1, round(block.channels * self.width)),
                stride=block.stride if name == last else 1,
                padding=block.dilation,  # XLA's SAME would put the cell of a stride behind the map
                dilation=block.dilation,
                dtype=self.dtype,
                name=name,
            )(x)
            x = maps[name] = layers.relu(x)
        moving = train and last not in self.frozen
        affine = norm.Scale(name=_scale(last))(x.shape[-1]) if self.norm_scale else None
        batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"{last}norm")
        x = maps[last] = batch_norm(x, moving, affine)
        return x, maps


def _last(number: int) -> str:
    """The last convolution of a block, whose batch norm it is."""
    return f"conv{number + 1}_{BLOCKS[number].convolutions}"


def _scale(layer: str) -> str:
    return f"{layer}scale"
