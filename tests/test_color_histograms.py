"""Tests of histograms: bins, windows and weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.color import histograms, spaces


def test_golden_bin_edges(golden):
    with jax.enable_x64(True):  # In float32 one of the values rounds up to the edge.
        actual = histograms.bin_index(jnp.asarray(golden["bin_test_values"]), 32)
    np.testing.assert_array_equal(actual, golden["bin_test_expected"])


def test_golden_bins_of_hue_and_chroma(golden):
    hue, chroma = spaces.hue_chroma(jnp.asarray(golden["rgb"], jnp.float32))
    margin = golden["hue_bin_edge_margin"]
    clear = (margin == 0) | (margin > 1e-5)  # Values on an edge are exact in float32.
    np.testing.assert_array_equal(
        np.asarray(histograms.bin_index(hue, 32))[clear], golden["hue_bin32"][clear]
    )
    edge = np.abs(golden["chroma"] * 32 - np.round(golden["chroma"] * 32))
    clear = (edge == 0) | (edge > 1e-4)
    np.testing.assert_array_equal(
        np.asarray(histograms.bin_index(chroma, 32))[clear], golden["chroma_bin32"][clear]
    )


def test_golden_chroma_weight(golden):
    actual = histograms.chroma_weight(jnp.asarray(golden["gray"], jnp.float32))
    np.testing.assert_allclose(actual, golden["chroma_loss_weight"], atol=1e-6)
    grid = histograms.chroma_weight(jnp.asarray(golden["lightness_grid"], jnp.float32))
    np.testing.assert_allclose(grid, golden["chroma_loss_weight_grid"], atol=1e-6)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_windows_are_clipped_and_divided_by_the_true_count(rng, window):
    index = rng.integers(0, 8, (9, 11))
    points = np.array([[0, 0], [0, 10], [8, 0], [8, 10], [4, 5], [1, 9], [8, 3]])
    actual = histograms.window_histogram(jnp.asarray(index), points, window=window, bins=8)
    half = window // 2
    for (y, x), histogram in zip(points, actual, strict=True):
        inside = index[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
        expected = np.bincount(inside.ravel(), minlength=8) / inside.size
        np.testing.assert_allclose(histogram, expected, atol=1e-7)


def test_window_larger_than_the_image():
    index = jnp.array([[0, 1], [1, 1]])
    actual = histograms.window_histogram(index, jnp.array([[0, 1]]), window=9, bins=2)
    np.testing.assert_allclose(actual, [[0.25, 0.75]])


def test_chroma_weight_has_a_finite_gradient():
    gradient = jax.grad(lambda x: histograms.chroma_weight(x).sum())(jnp.linspace(0, 1, 13))
    assert np.isfinite(gradient).all()
