"""Features of photos: activations of named layers, pooled over their positions."""

from collections.abc import Callable, Iterable, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.data.class_folders import class_of
from colorize_jax.errors import ConfigError
from colorize_jax.models import norm
from colorize_jax.models.layers import adaptive_mean_pool

Tree = Any
POOLS = ("mean", "max", "grid", "none")
# Of a photo and layer with "grid". The usual sizes of linear classifiers on AlexNet's and ResNet's
# layers follow from it: 10 x 10 x 96, 6 x 6 x 256, 5 x 5 x 384, 4 x 4 x 512, 3 x 3 x 1024.
VALUES = 9600


def make_extractor(
    encoder, layers: Sequence[str], pool: str, values: int = VALUES
) -> Callable[[Tree, jax.Array], dict[str, jax.Array]]:
    """Makes a pure function that computes features from the encoder's variables and photos.

    Args:
        encoder: an encoder, as `colorize_jax.load_encoder` returns it.
        layers: names in `encoder.strides`.
        pool: the pooling over positions: "mean", "max", "grid" for means over the cells of the
            largest square grid that has at most `values` of them, or "none" to keep all positions.
        values: the number of values of a photo and layer with "grid", over all channels.

    Returns:
        (variables, uint8 [batch, height, width, 3]) -> {layer: float32 [batch, channels]}, or
        [batch, h, w, channels] with "grid" and "none".

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
        return {layer: _pooled(maps[layer].astype(jnp.float32), pool, values) for layer in layers}

    return extract


def with_fresh_norm(encoder, variables: Tree, batches: Iterable[np.ndarray]) -> Tree:
    """The variables with averages of batch norm over photos, and not over what was pretrained on.

    Tasks show tiles, noise or normalized patches: their averages would be wrong for whole photos.
    Frozen layers keep theirs, and a network without batch norm stays as it is.

    Args:
        encoder, variables: see `make_extractor`.
        batches: uint8 [batch, height, width, 3] each.
    """
    if not variables.get("batch_stats"):
        return variables

    @jax.jit
    def seen(variables, image, key):
        dropped = variables | {"batch_stats": norm.forgotten(variables["batch_stats"])}
        _, found = encoder.apply(
            dropped, encoder.network_input(image), train=True, mutable=["batch_stats"],
            rngs={"dropout": key},
        )  # fmt: skip
        return norm.moments(found["batch_stats"])

    total = None
    for number, image in enumerate(batches):
        sums = seen(variables, image, jax.random.key(number))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return variables | {"batch_stats": norm.settled(variables["batch_stats"], total)}


def grid(shape: Sequence[int], values: int) -> int:
    """The number of cells in a row of the largest square grid on a map [..., h, w, channels].

    All cells and channels together are at most `values`, unless the channels are more already. The
    grid is no finer than the map.
    """
    height, width, channels = shape[-3:]
    return max(min(math.isqrt(values // channels), height, width), 1)


def _pooled(maps: jax.Array, pool: str, values: int) -> jax.Array:
    if pool == "grid":
        return adaptive_mean_pool(maps, grid(maps.shape, values))
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
