"""Jigsaw: the published set of permutations, and tiles without hints about their place."""

import hashlib

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_encoder
import toys

from colorize_jax.augment import tiles
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import jigsaw
from colorize_jax.tasks.registry import make_task
from colorize_jax.training.step import row_keys

HASHES = {  # {number of permutations: hash of their bytes} of another implementation
    100: "fc6ec3d76f90c633c5913c1a2562e35a72bc0466432e7864b7c08349d0f6386b",
    1000: "f0beba7612796e7b5dbae43296bcb29732cfe5ddac9e50526acdbc6fa23f2a60",
}


def _keys(count):
    return row_keys(jax.random.key(0), jnp.arange(count))


def test_golden_jigsaw_tiles_lie_in_their_cells():
    golden = golden_pretexts.group("jigsaw")
    corners = tiles.tile_corners(golden["offsets"], 9)
    np.testing.assert_array_equal(tiles.cut(golden["image"], corners, 6), golden["tiles"])


def test_golden_jigsaw_tiles_have_no_brightness_and_no_contrast():
    golden = golden_pretexts.group("jigsaw")
    found = tiles.standardized(jnp.asarray(golden["tiles"], jnp.float32) / 255)
    np.testing.assert_allclose(found, golden["tiles_normal"], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("start", ["identity", "given"])
def test_golden_jigsaw_permutations(start):
    golden = golden_pretexts.group("jigsaw")
    for size, count in ((4, 6), (9, 100)):
        first = None if start == "identity" else tuple(golden[f"first{size}"].tolist())
        found = jigsaw.permutations(count, size, first)
        np.testing.assert_array_equal(found, golden[f"perms{size}_{start}"])
    distances = [(a != b).sum() for i, a in enumerate(found) for b in found[:i]]
    expected = golden[f"perms9_{start}_hamming"]
    np.testing.assert_allclose([min(distances), np.mean(distances), max(distances)], expected)


def test_golden_jigsaw_order_is_undone():
    golden = golden_pretexts.group("jigsaw")
    order = golden["perms9_given"][golden["label"]]
    shuffled = golden["tiles"][order]
    np.testing.assert_array_equal(shuffled, golden["shuffled"])
    np.testing.assert_array_equal(shuffled[np.argsort(order)], golden["tiles"])


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_permutations_are_always_the_same(count):
    found = jigsaw.permutations(count)
    assert hashlib.sha256(found.astype(np.uint8).tobytes()).hexdigest() == HASHES[count]
    assert len(np.unique(found, axis=0)) == count


def test_tiles_that_are_put_together_are_the_photo_again(rng):
    image = rng.integers(0, 256, (2, 18, 18, 3), np.uint8)
    corners = tiles.tile_corners(np.zeros((9, 2), np.int32), 6)
    found = jax.vmap(lambda x: tiles.cut(x, corners, 6))(image)
    np.testing.assert_array_equal(tiles.put_together(found, 6, 18), image)
    framed = np.asarray(tiles.put_together(found[:, :, 1:5, 1:5], 6, 20))
    assert framed.shape == (2, 20, 20, 3) and (framed[:, 18:] == 0).all()
    np.testing.assert_array_equal(framed[:, 1:5, 7:11], image[:, 1:5, 7:11])


def _prepared(rng, **settings):
    config, task = toys.make("jigsaw", **settings)
    batch = toys.batch(config, task, rng)
    (inputs,), targets = jax.jit(task.prepare)(_keys(len(batch["image"])), batch)
    return task, batch, np.asarray(inputs), targets


def test_a_linear_model_of_brightness_and_contrast_learns_nothing(rng):
    _, _, inputs, _ = _prepared(rng)
    assert np.abs(inputs.mean((-3, -2, -1))).max() < 1e-6
    spread = inputs.std((-3, -2, -1))
    np.testing.assert_allclose(spread, spread.mean(), rtol=1e-2)


def test_tiles_of_a_photo_stay_together(rng):
    """The head must see nine tiles of one photo; a wrong order of axes would mix photos."""
    task, batch, inputs, _ = _prepared(rng)
    variables = jax.jit(task.model.init)(jax.random.key(0), inputs)
    apply = jax.jit(task.model.apply)
    changed = inputs.copy()
    changed[3] += 1.0
    difference = np.abs(apply(variables, changed) - apply(variables, inputs)).max(1)
    assert difference[3] > 0 and (np.delete(difference, 3) < 1e-6).all()


def test_an_untrained_answer_costs_the_logarithm_of_the_number(rng):
    task, _, _, targets = _prepared(rng, task__permutations=24)
    values, counts = task.loss(jnp.zeros((8, 24)), targets)
    assert float(values["loss"].sum() / counts.sum()) == pytest.approx(np.log(24), rel=1e-6)


def test_pictures_end_with_the_right_order(rng):
    task, batch, inputs, _ = _prepared(rng, task__gray=0.0, task__without_aberration=0.0)
    variables = jax.jit(task.model.init)(jax.random.key(0), inputs)
    panels = np.asarray(jax.jit(task.evaluator.pictures)(variables, batch))
    photo, given, _, right = np.moveaxis(panels, 1, 0)
    shown = right.max(-1) > 0  # Tiles have black frames.
    assert shown.mean() > 0.3
    # A tile lies up to three pixels from where it was cut: compare ninths by their means.
    ninths = [x[:, :30, :30].reshape(8, 3, 10, 3, 10, 3) for x in (photo, right)]
    visible = shown[:, :30, :30].reshape(8, 3, 10, 3, 10, 1).sum((2, 4))
    means = ninths[1].astype(float).sum((2, 4)) / visible
    assert np.abs(means - ninths[0].mean((2, 4))).mean() < 5
    assert np.abs(given.astype(int) - right).mean() > 5


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task__permutations": 362_881}, "362,880"),
        ({"task__permutations": 0}, "task.permutations"),
        ({"task__tile": 11, "task__cell": 10}, "task.tile"),
        ({"task__cell": 11}, "data.crop"),
        ({"task__gray": 1.5}, "task.gray"),
        ({"task__layer": "conv9"}, "conv9"),
        ({"task__grid": 0}, "task.grid"),
        ({"task__shift": -1}, "task.shift"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("jigsaw", **settings)


def test_a_tile_that_a_network_cannot_see_is_refused():
    config, _ = toys.make("jigsaw")
    with config.unlocked():
        config.model.name = "vgg16"
        config.model.fc6_kernel, config.model.fc6_padding = 3, "VALID"
    with pytest.raises(ConfigError, match="task.tile"):
        make_task(config)
    assert small_encoder.SmallEncoder().smallest_input == 1
