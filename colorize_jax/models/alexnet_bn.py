"""AlexNet with batch norm and without groups, as in RotNet, with the channels of torchvision's."""

from typing import ClassVar

from colorize_jax.models import layers
from colorize_jax.models.alexnet import StridedAlexNet

# The channels and the side of the kernel of every convolution; each block ends in pooling.
_CONVOLUTIONS = {
    "conv1": (64, 11),
    "conv2": (192, 5),
    "conv3": (384, 3),
    "conv4": (256, 3),
    "conv5": (256, 3),
}


class AlexNetBn(StridedAlexNet):
    """Five convolutions, then fc6 and fc7 as convolutions, and learned batch norm.

    The network is that of Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by
    Predicting Image Rotations" (ICLR 2018). Their convolutions have biases, which batch norm
    cancels. After its batch norm is absorbed, it is torchvision's alexnet.

    It is not Caffe's `AlexNet`, and results of the two cannot be compared.

    See `StridedAlexNet` for the attributes. With "VALID" and "ADAPTIVE", conv1 has a padding of 2
    and the pools have none, as in RotNet. With "SAME", the size of every map is that of the input
    divided by the stride.
    """

    dropout: float = 0.0

    SETTINGS: ClassVar = StridedAlexNet.SETTINGS | {
        # The rate of dropout after fc6 and fc7: 0 in RotNet, 0.5 in torchvision's alexnet.
        "dropout": 0.0,
    }
    norm_scale = True
    conv1_padding = 2

    def _block(self, x, block, train, keep):
        maps = {}
        for name in block:
            channels, size = _CONVOLUTIONS[name]
            conv = self._conv1() if name == "conv1" else {}
            x = self._layer(x, name, channels, train, kernel_size=size, **conv)
            x, maps[name] = keep(name, x)
        return layers.overlapping_max_pool(x, self._padding), maps

    def _features(self, channels):
        return max(1, round(channels * self.width))
