"""Running a task over batches: its scores, its pictures, and the sums of a constant prediction."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import DataError
from colorize_jax.tasks.task import Task
from colorize_jax.training import sharding
from colorize_jax.training.step import row_keys

Tree = Any


class Runner:
    """The compiled functions of a task on a mesh; points are keyed by (seed, batch, row)."""

    def __init__(self, task: Task, mesh, seed: int):
        self._task, self._mesh, self._key = task, mesh, jax.random.key(seed)

        def keys_of(index, batch):
            rows = jnp.arange(len(batch["image"]))
            return row_keys(jax.random.fold_in(self._key, index), rows)

        def statistics(index, batch):
            return task.statistics(keys_of(index, batch), batch)

        def evaluate(index, batch, variables, sums):
            sums = task.evaluate(variables, sums, keys_of(index, batch), batch)
            return sums, batch["valid"].sum()

        def pictures(variables, batch):
            return task.pictures(variables, batch), batch["valid"]

        same = sharding.replicated(mesh)
        self._statistics = jax.jit(statistics, out_shardings=same)
        self._evaluate = jax.jit(evaluate, out_shardings=same)
        self._pictures = jax.jit(pictures, out_shardings=same)

    def statistics(self, batches: Iterable[dict[str, np.ndarray]]) -> Tree:
        """The task's sums over training batches."""
        return self._sum(self._statistics, batches)

    def evaluate(
        self, variables: Tree, statistics: Tree, batches: Iterable, pictures: int = 0
    ) -> tuple[dict[str, float], list[np.ndarray]]:
        """The task's scores over the batches of a held-out split, and its first pictures.

        Returns:
            {name: number}, and at most `pictures` strips, uint8 [height, width, 3].

        Raises:
            DataError: no photo of the split could be read.
        """
        strips: list[np.ndarray] = []

        def seen():
            for batch in batches:
                if len(strips) < pictures:
                    placed = sharding.put_batch(batch, self._mesh)
                    shown, valid = jax.device_get(self._pictures(variables, placed))
                    strips.extend(shown[valid])
                yield batch

        sums, valid = jax.device_get(self._sum(self._evaluate, seen(), variables, statistics))
        if not valid:
            raise DataError(
                "none of the held-out photos could be read: repair them, or hold out more with "
                "config.data.holdout"
            )
        return self._task.summarize(sums), strips[:pictures]

    def _sum(self, function: Callable, batches: Iterable, *others: Tree) -> Tree:
        total = None
        for index, batch in enumerate(batches):
            sums = function(index, sharding.put_batch(batch, self._mesh), *others)
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return total
