"""Colors as classes: Zhang's loss, a prior fitted before the first step and kept, scores."""

import functools
import shutil
import types

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saved
import small_encoder
import tiny

from colorize_jax.color import gamut, spaces
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import gamut as task_gamut
from colorize_jax.tasks import points
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import evaluation, loop, sharding
from colorize_jax.training.runner import Runner
from colorize_jax.training.step import init_state, row_keys

GOLDEN = golden_pretexts.group("zhang")


def _config(**settings):
    return tiny.config(
        **{
            "task__name": "gamut",
            "task__prior_batches": 2,
            "model__name": small_encoder.NAME,
            "model__norm": "none",
        }
        | settings
    )


def _keys(index=0, rows=8):
    key = jax.random.fold_in(jax.random.key(0), index)
    return row_keys(key, jnp.arange(rows))


@functools.cache
def _made():
    """The task, and its functions, each compiled once."""
    task = make_task(_config())

    def fitted(batch):
        """Variables of a random start, with the prior of a batch."""
        inputs, _ = task.prepare(_keys(), batch)
        constants = task.fit.constants(task.fit.sums(_keys(), batch))
        return task.model.init(jax.random.key(0), *inputs) | {"constants": constants}

    def losses(variables, batch):
        """Values and counts of every row, not in training."""
        inputs, targets = task.prepare(_keys(), batch)
        return task.loss(task.model.apply(variables, *inputs), targets)

    own = task.evaluator
    functions = {
        "fitted": fitted, "losses": losses, "on_batch": own.on_batch, "pictures": own.pictures,
        "statistics": own.statistics, "sums": task.fit.sums,
    }  # fmt: skip
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    return types.SimpleNamespace(task=task, **compiled)


def _count(config, batches):
    """What `Fit` should find, counted pixel by pixel in NumPy."""
    total = np.zeros(gamut.BINS)
    for index, batch in enumerate(batches):
        at = np.asarray(points.of_rows(_keys(index), config))
        for image, valid, own in zip(batch["image"], batch["valid"], at, strict=True):
            ab = np.asarray(spaces.lab(spaces.from_uint8(image[own[:, 0], own[:, 1]])))[:, 1:]
            if not valid or np.abs(ab).max() <= 5:
                continue
            for color in ab.astype(np.float64):
                distance = ((color - gamut.bins()) ** 2).sum(-1)
                nearest = np.argsort(distance, kind="stable")[: config.task.neighbors]
                share = np.exp((distance[nearest[0]] - distance[nearest]) / 50)
                total[nearest] += share / share.sum()
    return total / total.sum()


