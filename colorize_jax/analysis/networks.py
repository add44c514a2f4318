"""The networks that are looked into: read, with batch norm absorbed and without visible borders."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.checkpoints import reading
from colorize_jax.colorize import network
from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models import registry
from colorize_jax.models.encoder import Encoder
from colorize_jax.surgery import padding
from colorize_jax.surgery.absorb import absorb_batch_norm

Tree = Any
ZEROS = "zeros"
USUAL = "the usual activation, ReLU of the bias below"


@dataclasses.dataclass(frozen=True)
class Network:
    """An encoder to look into.

    Attributes:
        path: where it is from, as it was named.
        encoder: in float32; its batch norm is absorbed if that is possible.
        variables: of the encoder.
        borders: what stands around the maps in place of zeros; see `padding.apply`. Empty: zeros.
        padding: what stands around the maps, in words.
        crop: the side of the photos that it was trained on.
    """

    path: str
    encoder: Encoder
    variables: Tree
    borders: Tree
    padding: str
    crop: int

    def maps(self, layers: Sequence[str]) -> Callable[[Tree, Tree, jax.Array], dict]:
        """A pure function (variables, borders, uint8 photos [batch, height, width, 3]) ->
        {layer: float32 [batch, h, w, channels]}."""

        def compute(variables, borders, image):
            seen = self.encoder.network_input(image)
            if borders:
                found = padding.apply(self.encoder, variables["params"], seen, borders)
            else:
                found = self.encoder.apply(variables, seen, train=False)
            return {layer: found[layer].astype(jnp.float32) for layer in layers}

        return compute


def load(path: str, zeros: bool = False) -> Network:
    """A network from a run's workdir, one of its checkpoints, or a file of `Colorizer.save`.

    Args:
        path: of the checkpoint.
        zeros: keeps the zeros around maps; otherwise usual activations take their place where that
            is possible (footnote 3 of the paper).

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    if pathlib.Path(path).is_file():
        read = network.load(path)
        settings, variables = read.settings, {k: v["encoder"] for k, v in read.variables.items()
                                              if "encoder" in v}  # fmt: skip
        encoder = registry.make_encoder(settings["model"])
    else:
        encoder, variables = reading.load_encoder(path)
        settings = reading.saved_note(reading.find(path))["config"]
    crop = settings["data"].get("crop", 224)
    return prepared(path, encoder, variables, crop, zeros)


def prepared(path: str, encoder: Encoder, variables: Tree, crop: int, zeros: bool) -> Network:
    """A `Network` of an encoder and its variables; see `load`."""
    # A classifier gets an answer everywhere, as a network for segmentation does.
    own = {"fc6_padding": "SAME"} if hasattr(encoder, "fc6_padding") else {}
    encoder = encoder.clone(dtype=jnp.float32, remat=False, **own)
    if encoder.absorbs and variables.get("batch_stats"):
        params = absorb_batch_norm(variables["params"], variables["batch_stats"])
        encoder, variables = encoder.clone(norm="none"), {"params": params}
    around, words = ({}, ZEROS) if zeros else _borders(encoder, variables)
    return Network(path, encoder, variables, around, words, crop)


def channels(network: Network, layer: str) -> int:
    """The number of units of a layer."""
    return registry.activation_shapes(network.encoder)[layer].shape[-1]


def check_layers(encoder: Encoder, layers: Sequence[str]) -> None:
    """ConfigError that names a layer which the network does not have."""
    for layer in layers:
        if layer not in encoder.layers:
            raise ConfigError(
                f"there is no layer {layer!r}; the network has {', '.join(encoder.layers)}"
            )


def check_alike(before: Network, after: Network) -> None:
    """ConfigError unless the units and the cells of two networks are the same."""
    one, other = before.encoder, after.encoder
    pairs = [("network", registry.name_of(one), registry.name_of(other))]
    if type(one) is type(other):
        names = sorted({*one.architecture, *one.SETTINGS} - {"dropout"})
        pairs += [(name, getattr(one, name), getattr(other, name)) for name in names]
    for what, here, there in pairs:
        if here != there:
            raise ConfigError(
                f"{before.path} and {after.path} are of different architectures: {what} is {here} "
                f"in the first and {there} in the second, so that their units cannot be compared"
            )


def _borders(encoder: Encoder, variables: Tree) -> tuple[Tree, str]:
    """What stands around the maps, for `padding.apply`, and in words."""
    side = max(64, encoder.smallest_input)
    image = jax.ShapeDtypeStruct((1, side, side, encoder.in_channels), jnp.float32)
    try:
        around = padding.borders(variables["params"], encoder.layers)
        jax.eval_shape(
            functools.partial(padding.apply, encoder), variables["params"], image, borders=around
        )
    except (CheckpointError, ConfigError) as error:
        return {}, f"{ZEROS}; {error}"
    return around, USUAL
