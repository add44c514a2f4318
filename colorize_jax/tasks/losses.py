"""Losses per sample: pure functions of predictions and targets, unreduced, in float32.

Shapes that do not go together, and would broadcast to a wrong loss, are an AssertionError.
"""

import chex
import jax
import jax.numpy as jnp

HUE_WEIGHT = 5.0  # of the hue term in the released training file
_LOG_TINY = -87.33654475055312  # log of the smallest normal float32, where the release clamps


def histogram_kl(logits: jax.Array, target: jax.Array) -> jax.Array:
    """KL divergence of softmax(logits) from a target histogram.

    Args:
        logits: [..., bins].
        target: [..., bins], each summing to one; empty bins contribute nothing.

    Returns:
        [...] nats. Probabilities are clamped at the smallest normal float32 as in the release, but
        the gradient stays softmax(logits) - target.
    """
    chex.assert_equal_shape_suffix((logits, target), 1)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_p += jax.lax.stop_gradient(jnp.maximum(log_p, _LOG_TINY) - log_p)
    log_q = jnp.log(jnp.where(target > 0, target, 1.0))
    return (target * (log_q - log_p)).sum(-1)


def weighted_kl(logits: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """weight KL, [...]: how much a sample counts carries no gradient."""
    kl = histogram_kl(logits, target)
    chex.assert_is_broadcastable(jnp.shape(weight), kl.shape)
    return jax.lax.stop_gradient(weight) * kl


def regression_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared Euclidean distance, [..., channels] -> [...]: Caffe's convention."""
    chex.assert_equal_shape_suffix((predicted, target), 1)
    return 0.5 * jnp.square(predicted.astype(jnp.float32) - target).sum(-1)


def sigmoid_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of every class by itself, summed over the classes.

    Args:
        logits: [..., classes].
        labels: [..., classes] of 1 (is there), -1 (is not) and 0 (difficult): those count nothing.
            (The release meant to leave them out, but trains them as if they were 1.)

    Returns:
        [...] nats.
    """
    chex.assert_equal_shape((logits, labels))
    labels = labels.astype(jnp.float32)
    each = jax.nn.softplus(-labels * logits.astype(jnp.float32))
    return jnp.where(labels == 0, 0.0, each).sum(-1)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, void: int = 255
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of softmax(logits).

    Args:
        logits: [..., classes].
        labels: [...] integers; `void` contributes nothing.

    Returns:
        [...] nats, 0 where void; and [...] bool, which ones count: what to divide a sum by.
    """
    chex.assert_shape(labels, logits.shape[:-1])
    counted = labels != void
    # Beyond the classes JAX looks up NaN, which is masked below but stops jax_debug_nans.
    label = jnp.where(counted, labels, 0).astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(log_p, label[..., None], -1)[..., 0]
    return jnp.where(counted, -picked, 0.0), counted
