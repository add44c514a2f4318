"""Colors from histograms equal the golden vectors."""

import jax
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
    # The mean of opposite hues has no direction, so any hue is right.
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
    # Lab's lightness is not the mean of the channels; a and b hold the rest of the color.
    np.testing.assert_allclose(actual, rgb, atol=0.06)
    np.testing.assert_allclose(spaces.gray(actual), spaces.gray(rgb), atol=1e-5)


JOINS = {
    "hue_chroma": (instantiate.join_hue_chroma, spaces.gray, 1.0),
    "ab": (instantiate.join_ab, spaces.gray, 100.0),
    "ab_at_lightness": (instantiate.join_ab_at_lightness, spaces.lightness_gray, 100.0),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_joined_color_keeps_its_gray_also_out_of_gamut(name):
    join, gray_of, scale = JOINS[name]
    rng = np.random.default_rng(0)
    plane = rng.uniform(-1, 1, (500, 2)).astype(np.float32) * scale
    gray = np.concatenate([rng.random(498), [0, 1]]).astype(np.float32)
    rgb = join(jnp.asarray(plane), jnp.asarray(gray))
    assert rgb.min() >= 0 and rgb.max() <= 1
    np.testing.assert_allclose(gray_of(rgb), gray, atol=2e-3)
    np.testing.assert_allclose(
        join(jnp.zeros((500, 2)), gray), gray[:, None].repeat(3, 1), atol=1e-4
    )


def test_colors_within_the_gamut_come_back_from_the_plane():
    rgb = jnp.asarray(np.random.default_rng(1).random((200, 3)), jnp.float32)
    hue, chroma = spaces.hue_chroma(rgb)
    plane = chroma[:, None] * jnp.stack([jnp.cos(2 * jnp.pi * hue), jnp.sin(2 * jnp.pi * hue)], -1)
    back = instantiate.join_hue_chroma(plane, spaces.gray(rgb))
    np.testing.assert_allclose(back, rgb, atol=1e-5)
    ab = spaces.lab(rgb)[..., 1:]
    at_lightness = instantiate.join_ab_at_lightness(ab * 0.999, spaces.lightness_gray(rgb))
    np.testing.assert_allclose(at_lightness, rgb, atol=1e-2)


def test_the_default_plane_is_the_default_color_where_that_is_within_the_gamut(golden):
    hue, chroma, gray = _inputs(golden)
    plane = instantiate.hue_chroma_plane(hue, chroma, "median")
    joined = instantiate.join_hue_chroma(plane, gray)
    expected = instantiate.histograms_to_rgb(hue, chroma, gray)
    expected = expected - expected.mean(-1, keepdims=True) + gray[..., None]
    chroma_of = expected.max(-1) - expected.min(-1)
    inside = (expected.min(-1) > 0) & (expected.max(-1) < 1)
    inside &= np.abs(chroma_of - jnp.hypot(plane[..., 0], plane[..., 1])) < 1e-5
    assert inside.sum() > 10
    np.testing.assert_allclose(joined[inside], expected[inside], atol=1e-4)


def test_a_draw_follows_the_distribution_and_is_one_for_all_pixels():
    shares = jnp.asarray([0.1, 0.6, 0.3])
    keys = jax.random.split(jax.random.key(0), 2000)
    photos = jnp.broadcast_to(shares, (2000, 4, 3))
    drawn = instantiate.annealed(photos, 0.0, keys).argmax(-1)
    assert (drawn == drawn[:, :1]).all()
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 2000, shares, atol=0.04)
    np.testing.assert_allclose(instantiate.annealed(photos[:1], 1.0)[0, 0], shares, rtol=1e-5)
