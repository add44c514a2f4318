"""AlexNet, as the paper and its release have it: groups, and batch norm or local response norm."""

from typing import ClassVar

import numpy as np

from colorize_jax.models import layers
from colorize_jax.models.fc_encoder import FcEncoder

# Channels and the convolution of every layer; blocks end in pooling.
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
_NORMALIZED = ("conv1", "conv2")  # by LRN, where it is asked for


class AlexNet(FcEncoder):
    """Five convolutions, two of them before LRN, three before pooling; fc6, fc7 as convolutions.

    See `FcEncoder` for the other attributes: channels stay even, for the two groups; fc6's kernel
    is 6 in the paper; a classifier takes 227 pixels, without padding in conv1, all pools and fc6.

    Attributes:
        lrn: local response norm after the ReLU of conv1 and conv2, as in the released network.
    """

    fc6_kernel: int = 6
    lrn: bool = True

    # Every activation from the bottom to the top, with its stride in pixels of the input.
    strides = _STRIDES
    hypercolumn = strides
    layers = tuple(strides)[1:]
    blocks = _BLOCKS
    SETTINGS: ClassVar = FcEncoder.SETTINGS | {
        "lrn": True,  # Applies local response norm after conv1 and conv2.
    }
    architecture = ("width", "fc6_kernel", "lrn")

    @property
    def smallest_input(self) -> int:
        """Pixels a side below which fc6 has no answer."""
        if self.fc6_padding == "SAME":
            return 1
        cells = self.fc6_kernel
        for _ in _BLOCKS:
            cells = 2 * (cells - 1) + 3
        return 4 * (cells - 1) + 11

    def top_centers(self, side: int) -> np.ndarray:
        """Where the cells of the top lie in an input of so many pixels: [cells] pixels."""
        if self.fc6_padding == "SAME":
            return (np.arange(-(-side // 32)) + 0.5) * 32
        smallest = self.smallest_input
        return np.arange((side - smallest) // 32 + 1) * 32 + smallest / 2

    def _block(self, x, block, train):
        maps = {}
        for name in block:
            channels, conv = _CONVOLUTIONS[name]
            padding = self.fc6_padding if name == "conv1" else "SAME"
            x = maps[name] = self._layer(x, name, channels, train, padding=padding, **conv)
            if self.lrn and name in _NORMALIZED:
                x = layers.local_response_norm(x)
        return layers.overlapping_max_pool(x, self.fc6_padding), maps

    def _features(self, channels):
        return 2 * max(1, round(channels * self.width / 2))
