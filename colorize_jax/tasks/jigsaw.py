"""Jigsaw: find the order of nine shuffled tiles of a photo (Noroozi and Favaro, ECCV 2016)."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.augment import photometric, tiles
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.tile_network import JoinedHead, TileEmbedding, TileNetwork
from colorize_jax.tasks import evaluators, losses
from colorize_jax.tasks.task import Facts, Score, Task, chosen_layer

TILES = tiles.SIDE**2
SETTINGS = {
    # The side of a cell in pixels: a third of the crop.
    "cell": lambda config: config.data.get_ref("crop") // tiles.SIDE,
    # The side of the tile that is cut out of a cell at a random place: 64 of 85 in the release.
    "tile": lambda config: config.data.get_ref("crop") // tiles.SIDE * 64 // 85,
    "permutations": 100,  # The number of orders to choose from.
    "gray": 0.5,  # The share of the photos that become gray.
    # The share of the others that lose the green-magenta contrast, along which lenses shift colors.
    "without_aberration": 0.5,
    "shift": 2,  # A channel is shifted by up to this many pixels, for the same reason.
    # The layer of the encoder that is read. "": its top.
    "layer": "",
    "grid": 1,  # The layer is averaged to this many cells a side before the features of a tile.
    "dropout": 0.5,  # The rate of dropout after both hidden layers.
    "model.tile_features": 1024,  # The number of features of a tile.
    "model.hidden": 4096,  # The number of units that see all nine tiles.
}


@functools.cache
def permutations(count: int, size: int = TILES, first: tuple[int, ...] | None = None) -> np.ndarray:
    """A fixed set of orders that differ much from each other: int32 [count, size].

    The first is given, by default 0, 1, 2, ... Each next one has the largest mean Hamming distance
    to those before; of equal ones it is the first in lexicographic order.

    Raises:
        ConfigError: there are fewer orders than `count`.
    """
    if not 1 <= count <= math.factorial(size):
        raise ConfigError(
            f"config.task.permutations={count}: {size} tiles can be ordered in 1 to "
            f"{math.factorial(size):,} ways"
        )
    every = np.array(list(itertools.permutations(range(size))), np.int8)
    chosen = [0] if first is None else [int((every == first).all(1).argmax())]
    places = np.ascontiguousarray(every.T)
    # Sums of integers keep equal distances equal; rounding would break ties.
    distance = np.zeros(len(every), np.int32)
    while len(chosen) < count:
        for place, tile in zip(places, every[chosen[-1]], strict=True):
            distance += place != tile
        distance[chosen[-1]] = np.iinfo(np.int32).min // 2  # None is taken twice.
        chosen.append(int(distance.argmax()))
    found = every[chosen].astype(np.int32)
    found.flags.writeable = False  # Every caller gets the same array.
    return found


def make_task(config, encoder, facts: Facts) -> Task:
    """Classification of the order of a photo's tiles among `config.task.permutations` orders."""
    del facts
    settings = config.task
    layer = chosen_layer(config, encoder)
    _check(config, encoder)
    orders = permutations(settings.permutations)
    model = TileNetwork(
        encoder=encoder,
        embedding=TileEmbedding(
            config.model.tile_features, settings.grid, settings.dropout, encoder.dtype
        ),
        head=JoinedHead(len(orders), config.model.hidden, settings.dropout, encoder.dtype),
        layer=layer,
        groups=(tuple(range(TILES)),),
    )
    room = settings.cell - settings.tile

    def cut(key, image):
        """The tiles of a photo in their order, [9, tile, tile, 3] in [0, 1]."""
        gray_key, lens_key, shift_key, offset_key = jax.random.split(key, 4)
        rgb = photometric.channels_moved(shift_key, spaces.from_uint8(image), settings.shift)
        rgb = photometric.without_aberration(lens_key, rgb, settings.without_aberration)
        rgb = photometric.gray_by_chance(gray_key, rgb, settings.gray)
        offsets = jax.random.randint(offset_key, (TILES, 2), 0, room + 1)
        return tiles.cut(rgb, tiles.tile_corners(offsets, settings.cell), settings.tile)

    def shuffled(key, image):
        """(Tiles of a photo with tile perm[t] at place t, number of the permutation)."""
        tile_key, label_key = jax.random.split(key)
        label = jax.random.randint(label_key, (), 0, len(orders))
        return cut(tile_key, image)[jnp.asarray(orders)[label]], label

    def prepare(keys, batch):
        found, labels = jax.vmap(shuffled)(keys, batch["image"])
        if encoder.in_channels == 1:
            found = spaces.gray(found)[..., None]
        inputs = tiles.standardized(found) * photometric.SPREAD
        return (inputs,), {"labels": labels, "valid": batch["valid"]}

    def loss(logits, targets):
        values, _ = losses.cross_entropy(logits, targets["labels"], void=-1)
        valid = targets["valid"]
        return {"loss": jnp.where(valid, values, 0)}, valid.astype(jnp.float32)

    def pictures(variables, batch):
        keys = jax.vmap(jax.random.key)(batch["photo"])
        given, labels = jax.vmap(shuffled)(keys, batch["image"])
        inputs, _ = prepare(keys, batch)
        answers = model.apply(variables, *inputs).argmax(-1)

        def laid_out(numbers):
            places = jnp.argsort(jnp.asarray(orders)[numbers], axis=-1)  # the inverse permutations
            return jnp.take_along_axis(given, places[..., None, None, None], 1)

        shown = jnp.stack([given, laid_out(answers), laid_out(labels)], 1)
        shown = jnp.round(jnp.clip(shown, 0, 1) * 255).astype(jnp.uint8)
        side = batch["image"].shape[-2]
        whole = tiles.put_together(shown, settings.cell, side)
        return jnp.concatenate([batch["image"][:, None], whole], 1)

    panels = ("photo", "given", "answered", "right order")
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    score = Score("accuracy", higher=True)
    return Task(model, prepare, loss, evaluators={"": evaluator}, score=score)


def _check(config, encoder) -> None:
    settings, crop = config.task, config.data.crop
    if not 1 <= settings.tile <= settings.cell:
        raise ConfigError(
            f"config.task.tile={settings.tile} must be from 1 to config.task.cell={settings.cell}"
        )
    if settings.cell * tiles.SIDE > crop:
        raise ConfigError(
            f"three cells of config.task.cell={settings.cell} do not fit into "
            f"config.data.crop={crop}"
        )
    if settings.tile < encoder.smallest_input:
        raise ConfigError(
            f"config.task.tile={settings.tile} is too small for {config.model.name}, which takes "
            f"{encoder.smallest_input} pixels: a larger config.data.crop has larger tiles"
        )
    for name in ("gray", "without_aberration"):
        if not 0 <= settings[name] <= 1:
            raise ConfigError(f"config.task.{name}={settings[name]} must be from 0 to 1")
    if settings.shift < 0:
        raise ConfigError(f"config.task.shift={settings.shift} must not be negative")
    if settings.grid < 1:
        raise ConfigError(f"config.task.grid={settings.grid} must be positive")
