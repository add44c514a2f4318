"""Relative patch position: find the direction from one patch of a photo to another.

After Doersch, Gupta and Efros, "Unsupervised Visual Representation Learning by Context Prediction"
(ICCV 2015).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.augment import photometric, tiles
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models.tile_network import JoinedHead, TileEmbedding, TileNetwork
from colorize_jax.tasks import evaluators, losses
from colorize_jax.tasks.task import Facts, Score, Task, chosen_layer

SETTINGS = {
    # The side of a patch, the gap between two, and the largest number of pixels by which each is
    # moved: 96, 48 and 7 in the paper, with a crop of 384 pixels or a little more.
    "patch": lambda config: config.data.get_ref("crop") // 4,
    "gap": lambda config: config.data.get_ref("crop") // 8,
    "jitter": lambda config: config.data.get_ref("crop") * 7 // 384,
    # The share of the patches that are shrunk and enlarged again. Otherwise traces of resampling
    # would reveal the place of a patch.
    "resampled": 0.33,
    # The layer of the encoder that is read. "": its top.
    "layer": "",
    "grid": 1,  # The layer is averaged to this many cells a side before the features of a patch.
    "dropout": 0.5,  # The rate of dropout after both hidden layers.
    "model.tile_features": 4096,  # The number of features of a patch.
    "model.hidden": 4096,  # The number of units that see both patches.
}
RMS = 50 / 255  # The pixels of a patch are scaled to this RMS around their mean (the release).
# The step (rows, columns) of label k from the first patch to the second.
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


@functools.cache
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of neighbors of the 3x3 grid: cells [40, 2], and their labels [40].

    They are sorted by the first cell, then by the label. The reversed pair has the label 7 - k.
    """
    cells, labels = [], []
    for first in range(tiles.SIDE**2):
        row, column = divmod(first, tiles.SIDE)
        for label, (down, right) in enumerate(DIRECTIONS):
            if 0 <= row + down < tiles.SIDE and 0 <= column + right < tiles.SIDE:
                cells.append((first, (row + down) * tiles.SIDE + column + right))
                labels.append(label)
    return np.array(cells, np.int32), np.array(labels, np.int32)


def make_task(config, encoder, facts: Facts) -> Task:
    """Classification of the direction of all 40 pairs of neighbors in a grid of nine patches."""
    del facts
    settings = config.task
    layer = chosen_layer(config, encoder)
    _check(config, encoder)
    cells, directions = pairs()
    model = TileNetwork(
        encoder=encoder,
        embedding=TileEmbedding(
            config.model.tile_features, settings.grid, settings.dropout, encoder.dtype
        ),
        head=JoinedHead(len(DIRECTIONS), config.model.hidden, settings.dropout, encoder.dtype),
        layer=layer,
        groups=tuple(map(tuple, cells.tolist())),
    )
    patch, extent = settings.patch, _extent(settings)
    smallest = max(1, patch * 10 // 96)  # The release shrinks 96 pixels to 10.

    def cut(key, image):
        """(Nine patches [9, patch, patch, 3] in [0, 1], their corners [9, 2])."""
        origin_key, jitter_key, resampled_key = jax.random.split(key, 3)
        shape = image.shape[:2]
        origin = jax.random.randint(origin_key, (2,), 0, jnp.asarray(shape) - extent + 1)
        jitter = settings.jitter
        moved = jax.random.randint(jitter_key, (tiles.SIDE**2, 2), -jitter, jitter + 1)
        corners = tiles.patch_corners(origin, moved, patch=patch, gap=settings.gap, shape=shape)
        found = tiles.cut(spaces.from_uint8(image), corners, patch)
        return jax.vmap(
            lambda key, x: photometric.resampled(key, x, settings.resampled, smallest)
        )(jax.random.split(resampled_key, len(found)), found), corners  # fmt: skip

    def disguised(key, found):
        """The network input of a photo's patches, without the color shifts of lenses."""
        if encoder.in_channels == 1:
            return tiles.standardized(spaces.gray(found)[..., None]) * RMS
        channel_key, noise_key = jax.random.split(key)
        kept = jax.random.randint(channel_key, (len(found),), 0, 3)
        noise = jax.random.uniform(noise_key, found.shape, minval=-0.5, maxval=0.5)
        return photometric.one_channel(found * 255, kept, noise, RMS)

    def given(key, image):
        """(The network input of a photo's patches, the patches, their corners)."""
        cut_key, color_key = jax.random.split(key)
        found, corners = cut(cut_key, image)
        return disguised(color_key, found), found, corners

    def prepare(keys, batch):
        inputs, _, _ = jax.vmap(given)(keys, batch["image"])
        labels = jnp.broadcast_to(jnp.asarray(directions), (len(inputs), len(directions)))
        return (inputs,), {"labels": labels, "valid": batch["valid"]}

    def loss(logits, targets):
        values, _ = losses.cross_entropy(logits, targets["labels"], void=-1)
        valid = targets["valid"]
        counts = valid.astype(jnp.float32) * len(directions)
        return {"loss": jnp.where(valid, values.sum(1), 0)}, counts

    def pictures(variables, batch):
        del variables
        keys = jax.vmap(jax.random.key)(batch["photo"])
        inputs, found, corners = jax.vmap(given)(keys, batch["image"])
        side = batch["image"].shape[-2]
        seen = jnp.broadcast_to(jnp.clip(inputs + 0.5, 0, 1), found.shape)
        panels = jnp.stack(
            [jax.vmap(lambda c, p: tiles.in_place(c, p, side))(corners, p) for p in (found, seen)],
            1,
        )
        panels = jnp.round(panels * 255).astype(jnp.uint8)
        return jnp.concatenate([batch["image"][:, None], panels], 1)

    panels = ("photo", "patches", "given")
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    score = Score("accuracy", higher=True)
    return Task(model, prepare, loss, evaluators={"": evaluator}, score=score)


def _extent(settings) -> int:
    """The side of the grid of patches in pixels, without jitter."""
    return tiles.SIDE * settings.patch + (tiles.SIDE - 1) * settings.gap


def _check(config, encoder) -> None:
    settings, crop = config.task, config.data.crop
    for name, low in (("patch", 1), ("gap", 0), ("jitter", 0), ("grid", 1)):
        if settings[name] < low:
            raise ConfigError(f"config.task.{name}={settings[name]} must be at least {low}")
    if _extent(settings) > crop:
        raise ConfigError(
            f"three patches of config.task.patch={settings.patch} and two gaps of "
            f"config.task.gap={settings.gap} do not fit into config.data.crop={crop}"
        )
    if 2 * settings.jitter > settings.gap:
        raise ConfigError(
            f"config.task.jitter={settings.jitter} lets patches overlap: at most half of "
            f"config.task.gap={settings.gap}"
        )
    if settings.patch < encoder.smallest_input:
        raise ConfigError(
            f"config.task.patch={settings.patch} is too small for {config.model.name}, which takes "
            f"{encoder.smallest_input} pixels"
        )
    if not 0 <= settings.resampled <= 1:
        raise ConfigError(f"config.task.resampled={settings.resampled} must be from 0 to 1")
