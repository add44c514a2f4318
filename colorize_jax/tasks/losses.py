"""Losses per sample: pure functions of predictions and targets, unreduced, in float32.

Shapes that do not fit, and would broadcast to a wrong loss, raise an AssertionError.
"""

import chex
import jax
import jax.numpy as jnp

HUE_WEIGHT = 5.0  # the weight of the hue's loss in the released training file
_LOG_TINY = -87.33654475055312  # The release clamps at log of the smallest normal float32.


def histogram_kl(logits: jax.Array, target: jax.Array) -> jax.Array:
    """The KL divergence of softmax(logits) from a target histogram.

    Args:
        logits: [..., bins].
        target: [..., bins], which sums to one; empty bins contribute nothing.

    Returns:
        [...] nats. As in the release, probabilities are clamped at the smallest normal float32, but
        the gradient stays softmax(logits) - target.
    """
    chex.assert_equal_shape_suffix((logits, target), 1)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_p += jax.lax.stop_gradient(jnp.maximum(log_p, _LOG_TINY) - log_p)
    log_q = jnp.log(jnp.where(target > 0, target, 1.0))
    return (target * (log_q - log_p)).sum(-1)


def weighted_kl(logits: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """The KL divergence times the weight of the sample, [...]; the weight gets no gradient."""
    kl = histogram_kl(logits, target)
    chex.assert_is_broadcastable(jnp.shape(weight), kl.shape)
    return jax.lax.stop_gradient(weight) * kl


def regression_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared Euclidean distance, [..., channels] -> [...], as in Caffe."""
    chex.assert_equal_shape_suffix((predicted, target), 1)
    return 0.5 * jnp.square(predicted.astype(jnp.float32) - target).sum(-1)


def sigmoid_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The binary cross-entropy of every class, summed over the classes.

    Args:
        logits: [..., classes].
        labels: [..., classes] of 1 (present), -1 (absent) and 0 (difficult), which is left out. The
            release meant to leave difficult labels out, but trains them as 1.

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
    """The cross-entropy of softmax(logits).

    Args:
        logits: [..., classes].
        labels: integers [...]; `void` contributes nothing.

    Returns:
        [...] nats, 0 for void labels; and bool [...], which labels count, to divide a sum by.
    """
    chex.assert_shape(labels, logits.shape[:-1])
    counted = labels != void
    # For a label beyond the classes JAX returns NaN; that is masked but stops jax_debug_nans.
    label = jnp.where(counted, labels, 0).astype(jnp.int32)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(log_p, label[..., None], -1)[..., 0]
    return jnp.where(counted, -picked, 0.0), counted
