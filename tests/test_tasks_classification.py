"""Classification: losses, views of a photo, top-k and average precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score
import tiny

from colorize_jax.augment import mixing
from colorize_jax.errors import ConfigError
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.tasks.classification import positions_inside
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Facts

NAMES = ("bird", "cat", "dog")


def _task(loss="softmax", **settings):
    return make_task(tiny.classification(loss, **settings), Facts(classes=NAMES))


def _batch(rng, labels, shape=(32, 32)):
    labels = np.asarray(labels)
    return {
        "image": rng.integers(0, 256, (len(labels), *shape, 3), dtype=np.uint8),
        "labels": labels,
        "position": np.arange(len(labels)),
        "photo": np.arange(len(labels)),
        "valid": np.ones(len(labels), bool),
    }


def _variables(task, batch):
    inputs, _ = task.prepare(None, batch)
    variables = jax.jit(task.model.init)(jax.random.key(0), *inputs)
    # The outputs of a new layer are too similar for this test.
    kernel = variables["params"]["head"]["classes"]["kernel"]
    variables["params"]["head"]["classes"]["kernel"] = 30 * kernel
    return variables


def _evaluated(task, variables, batch):
    return jax.device_get(
        jax.jit(lambda b: task.evaluator.on_batch(variables, None, None, b))(batch)
    )


def test_top_1_and_top_5_and_those_of_every_class(rng):
    task, batch = _task(), _batch(rng, np.array([0, 1, 2, 2, 1, 0, 2], np.int32))
    variables = _variables(task, batch)
    batch["valid"][6] = False
    logits = np.asarray(task.model.apply(variables, *task.prepare(None, batch)[0]))
    hits = (logits.argmax(-1) == batch["labels"])[:6]
    found = task.evaluator.summarize(*_evaluated(task, variables, batch))
    assert found["top1"] == pytest.approx(hits.mean()) and found["top5"] == 1.0
    for label, name in enumerate(NAMES):
        expected = hits[batch["labels"][:6] == label].mean()
        assert found[f"top1/{name}"] == pytest.approx(expected)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -log_p[np.arange(6), batch["labels"][:6]].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-4)
    assert task.score.name == "top1" and task.score.higher


def test_a_class_whose_number_is_that_of_void_elsewhere_counts(rng):
    task = make_task(tiny.classification("softmax", task__classes=300))
    logits = jnp.zeros((1, 300))
    values, _ = task.loss(logits, {"labels": jnp.array([255]), "valid": jnp.array([True])})
    np.testing.assert_allclose(values["loss"], np.log(300), rtol=1e-5)


def test_average_precision_leaves_out_difficult_photos_and_classes_without_positives(rng):
    labels = rng.choice([-1, 0, 1], (40, 3)).astype(np.int8)
    labels[:, 2] = -1
    task, batch = _task("sigmoid"), _batch(rng, labels)
    variables = _variables(task, batch)
    sums, rows = _evaluated(task, variables, batch)
    found = task.evaluator.summarize(sums, rows)
    logits = rows["logits"]
    for index, name in enumerate(NAMES[:2]):
        known = labels[:, index] != 0
        expected = average_precision_score(labels[known, index] > 0, logits[known, index])
        assert found[f"ap/{name}"] == pytest.approx(expected)
    assert np.isnan(found["ap/dog"])
    assert found["map"] == pytest.approx((found["ap/bird"] + found["ap/cat"]) / 2)
    assert {"map_voc11", "map_trapezoid", "ap_voc11/bird", "ap_trapezoid/bird"} <= found.keys()
    assert task.score.name == "map"


def test_difficult_labels_give_no_loss_and_no_gradient(rng):
    task = _task("sigmoid")
    logits = jnp.asarray(rng.normal(size=(1, 3)), jnp.float32)
    valid = jnp.array([True])

    def loss(logits, labels):
        return task.loss(logits, {"labels": jnp.array([labels]), "valid": valid})[0]["loss"].sum()

    gradient = jax.grad(loss)(logits, [1, 0, -1])[0]
    assert gradient[1] == 0 and gradient[0] < 0 < gradient[2]


def test_several_crops_are_one_answer(rng):
    task, batch = _task(), _batch(rng, np.array([0, 1], np.int32), (10, 32, 32))
    one = {**batch, "image": batch["image"][:, 0]}
    variables = _variables(task, one)
    each = [
        task.model.apply(
            variables, *task.prepare(None, {**batch, "image": batch["image"][:, i]})[0]
        )
        for i in range(10)
    ]
    mean = np.mean(each, 0)
    sums, _ = _evaluated(task, variables, batch)
    assert sums["top1"] == (mean.argmax(-1) == batch["labels"]).sum()
    log_p = mean - np.log(np.exp(mean).sum(-1, keepdims=True))
    assert sums["loss"] == pytest.approx(-log_p[[0, 1], [0, 1]].sum(), rel=1e-4)


def test_positions_outside_a_whole_photo_do_not_count(rng):
    task = _task("sigmoid")
    batch = _batch(rng, -np.ones((1, 3), np.int8), (128, 128))
    batch["size"] = np.array([[64, 32]], np.int32)
    variables = _variables(task, _batch(rng, -np.ones((1, 3), np.int8)))
    whole, _ = _evaluated(task, variables, batch)
    gray = task.prepare(None, batch)[0][0]
    encoder = task.model.encoder.clone(parent=None)
    top = encoder.apply({"params": variables["params"]["encoder"]}, gray)["conv3"][0]
    linear = variables["params"]["head"]["classes"]
    # Of 32 cells each way those whose centers, at 2, 6, 10 and so on, are in 32-95 and in 48-79.
    logits = np.asarray(top[8:24, 12:20]).mean((0, 1)) @ linear["kernel"] + linear["bias"]
    assert whole["loss"] == pytest.approx(np.log1p(np.exp(logits)).sum(), rel=1e-5)


def test_positions_are_inside_where_their_centers_are():
    inside = positions_inside(jnp.array([[64, 128], [10, 30]]), (128, 128), Vgg16().top_centers)
    expected = np.zeros((4, 4), bool)
    expected[1:3] = True  # Rows 32 to 95 hold the centers 48 and 80.
    np.testing.assert_array_equal(inside[0], expected)
    assert not inside[1].any()  # Rows 59 to 68 hold no center.
    valid = positions_inside(
        jnp.array([[256, 224]]), (256, 256), Vgg16(fc6_padding="VALID").top_centers
    )
    assert valid.shape == (1, 2, 2) and valid.all()  # The centers are 112 and 144.


@pytest.mark.parametrize(
    ("loss", "setting", "value", "message"),
    [
        ("softmax", "task__loss", "hinge", "'softmax' and 'sigmoid'"),
        ("softmax", "data__labels", "lists", "needs 'folders'"),
        ("sigmoid", "data__labels", "masks", "needs 'lists'"),
        ("softmax", "task__classes", 0, "how many classes"),
        ("softmax", "model__fc6_kernel", 3, "at least 65; config.model.fc6_padding='ADAPTIVE'"),
    ],
)
def test_settings_that_cannot_be_are_named(loss, setting, value, message):
    settings = {setting: value}
    if "fc6" in setting:
        settings |= {**tiny.VGG, "model__fc6_padding": "VALID", setting: value}
    with pytest.raises(ConfigError, match=message):
        make_task(tiny.classification(loss, **settings))


def test_a_smoothed_target_is_spread_over_all_classes():
    task, logits = _task(task__smoothing=0.3), np.array([[0.3, -1.0, 2.0]], np.float32)
    targets = {"labels": jnp.array([2]), "valid": jnp.array([True])}
    values, _ = task.loss(jnp.asarray(logits), targets)
    log_p = logits[0] - np.log(np.exp(logits[0]).sum())
    expected = -(np.array([0.1, 0.1, 0.8]) * log_p).sum()
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)


def test_a_mixed_photo_has_the_classes_of_both(rng, monkeypatch):
    def mixed(key, image, other, mixup, cutmix):
        assert (mixup, cutmix) == (1.0, 0.0)
        share = jax.random.uniform(key)
        return share * image + (1 - share) * other, share

    monkeypatch.setattr(mixing, "mixed", mixed)  # Beta takes the compiler seconds.
    task, batch = _task(task__mixup=1.0), _batch(rng, np.array([0, 1, 2, 2], np.int32))
    batch["valid"][2] = False
    keys = jax.random.split(jax.random.key(0), 4)
    (image,), targets = jax.jit(task.prepare)(keys, batch)
    # The third row is not valid, so that it is mixed into no other.
    np.testing.assert_array_equal(targets["other"], [2, 0, 1, 2])
    plain = task.model.encoder.network_input(batch["image"])
    share = np.asarray(targets["share"])[:, None, None, None]
    expected = share * plain + (1 - share) * plain[np.array([3, 0, 1, 3])]
    np.testing.assert_allclose(image, expected, atol=1e-5)
    logits = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    values, _ = task.loss(logits, targets)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    own, other = (log_p[np.arange(4), np.asarray(targets[name])] for name in ("labels", "other"))
    expected = -(share[:, 0, 0, 0] * own + (1 - share[:, 0, 0, 0]) * other) * [1, 1, 0, 1]
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)


def test_smoothing_is_a_share():
    """Here alone: in Zhang's task a setting of this name is a width."""
    with pytest.raises(ConfigError, match=r"task\.smoothing=1\.5 must be a number from 0 to 1"):
        _task(task__smoothing=1.5)


@pytest.mark.parametrize("name", ["smoothing", "mixup", "cutmix"])
def test_soft_targets_are_for_one_class_in_every_photo(name):
    with pytest.raises(ConfigError, match=f"config.task.{name}=0.5 is for one class"):
        _task("sigmoid", **{f"task__{name}": 0.5})
