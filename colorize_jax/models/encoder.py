"""What an encoder is: the protocol between a network and everything that trains or reads it."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.norm import DECAY


class Encoder(nn.Module):
    """A network that gives every activation by name; a new one is a subclass.

    It must have `strides` and `__call__`. What follows `strides` here has a default that fits plain
    stacks of convolutions. `config.model.name` is a name of this package or "module:Class".

    Attributes:
        width: multiplies the channels of every layer.
        in_channels: of the input: 1 for gray, 3 for color.
        norm: "batch" for batch norm after every convolution, "none" once it is absorbed.
        norm_decay: of the running averages of batch norm.
        frozen: layers whose batch norm keeps still: they normalize by their running averages, and
            leave them as they are, while training too.
        remat: keep only the input of every block for the backward pass, and compute the rest again.
        dtype: of the computation; parameters and statistics are float32.
        axis_name: see `norm.BatchNorm`.
    """

    width: float = 1.0
    in_channels: int = 1
    norm_decay: float = DECAY
    norm: str = "batch"
    frozen: tuple[str, ...] = ()
    remat: bool = False
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    # Settings of `config.model` that this network has besides those of all, with their defaults;
    # each is an attribute of the class too.
    SETTINGS: ClassVar[Mapping[str, Any]] = {}
    # What must be the same for parameters to fit, and to mean the same.
    architecture: ClassVar[tuple[str, ...]] = ("width",)
    # Whether batch norm can be absorbed into the weights.
    absorbs: ClassVar[bool] = False

    @property
    def strides(self) -> dict[str, int]:
        """Every activation from the input to the top, with its stride in pixels of the input."""
        raise NotImplementedError(f"{type(self).__name__} has no `strides`")

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """{layer: activation [batch, h, w, channels]} of all `strides`.

        Args:
            image: [batch, height, width, in_channels], from `network_input`.
            train: batch statistics and dropout.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `__call__`")

    @property
    def layers(self) -> tuple[str, ...]:
        """The activations that have weights below them, from the bottom to the top."""
        return tuple(self.strides)[1:]

    @property
    def hypercolumn(self) -> dict[str, int]:
        """The activations that hypercolumns are made of, in their order, with their strides."""
        return self.strides

    @property
    def top(self) -> str:
        """The activation that a classifier reads."""
        return tuple(self.strides)[-1]

    @property
    def smallest_input(self) -> int:
        """Pixels a side below which the top has no answer."""
        return 1

    def top_centers(self, side: int) -> np.ndarray:
        """Where the cells of the top lie in an input of so many pixels: [cells] pixels."""
        stride = self.strides[self.top]
        return (np.arange(-(-side // stride)) + 0.5) * stride

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return self.frozen

    @staticmethod
    def layer_of(group: str) -> str:
        """The layer that a group of parameters or of batch statistics belongs to."""
        return group.removeprefix("batch_")

    @classmethod
    def check_settings(cls, own: Mapping[str, Any]) -> None:
        """ConfigError, by name, for a value of `SETTINGS` that makes no sense."""

    def network_input(self, rgb: jax.Array) -> jax.Array:
        """RGB uint8 [..., 3] -> what `__call__` reads, float32 [..., in_channels].

        Gray less its mean; a network that reads something else of a photo says so here.
        """
        return spaces.INPUTS[self.in_channels](rgb)


def check_known(name: str, value: Any, known: Collection) -> None:
    """ConfigError unless the value of a setting of `config.model` is a known one."""
    if value not in known:
        raise ConfigError(f"config.model.{name} is {value!r}; known: {', '.join(map(repr, known))}")
