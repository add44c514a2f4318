"""The protocol between a task and everything that trains, evaluates and shows it."""

from collections.abc import Callable
import dataclasses
import importlib
from typing import Any

import flax.linen as nn
import jax

from colorize_jax.errors import ConfigError

Tree = Any
Batch = dict[str, jax.Array]

# Name in `config.task.name` -> module in this package; each has make_task(config, axis_name).
TASKS = ("colorization",)


@dataclasses.dataclass(frozen=True)
class Task:
    """Pure functions on batches; `keys` holds one JAX key for every row, `batch["valid"]` says
    which rows are real.

    Attributes:
        model: Linen module; `model.apply(variables, *inputs, train=...)` gives outputs.
        prepare: (keys, batch) -> (inputs, targets), on the accelerator, from raw uint8 photos.
        loss: (outputs, targets) -> ({"loss": [batch], part: [batch], ...}, counts [batch]). The
            loss of a batch is the sum of the first over the sum of the counts.
        statistics: (keys, batch) -> sums over a training batch from which the best constant
            prediction follows.
        evaluate: (variables, statistics, keys, batch) -> sums over a batch.
        summarize: sums over all batches -> {name: number}.
        pictures: (variables, batch) -> uint8 [batch, height, width, 3], one strip for each photo.
        axis_name: the mapped axis that the batch is split over, or None under jit.
    """

    model: nn.Module
    prepare: Callable[[jax.Array, Batch], tuple[tuple, Tree]]
    loss: Callable[[Tree, Tree], tuple[dict[str, jax.Array], jax.Array]]
    statistics: Callable[[jax.Array, Batch], Tree]
    evaluate: Callable[[Tree, Tree, jax.Array, Batch], Tree]
    summarize: Callable[[Tree], dict[str, float]]
    pictures: Callable[[Tree, Batch], jax.Array]
    axis_name: str | None = None


def make_task(config, axis_name: str | None = None) -> Task:
    """The task that `config.task.name` asks for; ConfigError if there is none of that name."""
    if config.task.name not in TASKS:
        raise ConfigError(f"config.task.name is {config.task.name!r}; known: {', '.join(TASKS)}")
    module = importlib.import_module(f"colorize_jax.tasks.{config.task.name}")
    return module.make_task(config, axis_name)
