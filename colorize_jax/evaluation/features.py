"""Features of photos: activations of named layers, pooled over their positions."""

from collections.abc import Callable, Sequence
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color.spaces import network_input
from colorize_jax.errors import ConfigError

Tree = Any
POOLS = ("mean", "max", "none")


def make_extractor(
    encoder, layers: Sequence[str], pool: str
) -> Callable[[Tree, jax.Array], dict[str, jax.Array]]:
    """A pure function of the encoder's variables and photos.

    Args:
        encoder: as `colorize_jax.load_encoder` gives it.
        layers: names among `encoder.strides`.
        pool: over the positions of a layer: "mean", "max", or "none" to keep them.

    Returns:
        (variables, uint8 [batch, height, width, 3]) -> {layer: float32 [batch, channels]}, or
        [batch, h, w, channels] where nothing is pooled.

    Raises:
        ConfigError: there is no such layer or pooling.
    """
    if pool not in POOLS:
        raise ConfigError(f"--pool={pool}: known: {', '.join(POOLS)}")
    for layer in layers:
        if layer not in encoder.strides:
            raise ConfigError(
                f"--layers: the network has no layer {layer!r}; it has {', '.join(encoder.strides)}"
            )

    def extract(variables, image):
        maps = encoder.apply(variables, network_input(image), train=False)
        return {layer: _pooled(maps[layer].astype(jnp.float32), pool) for layer in layers}

    return extract


def _pooled(maps: jax.Array, pool: str) -> jax.Array:
    return {"mean": maps.mean, "max": maps.max, "none": lambda _: maps}[pool]((1, 2))


def folder_classes(
    names: Sequence[str], split: str = ""
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The photos of a split, and their classes, where folders are classes.

    Args:
        names: of photos, as in "train/cat/1.jpg".
        split: a folder, anywhere in the name: photos that do not lie below it are left out, and the
            class is the folder that follows. "": all photos, and the class is the first folder
            below those that all of them share.

    Returns:
        numbers: [n] of the photos that are in the split, in order.
        labels: [n] number of each one's class, or -1 if there is no such folder.
        classes: their names, in alphabetical order.
    """
    folders = [os.path.dirname(f"/{name}").rstrip("/") + "/" for name in names]
    below = f"/{split.strip('/')}/" if split else _shared(folders)
    numbers, found = [], []
    for number, folder in enumerate(folders):
        _, inside, rest = folder.partition(below)
        if inside:
            numbers.append(number)
            found.append(rest.partition("/")[0])
    classes = sorted(set(found) - {""})
    label = {name: i for i, name in enumerate(classes)} | {"": -1}
    return (
        np.array(numbers, np.int64),
        np.array([label[name] for name in found], np.int64),
        tuple(classes),
    )


def _shared(folders: Sequence[str]) -> str:
    """The longest beginning that all folders have, in whole components: "/" at least."""
    common = os.path.commonpath(set(folders)) if folders else "/"
    return f"{common.rstrip('/')}/"
