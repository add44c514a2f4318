"""Tasks by name: their settings, and settings of a run that they refuse."""

import dataclasses
import sys
import types

import pytest
import small_encoder
import tiny

from colorize_jax.config import default_config
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import registry, rotation
from colorize_jax.tasks.task import Score


def _config(**settings):
    return tiny.config(
        **{"task__name": "rotation", "model__name": small_encoder.NAME, "model__in_channels": 3}
        | settings
    )


@pytest.fixture
def own(monkeypatch):
    """Writes a user's module whose `make_task` changes the task of rotation."""

    def make(change):
        module = types.ModuleType("own_tasks")
        module.make_task = lambda *a: change(rotation.make_task(*a))
        module.SETTINGS = rotation.SETTINGS
        monkeypatch.setitem(sys.modules, "own_tasks", module)
        return "own_tasks:make_task"

    return make


def test_tasks_are_the_modules_that_make_one():
    assert {"colorization", "segmentation", "classification", "rotation"} <= {*registry.names()}
    assert not {"task", "registry", "losses", "evaluators"} & {*registry.names()}
    for name in registry.names():
        assert default_config(name).task.name == name


def test_a_loss_that_compares_photos_refuses_microbatches(own):
    name = own(lambda task: dataclasses.replace(task, microbatches=False))
    assert registry.make_task(_config(task__name=name))
    for parts in (2, 0):  # 0 finds a number that fits.
        with pytest.raises(ConfigError, match=f"microbatches={parts}.* set it to 1"):
            registry.make_task(_config(task__name=name, microbatches=parts))


@pytest.mark.parametrize(("views", "asked"), [(1, 2), (2, 1), (2, 3)])
def test_a_task_gets_the_number_of_views_that_it_takes(own, views, asked):
    name = own(lambda task: dataclasses.replace(task, views=views))
    assert registry.make_task(_config(task__name=name, data__views=views)).views == views
    with pytest.raises(ConfigError, match=f"views={asked}.* add --config.data.views={views}"):
        registry.make_task(_config(task__name=name, data__views=asked))


def test_labels_that_the_task_does_not_use_are_refused():
    with pytest.raises(ConfigError, match="labels='folders': rotation looks at no labels"):
        registry.make_task(_config(data__labels="folders"))


def test_what_is_no_task_is_said(own):
    with pytest.raises(ConfigError, match="gives no Task but 3"):
        registry.make_task(_config(task__name=own(lambda task: 3)))


def test_without_an_evaluator_the_loss_on_held_out_photos_is_the_score(own):
    name = own(lambda task: dataclasses.replace(task, evaluators={}, score=Score("loss", False)))
    task = registry.make_task(_config(task__name=name))
    assert set(task.evaluators) == {""} and task.evaluator.pictures is None
