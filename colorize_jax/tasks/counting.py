"""Counting: a photo contains as many things as its four quarters together.

After Noroozi, Pirsiavash and Favaro, "Representation Learning by Learning to Count" (ICCV 2017).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.augment import photometric
from colorize_jax.color import spaces
from colorize_jax.errors import ConfigError
from colorize_jax.models import layers
from colorize_jax.tasks import evaluators
from colorize_jax.tasks.task import Facts, Task, chosen_layer

SETTINGS = {
    "counts": 1000,  # The number of kinds of things that are counted.
    "margin": 10.0,  # The counts of another photo must differ by this squared distance.
    # The share of the photos that become gray, because lenses leave traces in the colors.
    "gray": 0.67,
    # The layer of the encoder that is read. "": its top.
    "layer": "",
    "grid": 1,  # The layer is averaged to this many cells a side before things are counted.
}
# One of these filters is drawn for each photo, so that the network cannot recognize shrinking.
_FILTERS = ("linear", "cubic", "lanczos3", "box")


def count_losses(
    whole: jax.Array, quarters: jax.Array, other: jax.Array, margin: float
) -> dict[str, jax.Array]:
    """The losses of photos with these counts, [batch] each.

    Args:
        whole: counts of the shrunk photo, [batch, counts].
        quarters: counts of its quarters, [batch, 4, counts].
        other: counts of another shrunk photo, [batch, counts].
        margin: see `SETTINGS`.

    Returns:
        "loss_same", the squared distance between the photo and the sum of its quarters; and
        "loss_other", by how much the squared distance of the other photo is below the margin; and
        their sum "loss". Distances are summed over all counts.
    """
    total = quarters.astype(jnp.float32).sum(1)
    same = jnp.square(whole - total).sum(-1)
    away = jax.nn.relu(margin - jnp.square(other - total).sum(-1))
    return {"loss": same + away, "loss_same": same, "loss_other": away}


def partners(valid: jax.Array) -> jax.Array:
    """The next valid row for every row of a batch (after the last, the first): int32 [batch].

    A row is its own partner only if no other row is valid.
    """
    valid, batch = jnp.asarray(valid), len(valid)
    later = (jnp.arange(batch)[:, None] + jnp.arange(1, batch)) % batch
    step = valid[later].argmax(1)
    found = jnp.take_along_axis(later, step[:, None], 1)[:, 0]
    return jnp.where(valid[later].any(1), found, jnp.arange(batch)).astype(jnp.int32)


def shrunk(key: jax.Array, rgb: jax.Array) -> jax.Array:
    """A photo [2 n, 2 n, channels] at half its size, by a random filter."""
    height, width, channels = rgb.shape
    shape = (height // 2, width // 2, channels)

    def by(method):
        if method == "box":
            return lambda x: x.reshape(shape[0], 2, shape[1], 2, channels).mean((1, 3))
        return lambda x: jax.image.resize(x, shape, method)

    number = jax.random.randint(key, (), 0, len(_FILTERS))
    return jax.lax.switch(number, [by(method) for method in _FILTERS], rgb)


def quartered(rgb: jax.Array) -> jax.Array:
    """Cuts [2 n, 2 n, channels] into quarters in raster order, [4, n, n, channels]."""
    side, channels = rgb.shape[0] // 2, rgb.shape[-1]
    return rgb.reshape(2, side, 2, side, channels).swapaxes(1, 2).reshape(4, side, side, channels)


class CountingNetwork(nn.Module):
    """Encoder -> one layer, averaged to a grid -> linear -> ReLU: the counts of a view.

    All views of a batch pass through it together. Separate batch norm would tell whole photos from
    quarters.

    Attributes:
        encoder: see `models.encoder`.
        head: features -> counts.
        layer: the name of the encoder's layer.
        grid: the number of cells a side.
    """

    encoder: nn.Module
    head: nn.Dense
    layer: str
    grid: int

    def __call__(self, views: jax.Array, train: bool = False) -> jax.Array:
        """Network input [batch, views, side, side, channels] -> counts [batch, views, counts]."""
        batch, count = views.shape[:2]
        maps = self.encoder(views.reshape(-1, *views.shape[2:]), train)[self.layer]
        cells = layers.adaptive_mean_pool(maps, self.grid).astype(jnp.float32)
        return nn.relu(self.head(cells.reshape(batch, count, -1)))


def make_task(config, encoder, facts: Facts) -> Task:
    """Counts of the whole photo, of its quarters, and of the next photo in the batch."""
    del facts
    settings = config.task
    layer = chosen_layer(config, encoder)
    _check(config, encoder)
    model = CountingNetwork(encoder, nn.Dense(settings.counts), layer, settings.grid)

    def views(key, image):
        gray_key, filter_key = jax.random.split(key)
        rgb = photometric.gray_by_chance(gray_key, spaces.from_uint8(image), settings.gray)
        return jnp.concatenate([shrunk(filter_key, rgb)[None], quartered(rgb)])

    def prepare(keys, batch):
        found = jnp.clip(jax.vmap(views)(keys, batch["image"]), 0, 1)
        flat = encoder.network_input(found.reshape(-1, *found.shape[2:]))
        inputs = flat.reshape(*found.shape[:2], *flat.shape[1:])
        valid = batch["valid"]
        return (inputs,), {"partner": partners(valid), "valid": valid}

    def loss(counts, targets):
        whole, partner, valid = counts[:, 0], targets["partner"], targets["valid"]
        found = count_losses(whole, counts[:, 1:], whole[partner], settings.margin)
        alone = partner == jnp.arange(len(partner))
        found["loss_other"] = jnp.where(alone, 0, found["loss_other"])
        found["loss"] = found["loss_same"] + found["loss_other"]
        return (
            {name: jnp.where(valid, value, 0) for name, value in found.items()},
            valid.astype(jnp.float32),
        )

    def pictures(variables, batch):
        del variables
        keys = jax.vmap(jax.random.key)(batch["photo"])
        found = jax.vmap(views)(keys, batch["image"])
        # Pixels are repeated, so that all panels have the size of the photo.
        large = jnp.clip(found, 0, 1).repeat(2, 2).repeat(2, 3)
        large = jnp.round(large * 255).astype(jnp.uint8)
        return jnp.concatenate([batch["image"][:, None], large], 1)

    panels = ("photo", "shrunk", *(f"quarter {i}" for i in np.arange(1, 5)))
    evaluator = evaluators.held_out(model, prepare, loss, pictures, panels)
    return Task(model, prepare, loss, evaluators={"": evaluator})


def _check(config, encoder) -> None:
    settings, crop = config.task, config.data.crop
    if config.data.batch_size // max(1, config.microbatches) < 2:
        raise ConfigError(
            f"counting compares each photo with another one: config.data.batch_size="
            f"{config.data.batch_size} with config.microbatches={config.microbatches} leaves fewer "
            "than two in a step's part"
        )
    if crop % 2 or crop // 2 < encoder.smallest_input:
        raise ConfigError(
            f"config.data.crop={crop} must be even, and its half at least "
            f"{encoder.smallest_input} pixels for {config.model.name}"
        )
    if settings.counts < 1 or settings.grid < 1:
        raise ConfigError("config.task.counts and config.task.grid must be positive")
    if not settings.margin > 0:
        raise ConfigError(
            f"config.task.margin={settings.margin} must be positive, or counting nothing is an "
            "answer without loss"
        )
    if not 0 <= settings.gray <= 1:
        raise ConfigError(f"config.task.gray={settings.gray} must be from 0 to 1")
