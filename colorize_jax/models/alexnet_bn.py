"""AlexNet with batch norm and without groups, as in RotNet, with the channels of torchvision's."""

from typing import ClassVar

import numpy as np

from colorize_jax.errors import ConfigError
from colorize_jax.models import layers
from colorize_jax.models.fc_encoder import FcEncoder

# The channels and the side of the kernel of every convolution; each block ends in pooling.
_CONVOLUTIONS = {
    "conv1": (64, 11),
    "conv2": (192, 5),
    "conv3": (384, 3),
    "conv4": (256, 3),
    "conv5": (256, 3),
}
_BLOCKS = (("conv1",), ("conv2",), ("conv3", "conv4", "conv5"))
# The stride of every activation, divided by that of conv1.
_STRIDES = {"conv1": 1, "conv2": 2, "conv3": 4, "conv4": 4, "conv5": 4, "fc6": 8, "fc7": 8}
_CONV1_PADDING = 2


class AlexNetBn(FcEncoder):
    """Five convolutions, then fc6 and fc7 as convolutions, and learned batch norm.

    The network is that of Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by
    Predicting Image Rotations" (ICLR 2018). Their convolutions have biases, which batch norm
    cancels. After its batch norm is absorbed, it is torchvision's alexnet.

    It is not Caffe's `AlexNet`, and results of the two cannot be compared.

    See `FcEncoder` for the other attributes. The kernel of fc6 is 6, for inputs of 224 pixels. With
    "VALID" and "ADAPTIVE", conv1 has a padding of 2 and the pools have none, as in RotNet. With
    "SAME", the size of every map is that of the input divided by the stride.

    Attributes:
        conv1_stride: the stride of conv1: 4, or 2 to pretrain on small tiles. The parameters have
            the same shapes with both, so a transfer may have another stride.
    """

    fc6_kernel: int = 6
    dropout: float = 0.0
    conv1_stride: int = 4

    SETTINGS: ClassVar = FcEncoder.SETTINGS | {
        # The stride of conv1: 4, or 2 for small tiles. A transfer may have another one.
        "conv1_stride": 4,
        # The rate of dropout after fc6 and fc7: 0 in RotNet, 0.5 in torchvision's alexnet.
        "dropout": 0.0,
    }
    architecture = ("width", "fc6_kernel", "split")
    norm_scale = True
    blocks = _BLOCKS

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
        if not 0 <= own["dropout"] < 1:
            raise ConfigError(
                f"config.model.dropout={own['dropout']}: give a number from 0 to below 1"
            )

    @property
    def smallest_input(self) -> int:
        """The smallest side of the input, in pixels, for which fc6 has an output."""
        if self.fc6_padding == "SAME":
            return 1
        cells = 1 if self.fc6_padding == "ADAPTIVE" else self.fc6_kernel
        for _ in _BLOCKS:
            cells = 2 * (cells - 1) + 3
        return self.conv1_stride * (cells - 1) + 11 - 2 * _CONV1_PADDING

    def top_centers(self, side: int) -> np.ndarray:
        """The centers of the top's cells in an input of this side, in pixels: [cells]."""
        stride = self.strides[self.top]
        if self.fc6_padding == "SAME":
            return (np.arange(-(-side // stride)) + 0.5) * stride
        if self.fc6_padding == "ADAPTIVE":
            return np.array([side / 2])
        smallest = self.smallest_input
        return np.arange((side - smallest) // stride + 1) * stride + smallest / 2

    def _block(self, x, block, train, keep):
        maps, first = {}, {"stride": self.conv1_stride, "padding": _CONV1_PADDING}
        if self.fc6_padding == "SAME":
            first["padding"] = "SAME"
        for name in block:
            channels, size = _CONVOLUTIONS[name]
            conv = first if name == "conv1" else {}
            x = self._layer(x, name, channels, train, kernel_size=size, **conv)
            x, maps[name] = keep(name, x)
        return layers.overlapping_max_pool(x, self._padding), maps

    def _features(self, channels):
        return max(1, round(channels * self.width))
