"""Features of photos: activations of named layers, pooled over their positions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.data.class_folders import class_of
from colorize_jax.errors import ConfigError

Tree = Any
POOLS = ("mean", "max", "none")


def make_extractor(
    encoder, layers: Sequence[str], pool: str
) -> Callable[[Tree, jax.Array], dict[str, jax.Array]]:
    """Makes a pure function that computes features from the encoder's variables and photos.

    Args:
        encoder: an encoder, as `colorize_jax.load_encoder` returns it.
        layers: names in `encoder.strides`.
        pool: the pooling over positions: "mean", "max", or "none" to keep them.

    Returns:
        (variables, uint8 [batch, height, width, 3]) -> {layer: float32 [batch, channels]}, or
        [batch, h, w, channels] without pooling.

    Raises:
        ConfigError: the layer or the pooling is unknown.
    """
    if pool not in POOLS:
        raise ConfigError(f"--pool={pool}: known: {', '.join(POOLS)}")
    for layer in layers:
        if layer not in encoder.strides:
            raise ConfigError(
                f"--layers: the network has no layer {layer!r}; it has {', '.join(encoder.strides)}"
            )

    def extract(variables, image):
        maps = encoder.apply(variables, encoder.network_input(image), train=False)
        return {layer: _pooled(maps[layer].astype(jnp.float32), pool) for layer in layers}

    return extract


def _pooled(maps: jax.Array, pool: str) -> jax.Array:
    return {"mean": maps.mean, "max": maps.max, "none": lambda _: maps}[pool]((1, 2))


def folder_classes(
    names: Sequence[str], split: str = ""
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The photos of a split and their classes, which are folders.

    Args:
        names, split: see `class_folders.class_of`.

    Returns:
        numbers: [n], the numbers of the photos that are in the split, in order.
        labels: [n], the number of each photo's class, or -1 if it is in no folder of a class.
        classes: the names of the classes, in alphabetical order.
    """
    found = class_of(names, split)
    classes = sorted(set(found.values()) - {""})
    label = {name: i for i, name in enumerate(classes)} | {"": -1}
    labels = [label[name] for name in found.values()]
    return np.array(list(found), np.int64), np.array(labels, np.int64), tuple(classes)
