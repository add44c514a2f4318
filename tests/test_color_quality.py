"""Scores of colors against golden vectors and scikit-image."""

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
import skimage.metrics

from colorize_jax.color import gamut, quality, spaces

ZHANG = golden_pretexts.group("zhang")
# Compiled as wholes, and not operation by operation.
accuracy_counts = jax.jit(quality.accuracy_counts)
auc, lab, nearest_bin = (jax.jit(f) for f in (quality.auc, spaces.lab, gamut.nearest_bin))


def test_golden_psnr_and_rmse_ab(golden):
    predicted = jnp.asarray(golden["inst_default_rgb_matched"], jnp.float32)
    truth = jnp.asarray(golden["metric_gt_rgb"], jnp.float32)
    np.testing.assert_allclose(quality.psnr(predicted, truth), golden["metric_psnr_rgb"], rtol=1e-5)
    error = quality.squared_error_ab(predicted, truth)
    np.testing.assert_allclose(error**0.5, golden["metric_rmse_cielab_ab"], rtol=1e-4)


def test_psnr_is_that_of_scikit_image_per_photo(rng):
    truth, predicted = rng.random((2, 3, 5, 7, 3))
    expected = [
        skimage.metrics.peak_signal_noise_ratio(t, p, data_range=1)
        for t, p in zip(truth, predicted, strict=True)
    ]
    np.testing.assert_allclose(quality.psnr(predicted, truth), expected, rtol=1e-5)


