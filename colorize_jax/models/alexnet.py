"""AlexNet as in the paper and its release: groups, and batch norm or local response norm."""

from typing import ClassVar

import numpy as np

from colorize_jax.errors import ConfigError
from colorize_jax.models import layers
from colorize_jax.models.fc_encoder import FcEncoder

# The channels and the convolution of every layer; each block ends in pooling.
_CONVOLUTIONS = {
    "conv1": (96, {"kernel_size": 11}),
    "conv2": (256, {"kernel_size": 5, "groups": 2}),
    "conv3": (384, {"kernel_size": 3}),
    "conv4": (384, {"kernel_size": 3, "groups": 2}),
    "conv5": (256, {"kernel_size": 3, "groups": 2}),
}
# The stride of every activation, divided by that of conv1.
_STRIDES = {"conv1": 1, "conv2": 2, "conv3": 4, "conv4": 4, "conv5": 4, "fc6": 8, "fc7": 8}
_BLOCKS = (("conv1",), ("conv2",), ("conv3", "conv4", "conv5"))
_NORMALIZED = ("conv1", "conv2")  # LRN, if configured, comes after these layers.


class StridedAlexNet(FcEncoder):
    """What the AlexNets have in common: where the cells of their activations lie.

    See `FcEncoder` for the other attributes. The kernel of fc6 is 6, for inputs of 224 pixels.

    Attributes:
        conv1_stride: the stride of conv1: 4, or 2 to pretrain on small tiles. The parameters have
            the same shapes with both, so a transfer may have another stride.
    """

    fc6_kernel: int = 6
    conv1_stride: int = 4

    SETTINGS: ClassVar = FcEncoder.SETTINGS | {
        # The stride of conv1: 4, or 2 for small tiles. A transfer may have another one.
        "conv1_stride": 4,
    }
    architecture = ("width", "fc6_kernel", "split")
    blocks = _BLOCKS
    conv1_padding: ClassVar[int] = 0  # of conv1 without "SAME", in pixels

    @property
    def strides(self) -> dict[str, int]:
        """{activation: stride in pixels of the input}, from the bottom to the top."""
        return {"gray": 1} | {name: self.conv1_stride * times for name, times in _STRIDES.items()}

    @classmethod
    def check_settings(cls, own):
        """See `Encoder.check_settings`."""
        super().check_settings(own)
        if not 1 <= own["conv1_stride"] <= 4:
            raise ConfigError(
                f"config.model.conv1_stride={own['conv1_stride']}: give 4, or 2 for small tiles"
            )

    @property
    def smallest_input(self) -> int:
        """The smallest side of the input, in pixels, for which fc6 has an output."""
        if self.fc6_padding == "SAME":
            return 1
        cells = 1 if self.fc6_padding == "ADAPTIVE" else self.fc6_kernel
        for _ in _BLOCKS:
            cells = 2 * (cells - 1) + 3
        return self.conv1_stride * (cells - 1) + 11 - 2 * self.conv1_padding

    def top_centers(self, side: int) -> np.ndarray:
        """The centers of the top's cells in an input of this side, in pixels: [cells]."""
        stride = self.strides[self.top]
        if self.fc6_padding == "SAME":
            return (np.arange(-(-side // stride)) + 0.5) * stride
        if self.fc6_padding == "ADAPTIVE":
            return np.array([side / 2])
        smallest = self.smallest_input
        return np.arange((side - smallest) // stride + 1) * stride + smallest / 2

    def _conv1(self):
        """The stride and the padding of conv1."""
        padding = "SAME" if self.fc6_padding == "SAME" else self.conv1_padding
        return {"stride": self.conv1_stride, "padding": padding}


class AlexNet(StridedAlexNet):
    """Five convolutions, two before LRN and three before pooling; fc6 and fc7 as convolutions.

    See `StridedAlexNet` for the other attributes. The number of channels is even, for the two
    groups. A classifier takes 227 pixels and has no padding in conv1, the pools and fc6.

    Attributes:
        lrn: local response norm after the ReLU of conv1 and conv2, as in the released network.
    """

    lrn: bool = True

    SETTINGS: ClassVar = StridedAlexNet.SETTINGS | {
        "lrn": True,  # Applies local response norm after conv1 and conv2.
    }
    architecture = (*StridedAlexNet.architecture, "lrn")

    def _block(self, x, block, train, keep):
        maps = {}
        for name in block:
            channels, conv = _CONVOLUTIONS[name]
            conv = conv | self._conv1() if name == "conv1" else conv
            x = self._layer(x, name, channels, train, **conv)
            x, maps[name] = keep(name, x)
            if self.lrn and name in _NORMALIZED:
                x = layers.local_response_norm(x, groups=2 if self.split else 1)
        return layers.overlapping_max_pool(x, self._padding), maps

    def _features(self, channels):
        return 2 * max(1, round(channels * self.width / 2))
