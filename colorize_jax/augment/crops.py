"""Random crops on the accelerator, for views of held-out photos.

Views for training are cut on the host, from the whole photo; see `data.views`.
"""

import jax
import jax.numpy as jnp


def resized_crop(
    key: jax.Array,
    rgb: jax.Array,
    area: tuple[float, float],
    ratio: tuple[float, float],
    mirror: bool,
) -> jax.Array:
    """A random part of a square photo, resized to the size of the photo.

    A side that would be longer than the photo is cut to it; the host draws again instead.

    Args:
        key: the JAX key of this view.
        rgb: [side, side, channels].
        area: the smallest and the largest share of the photo's area.
        ratio: the smallest and the largest width over height; its logarithm is uniform.
        mirror: whether half of the parts are mirrored.

    Returns:
        [side, side, channels].
    """
    side = len(rgb)
    area_key, ratio_key, place_key, mirror_key = jax.random.split(key, 4)
    share = jax.random.uniform(area_key, minval=area[0], maxval=area[1])
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    size = jnp.minimum(jnp.sqrt(share * jnp.stack([1 / ratio, ratio])), 1)  # Of the side.
    start = side * (1 - size) * jax.random.uniform(place_key, (2,))
    part = jax.image.scale_and_translate(rgb, rgb.shape, (0, 1), 1 / size, -start / size, "linear")
    mirrored = jax.random.bernoulli(mirror_key) & mirror
    return jnp.where(mirrored, part[:, ::-1], part)
