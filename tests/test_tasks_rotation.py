"""Rotation: exact turns of one crop, all in one row, and a loss that falls."""

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_encoder
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.tasks import rotation
from colorize_jax.tasks.registry import make_task
from colorize_jax.training.step import row_keys


def _config(**settings):
    return tiny.config(
        **{"task__name": "rotation", "model__name": small_encoder.NAME, "model__in_channels": 3}
        | settings
    )


def _outputs(task, batch, seed=0):
    keys = row_keys(jax.random.key(seed), jnp.arange(len(batch["image"])))
    inputs, targets = task.prepare(keys, batch)
    variables = task.model.init(jax.random.key(0), *inputs)
    return task.model.apply(variables, *inputs), targets, inputs


def test_golden_rot_turns_are_those_of_the_sheet():
    golden = golden_pretexts.group("rot")
    np.testing.assert_array_equal(rotation.turned(golden["image"]), golden["views"])
    np.testing.assert_array_equal(np.arange(rotation.TURNS), golden["labels"])


def test_turns_are_exact_and_undo_each_other(rng):
    image = rng.integers(0, 256, (2, 6, 6, 3), np.uint8)
    turns = np.asarray(rotation.turned(image))
    assert turns.dtype == np.uint8
    for k in range(4):
        np.testing.assert_array_equal(np.rot90(turns[:, k], -k, axes=(1, 2)), image)
    np.testing.assert_array_equal(np.asarray(rotation.turned(turns[:, 1]))[:, 1], turns[:, 2])


def test_every_row_has_all_four_turns_of_one_crop(rng):
    task, batch = make_task(_config()), tiny.batch(rng)
    logits, targets, (images,) = _outputs(task, batch)
    assert logits.shape == (8, 4, 4) and images.shape == (8, 4, 32, 32, 3)
    assert (np.asarray(targets["labels"]) == np.arange(4)).all()
    values, counts = task.loss(logits, targets)
    assert (counts == 4).all() and values["loss"].shape == (8,)


def test_without_knowledge_the_loss_is_that_of_a_guess(rng):
    task, batch = make_task(_config()), tiny.batch(rng)
    _, targets, _ = _outputs(task, batch)
    values, counts = task.loss(jnp.zeros((8, 4, 4)), targets)
    assert float(values["loss"].sum() / counts.sum()) == pytest.approx(np.log(4), rel=1e-6)


def test_a_layer_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="layer='fc9'"):
        make_task(_config(task__layer="fc9"))


def test_the_classifier_reads_the_layer_that_is_asked_for(rng):
    task, batch = make_task(_config(task__layer="conv1")), tiny.batch(rng)
    assert task.model.layer == "conv1"
    assert _outputs(task, batch)[0].shape == (8, 4, 4)
