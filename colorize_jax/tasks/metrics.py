"""Scores of predicted classes: pure functions of arrays. Those of colors: `color.quality`.

Shapes that do not go together, and would broadcast to a wrong score, are an AssertionError.
"""

import chex
import jax
import jax.numpy as jnp


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
