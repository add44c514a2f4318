"""Changes of color and sharpness that prevent shortcuts of a network."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.color import spaces

# The rough standard deviation of photos' pixels in the units of `network_input`. Tiles of variance
# one are multiplied by it, so that inputs have the same scale in pretraining and transfer.
SPREAD = 0.25
# The green-magenta direction, along which lenses shift the colors of edges.
_ABERRATION = np.array([-1.0, 2.0, -1.0], np.float32)
_WITHOUT_ABERRATION = np.eye(3, dtype=np.float32) - np.outer(_ABERRATION, _ABERRATION) / 6


def gray_by_chance(key: jax.Array, rgb: jax.Array, share: float) -> jax.Array:
    """RGB [..., 3]; with probability `share` all channels become their mean."""
    gray = jnp.broadcast_to(spaces.gray(rgb)[..., None], rgb.shape)
    return jnp.where(jax.random.bernoulli(key, share), gray, rgb)


def channels_moved(key: jax.Array, rgb: jax.Array, pixels: int) -> jax.Array:
    """Shifts each channel by 0 to `pixels` pixels along both axes and repeats its border.

    The color shifts of lenses reveal the place of a tile in the photo; random shifts hide them.
    """
    height, width, channels = rgb.shape
    moved = jax.random.randint(key, (channels, 2), 0, pixels + 1)

    def one(channel, by):
        y = jnp.minimum(jnp.arange(height) + by[0], height - 1)
        x = jnp.minimum(jnp.arange(width) + by[1], width - 1)
        return channel[y][:, x]

    return jax.vmap(one, (2, 0), 2)(rgb, moved)


def without_aberration(key: jax.Array, rgb: jax.Array, share: float) -> jax.Array:
    """RGB [..., 3]; with probability `share` the green-magenta component is removed."""
    flat = jnp.einsum("...c,cd->...d", rgb, _WITHOUT_ABERRATION, precision="highest")
    return jnp.where(jax.random.bernoulli(key, share), flat, rgb)


def one_channel(patches: jax.Array, kept: jax.Array, noise: jax.Array, rms: float) -> jax.Array:
    """Keeps one channel of each patch, minus its mean, and replaces the others by noise.

    This is as in the released code of relative patch position. A network that never sees two
    channels of a patch cannot see how a lens shifts them against each other.

    Args:
        patches: [n, side, side, 3] in 0..255.
        kept: the channel to keep of each patch, [n].
        noise: noise for the other channels, [n, side, side, 3].
        rms: the root mean square of each patch of the result.
    """
    centered = patches - patches.mean((-3, -2), keepdims=True)
    stays = kept[:, None, None, None] == jnp.arange(3)
    mixed = jnp.where(stays, centered, noise)
    size = jnp.sqrt(jnp.square(mixed).mean((-3, -2, -1), keepdims=True))
    return mixed * (rms / jnp.maximum(size, 1e-6))


def resampled(key: jax.Array, image: jax.Array, share: float, smallest: int) -> jax.Array:
    """A square [side, side, channels]; with probability `share` it is shrunk and enlarged again.

    It is shrunk to a side of `smallest` to `side` - 1 pixels; all areas are equally likely. Then
    traces of a photo's earlier resampling do not reveal the place of a patch.
    """
    side = image.shape[0]
    chance, size = jax.random.split(key)
    area = jax.random.uniform(size, minval=smallest**2, maxval=(side - 1) ** 2)
    small = jnp.sqrt(area).astype(jnp.int32)
    scale = small.astype(jnp.float32) / side

    def scaled(x, scale):
        return jax.image.scale_and_translate(
            x, x.shape, (0, 1), jnp.stack([scale, scale]), jnp.zeros(2), "linear"
        )

    shrunk = scaled(image, scale)
    # The rest of the canvas repeats the border. Otherwise enlarging would blend in black.
    inside = jnp.minimum(jnp.arange(side), small - 1)
    enlarged = scaled(shrunk[inside][:, inside], 1 / scale)
    return jnp.where(jax.random.bernoulli(chance, share), enlarged, image)
