"""The protocol between a task and everything that trains, evaluates and shows it."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from colorize_jax.errors import ConfigError

Tree = Any
Batch = dict[str, jax.Array]

# Name in `config.task.name` -> module in this package; each has make_task(config, axis_name).
TASKS = ("colorization", "segmentation", "classification")


@dataclasses.dataclass(frozen=True)
class Score:
    """The one number that a task is judged by.

    Attributes:
        name: among those of `Task.summarize`.
        higher: whether higher is better.
    """

    name: str
    higher: bool

    def better(self, score: float, than: float | None) -> bool:
        """Never so if it is NaN; always so if there is nothing to be better than."""
        if than is None:
            return score == score
        return score > than if self.higher else score < than


class Caption(NamedTuple):
    """What stands beside the picture of a photo.

    Attributes:
        text: its scores and classes, in words.
        legend: {class: (red, green, blue)} of the colors in its panels.
    """

    text: str = ""
    legend: Mapping[str, tuple[int, int, int]] = {}


@dataclasses.dataclass(frozen=True)
class Task:
    """Pure functions on batches; `keys` holds one JAX key for every row, `batch["valid"]` says
    which rows are real.

    Attributes:
        model: Linen module; `model.apply(variables, *inputs, train=...)` gives outputs.
        prepare: (keys, batch) -> (inputs, targets), on the accelerator, from raw uint8 photos.
        loss: (outputs, targets) -> ({"loss": [batch], part: [batch], ...}, counts [batch]). The
            loss of a batch is the sum of the first over the sum of the counts.
        evaluate: (variables, statistics, keys, batch) -> (sums over a batch, {name: [batch, ...]}
            for every row). Where there is a "score" among them, higher is better, and the run
            leaves pictures of the best and the worst photos.
        summarize: (sums over all batches, rows of all batches) -> {name: number}; a name with a
            slash, as in "iou/cat", is one class's.
        score: which of them counts.
        remark: these numbers -> what a person should be told of them, or "".
        pictures: (variables, batch) -> uint8 [batch, panels, height, width, 3], or None: the panels
            lie side by side.
        panels: what these panels show, in their order.
        caption: (one photo's {name: value} of what `evaluate` gives for rows) -> what to say of it.
        statistics: (keys, batch) -> sums over a training batch from which the best constant
            prediction follows; None if there is nothing to learn from the training split.
        predict: (variables, batch) -> uint8 [batch, height, width] classes of all pixels, or None.
        labels: {name: (shape, dtype)} of what a row of a training batch has besides its photo.
        frozen: groups of the encoder's parameters that are not trained.
        views: how many views of a photo a training batch has, config.data.views.
        axis_name: the mapped axis that the batch is split over, or None under jit.
    """

    model: nn.Module
    prepare: Callable[[jax.Array, Batch], tuple[tuple, Tree]]
    loss: Callable[[Tree, Tree], tuple[dict[str, jax.Array], jax.Array]]
    evaluate: Callable[[Tree, Tree, jax.Array, Batch], tuple[Tree, dict[str, jax.Array]]]
    summarize: Callable[[Tree, dict[str, np.ndarray]], dict[str, float]]
    score: Score
    remark: Callable[[dict[str, float]], str] = lambda scores: ""
    pictures: Callable[[Tree, Batch], jax.Array] | None = None
    panels: tuple[str, ...] = ()
    caption: Callable[[dict[str, np.ndarray]], Caption] = lambda row: Caption()
    statistics: Callable[[jax.Array, Batch], Tree] | None = None
    predict: Callable[[Tree, Batch], jax.Array] | None = None
    labels: Mapping[str, tuple[tuple[int, ...], Any]] = dataclasses.field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    views: int = 1
    axis_name: str | None = None


def batch_shapes(task: Task, config) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch of the recipe, without its content."""
    size, crop = config.data.batch_size, config.data.crop
    views = (config.data.views,) if config.data.views > 1 else ()
    shapes = {
        "image": ((*views, crop, crop, 3), np.uint8),
        "position": ((), np.int32),
        "photo": ((), np.int32),
        "valid": ((), bool),
        **task.labels,
    }
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in shapes.items()
    }


def make_task(config, axis_name: str | None = None, classes: Sequence[str] = ()) -> Task:
    """The task that `config.task.name` asks for.

    Args:
        config: the recipe.
        axis_name: see `Task`.
        classes: what they are called; numbers, if not given.

    Raises:
        ConfigError: there is no such task, or a setting does not fit it.
    """
    if config.task.name not in TASKS:
        raise ConfigError(f"config.task.name is {config.task.name!r}; known: {', '.join(TASKS)}")
    module = importlib.import_module(f"colorize_jax.tasks.{config.task.name}")
    task = module.make_task(config, axis_name, classes)
    if config.data.views != task.views:
        raise ConfigError(
            f"config.data.views={config.data.views}, and the task {config.task.name!r} takes "
            f"{task.views} of every photo: add --config.data.views={task.views}"
        )
    return task
