"""AlexNet, as the paper and its release have it: groups, and batch norm or local response norm."""

from collections.abc import Mapping
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.models import layers, norm

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


class AlexNet(nn.Module):
    """Five convolutions, two of them before LRN, three before pooling; fc6, fc7 as convolutions.

    Attributes:
        width: multiplies the channels of every layer; they stay even, for the two groups.
        in_channels: of the input: 1 for gray, 3 for color.
        lrn: local response norm after the ReLU of conv1 and conv2, as in the released network.
        fc6_kernel: side of fc6's kernel; 6 in the paper, smaller for small machines.
        fc6_padding: "SAME" everywhere; or "VALID" in conv1, all pools and fc6, as for a classifier,
            which answers once at 227 pixels. Then cells begin inside the input, where `strides` and
            hypercolumns do not look.
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
    lrn: bool = True
    fc6_kernel: int = 6
    fc6_padding: str = "SAME"
    norm: str = "batch"
    frozen: tuple[str, ...] = ()
    dropout: float = 0.5
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    # Every activation from the bottom to the top, with its stride in pixels of the input.
    strides = _STRIDES
    # Those that columns are made of, in their order.
    hypercolumn = strides
    # Those that have weights, from the bottom to the top.
    layers = tuple(name for name in strides if name != "gray")
    top = "fc7"
    # Whether batch norm can be absorbed into the weights.
    absorbs = True
    # What must be the same for parameters to fit, and to mean the same.
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

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return self.frozen

    @staticmethod
    def layer_of(group: str) -> str:
        """The layer that a group of parameters or of batch statistics belongs to."""
        return group.removeprefix("batch_")

    def top_centers(self, side: int) -> np.ndarray:
        """Where the cells of the top lie in an input of so many pixels: [cells] pixels."""
        if self.fc6_padding == "SAME":
            return (np.arange(-(-side // 32)) + 0.5) * 32
        smallest = self.smallest_input
        return np.arange((side - smallest) // 32 + 1) * 32 + smallest / 2

    @nn.compact
    def __call__(
        self,
        gray: jax.Array,
        train: bool = False,
        borders: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        """Every activation, after ReLU (fc6 and fc7: after dropout), before LRN and pooling.

        Args:
            gray: [batch, height, width, in_channels], mean-free.
            train: batch statistics and dropout.
            borders: {layer: [channels of its input]}: constants in place of the zeros around the
                input of these layers, as `surgery.padding.borders` gives them.

        Returns:
            {layer: [batch, h, w, channels]}; "gray" is the input itself.

        Raises:
            ConfigError: the input has another number of channels.
        """
        layers.check_channels(gray, self.in_channels)
        borders = borders or {}
        maps = {"gray": gray.astype(self.dtype)}
        x = maps["gray"]
        for block in _BLOCKS:
            compute = functools.partial(AlexNet._block, block=block, train=train, borders=borders)
            x, found = (nn.remat(compute) if self.remat else compute)(self, x)
            maps |= found
        for name, conv in (
            ("fc6", {"kernel_size": self.fc6_kernel, "padding": self.fc6_padding}),
            ("fc7", {"kernel_size": 1}),
        ):
            x = self._layer(x, name, 4096, train, borders, **conv)
            x = nn.Dropout(self.dropout, deterministic=not train, name=f"drop_{name}")(x)
            maps[name] = x
        return maps

    def _block(self, x, block, train, borders):
        maps = {}
        for name in block:
            channels, conv = _CONVOLUTIONS[name]
            padding = self.fc6_padding if name == "conv1" else "SAME"
            x = maps[name] = self._layer(x, name, channels, train, borders, padding=padding, **conv)
            if self.lrn and name in _NORMALIZED:
                x = layers.local_response_norm(x)
        return layers.overlapping_max_pool(x, self.fc6_padding), maps

    def _layer(self, x, name, channels, train, borders, **conv):
        normalized = self.norm == "batch"
        features = 2 * max(1, round(channels * self.width / 2))
        conv = layers.Conv(features, frozen_bias=normalized, dtype=self.dtype, name=name, **conv)
        x = conv(x, borders.get(name))
        if normalized:
            moving = train and name not in self.frozen
            x = norm.BatchNorm(self.axis_name, name=f"batch_{name}")(x, moving)
        return nn.relu(x)
