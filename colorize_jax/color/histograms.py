"""Color histograms of small windows around sampled pixels, and how much each pixel counts."""

import jax
import jax.numpy as jnp


def bin_index(value: jax.Array, bins: int) -> jax.Array:
    """Values in [0, 1] -> int32 bin, truncated; 1.0 belongs to the last bin."""
    return jnp.minimum((value * bins).astype(jnp.int32), bins - 1)


def at_points(image: jax.Array, points: jax.Array) -> jax.Array:
    """Pixels [height, width, ...] at integer (y, x) points [points, 2] -> [points, ...]."""
    return image[points[:, 0], points[:, 1]]


def window_histogram(index: jax.Array, points: jax.Array, *, window: int, bins: int) -> jax.Array:
    """Histograms of the windows around points: never of the whole image.

    Args:
        index: [height, width] bin of every pixel.
        points: [points, 2] integer (y, x) of the centers, inside the image.
        window: odd side of the window in pixels.
        bins: number of bins.

    Returns:
        [points, bins]; the window is clipped at the border of the image and every histogram is
        divided by the number of pixels that were really there, so it sums to one.
    """
    height, width = index.shape
    offset = jnp.arange(window) - window // 2
    y = points[:, 0, None] + offset
    x = points[:, 1, None] + offset
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    votes = index[jnp.clip(y, 0, height - 1)[:, :, None], jnp.clip(x, 0, width - 1)[:, None, :]]
    votes = jnp.where(inside, votes, -1).reshape(len(points), -1)  # -1 is no bin: it gets no vote
    counts = (votes[:, :, None] == jnp.arange(bins)).sum(1).astype(jnp.float32)
    pixels = inside.reshape(len(points), -1).sum(1, keepdims=True)
    return counts / pixels.astype(jnp.float32)


def chroma_weight(gray: jax.Array) -> jax.Array:
    """Weight of the chroma loss at a lightness in [0, 1]: min(1, 3 gray, 3 (1 - gray)).

    Zero at black and white, where no chroma can be seen, one between a third and two thirds; from
    the released training file.
    """
    return jnp.minimum(1.0, 3 * jnp.minimum(gray, 1 - gray))
