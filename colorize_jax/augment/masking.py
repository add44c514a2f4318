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
