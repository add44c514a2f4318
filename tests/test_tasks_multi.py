"""Several tasks on one encoder: shared once, summed by weight, each scored by itself."""

import jax
import numpy as np
import pytest
import toys

from colorize_jax.errors import ConfigError
from colorize_jax.tasks import registry

MADE = {"task__tasks": ("colorization", "rotation"), "task__weights": (1.0, 0.5)}


@pytest.fixture(scope="module")
def made():
    config, task = toys.make("multi", model__norm="none", **MADE)
    batch = toys.batch(config, task, np.random.default_rng(0))
    keys = jax.random.split(jax.random.key(0), len(batch["image"]))
    inputs, targets = jax.jit(task.prepare)(keys, batch)
    variables = jax.jit(lambda: task.model.init(jax.random.key(0), *inputs))()
    return config, task, batch, keys, inputs, targets, variables


def test_the_encoder_is_there_once(made):
    params = made[-1]["params"]
    assert set(params) == {"encoder", "parts_colorization", "parts_rotation"}
    assert set(params["parts_rotation"]) == {"head"}


def test_the_loss_is_the_weighted_sum_of_the_means(made):
    config, task, batch, keys, inputs, targets, variables = made
    outputs = jax.jit(task.model.apply)(variables, *inputs)
    values, counts = task.loss(outputs, targets)
    mean = {name: float(value.sum() / counts.sum()) for name, value in values.items()}
    assert mean["loss"] == pytest.approx(
        mean["loss_colorization"] + 0.5 * mean["loss_rotation"], rel=1e-5
    )
    # As by itself, with the parameters of its own and of the encoder.
    alone = toys.make("rotation", model__norm="none")[1]
    params = {"encoder": variables["params"]["encoder"], **variables["params"]["parts_rotation"]}
    (images,), own = alone.prepare(keys, batch)
    own_values, own_counts = alone.loss(alone.model.apply({"params": params}, images), own)
    assert mean["loss_rotation"] == pytest.approx(
        float(own_values["loss"].sum() / own_counts.sum()), rel=1e-5
    )


def test_each_task_is_scored_by_itself(made):
    _, task, batch, keys, _, _, variables = made
    assert set(task.evaluators) == {"", "colorization", "rotation"}
    evaluator = task.evaluators["rotation"]
    sums, rows = jax.jit(lambda v: evaluator.on_batch(v, None, keys, batch))(variables)
    assert 0 <= evaluator.summarize(jax.device_get(sums), jax.device_get(rows))["accuracy"] <= 1


def test_tasks_keep_settings_of_their_own():
    config, _ = toys.make("multi", **MADE)
    config.task.settings = {
        "rotation": {"layer": "conv2"},
        "colorization": {"model": {"hidden": 4}},
    }
    task = registry.make_task(config)
    assert task.model.parts["rotation"].layer == "conv2"
    assert task.model.parts["colorization"].head.hidden == 4


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task__tasks": ()}, "task.tasks"),
        ({"task__tasks": ("rotation", "rotation")}, "task.tasks"),
        ({"task__tasks": ("rotation", "multi")}, "multi"),
        ({"task__tasks": ("rotation", "nothing")}, "nothing"),
        ({"task__weights": (1.0,)}, "task.weights"),
        ({"task__weights": (1.0, -1.0)}, "task.weights"),
        ({"task__settings": {"jigsaw": {}}}, "jigsaw"),
        ({"task__settings": {"rotation": {"turns": 3}}}, "turns"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("multi", **settings)


def test_there_is_one_view_for_all():
    config, _ = toys.make("multi", **MADE)
    config.data.views = 2  # Two are what SimCLR asks for.
    with pytest.raises(ConfigError, match="multi takes one view of every photo.*set it to 1"):
        registry.make_task(config)
