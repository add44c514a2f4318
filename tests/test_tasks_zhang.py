"""Zhang's colorizer: colors on a grid, its loss, what is fitted, pictures, and the L2 variant."""

import functools

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_encoder
from small_encoder import SmallEncoder
import tiny

from colorize_jax.color import gamut, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import gamut as bins
from colorize_jax.tasks import zhang
from colorize_jax.tasks.registry import make_task
from colorize_jax.training.step import row_keys

GOLDEN = golden_pretexts.group("zhang")
KEYS = row_keys(jax.random.key(0), jnp.arange(8))


def _config(**settings):
    return tiny.config(
        **{"task__name": "zhang", "task__prior_batches": 2, "model__name": small_encoder.NAME}
        | settings
    )


@functools.cache
def _made(**settings):
    """Task, a batch of photos of some color, and variables with a fitted prior."""
    task, rng = make_task(_config(**settings)), np.random.default_rng(0)
    batch = tiny.batch(rng)
    batch["image"] = batch["image"] // np.array([1, 2, 3], np.uint8)  # more red than blue
    batch["image"][2] = 90  # gray

    @jax.jit
    def start(batch):
        inputs, _ = task.prepare(KEYS, batch)
        found = task.model.init(jax.random.key(0), *inputs)
        if task.fit:
            found |= {"constants": task.fit.constants(task.fit.sums(KEYS, batch))}
        return found

    return task, batch, start(batch)


def _losses(task, variables, batch):
    inputs, targets = task.prepare(KEYS, batch)
    return task.loss(task.model.apply(variables, *inputs), targets)


