"""Chooses pixels of a photo to hide, and fills them with a color."""

import math

import jax
import jax.numpy as jnp

# The released random masks are noise of 600 pixels a side, enlarged to 10,000.
_ENLARGED = 10_000 / 600


def center(side: int, hole: int, overlap: int) -> jax.Array:
    """The hidden pixels of a square photo whose middle is predicted: bool [side, side].

    Args:
        side: the side of the photo.
        hole: the side of the square in the middle that is predicted.
        overlap: this many pixels at its border are predicted although they are visible.
    """
    start = (side - hole) // 2 + overlap
    place = jnp.arange(side)
    inside = (place >= start) & (place < start + hole - 2 * overlap)
    return inside[:, None] & inside


def border_weights(hole: int, overlap: int, weight: float) -> jax.Array:
    """The weight of each predicted pixel: float32 [hole, hole], `weight` in the overlap."""
    return jnp.where(center(hole, hole, overlap), 1.0, weight).astype(jnp.float32)


def regions(key: jax.Array, side: int, share: float) -> jax.Array:
    """Regions of any form that hide `share` of a photo: bool [side, side].

    They are the regions where enlarged noise is lowest.
    """
    coarse = math.ceil(side / _ENLARGED) + 3  # The border is cut off after enlarging.
    place_key, noise_key = jax.random.split(key)
    noise = jax.random.uniform(noise_key, (coarse, coarse))
    start = jax.random.uniform(place_key, (2,), minval=1.0, maxval=2.0)
    smooth = jax.image.scale_and_translate(
        noise,
        (side, side),
        (0, 1),
        jnp.full(2, _ENLARGED, jnp.float32),
        -start * _ENLARGED,
        "cubic",
        antialias=False,
    )
    return smooth <= jnp.quantile(smooth, share)


def filled(image: jax.Array, hidden: jax.Array, fill: jax.Array) -> jax.Array:
    """A photo [..., h, w, channels] with `fill` [channels] where it is hidden, [..., h, w]."""
    return jnp.where(hidden[..., None], fill, image)


def number_kept(patches: int, share: float) -> int:
    """The number of patches that stay visible when `share` of them is hidden, rounded down."""
    return int(patches * (1 - share))


def shuffled(noise: jax.Array, kept: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chooses the patches of a photo that stay visible: those of the least noise.

    Args:
        noise: a number for every patch, [..., patches].
        kept: the number of patches that stay.

    Returns:
        keep: the visible patches [..., kept], by rising noise.
        restore: the place of every patch in that order, [..., patches]: below `kept` for those that
            stay. It puts tokens of visible patches, followed by tokens of hidden ones, back in
            place.
        hidden: bool [..., patches].
    """
    order = jnp.argsort(noise, -1)
    restore = jnp.argsort(order, -1)
    return order[..., :kept], restore, restore >= kept


def patches(image: jax.Array, side: int) -> jax.Array:
    """Photos [..., height, width, channels] cut into squares: [..., patches, side^2 channels].

    Patches are in raster order; in one the channel is the fastest, then the column. Height and
    width are multiples of the side.
    """
    *batch, height, width, channels = image.shape
    cells = image.reshape(*batch, height // side, side, width // side, side, channels)
    return cells.swapaxes(-4, -3).reshape(*batch, -1, side * side * channels)


def joined(patches: jax.Array, height: int, width: int, side: int) -> jax.Array:
    """The photos [..., height, width, channels] of patches; the inverse of `patches`."""
    batch = patches.shape[:-2]
    cells = patches.reshape(*batch, height // side, width // side, side, side, -1)
    return cells.swapaxes(-4, -3).reshape(*batch, height, width, -1)
