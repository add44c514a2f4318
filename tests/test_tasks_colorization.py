"""Colorization: targets and losses against golden vectors, points, scores and checks."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.tasks import colorization
from colorize_jax.tasks.points import sample_points
from colorize_jax.tasks.registry import make_task
from colorize_jax.training.step import row_keys

KEYS = row_keys(jax.random.key(0), jnp.arange(8))


@functools.cache
def _made(loss="histogram"):
    """The task, and its functions, each compiled once."""
    task = make_task(tiny.config(task__loss=loss))
    own = task.evaluator

    def evaluate(variables, batch):
        """(sums, rows) beside the constant that is fitted to this very batch."""
        return on_batch(variables, statistics(KEYS, batch), KEYS, batch)

    on_batch, statistics = jax.jit(own.on_batch), jax.jit(own.statistics)
    return types.SimpleNamespace(
        task=task, prepare=jax.jit(task.prepare), statistics=statistics, on_batch=on_batch,
        evaluate=evaluate, summarize=own.summarize, pictures=jax.jit(own.pictures),
    )  # fmt: skip


@functools.cache
def _variables(loss="histogram"):
    task, batch = _made(loss).task, tiny.batch(np.random.default_rng(0))
    start = jax.jit(lambda: task.model.init(jax.random.key(0), *task.prepare(KEYS, batch)[0]))
    return jax.device_get(start())


def _with_head(change):
    """The variables with a changed head."""
    variables = _variables()
    head = change(variables["params"]["head"])
    return variables | {"params": variables["params"] | {"head": head}}


def _golden_targets(golden):
    rgb = jnp.asarray(golden["hist_image"], jnp.float32)
    points = jnp.asarray(golden["hist_locations_yx"], jnp.int32)
    return jax.jit(lambda: colorization.histogram_targets(rgb, points, window=7, bins=32))()


def test_golden_window_histograms(golden):
    targets = _golden_targets(golden)
    np.testing.assert_allclose(targets["hue"], golden["hist_hue_7x7"], atol=1e-6)
    np.testing.assert_allclose(targets["chroma"], golden["hist_chroma_7x7"], atol=1e-6)
    np.testing.assert_allclose(targets["hue_weight"], golden["kl_weight_hue"], atol=1e-6)
    np.testing.assert_allclose(targets["hue_weight"], golden["hist_center_chroma"], atol=1e-6)
    np.testing.assert_allclose(targets["chroma_weight"], golden["kl_weight_chroma"], atol=1e-6)


def test_golden_losses_and_gradients(golden):
    targets = _golden_targets(golden)
    outputs = {n: jnp.asarray(golden[f"kl_logits_{n}"], jnp.float32) for n in ("hue", "chroma")}

    def total(outputs):
        values = colorization.histogram_losses(outputs, targets)
        return values["loss"].mean(), {name: value.mean() for name, value in values.items()}

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(outputs)
    for name, expected in (("loss", "total"), ("loss_hue", "hue"), ("loss_chroma", "chroma")):
        np.testing.assert_allclose(values[name], golden[f"loss_{expected}"], rtol=1e-4)
    for name in ("hue", "chroma"):
        expected = golden[f"loss_grad_logits_{name}"]
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-3, atol=1e-6)


def test_golden_regression_targets(golden):
    rgb = jnp.asarray(golden["rgb"], jnp.float32)[None]
    points = jnp.stack([jnp.zeros(64, jnp.int32), jnp.arange(64)], -1)
    targets = colorization.regression_targets(rgb, points)
    np.testing.assert_allclose(targets["ab"] * 100, golden["lab"][:, 1:], rtol=1e-4, atol=1e-3)


def test_loss_and_gradient_are_finite_on_photos_without_color(rng):
    made, batch = _made(), tiny.batch(rng)
    outputs = {"hue": jnp.zeros((8, 6, 8)), "chroma": jnp.zeros((8, 6, 8))}
    slope = jax.jit(jax.value_and_grad(lambda o, t: made.task.loss(o, t)[0]["loss"].sum()))
    for shade in (0, 255, 90):
        batch["image"][:] = shade
        inputs, targets = made.prepare(KEYS, batch)
        value, gradient = slope(outputs, targets)
        assert np.isfinite(value), shade
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient)), shade
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((inputs, targets))), shade


def test_points_stay_off_the_border_and_reach_everything_else():
    at = sample_points(jax.random.key(0), points=20000, edge_buffer=96, crop=352)
    # These are the numbers of the released training file.
    assert at.min() == 96 and at.max() == 255
    one_axis = np.bincount(np.asarray(at[:, 0]) - 96, minlength=160)
    assert one_axis.min() > 70 and one_axis.max() < 190


def test_points_of_a_row_do_not_depend_on_the_other_rows(rng):
    prepare, batch = _made().prepare, tiny.batch(rng)
    keys = row_keys(jax.random.key(3), jnp.arange(8))
    (_, all_points), _ = prepare(keys, batch)
    (_, some), _ = prepare(keys[5:], jax.tree.map(lambda x: x[5:], batch))
    np.testing.assert_array_equal(all_points[5:], some)
    assert not np.array_equal(all_points[0], all_points[1])


@pytest.mark.parametrize("loss", ["histogram", "regression"])
def test_the_constant_is_the_best_one(loss, rng):
    made, batch = _made(loss), tiny.batch(rng)
    # Now there is more red than blue.
    batch["image"] = batch["image"] // np.array([1, 2, 3], np.uint8)
    variables, sums = _variables(loss), made.statistics(KEYS, batch)

    def evaluate(sums):
        return made.on_batch(variables, sums, KEYS, batch)[0]["constant"]["loss"]

    best = evaluate(sums)
    for name in ("hue", "chroma") if loss == "histogram" else ("ab",):
        for direction in rng.normal(size=(3, *sums[name].shape)):
            moved = sums[name] * (1 + 0.2 * direction.clip(-2, 2))
            if loss == "histogram":  # It is still a histogram.
                moved = moved * (sums[name].sum() / moved.sum())
            assert evaluate(sums | {name: moved}) > best


def test_hidden_units_that_never_respond_are_counted_and_named(rng):
    made, batch = _made(), tiny.batch(rng)
    remark = made.task.evaluator.remark

    def with_bias(bias):
        return _with_head(lambda head: head | {"hidden": head["hidden"] | {"bias": bias}})

    for alive in (8, 3, 0):
        # It outweighs the kernel's weights of 1e-4.
        variables = with_bias(np.float32(2.0 * (np.arange(8) < alive) - 1))
        scores = made.summarize(*jax.device_get(made.evaluate(variables, batch)))
        assert scores["active_units"] == alive / 8
        said = remark(scores)
        assert (said == "") == (alive > 0)
    assert "0% of the head's hidden units" in said and "smaller config.optimizer.rate" in said
    assert "3% of" in remark({"active_units": 0.03})
    variables = with_bias(np.ones(8, np.float32))
    unseen = made.evaluate(variables, batch | {"valid": np.zeros(8, bool)})[0]
    assert not unseen["active"].any()


def test_rows_that_are_not_valid_do_not_count(rng):
    batch = tiny.batch(rng)

    def evaluate(batch):
        return _made().evaluate(_variables(), batch)[0]

    half = jax.tree.map(lambda x: np.concatenate([x[:4], x[:4] * 0]), batch)
    other = half | {"image": np.concatenate([batch["image"][:4], batch["image"][:4] // 2])}
    jax.tree.map(np.testing.assert_array_equal, evaluate(half), evaluate(other))
    assert evaluate(half)["photos"] == 4 and evaluate(half)["points"] == 4 * 6


@pytest.mark.parametrize("loss", ["histogram", "regression"])
def test_pictures_are_gray_prediction_truth(loss, rng):
    batch = tiny.batch(rng)
    panels = np.asarray(_made(loss).pictures(_variables(loss), batch))
    assert panels.shape == (8, 3, 32, 32, 3) and panels.dtype == np.uint8
    gray, predicted, truth = panels.astype(int).swapaxes(0, 1)
    np.testing.assert_array_equal(truth, batch["image"])
    np.testing.assert_allclose(gray[..., 0], batch["image"].mean(-1), atol=0.51)
    np.testing.assert_allclose(predicted.mean(-1), gray[..., 0], atol=1.5)  # The lightness matches.


def test_a_photo_is_scored_beside_itself_left_gray(rng):
    """A head of zeros predicts all hues equally, so the photo is gray."""
    variables = _with_head(lambda head: jax.tree.map(np.zeros_like, head))
    sums, rows = _made().evaluate(variables, tiny.batch(rng))
    for name in ("psnr", "auc"):
        np.testing.assert_allclose(rows[name], rows[f"{name}_gray"], rtol=1e-3)
        assert sums[name] == pytest.approx(float(rows[name].sum()), rel=1e-5)
    np.testing.assert_allclose(rows["score"], 0, atol=1e-3)
    caption = _made().task.evaluator.caption({name: values[0] for name, values in rows.items()})
    assert "(gray" in caption.text


def test_colors_worse_than_gray_are_reported_if_the_loss_is_good():
    scores = {
        "loss": 2.0, "loss_constant": 2.5, "active_units": 0.5,
        "psnr": 24.0, "psnr_gray": 25.0, "auc": 0.9, "auc_gray": 0.8,
    }  # fmt: skip
    said = colorization.remark(scores)
    assert "PSNR 24 (left gray 25)" in said and "AuC" not in said
    for better in ({"psnr": 26.0}, {"loss": 2.6}):
        assert not colorization.remark(scores | better)


def test_edge_buffer_scales_with_the_crop():
    assert tiny.config(data__crop=352).task.edge_buffer == 96
    assert tiny.config(data__crop=224).task.edge_buffer == 61
    assert tiny.config(data__crop=224, task__edge_buffer=10).task.edge_buffer == 10


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("task__edge_buffer", 16, "edge_buffer=16"),
        ("task__loss", "l1", "'histogram', 'regression'"),
        ("task__name", "mosaic", "known: .*colorization"),
        ("data__views", 2, "views=2, and the task 'colorization' takes 1"),
        ("task__window", 4, "window=4"),
        ("task__points", 0, "points"),
        ("model__name", "vgg19", "'vgg16'"),
        ("model__norm", "group", "'batch', 'none'"),
        ("model__dtype", "float16", "'float32', 'bfloat16'"),
        ("model__alignment", "left", "'corner', 'center'"),
        ("model__width", 0.0, "width"),
        ("data__crop", 38, "multiple of 4"),
        ("model__in_channels", 3, "in_channels=1"),
        ("finetune", "conv9", "conv9"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        make_task(tiny.config(**{setting: value}))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("model__fc6_kernel", 4, "fc6_kernel=4"),
        ("model__fc6_padding", "VALID", "for classification"),
        ("data__crop", 40, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be_of_a_network_with_fc6_are_named(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        make_task(tiny.vgg(**{setting: value}))