def test_golden_zhang_loss_of_photos_on_a_grid():
    """Three photos of 2 x 3 cells; their loss is summed over cells and divided by photos."""
    task = _made()[0]
    targets = bins.bin_targets(jnp.asarray(GOLDEN["image_ab"].reshape(3, 6, 2)), neighbors=5)
    targets |= {"valid": jnp.ones(3, bool)}

    @jax.jit
    def loss(logits):
        outputs = {"bins": logits, "prior": jnp.asarray(GOLDEN["prior"])}
        return task.loss(outputs, targets)[0]["loss"]

    logits = jnp.asarray(GOLDEN["logits"])
    wanted = GOLDEN["pixel_loss"].sum((1, 2))
    np.testing.assert_allclose(loss(logits), wanted, rtol=1e-5, atol=1e-5)
    total, gradient = jax.value_and_grad(lambda logits: loss(logits).sum() / 3)(logits)
    np.testing.assert_allclose(total, GOLDEN["loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, 0], GOLDEN["grad_pixel000"], rtol=1e-5, atol=1e-5)


def test_targets_are_every_other_pixel_as_it_is():
    """The small encoder's top has a stride of 4, so that the grid has one of 2."""
    task, batch, _ = _made()
    _, targets = jax.jit(task.prepare)(KEYS, batch)
    ab = spaces.lab(spaces.from_uint8(batch["image"][:, ::2, ::2]))[..., 1:]
    wanted = gamut.encode(ab).reshape(8, 256, gamut.BINS)
    np.testing.assert_allclose(targets["bins"], wanted, atol=1e-5)
    assert targets["has_color"].tolist() == [True, True, False, True, True, True, True, True]


def test_prior_is_the_mean_of_the_targets_and_is_smoothed():
    _, batch, variables = _made()
    task = make_task(_config(task__smoothing=0.0))
    sums = jax.jit(task.fit.sums)(KEYS, batch)
    _, targets = jax.jit(task.prepare)(KEYS, batch)
    colored = np.asarray(targets["bins"])[np.asarray(targets["has_color"])]
    plain = task.fit.constants(sums)["head"]["prior"]
    np.testing.assert_allclose(plain, colored.mean((0, 1)), rtol=1e-4, atol=1e-7)
    smoothed = variables["constants"]["head"]["prior"]
    np.testing.assert_allclose(smoothed, gamut.smooth(plain, 5.0), rtol=1e-5)
    assert float(smoothed.sum()) == pytest.approx(1, rel=1e-5) and smoothed.max() < plain.max()


def test_an_untrained_network_knows_nothing_and_gray_photos_say_nothing():
    task, batch, variables = _made()
    values, counts = jax.jit(functools.partial(_losses, task))(variables, batch)
    each = values["loss_unweighted"] / counts
    np.testing.assert_allclose(np.delete(each, 2), np.log(gamut.BINS), rtol=0.05)
    assert values["loss"][2] == each[2] == 0 and (counts == 256).all()
    gray = batch | {"image": np.full_like(batch["image"], 90)}

    def loss(params):
        return _losses(task, variables | {"params": params}, gray)[0]["loss"].sum()

    assert not any(g.any() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"])))


def test_pictures_keep_the_lightness_and_show_temperatures():
    task, batch, variables = _made()
    assert task.evaluator.panels == (
        "gray", "predicted", "truth", "T = 1", "T = 0.58", "T = 0.2", "T = 0"
    )  # fmt: skip
    panels = np.asarray(jax.jit(task.evaluator.pictures)(variables, batch))
    assert panels.shape == (8, 7, 32, 32, 3) and panels.dtype == np.uint8
    np.testing.assert_array_equal(panels[:, 2], batch["image"])
    lightness = np.asarray(spaces.lab(spaces.from_uint8(panels)))[..., 0]
    np.testing.assert_allclose(lightness[:, 0], lightness[:, 2], atol=0.3)
    dull, vivid = (np.ptp(panels[:, i].astype(int), axis=-1).mean() for i in (3, 6))
    assert dull < vivid


def test_photos_of_other_sizes_are_colored_and_keep_their_lightness():
    task, batch, variables = _made()
    colors, photos = task.colors, spaces.from_uint8(batch["image"][:2, :20, :28])
    assert colors.stride == 4 and (colors.decodings, colors.temperature) == (gamut.DECODINGS, 0.38)

    @jax.jit
    def colored(variables, photos):
        predicted = colors.predict(variables, photos)
        plane = colors.plane(predicted, 20, 28, "annealed", 0.38)
        return predicted["bins"], plane, colors.join(plane, colors.gray(photos))

    shares, plane, rgb = colored(variables, photos)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    logits = task.model.apply(variables, SmallEncoder().network_input(photos), method="dense")
    wanted = gamut.annealed_mean(logits["bins"], 0.38)
    # The grid begins in the corner.
    np.testing.assert_allclose(plane[:, ::2, ::2], wanted, atol=0.05)
    lightness = (spaces.lab(x)[..., 0] for x in (rgb, photos))
    np.testing.assert_allclose(*lightness, atol=0.5)


def test_regression_is_half_the_squared_distance_and_its_constant_the_mean():
    task, batch, variables = _made(task__loss="regression")
    assert task.fit is None and task.evaluator.panels == ("gray", "predicted", "truth")
    ab = np.asarray(spaces.lab(spaces.from_uint8(batch["image"][:, ::2, ::2])))[..., 1:] / 110
    params = variables["params"]
    zeros = jax.tree.map(jnp.zeros_like, params["head"])
    variables = variables | {"params": params | {"head": zeros}}
    values, counts = jax.jit(functools.partial(_losses, task))(variables, batch)
    wanted = 0.5 * np.square(ab).sum((1, 2, 3))
    wanted[2] = 0  # gray
    np.testing.assert_allclose(values["loss"], wanted, rtol=1e-4, atol=1e-6)
    evaluator = task.evaluator

    @jax.jit
    def scores(variables, batch):
        statistics = evaluator.statistics(KEYS, batch)
        return evaluator.on_batch(variables, statistics, KEYS, batch)

    found = evaluator.summarize(*jax.device_get(scores(variables, batch)))
    colored = np.delete(ab, 2, 0)
    spread = 0.5 * np.square(colored - colored.mean((0, 1, 2))).sum((1, 2, 3)).sum()
    assert found["loss_constant"] == pytest.approx(float(spread / counts.sum()), rel=1e-4)
    assert found["psnr"] == pytest.approx(found["psnr_gray"], rel=1e-5)  # a and b are 0
    assert "active_units" not in found and evaluator.remark(found) == ""


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model__in_channels", 3, "in_channels=1"),
        ("data__crop", 30, "crop=30 must be a multiple of 4"),
        ("task__loss", "l2", "loss is 'l2'; known: 'bins'"),
        ("task__neighbors", 314, "neighbors=314"),
        ("task__uniform", 0.0, "uniform=0.0"),
        ("task__smoothing", -1.0, "smoothing=-1.0"),
        ("task__temperature", -0.1, "temperature=-0.1"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        make_task(_config(**{setting: value}))


def test_the_head_stands_on_other_encoders_too():
    vgg = make_task(_config(**tiny.VGG))
    assert vgg.model.grid == 16 and zhang.AB_SCALE == 110
    with pytest.raises(ConfigError, match="'VALID' is for classification"):
        make_task(_config(**tiny.VGG, model__fc6_padding="VALID"))
