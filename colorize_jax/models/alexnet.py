"""AlexNet as in the paper and its release: groups, and batch norm or local response norm."""

from typing import ClassVar

import numpy as np

from colorize_jax.models import layers
from colorize_jax.models.fc_encoder import FcEncoder

# The channels and the convolution of every layer; each block ends in pooling.
_CONVOLUTIONS = {
    "conv1": (96, {"kernel_size": 11, "stride": 4}),
    "conv2": (256, {"kernel_size": 5, "groups": 2}),
    "conv3": (384, {"kernel_size": 3}),
    "conv4": (384, {"kernel_size": 3, "groups": 2}),
    "conv5": (256, {"kernel_size": 3, "groups": 2}),
}
_STRIDES = {
    "gray": 1, "conv1": 4, "conv2": 8, "conv3": 16, "conv4": 16, "conv5": 16, "fc6": 32, "fc7": 32,
}  # fmt: skip
_BLOCKS = (("conv1",), ("conv2",), ("conv3", "conv4", "conv5"))
_NORMALIZED = ("conv1", "conv2")  # LRN, if configured, comes after these layers.


class AlexNet(FcEncoder):
    """Five convolutions, two before LRN and three before pooling; fc6 and fc7 as convolutions.

    See `FcEncoder` for the other attributes. The number of channels is even, for the two groups.
    The kernel of fc6 is 6 in the paper. A classifier takes 227 pixels and has no padding in conv1,
    the pools and fc6.

    Attributes:
        lrn: local response norm after the ReLU of conv1 and conv2, as in the released network.
    """

    fc6_kernel: int = 6
    lrn: bool = True

    # The stride of every activation in pixels of the input, from the bottom to the top.
    strides = _STRIDES
    hypercolumn = strides
    layers = tuple(strides)[1:]
    blocks = _BLOCKS
    SETTINGS: ClassVar = FcEncoder.SETTINGS | {
        "lrn": True,  # Applies local response norm after conv1 and conv2.
    }
    architecture = ("width", "fc6_kernel", "split", "lrn")

    @property
    def smallest_input(self) -> int:
        """The smallest side of the input, in pixels, for which fc6 has an output."""
        if self.fc6_padding == "SAME":
            return 1
        cells = 1 if self.fc6_padding == "ADAPTIVE" else self.fc6_kernel
        for _ in _BLOCKS:
            cells = 2 * (cells - 1) + 3
        return 4 * (cells - 1) + 11

    def top_centers(self, side: int) -> np.ndarray:
        """The centers of the top's cells in an input of this side, in pixels: [cells]."""
        if self.fc6_padding == "SAME":
            return (np.arange(-(-side // 32)) + 0.5) * 32
        if self.fc6_padding == "ADAPTIVE":
            return np.array([side / 2])
        smallest = self.smallest_input
        return np.arange((side - smallest) // 32 + 1) * 32 + smallest / 2

    def _block(self, x, block, train, keep):
        maps = {}
        for name in block:
            channels, conv = _CONVOLUTIONS[name]
            padding = self._padding if name == "conv1" else "SAME"
            x = self._layer(x, name, channels, train, padding=padding, **conv)
            x, maps[name] = keep(name, x)
            if self.lrn and name in _NORMALIZED:
                x = layers.local_response_norm(x, groups=2 if self.split else 1)
        return layers.overlapping_max_pool(x, self._padding), maps

    def _features(self, channels):
        return 2 * max(1, round(channels * self.width / 2))
