"""An encoder of two convolutions, for tests of training and of tasks: it compiles in no time.

`config.model.name = "small_encoder:SmallEncoder"`.
"""

import flax.linen as nn

from colorize_jax.models import layers, norm
from colorize_jax.models.encoder import Encoder

NAME = "small_encoder:SmallEncoder"


class SmallEncoder(Encoder):
    """conv1 and conv2, each at half the size of what it reads."""

    strides = {"gray": 1, "conv1": 2, "conv2": 4}  # noqa: RUF012
    absorbs = True

    @nn.compact
    def __call__(self, image, train=False):
        """See `Encoder`."""
        layers.check_channels(image, self.in_channels)
        maps = {"gray": image.astype(self.dtype)}
        x = maps["gray"]
        for name in ("conv1", "conv2"):
            normalized = self.norm == "batch"
            features = max(1, round(128 * self.width))
            x = layers.Conv(
                features, stride=2, frozen_bias=normalized, dtype=self.dtype, name=name
            )(x)
            if normalized:
                moving = train and name not in self.frozen
                batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"batch_{name}")
                x = batch_norm(x, moving)
            x = maps[name] = nn.relu(x)
        return maps
