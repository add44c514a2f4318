"""The base of VGG-16 and the AlexNets: blocks of convolutions, then fc6 and fc7 as convolutions."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax

from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import layers, norm
from colorize_jax.models.encoder import Encoder, Keep, check_known, keep_all


class FcEncoder(Encoder):
    """Blocks of a subclass, then fc6 and fc7. A subclass says what `strides` it has, and defines

        blocks: a tuple, for which `_block(x, block, train, keep)` gives the input of the next
            block and {layer: what is kept of it}; it makes its layers by `_layer`.
        _features(channels): how many channels there are of so many at width 1.

    See `Encoder` for the other attributes. Batch norm can be absorbed.
    Dropout acts in frozen layers too.

    Attributes:
        fc6_kernel: the side of fc6's kernel; small machines take a smaller one than the paper's.
        fc6_padding: "SAME", or "VALID" for a classifier, which has one output for a crop of the
            network's own size. Cells then begin inside the input, which `strides` and hypercolumns
            do not support. "ADAPTIVE" is like "VALID", but the map below fc6 is averaged to as many
            cells as fc6's kernel has. There is then one output for an input of any size.
        dropout: the rate of dropout after fc6 and fc7 in training.
        split: the network is two halves that share nothing. It reads Lab, of which the first half
            of the channels of every layer sees L and the second half sees a and b.
    """

    fc6_kernel: int = 7
    fc6_padding: str = "SAME"
    dropout: float = 0.5
    split: bool = False

    SETTINGS: ClassVar = {
        # The side of fc6's kernel. 0 takes the network's own: 7 in VGG-16, 6 in AlexNet.
        "fc6_kernel": 0,
        # "SAME" for an answer everywhere; "VALID" for one answer for a crop of 224, as a classifier
        # (AlexNet: 227, and conv1 and the pools have no padding either); "ADAPTIVE" for one answer
        # for a crop of any size, whose last map is averaged to as many cells as fc6's kernel has.
        "fc6_padding": "SAME",
        # The rate of dropout after fc6 and fc7 in training. Without it, short runs learn faster.
        "dropout": 0.5,
        # Splits the network into two halves that share nothing: one sees the lightness L of a color
        # photo (config.model.in_channels=3), the other one its a and b. For split_brain.
        "split": False,
    }
    absorbs = True
    layer_norm = True
    norm_scale: ClassVar[bool] = False  # Whether a norm learns a scale and a bias.

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return (*self.frozen, *(f"scale_{layer}" for layer in self.frozen if self.norm_scale))

    @classmethod
    def check_settings(cls, own):
        """See `Encoder.check_settings`."""
        check_known("fc6_padding", own["fc6_padding"], ("SAME", "VALID", "ADAPTIVE"))
        if own["fc6_kernel"] < 1:
            raise ConfigError(f"config.model.fc6_kernel={own['fc6_kernel']} must be positive")
        if not 0 <= own["dropout"] < 1:
            raise ConfigError(
                f"config.model.dropout={own['dropout']}: give a number from 0 to below 1"
            )

    def network_input(self, rgb: jax.Array) -> jax.Array:
        """See `Encoder.network_input`; a network in halves reads `spaces.lab_input`."""
        return spaces.lab_input(rgb) if self.split else super().network_input(rgb)

    @nn.compact
    def read(self, image: jax.Array, train: bool = False, keep: Keep = keep_all) -> dict[str, Any]:
        """Every activation, after ReLU (fc6 and fc7: after dropout), before LRN and pooling.

        See `Encoder.read`.
        """
        layers.check_channels(image, self.in_channels)
        maps = {}
        x, maps["gray"] = keep("gray", image.astype(self.dtype))
        x = layers.in_halves(x) if self.split else x
        for block in self.blocks:
            compute = functools.partial(type(self)._block, block=block, train=train, keep=keep)
            x, found = (nn.remat(compute) if self.remat else compute)(self, x)
            maps |= found
        cells = (self.fc6_kernel, self.fc6_kernel)
        if self.fc6_padding == "ADAPTIVE" and x.shape[1:3] != cells:
            x = layers.adaptive_mean_pool(x, self.fc6_kernel)
        for name, conv in (
            ("fc6", {"kernel_size": self.fc6_kernel, "padding": self._padding}),
            ("fc7", {"kernel_size": 1}),
        ):
            x = self._layer(x, name, 4096, train, **conv)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"drop_{name}")(x)
            x, maps[name] = keep(name, x)
        return maps

    @property
    def _padding(self):
        return "SAME" if self.fc6_padding == "SAME" else "VALID"

    def _layer(self, x, name, channels, train, **conv):
        features = self._features(channels)
        if self.split:
            features, conv = 2 * self._features(channels // 2), conv | {"groups": 2}
        cancelled = self.norm == "batch"
        conv = layers.Conv(features, frozen_bias=cancelled, dtype=self.dtype, name=name, **conv)
        x = conv(x)
        if self.norm == "none":
            return layers.relu(x)
        moving = train and name not in self.frozen
        affine = norm.Scale(name=f"scale_{name}")(features) if self.norm_scale else None
        if self.norm == "layer":
            return norm.layer_norm(x, affine, relu=True)
        batch_norm = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"batch_{name}")
        return batch_norm(x, moving, affine, relu=True)
