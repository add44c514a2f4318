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


def color_jitter(key: jax.Array, rgb: jax.Array, strength: float) -> jax.Array:
    """Changes brightness, contrast, saturation and hue by random amounts in a random order.

    As in the released code of SimCLR: the first three are multiplied by a factor within 1 ± 0.8
    `strength`, and the hue is turned by up to 0.2 `strength` of a turn; after each change, values
    are clipped to [0, 1]. Contrast is measured from the mean of each channel, and saturation is
    that of HSV.

    Args:
        key: the JAX key of this photo.
        rgb: [height, width, 3] in [0, 1].
        strength: 0 to 1.25.

    Returns:
        The same shape, in [0, 1].
    """
    order_key, amount_key = jax.random.split(key)
    order = jnp.argsort(jax.random.uniform(order_key, (4,)))
    amounts = jax.random.uniform(amount_key, (4,), minval=-strength, maxval=strength)
    factors, turn = 1 + 0.8 * amounts[:3], 0.2 * amounts[3]

    def change(rgb, which):
        # Under vmap each branch is computed for every photo. So the first three changes are written
        # as one: they move a pixel to or away from another color, which is black, or the mean of
        # the photo, or the gray as bright as the pixel's largest channel.
        hue, chroma = spaces.hue_chroma(rgb)
        value = rgb.max(-1)
        other = jnp.where(which == 1, rgb.mean((0, 1)), 0.0)
        other = jnp.where(which == 2, value[..., None], other)
        # Beyond this factor the saturation would be above 1.
        fullest = (value / jnp.maximum(chroma, 1e-6))[..., None]
        factor = factors[jnp.minimum(which, 2)]
        factor = jnp.where(which == 2, jnp.minimum(factor, fullest), factor)
        blended = jnp.clip(other + factor * (rgb - other), 0, 1)
        turned = spaces.hsv_to_rgb(hue + turn, chroma / jnp.maximum(value, 1e-6), value)
        return jnp.where(which == 3, turned, blended), None

    return jax.lax.scan(change, rgb, order)[0]


def blurred(rgb: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """A square photo [side, side, channels] after a Gaussian filter, black beyond its border.

    Args:
        rgb: the photo.
        sigma: the standard deviation of the filter in pixels, a scalar.
        radius: the filter is 2 `radius` + 1 pixels wide.
    """
    # Products of matrices are fast everywhere. A convolution with another kernel for every photo
    # is not.
    place = jnp.arange(len(rgb))
    distance = (place[:, None] - place).astype(jnp.float32)
    weights = jnp.exp(-jnp.square(distance / sigma) / 2)
    weights = jnp.where(jnp.abs(distance) <= radius, weights, 0)
    inside = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weights /= jnp.exp(-jnp.square(inside / sigma) / 2).sum()
    return jnp.einsum("ij,jkc,lk->ilc", weights, rgb, weights, precision="highest")


def one_color(key: jax.Array, rgb: jax.Array, share: float) -> jax.Array:
    """RGB [..., 3]; with probability `share` all channels become one of them, drawn by chance."""
    chance, channel = jax.random.split(key)
    kept = jnp.take(rgb, jax.random.randint(channel, (), 0, 3), axis=-1)[..., None]
    return jnp.where(jax.random.bernoulli(chance, share), jnp.broadcast_to(kept, rgb.shape), rgb)


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