def test_auc_is_the_area_under_the_share_of_pixels_within_each_distance(rng):
    truth, predicted = rng.random((2, 3, 16, 16, 3))
    truth[2] = predicted[2]
    expected = []
    for t, p in zip(truth, predicted, strict=True):
        difference = (skimage.color.rgb2lab(p) - skimage.color.rgb2lab(t))[..., 1:]
        distance = np.linalg.norm(difference, axis=-1)
        curve = [(distance <= limit).mean() for limit in range(151)]
        expected.append(np.trapezoid(curve) / 150)
    found = auc(jnp.asarray(predicted, jnp.float32), jnp.asarray(truth, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-4)  # a pixel on a limit may fall over it
    assert found[2] == 1


def test_psnr_of_a_perfect_photo_is_finite():
    assert quality.psnr(jnp.ones((2, 2, 3)), jnp.ones((2, 2, 3))) == 100


@pytest.fixture(scope="module")
def zhang_counts():
    """Of the golden prediction, and of one that is gray, both photos together."""
    predicted, truth = (jnp.asarray(ZHANG[name], jnp.float32) for name in ("pred_ab", "true_ab"))
    return np.asarray(accuracy_counts(predicted, truth)), np.asarray(
        accuracy_counts(0 * truth, truth)
    )


def test_golden_zhang_nearest_bin_of_the_true_colors():
    np.testing.assert_array_equal(nearest_bin(ZHANG["true_ab"]), ZHANG["true_bin"])
    for ab in (ZHANG["ab"], ZHANG["ab"][:28]):  # with colors out of the gamut, and without
        index, _ = gamut.nearest(ab, 1)
        np.testing.assert_array_equal(nearest_bin(ab), index[:, 0])


def test_nearest_bin_of_what_a_screen_shows_is_that_of_comparing_all(rng):
    corners = np.indices((2, 2, 2)).reshape(3, 8).T  # black, white and the purest colors
    rgb = np.concatenate([corners, rng.random((2000, 3))]).astype(np.float32)
    ab = np.concatenate([lab(rgb)[:, 1:], [[5, -5], [-15, 25], [0, 0]]])
    index, _ = jax.jit(gamut.nearest, static_argnums=1)(ab.astype(np.float32), 1)
    np.testing.assert_array_equal(nearest_bin(ab.astype(np.float32)), index[:, 0])
    assert nearest_bin(jnp.array([[jnp.nan, 0.0]])).shape == (1,)


@pytest.mark.parametrize("kind", ["plain", "rebalanced"])
def test_golden_zhang_auc_plain_and_rebalanced_of_several_photos(zhang_counts, kind):
    prior = ZHANG["prior"] if kind == "rebalanced" else None
    curve, gray = (quality.accuracy_curve(counts, prior) for counts in zhang_counts)
    np.testing.assert_allclose(curve, ZHANG[f"auc_curve_{kind}"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(quality.area(curve), ZHANG[f"auc_{kind}"], rtol=1e-5, atol=1e-6)
    expected = ZHANG[f"auc_gray_{kind}"]
    np.testing.assert_allclose(quality.area(gray), expected, rtol=1e-5, atol=1e-6)


def test_counts_are_those_of_the_auc_per_photo(rng):
    truth, predicted = jnp.asarray(rng.random((2, 16, 16, 3)), jnp.float32)
    predicted = predicted.at[:4].set(truth[:4])  # a distance of zero, too
    ab = (lab(rgb)[..., 1:] for rgb in (predicted, truth))
    counts = accuracy_counts(*ab)
    assert counts.dtype == jnp.int32 and counts[:, 0].sum() == 4 * 16
    curve = quality.accuracy_curve(counts)
    assert quality.area(curve) == pytest.approx(float(auc(predicted, truth)), abs=1e-5)


def test_pixels_that_are_not_valid_are_not_counted_and_nan_is_far():
    truth = jnp.zeros((4, 2))
    predicted = jnp.array([[0.0, 0.0], [jnp.nan, 0.0], [7.5, 0.0], [0.0, 151.0]])
    counts = accuracy_counts(predicted, truth, jnp.array([True, True, True, False]))
    at = np.argwhere(counts)
    np.testing.assert_array_equal(gamut.bins()[at[:, 0]], 0)
    np.testing.assert_array_equal(at[:, 1], [0, 8, 151])


def test_rare_colors_count_as_much_as_frequent_ones_under_the_prior_of_the_photos_themselves():
    """Three pixels are gray and right; one is red and wrong by far."""
    truth = jnp.array([[0.0, 0.0]] * 3 + [[80.0, 60.0]])
    counts = accuracy_counts(truth.at[3].set(jnp.array([-100.0, -100.0])), truth)
    assert quality.area(quality.accuracy_curve(counts)) == pytest.approx(0.75)
    assert quality.area(quality.accuracy_curve(counts, counts.sum(-1))) == pytest.approx(0.5)
    absent = np.zeros(gamut.BINS)
    assert np.isnan(quality.area(quality.accuracy_curve(counts, absent)))


def test_golden_zhang_colorfulness():
    found = [quality.colorfulness(ZHANG[f"photo_{name}"]) for name in "ab"]
    np.testing.assert_allclose(found, ZHANG["colorfulness"], rtol=1e-5, atol=1e-3)
    assert not quality.colorfulness(np.full((4, 4, 3), 90, np.uint8))


def test_golden_zhang_psnr():
    photos = (spaces.from_uint8(ZHANG[f"photo_{name}"]) for name in "ab")
    np.testing.assert_allclose(quality.psnr(*photos), ZHANG["psnr"], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("window", "name"), [("uniform", "uniform7"), ("gaussian", "gauss11")])
def test_golden_zhang_ssim(window, name):
    photos = (ZHANG[f"photo_{name}"] / 255 for name in "ab")
    np.testing.assert_allclose(quality.ssim(*photos, window), ZHANG[f"ssim_{name}"], atol=1e-4)


def test_strips_of_a_photo_give_what_the_whole_does(rng, monkeypatch):
    truth, predicted = rng.integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)

    def found():
        own = [quality.ssim(predicted, truth, window, 255) for window in quality.WINDOWS]
        return [*own, quality.colorfulness(truth)]

    whole = found()
    monkeypatch.setattr(quality, "_STRIP", 100)
    assert found() == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("window", quality.WINDOWS)
def test_ssim_is_that_of_scikit_image(window, rng):
    truth = rng.random((19, 31, 3))
    predicted = np.clip(truth + rng.normal(scale=0.1, size=truth.shape), 0, 1)
    settings = {
        "uniform": {},
        "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
    }[window]
    expected = skimage.metrics.structural_similarity(
        truth, predicted, channel_axis=-1, data_range=1, **settings
    )
    assert quality.ssim(predicted, truth, window) == pytest.approx(expected, abs=1e-9)
    wide = quality.ssim(predicted * 255, truth * 255, window, data_range=255)
    assert wide == pytest.approx(expected, abs=1e-9)
    assert quality.ssim(truth, truth, window) == pytest.approx(1)
    assert np.isnan(quality.ssim(predicted[:6], truth[:6], window))


@pytest.mark.parametrize(
    ("score", "shapes"),
    [
        (quality.psnr, [(2, 4, 4, 3), (1, 4, 4, 3)]),
        (quality.auc, [(2, 4, 4, 3), (2, 1, 1, 3)]),
        (quality.accuracy_counts, [(4, 4, 2), (1, 2)]),
    ],
)
def test_shapes_that_would_broadcast_are_refused(score, shapes):
    with pytest.raises(AssertionError, match="shape"):
        jax.eval_shape(score, *(jnp.zeros(shape) for shape in shapes))
