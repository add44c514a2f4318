"""Scores of predictions: pure functions of arrays.

Shapes that do not go together, and would broadcast to a wrong score, are an AssertionError.
"""

import chex
import jax
import jax.numpy as jnp

from colorize_jax.color import spaces

_LARGEST_AB = 150  # distances of (a, b) that the curve of `auc` goes to


def psnr(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, per photo: RGB [..., height, width, 3] in [0, 1] -> [...].

    At most 100 dB: a perfect photo must not make a mean infinite.
    """
    chex.assert_equal_shape((predicted, truth))
    error = jnp.square(predicted - truth).mean((-3, -2, -1))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def squared_error_ab(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean squared error of CIE Lab's a and b, unscaled, over both channels and all pixels.

    Args:
        predicted, truth: RGB [..., height, width, 3] in [0, 1].

    Returns:
        [...] per photo.
    """
    return jnp.square(_difference_ab(predicted, truth)).mean((-3, -2, -1))


def auc(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Area under the curve of raw color accuracy (Zhang et al. 2016), per photo.

    The curve has, for t = 0, 1, ..., 150, the share of the pixels whose (a, b) is at most t from
    the truth's; its area, by trapezoids, is divided by 150. 1: every color is exact. A photo left
    gray scores high too, where it has little color: compare with that.

    Args:
        predicted, truth: RGB [..., height, width, 3] in [0, 1].

    Returns:
        [...] per photo.
    """
    distance = jnp.sqrt(jnp.square(_difference_ab(predicted, truth)).sum(-1))
    # The area that one pixel adds: it counts from the first t that reaches its distance on, and the
    # two ends of the curve count half.
    area = _LARGEST_AB + 0.5 - jnp.maximum(jnp.ceil(distance), 0.5)
    return jnp.where(distance <= _LARGEST_AB, area, 0).mean((-2, -1)) / _LARGEST_AB


def _difference_ab(predicted: jax.Array, truth: jax.Array) -> jax.Array:
    """Of Lab's a and b, per pixel: RGB [..., 3] in [0, 1] -> [..., 2]."""
    chex.assert_equal_shape((predicted, truth))
    return spaces.lab(predicted)[..., 1:] - spaces.lab(truth)[..., 1:]


def confusion(
    truth: jax.Array, predicted: jax.Array, classes: int, *, void: int = 255
) -> jax.Array:
    """How often each class was taken for which: the counts that `scores.iou` is made of.

    Args:
        truth: [...] integers. Pixels that are `void`, or no class at all, are left out.
        predicted: [...] integers from 0 to classes - 1.
        classes: number of them.

    Returns:
        [classes, classes] int32, rows by truth, columns by prediction: exact up to 2^31 pixels,
        where sums of float32 would stop counting at 2^24.
    """
    chex.assert_equal_shape((truth, predicted))
    truth, predicted = truth.astype(jnp.int32).ravel(), predicted.astype(jnp.int32).ravel()
    known = (truth != void) & (truth >= 0) & (truth < classes)
    cell = jnp.where(known, truth * classes + predicted, classes**2)
    counts = jnp.bincount(cell, length=classes**2 + 1)
    return counts[:-1].reshape(classes, classes)


def photo_iou(confusion: jax.Array) -> jax.Array:
    """How well single photos are segmented: the mean IoU over the classes that are in the photo or
    in its prediction, [..., classes, classes] -> [...]."""
    both = jnp.diagonal(confusion, axis1=-2, axis2=-1)
    either = confusion.sum(-1) + confusion.sum(-2) - both
    there = (either > 0).sum(-1).astype(jnp.float32)
    return (both / jnp.maximum(either, 1)).sum(-1) / jnp.maximum(there, 1)


def top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the true class is among the k that were given the highest scores.

    Args:
        logits: [..., classes].
        labels: [...] integers from 0 to classes - 1.

    Returns:
        [...] bool. Ties count against the prediction, and so does NaN: a network that says the same
        of every class knows none.
    """
    chex.assert_shape(labels, logits.shape[:-1])
    own = jnp.take_along_axis(logits, labels[..., None].astype(jnp.int32), -1)
    not_beaten = ~(logits < own)  # its own among them
    return not_beaten.sum(-1) <= k
