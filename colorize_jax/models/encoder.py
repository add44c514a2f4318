"""What an encoder is: the protocol between a network and everything that trains or reads it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.norm import DECAY

# (layer, its activation) -> the activation for what reads it next, and what is kept of it.
Keep = Callable[[str, jax.Array], tuple[jax.Array, Any]]


def keep_all(layer: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Every activation as it is."""
    del layer
    return x, x


def kept(maps: Mapping[str, jax.Array], keep: Keep) -> dict[str, Any]:
    """What `keep` keeps of activations that are there."""
    return {name: keep(name, x)[1] for name, x in maps.items()}


class Encoder(nn.Module):
    """A network that returns every activation by name; a new network is a subclass.

    It must have `strides`, and `__call__` or `read`. All later methods have defaults that fit plain
    stacks of convolutions. `config.model.name` is a name of this package or "module:Class".

    Attributes:
        width: multiplies the channels of every layer.
        in_channels: the channels of the input: 1 for gray, 3 for color.
        norm: "batch" for batch norm after every convolution, "none" after it is absorbed, "layer"
            for layer norm, by which no row of a batch sees another one.
        norm_decay: the decay of batch norm's running averages.
        frozen: layers whose batch norm is frozen: in training too they normalize by their running
            averages and do not change them.
        remat: whether the backward pass keeps only the input of every block and computes the rest
            again.
        dtype: the type of the computation; parameters and statistics are float32.
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

    # The network's own settings in `config.model` with their defaults. Each is also an attribute of
    # the class.
    SETTINGS: ClassVar[Mapping[str, Any]] = {}
    # These attributes must be equal for parameters to fit and to have the same meaning.
    architecture: ClassVar[tuple[str, ...]] = ("width",)
    # Whether batch norm can be absorbed into the weights.
    absorbs: ClassVar[bool] = False
    # Whether `norm` may be "layer".
    layer_norm: ClassVar[bool] = False

    @property
    def strides(self) -> dict[str, int]:
        """{activation: stride in pixels of the input}, from the input to the top."""
        raise NotImplementedError(f"{type(self).__name__} has no `strides`")

    def __call__(self, image: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """{layer: activation [batch, h, w, channels]} of all `strides`.

        Args:
            image: [batch, height, width, in_channels], from `network_input`.
            train: batch statistics and dropout.
        """
        if type(self).read is Encoder.read:
            raise NotImplementedError(f"{type(self).__name__} has neither `__call__` nor `read`")
        return self.read(image, train)

    def read(self, image: jax.Array, train: bool = False, keep: Keep = keep_all) -> dict[str, Any]:
        """{layer: what is kept of its activation} of all `strides`; "gray" is the input itself.

        An encoder that defines it passes every activation through `keep` on the way, so that the
        gradient of what is kept is added into that of the next layer where it lies, and no
        activation must be held for the reader alone. This default reads them afterwards.

        Args:
            image, train: as in `__call__`.
            keep: see `Keep`.

        Raises:
            ConfigError: the input has another number of channels.
        """
        return kept(self(image, train), keep)

    @property
    def layers(self) -> tuple[str, ...]:
        """The activations of layers with weights, from the bottom to the top."""
        return tuple(self.strides)[1:]

    @property
    def hypercolumn(self) -> dict[str, int]:
        """{activation: stride} of the hypercolumn, in its order."""
        return self.strides

    @property
    def top(self) -> str:
        """The activation that a classifier reads."""
        return tuple(self.strides)[-1]

    @property
    def smallest_input(self) -> int:
        """The smallest side of the input, in pixels, for which the top has an output."""
        return 1

    def top_centers(self, side: int) -> np.ndarray:
        """The centers of the top's cells in an input of this side, in pixels: [cells]."""
        stride = self.strides[self.top]
        return (np.arange(-(-side // stride)) + 0.5) * stride

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """The groups of parameters that belong to frozen layers."""
        return self.frozen

    @staticmethod
    def layer_of(group: str) -> str:
        """The layer that a group of parameters or of batch statistics belongs to."""
        return group.removeprefix("batch_").removeprefix("scale_")

    @classmethod
    def check_settings(cls, own: Mapping[str, Any]) -> None:
        """ConfigError that names the setting for an invalid value in `SETTINGS`."""

    def network_input(self, rgb: jax.Array) -> jax.Array:
        """RGB uint8 [..., 3] -> what `__call__` reads, float32 [..., in_channels].

        Gray less its mean; a network that reads something else of a photo says so here.
        """
        return spaces.INPUTS[self.in_channels](rgb)


def check_known(name: str, value: Any, known: Collection) -> None:
    """ConfigError if the value of a setting of `config.model` is unknown."""
    if value not in known:
        raise ConfigError(f"config.model.{name} is {value!r}; known: {', '.join(map(repr, known))}")
