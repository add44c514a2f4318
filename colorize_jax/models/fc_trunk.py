"""What VGG-16 and AlexNet share: blocks of convolutions, then fc6 and fc7 as convolutions."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.models import layers, norm


class FcTrunk(nn.Module):
    """Blocks of a subclass, then fc6 and fc7. A subclass says what `layers` it has, and defines

        blocks: a tuple, for which `_block(x, block, train)` gives the input of the next
            block and {layer: activation}; it makes its layers by `_layer`.
        _features(channels): how many channels there are of so many at width 1.

    Attributes:
        width: multiplies the channels of every layer.
        in_channels: of the input: 1 for gray, 3 for color.
        fc6_kernel: side of fc6's kernel; smaller than the paper's for small machines.
        fc6_padding: "SAME", or "VALID" for a classifier: one answer for a crop of the size that
            the network is made for. Then cells begin inside the input, where `strides` and
            hypercolumns do not look.
        norm_decay: of the running averages of batch norm.
        norm: "batch" for parameter-free batch norm after every convolution, "none" once it is
            absorbed into the weights.
        frozen: layers whose batch norm keeps still: they normalize by their running averages, and
            leave them as they are, while training too. Dropout acts as ever.
        dropout: rate after fc6 and fc7, while training.
        remat: keep only the input of every block for the backward pass, and compute the rest again.
        dtype: of the computation; parameters and statistics are float32.
        axis_name: see `norm.BatchNorm`.
    """

    width: float = 1.0
    in_channels: int = 1
    fc6_kernel: int = 7
    fc6_padding: str = "SAME"
    norm_decay: float = norm.DECAY
    norm: str = "batch"
    frozen: tuple[str, ...] = ()
    dropout: float = 0.5
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    top = "fc7"
    # Whether batch norm can be absorbed into the weights.
    absorbs = True

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return self.frozen

    @staticmethod
    def layer_of(group: str) -> str:
        """The layer that a group of parameters or of batch statistics belongs to."""
        return group.removeprefix("batch_")

    @nn.compact
    def __call__(self, gray: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Every activation, after ReLU (fc6 and fc7: after dropout), before LRN and pooling.

        Args:
            gray: [batch, height, width, in_channels], mean-free.
            train: batch statistics and dropout.

        Returns:
            {layer: [batch, h, w, channels]}; "gray" is the input itself.

        Raises:
            ConfigError: the input has another number of channels.
        """
        layers.check_channels(gray, self.in_channels)
        maps = {"gray": gray.astype(self.dtype)}
        x = maps["gray"]
        for block in self.blocks:
            compute = functools.partial(type(self)._block, block=block, train=train)
            x, found = (nn.remat(compute) if self.remat else compute)(self, x)
            maps |= found
        for name, conv in (
            ("fc6", {"kernel_size": self.fc6_kernel, "padding": self.fc6_padding}),
            ("fc7", {"kernel_size": 1}),
        ):
            x = self._layer(x, name, 4096, train, **conv)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"drop_{name}")(x)
            maps[name] = x
        return maps

    def _layer(self, x, name, channels, train, **conv):
        normalized = self.norm == "batch"
        features = self._features(channels)
        conv = layers.Conv(features, frozen_bias=normalized, dtype=self.dtype, name=name, **conv)
        x = conv(x)
        if normalized:
            moving = train and name not in self.frozen
            x = norm.BatchNorm(self.norm_decay, self.axis_name, name=f"batch_{name}")(x, moving)
        return nn.relu(x)
