"""VGG-16, fully convolutional, as the paper pretrains it; it returns every activation by name."""

import numpy as np

from colorize_jax.errors import ConfigError
from colorize_jax.models import layers
from colorize_jax.models.fc_encoder import FcEncoder

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions)


def _strides() -> dict[str, int]:
    strides = {"gray": 1}
    for block, (_, convolutions) in enumerate(BLOCKS):
        for i in range(convolutions):
            strides[f"conv{block + 1}_{i + 1}"] = 2**block
    return strides | {"fc6": 32, "fc7": 32}


class Vgg16(FcEncoder):
    """Thirteen 3x3 convolutions in five blocks, then fc6 and fc7 as convolutions.

    See `FcEncoder` for the attributes. The kernel of fc6 is 7 in the paper. A classifier takes 224
    pixels.
    """

    # The stride of every activation in pixels of the input, from the bottom to the top.
    strides = _strides()
    hypercolumn = strides
    layers = tuple(strides)[1:]
    blocks = tuple(range(len(BLOCKS)))
    architecture = ("width", "fc6_kernel", "split")

    @classmethod
    def check_settings(cls, own):
        """See `Encoder.check_settings`."""
        super().check_settings(own)
        if own["fc6_kernel"] % 2 == 0:
            raise ConfigError(f"config.model.fc6_kernel={own['fc6_kernel']} must be odd in VGG-16")

    @property
    def smallest_input(self) -> int:
        """The smallest side of the input, in pixels, for which fc6 has an output."""
        return 32 * (self.fc6_kernel - 1) + 1 if self.fc6_padding == "VALID" else 1

    def top_centers(self, side: int) -> np.ndarray:
        """The centers of the top's cells in an input of this side, in pixels: [cells]."""
        if self.fc6_padding == "ADAPTIVE":
            return np.array([side / 2])
        kernel = self.fc6_kernel if self.fc6_padding == "VALID" else 1
        return (np.arange(-(-side // 32) - kernel + 1) + kernel / 2) * 32

    def _block(self, x, block, train, keep):
        maps, (channels, convolutions) = {}, BLOCKS[block]
        for i in range(convolutions):
            name = f"conv{block + 1}_{i + 1}"
            x, maps[name] = keep(name, self._layer(x, name, channels, train))
        return layers.max_pool(x), maps

    def _features(self, channels):
        return max(1, round(channels * self.width))
