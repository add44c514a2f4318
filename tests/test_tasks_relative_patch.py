"""Relative patch position: pairs, directions, and the measures against shortcuts."""

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from colorize_jax.augment import photometric, tiles
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import relative_patch


def test_golden_patch_corners_stay_inside():
    golden = golden_pretexts.group("patch")
    corners = tiles.patch_corners(
        golden["origin"], golden["jitter"], patch=96, gap=48, shape=golden["image_shape"]
    )
    np.testing.assert_array_equal(corners, golden["corners"])
    image = golden["toy_image"]
    corners = tiles.patch_corners(
        golden["toy_origin"], golden["toy_jitter"], patch=8, gap=4, shape=image.shape[:2]
    )
    np.testing.assert_array_equal(corners, golden["toy_corners"])
    np.testing.assert_array_equal(tiles.cut(image, corners, 8), golden["toy_patches"])


def test_golden_patch_pairs_and_their_directions():
    golden = golden_pretexts.group("patch")
    np.testing.assert_array_equal(relative_patch.DIRECTIONS, golden["label_offsets"])
    cells, labels = relative_patch.pairs()
    np.testing.assert_array_equal(cells, golden["pairs"])
    np.testing.assert_array_equal(labels, golden["pair_labels"])


def test_the_other_way_round_is_the_opposite_direction():
    cells, labels = relative_patch.pairs()
    found = {tuple(pair): label for pair, label in zip(cells.tolist(), labels, strict=True)}
    assert all(found[second, first] == 7 - label for (first, second), label in found.items())
    counts = np.bincount(labels)
    np.testing.assert_array_equal(counts, counts[::-1])


def test_golden_patch_one_channel_is_left():
    golden = golden_pretexts.group("patch")
    found = photometric.one_channel(
        jnp.asarray(golden["drop_patches"], jnp.float32),
        golden["drop_kept"],
        golden["drop_noise"],
        50.0,
    )
    np.testing.assert_allclose(found, golden["drop_out"], rtol=1e-5, atol=1e-4)


def test_a_shrunk_patch_keeps_what_it_shows(rng):
    down = np.linspace(0, 1, 24)[:, None, None]
    image = jnp.asarray(np.broadcast_to(down, (24, 24, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 20)
    resample = jax.jit(lambda key, share: photometric.resampled(key, image, share, 3))
    np.testing.assert_array_equal(resample(keys[0], 0.0), image)
    for key in keys:  # A ramp stays a ramp, except for a coarse pixel at its ends.
        found = np.asarray(resample(key, 1.0))
        assert np.isfinite(found).all() and np.abs(found - image).max() < 0.5 / 3 + 0.05
        assert (np.diff(found[:, 5, 0]) > -1e-5).all()
    noise = jnp.asarray(rng.uniform(size=(24, 24, 3)), jnp.float32)
    coarse = jax.jit(lambda key: photometric.resampled(key, noise, 1.0, 3))(keys[1])
    assert coarse.std() < noise.std()


def _prepared(rng, **settings):
    config, task = toys.make("relative_patch", **settings)
    batch = toys.batch(config, task, rng)
    keys = jax.random.split(jax.random.key(1), len(batch["image"]))
    (inputs,), targets = jax.jit(task.prepare)(keys, batch)
    return task, batch, np.asarray(inputs), targets


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_have_no_brightness_and_no_contrast(rng, channels):
    _, _, inputs, targets = _prepared(rng, model__in_channels=channels, task__resampled=0.0)
    assert inputs.shape == (8, 9, 8, 8, channels) and targets["labels"].shape == (8, 40)
    size = np.sqrt(np.square(inputs).mean((-3, -2, -1)))
    np.testing.assert_allclose(size, relative_patch.RMS, rtol=0.02)
    if channels == 3:  # Two of three channels are noise, so all photos of one color are alike.
        assert np.abs(inputs.mean((-3, -2))).max() < 0.5 * relative_patch.RMS


def test_patches_of_a_photo_never_overlap():
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = tiles.patch_corners(
            rng.integers(0, 17, 2), rng.integers(-7, 8, (9, 2)), patch=96, gap=48, shape=(400, 400)
        )
        apart = np.abs(corners[:, None] - corners[None]).max(-1)
        assert apart[~np.eye(9, dtype=bool)].min() >= 96 + 48 - 14


def test_an_untrained_answer_costs_the_logarithm_of_eight(rng):
    task, _, _, targets = _prepared(rng)
    values, counts = task.loss(jnp.zeros((8, 40, 8)), targets)
    assert float(values["loss"].sum() / counts.sum()) == pytest.approx(np.log(8), rel=1e-6)


def test_pictures_show_patches_where_they_were_cut(rng):
    task, batch, inputs, _ = _prepared(rng, task__resampled=0.0)
    panels = np.asarray(jax.jit(task.evaluator.pictures)({}, batch))
    photo, patches, seen = np.moveaxis(panels, 1, 0)
    shown = patches.max(-1) > 0
    assert 0.4 < shown.mean() < 0.7  # Nine patches of 8 x 8 pixels are on 32 x 32.
    np.testing.assert_array_equal(patches[shown], photo[shown])
    assert (seen[~shown] == 0).all()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task__patch": 9}, "data.crop"),
        ({"task__patch": 0}, "task.patch"),
        ({"task__jitter": 3}, "task.jitter"),
        ({"task__resampled": -0.1}, "task.resampled"),
        ({"task__layer": "conv9"}, "conv9"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("relative_patch", **settings)