def test_golden_zhang_losses_and_gradient():
    """Three photos of 2 x 3 pixels; their loss is summed over pixels and divided by photos."""
    targets = task_gamut.bin_targets(GOLDEN["image_ab"].reshape(3, 6, 2), neighbors=5)
    np.testing.assert_array_equal(targets["bins"].argmax(-1).reshape(3, 2, 3), GOLDEN["pixel_bin"])

    @jax.jit
    def losses_of(logits):
        outputs = {"bins": logits.reshape(3, 6, -1), "prior": jnp.asarray(GOLDEN["prior"])}
        return task_gamut.bin_losses(outputs, targets, uniform=0.5)

    found = {name: x.reshape(3, 2, 3) for name, x in losses_of(GOLDEN["logits"]).items()}
    plain = GOLDEN["cross_entropy"] * GOLDEN["mask"][:, None, None]
    np.testing.assert_allclose(found["loss"], GOLDEN["pixel_loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["loss_unweighted"], plain, rtol=1e-5, atol=1e-5)
    colored = GOLDEN["mask"] > 0
    weights = (found["loss"] / found["loss_unweighted"])[colored]
    np.testing.assert_allclose(weights, GOLDEN["pixel_weight"][colored], rtol=1e-5)
    total, gradient = jax.value_and_grad(lambda logits: losses_of(logits)["loss"].sum() / 3)(
        jnp.asarray(GOLDEN["logits"])
    )
    np.testing.assert_allclose(total, GOLDEN["loss"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient[0, 0, 0], GOLDEN["grad_pixel000"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_prior_is_what_numpy_counts(devices, rng):
    config = _config(task__neighbors=7)
    task = make_task(config)
    batches = [tiny.batch(rng), tiny.batch(rng)]
    batches[0]["image"][2] = 90  # gray
    batches[1]["valid"][5] = False
    mesh = sharding.make_mesh(jax.devices()[:devices])
    found = Runner(task, mesh, seed=0).fitted({"params": "kept"}, batches)
    assert found["params"] == "kept"
    prior = found["constants"]["head"]["prior"]
    np.testing.assert_allclose(prior, _count(config, batches), rtol=1e-4, atol=1e-6)


def test_photos_without_any_color_leave_a_prior_and_a_loss_that_are_finite(rng):
    made, batch = _made(), tiny.batch(rng)
    batch["image"][:] = np.arange(8, dtype=np.uint8)[:, None, None, None] * 36
    variables = made.fitted(batch)
    np.testing.assert_allclose(variables["constants"]["head"]["prior"], 1 / gamut.BINS, rtol=1e-6)
    values, counts = made.losses(variables, batch)
    assert (counts == 6).all() and not values["loss"].any()


def test_a_step_changes_the_network_and_no_constant_and_the_loss_falls(rng):
    """The color follows from the gray: dark is red, bright is blue."""
    # With one bin for every color, the loss can fall to zero.
    task = make_task(_config(model__hidden=32, task__neighbors=1))
    batch = tiny.batch(rng)
    bright = rng.random((8, 4, 4)).repeat(8, 1).repeat(8, 2) < 0.2
    batch["image"] = np.where(bright[..., None], [90, 160, 250], [120, 20, 20]).astype(np.uint8)
    optimizer = optax.adam(0.01)
    mesh = sharding.make_mesh()
    state = jax.jit(
        lambda batch: init_state(jax.random.key(0), task, optimizer, batch),
        out_shardings=sharding.replicated(mesh),
    )(batch)
    runner = Runner(task, mesh, seed=0)
    state = state.with_variables(runner.fitted(state.variables, [batch]))
    before = jax.device_get(state.collections["constants"])
    assert before["head"]["prior"].shape == (gamut.BINS,)
    step = sharding.jit_step(task, optimizer, mesh, 2)
    placed, losses = sharding.put_batch(batch, mesh), []
    for _ in range(60):
        state, values = step(state, placed, jax.random.key(0))
        losses.append(float(values["loss"]))
    after = jax.device_get(state.collections["constants"])
    np.testing.assert_array_equal(after["head"]["prior"], before["head"]["prior"])
    assert set(state.params) == {"encoder", "head"} and set(state.params["head"]) == {
        "hidden", "bins",
    }  # fmt: skip
    statistics = runner.statistics([batch])
    scores, _, _ = runner.evaluate(state.variables, statistics, [batch])
    assert losses[-1] < 0.2 * losses[0]
    assert scores["loss"] < 0.6 * scores["loss_constant"] < scores["loss_constant"] < losses[0]
    assert scores["psnr"] > scores["psnr_gray"] + 3 and scores["auc"] > scores["auc_gray"]


@pytest.mark.slow
def test_a_run_keeps_its_prior_when_it_goes_on_and_evaluation_reads_it(tmp_path, monkeypatch):
    config, workdir = _config(), tmp_path / "run"
    scores = loop.train(config, workdir)
    finished = saved.state(workdir, 6)
    prior = finished["constants"]["head"]["prior"]
    assert float(prior.sum()) == pytest.approx(1, rel=1e-5) and prior.max() > 2 / gamut.BINS
    shutil.rmtree(workdir / "checkpoints" / "6")

    def refuse(*_):
        raise AssertionError("fitted again")

    monkeypatch.setattr(Runner, "fitted", refuse)
    assert loop.train(config, workdir) == scores
    jax.tree.map(np.testing.assert_array_equal, saved.state(workdir, 6), finished)
    again = evaluation.evaluate(config, str(workdir), tmp_path / "again")
    assert again == pytest.approx(scores, rel=1e-6)
    assert abs(again["eval/loss"] - again["eval/loss_unweighted"]) > 0.01


def test_rows_that_are_not_valid_give_nothing(rng):
    made, batch = _made(), tiny.batch(rng)
    batch["valid"][4:] = False
    other = batch | {"image": np.concatenate([batch["image"][:4], batch["image"][4:] // 2])}
    variables, found = made.fitted(batch), []
    for each in (batch, other):
        values, counts = made.losses(variables, each)
        assert not counts[4:].any() and not any(x[4:].any() for x in values.values())
        sums, statistics = made.sums(_keys(), each), made.statistics(_keys(), each)
        found.append((sums, statistics, made.on_batch(variables, statistics, _keys(), each)[0]))
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert float(found[0][0].sum()) == pytest.approx(4 * 6, rel=1e-5)


def test_the_constant_is_the_best_one(rng):
    made, batch = _made(), tiny.batch(rng)
    batch["image"] = batch["image"] // np.array([1, 2, 3], np.uint8)  # more red than blue
    variables, statistics = made.fitted(batch), made.statistics(_keys(), batch)
    np.testing.assert_allclose(statistics.sum(0), made.sums(_keys(), batch), rtol=1e-4)

    def constant_loss(factors):
        sums = statistics * factors
        return made.task.evaluator.on_batch(variables, sums, _keys(), batch)[0]["constant"]["loss"]

    slope = jax.jit(jax.grad(constant_loss))(jnp.ones(gamut.BINS))
    # Not quite zero, since one pixel's worth of the uniform distribution is added.
    assert abs(slope).max() < 0.05


def test_pictures_are_gray_prediction_truth(rng):
    made, batch = _made(), tiny.batch(rng)
    panels = np.asarray(made.pictures(made.fitted(batch), batch))
    assert panels.shape == (8, 3, 32, 32, 3) and panels.dtype == np.uint8
    gray, predicted, truth = panels.astype(int).swapaxes(0, 1)
    np.testing.assert_array_equal(truth, batch["image"])
    np.testing.assert_allclose(predicted.mean(-1), gray[..., 0], atol=2.5)  # lightness matched


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model__in_channels", 3, "in_channels=1"),
        ("task__edge_buffer", 16, "edge_buffer=16"),
        ("task__neighbors", 0, "neighbors=0"),
        ("task__neighbors", 314, "neighbors=314"),
        ("task__uniform", 0.0, "uniform=0.0"),
        ("task__uniform", 1.5, "uniform=1.5"),
        ("task__temperature", -0.1, "temperature=-0.1"),
        ("task__prior_batches", 0, "prior_batches"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        make_task(_config(**{setting: value}))
