"""VGG-16, fully convolutional, as the paper pretrains it: gray in, every activation out by name."""

from collections.abc import Mapping
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.models import layers, norm

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions


def _strides() -> dict[str, int]:
    strides = {"gray": 1}
    for block, (_, convolutions) in enumerate(BLOCKS):
        for i in range(convolutions):
            strides[f"conv{block + 1}_{i + 1}"] = 2**block
    return strides | {"fc6": 32, "fc7": 32}


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions in five blocks, then fc6 and fc7 as convolutions.

    Attributes:
        width: multiplies the channels of every layer.
        in_channels: of the input: 1 for gray, 3 for color.
        fc6_kernel: side of fc6's kernel; 7 in the paper, smaller for small machines.
        fc6_padding: "SAME", or "VALID" for a classifier: one answer at 224 pixels. Then fc6 and fc7
            begin half a kernel inside the input, where `strides` and hypercolumns do not look.
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
    norm: str = "batch"
    frozen: tuple[str, ...] = ()
    dropout: float = 0.5
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    # Every activation from the bottom to the top, with its stride in pixels of the input.
    strides = _strides()
    # Those that columns are made of, in their order.
    hypercolumn = strides
    # Those that have weights, from the bottom to the top.
    layers = tuple(name for name in strides if name != "gray")
    top = "fc7"
    # Whether batch norm can be absorbed into the weights.
    absorbs = True
    # What must be the same for parameters to fit, and to mean the same.
    architecture = ("width", "fc6_kernel")

    @property
    def smallest_input(self) -> int:
        """Pixels a side below which fc6 has no answer."""
        return 32 * (self.fc6_kernel - 1) + 1 if self.fc6_padding == "VALID" else 1

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
        kernel = self.fc6_kernel if self.fc6_padding == "VALID" else 1
        return (np.arange(-(-side // 32) - kernel + 1) + kernel / 2) * 32

    @nn.compact
    def __call__(
        self,
        gray: jax.Array,
        train: bool = False,
        borders: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, jax.Array]:
        """Every activation, after ReLU (fc6 and fc7: after dropout) and before pooling.

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
        for block in range(len(BLOCKS)):
            compute = functools.partial(Vgg16._block, block=block, train=train, borders=borders)
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
        maps, (channels, convolutions) = {}, BLOCKS[block]
        for i in range(convolutions):
            name = f"conv{block + 1}_{i + 1}"
            x = maps[name] = self._layer(x, name, channels, train, borders)
        return layers.max_pool(x), maps

    def _layer(self, x, name, channels, train, borders, **conv):
        normalized = self.norm == "batch"
        features = max(1, round(channels * self.width))
        conv = layers.Conv(features, frozen_bias=normalized, dtype=self.dtype, name=name, **conv)
        x = conv(x, borders.get(name))
        if normalized:
            moving = train and name not in self.frozen
            x = norm.BatchNorm(self.axis_name, name=f"batch_{name}")(x, moving)
        return nn.relu(x)
