"""Colors out of histograms, against golden vectors."""

import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.color import instantiate, spaces


def _inputs(golden):
    names = ("inst_hist_hue", "inst_hist_chroma", "inst_gray")
    return [jnp.asarray(golden[name], jnp.float32) for name in names]


@pytest.mark.parametrize("hue", instantiate.HUE)
@pytest.mark.parametrize("chroma", instantiate.CHROMA)
def test_golden_instantiation(golden, hue, chroma):
    actual = instantiate.histograms_to_rgb(*_inputs(golden), hue=hue, chroma=chroma)
    expected = golden[f"inst_rgb_{chroma}_{hue}"]
    # The plain expectation of contradicting hues has no direction: there any hue is right.
    defined = golden["inst_hue_defined"] if hue == "expectation" else np.ones((6, 6), bool)
    np.testing.assert_allclose(np.asarray(actual)[defined], expected[defined], atol=1e-5)


def test_golden_default_and_lightness_matching(golden):
    hue, chroma, gray = _inputs(golden)
    np.testing.assert_allclose(instantiate.fading(hue), golden["inst_default_fade"], atol=1e-5)
    np.testing.assert_allclose(
        instantiate.CHROMA["median"](chroma) * instantiate.fading(hue),
        golden["inst_default_chroma"],
        atol=1e-5,
    )
    around = np.abs(instantiate.HUE["expectation-cf"](hue) - golden["inst_default_hue"])
    around = np.minimum(around, 1 - around)[golden["inst_hue_defined"]]
    np.testing.assert_allclose(around, 0, atol=1e-5)
    plain = instantiate.histograms_to_rgb(hue, chroma, gray)
    np.testing.assert_allclose(plain, golden["inst_default_rgb"], atol=1e-5)
    matched = instantiate.colorize(hue, chroma, gray)
    np.testing.assert_allclose(matched, golden["inst_default_rgb_matched"], atol=1e-5)


def test_uniform_hue_fades_to_gray():
    uniform = jnp.full((32,), 1 / 32)
    chroma = jnp.zeros(32).at[20].set(1.0)
    actual = instantiate.colorize(uniform, chroma, jnp.float32(0.4))
    np.testing.assert_allclose(actual, 0.4, atol=1e-5)


@pytest.mark.parametrize("gray", [0.0, 1.0])
def test_black_and_white_stay_finite(gray):
    uniform = jnp.full((32,), 1 / 32)
    actual = instantiate.colorize(uniform, jnp.zeros(32).at[0].set(1.0), jnp.float32(gray))
    np.testing.assert_allclose(actual, gray, atol=0.03)


def test_true_ab_gives_the_photo_back(rng):
    rgb = jnp.asarray(0.3 + 0.4 * rng.random((40, 3)), jnp.float32)
    actual = instantiate.ab_to_rgb(spaces.lab(rgb)[..., 1:], spaces.gray(rgb))
    # Lab's lightness is not the mean of the channels; a and b carry the rest of the color.
    np.testing.assert_allclose(actual, rgb, atol=0.06)
    np.testing.assert_allclose(spaces.gray(actual), spaces.gray(rgb), atol=1e-5)
