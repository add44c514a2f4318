"""Segmentation: training at sampled pixels, scores of whole photos, and overlays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from colorize_jax.data.masks import VOID, palette
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import scores
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Facts
from colorize_jax.training.step import row_keys


def _batch(rng, size=4, height=32, width=32):
    mask = rng.integers(0, 3, (size, height, width), dtype=np.uint8)
    mask[:, :4] = VOID
    return {
        "image": rng.integers(0, 256, (size, height, width, 3), dtype=np.uint8),
        "mask": mask,
        "position": np.arange(size),
        "photo": np.arange(size),
        "valid": np.ones(size, bool),
    }


KEYS = row_keys(jax.random.key(0), jnp.arange(4))


def _variables(task, batch):
    def start(batch):
        inputs, _ = task.prepare(KEYS, batch)
        return task.model.init(jax.random.key(0), *inputs)

    return jax.jit(start)(batch)


def test_labels_are_those_of_the_sampled_pixels(rng):
    task, batch = make_task(tiny.segmentation(task__points=50)), _batch(rng)
    batch["valid"][3] = False
    (gray, at), targets = jax.jit(task.prepare)(KEYS, batch)
    assert gray.shape == (4, 32, 32, 1)
    for row in range(3):
        expected = batch["mask"][row][tuple(np.asarray(at[row]).T)]
        np.testing.assert_array_equal(targets["classes"][row], expected)
    assert (np.asarray(targets["classes"][3]) == VOID).all()


def test_loss_is_the_mean_cross_entropy_of_the_pixels_that_are_not_void(rng):
    task = make_task(tiny.segmentation())
    logits = rng.normal(size=(2, 5, 3)).astype(np.float32)
    labels = np.array([[0, 1, VOID, 2, 2], [VOID] * 5], np.uint8)
    values, counts = task.loss({"classes": jnp.asarray(logits)}, {"classes": jnp.asarray(labels)})
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(probability[0, [0, 1, 3, 4], [0, 1, 2, 2]]).sum()
    np.testing.assert_allclose(values["loss"], [expected, 0], rtol=1e-5)
    np.testing.assert_array_equal(counts, [4, 0])


@pytest.mark.parametrize("shape", [(32, 64), (96, 32)])
def test_scores_are_those_of_the_predicted_masks(rng, shape):
    task = make_task(tiny.segmentation(), Facts(classes=("sky", "cat", "dog")))
    batch = _batch(rng, 4, *shape)
    batch["valid"][3] = False
    variables = _variables(task, _batch(rng))
    predicted = np.asarray(jax.jit(task.evaluator.predict)(variables, batch))
    assert predicted.shape == batch["mask"].shape
    sums, rows = jax.device_get(
        jax.jit(lambda batch: task.evaluator.on_batch(variables, None, None, batch))(batch)
    )
    found = task.evaluator.summarize(sums, rows)

    expected = np.zeros((3, 3), int)
    known = batch["mask"][:3] != VOID
    np.add.at(expected, (batch["mask"][:3][known], predicted[:3][known]), 1)
    np.testing.assert_array_equal(sums["confusion"], expected)
    union = expected.sum(0) + expected.sum(1) - np.diag(expected)
    each = np.diag(expected) / union
    assert found["miou"] == pytest.approx(each.mean())
    assert [found[f"iou/{name}"] for name in ("sky", "cat", "dog")] == pytest.approx(list(each))
    assert found["accuracy"] == pytest.approx(np.trace(expected) / known.sum())
    largest = expected.sum(1).max() / known.sum()
    assert found["miou_most_frequent"] == pytest.approx(largest / 3)
    for row in range(3):
        alone = np.zeros((3, 3))
        np.add.at(alone, (batch["mask"][row][known[row]], predicted[row][known[row]]), 1)
        assert rows["score"][row] == pytest.approx(scores.mean_iou(alone), abs=1e-6)


def test_the_score_can_be_that_of_some_classes(rng):
    config = tiny.segmentation(eval__classes=("sky", "dog"))
    task = make_task(config, Facts(classes=("sky", "cat", "dog")))
    assert task.score.name == "miou_2" and task.score.higher
    confusion = np.array([[8, 1, 1], [0, 5, 0], [3, 0, 2]])
    found = task.evaluator.summarize({"confusion": confusion, "loss": 4.0, "pixels": 20}, {})
    assert found["miou_2"] == pytest.approx((8 / 13 + 2 / 6) / 2)
    assert found["miou_2_most_frequent"] == pytest.approx(10 / 20 / 2)
    assert found["loss"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        ([[8, 1, 1], [0, 5, 0], [3, 0, 2]], "^$"),
        (
            [[8, 1, 0], [2, 5, 0], [0, 0, 0]],
            "mean over 2 of 3 classes; neither in a mask that was evaluated nor predicted: dog",
        ),
        ([[8, 1, 0], [0, 0, 0], [0, 0, 0]], "miou has no value: fewer than two classes"),
        ([[8, 0, 0], [0, 0, 0], [0, 0, 0]], "miou has no value"),
        (np.zeros((3, 3), int), "miou has no value"),
    ],
)
def test_classes_without_a_score_are_reported(confusion, message):
    task = make_task(tiny.segmentation(), Facts(classes=("sky", "cat", "dog")))
    sums = {"confusion": np.array(confusion), "loss": 4.0, "pixels": np.sum(confusion)}
    found = task.evaluator.summarize(sums, {})
    assert re.search(message, task.evaluator.remark(found))
    assert found["miou"] != 1


def test_pixels_in_the_border_of_the_canvas_do_not_count(rng):
    task, batch = make_task(tiny.segmentation()), _batch(rng, 2, 64, 64)
    variables = _variables(task, _batch(rng))
    batch["mask"][:, 40:] = VOID
    sums, _ = jax.jit(lambda batch: task.evaluator.on_batch(variables, None, None, batch))(batch)
    assert sums["confusion"].sum() == sums["pixels"] == (batch["mask"] != VOID).sum()


def test_overlays_are_photo_truth_prediction(rng):
    task, batch = make_task(tiny.segmentation()), _batch(rng)
    variables = _variables(task, batch)
    panels = np.asarray(jax.jit(task.evaluator.pictures)(variables, batch))
    assert panels.shape == (4, 3, 32, 32, 3) and panels.dtype == np.uint8
    np.testing.assert_array_equal(panels[:, 0], batch["image"])
    colors = palette(3).astype(float)
    predicted = jax.jit(task.evaluator.predict)(variables, batch)
    for panel, classes in ((1, batch["mask"]), (2, predicted)):
        classes = np.asarray(classes)[..., None]
        expected = 0.4 * batch["image"] + 0.6 * colors[classes[..., 0]]
        expected = np.where(classes == 0, batch["image"], expected)
        np.testing.assert_allclose(panels[:, panel], expected, atol=0.51)


def test_color_is_read_where_asked_for(rng):
    task, batch = make_task(tiny.segmentation(model__in_channels=3)), _batch(rng)
    (color, _), _ = jax.jit(task.prepare)(KEYS, batch)
    np.testing.assert_allclose(color, batch["image"] / 255 - 0.448827, atol=1e-4)
    assert _variables(task, batch)["params"]["encoder"]["conv1"]["kernel"].shape[2] == 3


def test_fov_blocks_are_read_last(rng):
    task, batch = make_task(tiny.segmentation(model__fov=True)), _batch(rng)
    variables = _variables(task, batch)
    params = variables["params"]
    assert set(params) == {"encoder", "fov", "head"} and set(params["fov"]) == {
        "conv8_1",
        "conv9_1",
    }
    fov = sum(params["fov"][name]["bias"].size for name in params["fov"])
    without = make_task(tiny.segmentation())
    plain = jax.eval_shape(lambda: _variables(without, batch))["params"]["head"]["hidden"]["kernel"]
    assert len(params["head"]["hidden"]["kernel"]) == plain.shape[0] + fov
    predicted = jax.eval_shape(task.evaluator.predict, variables, _batch(rng, 1, 128, 256))
    assert predicted.shape == (1, 128, 256)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("task__classes", 1, "between 2 and 254"),
        ("data__labels", "lists", "needs 'masks'"),
        ("eval__classes", ("zebra",), "'zebra'"),
        ("model__fc6_padding", "VALID", "for classification"),
        ("data__crop", 40, "multiple of 32"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, value, message):
    with pytest.raises(ConfigError, match=message):
        make_task(tiny.segmentation(**tiny.VGG, **{setting: value}))
