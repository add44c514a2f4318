"""Finds tasks by name and builds them from the config."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from colorize_jax.config import choices
from colorize_jax.errors import ConfigError
from colorize_jax.models import registry as encoders
from colorize_jax.tasks import evaluators
from colorize_jax.tasks.task import Facts, Task


@functools.cache
def names() -> tuple[str, ...]:
    """The names of this package's tasks, which are its modules with a `make_task`."""
    folder = pathlib.Path(__file__).parent
    files = sorted(path for path in folder.glob("*.py") if path.stem != "registry")
    return tuple(path.stem for path in files if "\ndef make_task(" in path.read_text())


def _find(name: str) -> tuple[Any, Callable]:
    """The (module, make_task) that `config.task.name` names."""
    if ":" in name:
        return choices.load("task.name", name)
    if name not in names():
        raise ConfigError(
            f"config.task.name is {name!r}; known: {', '.join(names())}, and module:function of "
            "your own"
        )
    return choices.load("task.name", f"colorize_jax.tasks.{name}:make_task")


def own_settings(name: str) -> Mapping[str, Any]:
    """The own settings of a task, which are `SETTINGS` of its module; see `choices`."""
    return getattr(_find(name)[0], "SETTINGS", {})


def make_task(
    config, facts: Facts | None = None, axis_name: str | None = None, encoder=None
) -> Task:
    """Makes the task of a config.

    Args:
        config: the config of a run.
        facts: the facts about the photos; None takes the defaults of `Facts`.
        axis_name: see `Task`.
        encoder: the encoder of the task; None makes that of the config.

    Raises:
        ConfigError: the task is unknown, or a setting does not fit it.
    """
    make = _find(config.task.name)[1]
    encoder = encoder or encoders.make_trained_encoder(config, axis_name)
    task = make(config, encoder, facts or Facts())
    if not isinstance(task, Task):
        raise ConfigError(f"config.task.name={config.task.name!r} gives no Task but {task!r:.50}")
    _check(task, config)
    if "" not in task.evaluators:
        own = evaluators.held_out(task.model, task.prepare, task.loss)
        task = dataclasses.replace(task, evaluators={"": own, **task.evaluators})
    return task


def _check(task: Task, config) -> None:
    """ConfigError if settings of the run do not fit the task."""
    name, labels = config.task.name, config.data.labels
    if labels and not task.labels:
        raise ConfigError(
            f"config.data.labels={labels!r}: {name} looks at no labels; leave it empty"
        )
    if config.data.views != task.views:
        raise ConfigError(
            f"config.data.views={config.data.views}, and the task {name!r} takes {task.views} of "
            f"every photo: add --config.data.views={task.views}"
        )
    if config.microbatches != 1 and not task.microbatches:
        raise ConfigError(
            f"config.microbatches={config.microbatches}: the loss of {name} compares all photos of "
            "a batch, and would see a part of them only; set it to 1"
        )
