"""Scores against golden vectors and scikit-image."""

import jax.numpy as jnp
import numpy as np
import skimage.metrics

from colorize_jax.evaluation import metrics


def test_golden_psnr_and_rmse_ab(golden):
    predicted = jnp.asarray(golden["inst_default_rgb_matched"], jnp.float32)
    truth = jnp.asarray(golden["metric_gt_rgb"], jnp.float32)
    np.testing.assert_allclose(metrics.psnr(predicted, truth), golden["metric_psnr_rgb"], rtol=1e-5)
    error = metrics.squared_error_ab(predicted, truth)
    np.testing.assert_allclose(error**0.5, golden["metric_rmse_cielab_ab"], rtol=1e-4)


def test_psnr_is_that_of_scikit_image_per_photo(rng):
    truth, predicted = rng.random((2, 3, 5, 7, 3))
    expected = [
        skimage.metrics.peak_signal_noise_ratio(t, p, data_range=1)
        for t, p in zip(truth, predicted, strict=True)
    ]
    np.testing.assert_allclose(metrics.psnr(predicted, truth), expected, rtol=1e-5)


def test_psnr_of_a_perfect_photo_is_finite():
    assert metrics.psnr(jnp.ones((2, 2, 3)), jnp.ones((2, 2, 3))) == 100
