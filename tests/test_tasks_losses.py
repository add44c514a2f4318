"""Losses against golden vectors, finite where the targets are empty."""

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.tasks import losses


def test_golden_histogram_kl(golden):
    for name in ("hue", "chroma"):
        logits = jnp.asarray(golden[f"kl_logits_{name}"], jnp.float32)
        target = jnp.asarray(golden[f"hist_{name}_7x7"], jnp.float32)
        actual = losses.histogram_kl(logits, target)
        np.testing.assert_allclose(actual, golden[f"kl_{name}_each"], rtol=1e-4)


def test_golden_kl_is_zero_at_the_target(golden):
    target = jnp.asarray(golden["hist_hue_7x7"], jnp.float32)
    logits = jnp.log(jnp.maximum(target, 1e-30))
    actual = losses.histogram_kl(logits, target)
    np.testing.assert_allclose(actual, golden["kl_zero_case"], atol=1e-5)


def test_golden_euclidean_loss(golden):
    each = losses.regression_loss(
        jnp.asarray(golden["reg_pred"], jnp.float32), jnp.asarray(golden["reg_target"], jnp.float32)
    )
    np.testing.assert_allclose(each.mean(), golden["reg_euclidean_caffe"], rtol=1e-5)


def test_impossible_bins_are_clamped_and_keep_their_gradient():
    logits = jnp.array([500.0, 0.0])
    target = jnp.array([0.0, 1.0])
    value, gradient = jax.value_and_grad(lambda x: losses.histogram_kl(x, target))(logits)
    np.testing.assert_allclose(value, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)
    np.testing.assert_allclose(gradient, [1, -1], atol=1e-6)


def test_masks_carry_no_gradient():
    logits, target = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5])
    assert jax.grad(lambda w: losses.weighted_kl(logits, target, w))(0.3) == 0


def test_half_precision_logits_give_a_single_precision_loss():
    logits = jnp.array([1.0, 2.0], jnp.bfloat16)
    assert losses.histogram_kl(logits, jnp.array([0.5, 0.5])).dtype == jnp.float32
