"""An encoder of three convolutions, for tests of training and of tasks: it compiles in no time.

`config.model.name = "small_encoder:SmallEncoder"`.
"""

from typing import ClassVar

import flax.linen as nn

from colorize_jax.color import spaces
from colorize_jax.models import layers, norm
from colorize_jax.models.encoder import Encoder

NAME = "small_encoder:SmallEncoder"


class SmallEncoder(Encoder):
    """conv1, conv2 and conv3, the first two at half the size of what they read, with batch norm
    that can be absorbed. conv2 is drawn anew at every step where it is dropped, as fc6 of VGG is.

    Attributes:
        dropout: the rate of dropout after conv2.
        split: as in `FcEncoder`.
    """

    dropout: float = 0.2
    split: bool = False

    SETTINGS: ClassVar = {
        "dropout": 0.2,  # the rate of dropout after conv2
        "split": False,  # two halves, one of which sees L and the other a and b
    }
    architecture: ClassVar = ("width", "split")
    strides: ClassVar = {"gray": 1, "conv1": 2, "conv2": 4, "conv3": 4}
    absorbs = True

    def network_input(self, rgb):
        """See `Encoder`."""
        return spaces.lab_input(rgb) if self.split else super().network_input(rgb)

    @nn.compact
    def __call__(self, image, train=False):
        """See `Encoder`."""
        layers.check_channels(image, self.in_channels)
        maps = {"gray": image.astype(self.dtype)}
        x = layers.in_halves(maps["gray"]) if self.split else maps["gray"]
        for name, stride in (("conv1", 2), ("conv2", 2), ("conv3", 1)):
            normalized = self.norm == "batch"
            features = max(1, round(128 * self.width))
            conv = layers.Conv(
                features, stride=stride, frozen_bias=normalized, dtype=self.dtype, name=name,
                groups=2 if self.split else 1,
            )  # fmt: skip
            x = conv(x)
            if normalized:
                moving = train and name not in self.frozen
                batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"batch_{name}")
                x = batch_norm(x, moving)
            x = nn.relu(x)
            if name == "conv2":
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            maps[name] = x
        return maps
