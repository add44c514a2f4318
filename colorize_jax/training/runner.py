"""Runs a task's network over batches: scores, pictures, predictions, and sums over batches."""

import collections
from collections.abc import Iterable, Iterator
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import DataError
from colorize_jax.models import norm
from colorize_jax.tasks.task import Evaluator, Task
from colorize_jax.training import sharding
from colorize_jax.training.meter import RUN_AHEAD
from colorize_jax.training.step import forward, row_keys

Tree = Any


class Runner:
    """The compiled functions of a task and of one of its evaluators, on a mesh.

    Random numbers are keyed by (seed, batch, row).

    Args:
        task: the task.
        mesh: the mesh of the devices.
        seed: the seed of the run.
        evaluator: the evaluator; None is the task's own.
    """

    def __init__(self, task: Task, mesh, seed: int, evaluator: Evaluator | None = None):
        own = evaluator or task.evaluator
        self._task, self._seed = task, seed
        self._own, self._mesh, self._key = own, mesh, jax.random.key(seed)

        def keys_of(index, batch):
            rows = jnp.arange(len(batch["image"]))
            return row_keys(jax.random.fold_in(self._key, index), rows)

        def statistics(index, batch):
            return own.statistics(keys_of(index, batch), batch)

        def moments(index, batch, variables):
            """The means, and means of squares, of every batch norm on one batch."""
            key = jax.random.fold_in(self._key, index)
            dropped = variables | {"batch_stats": norm.forgotten(variables["batch_stats"])}
            _, _, collections, _ = forward(task, dropped, batch, keys_of(index, batch), key)
            return norm.moments(collections["batch_stats"])

        def evaluate(index, batch, variables, statistics):
            sums, rows = own.on_batch(variables, statistics, keys_of(index, batch), batch)
            return sums, rows | {name: batch[name] for name in ("position", "valid")}

        def per_photo(function):
            def run(variables, batch):
                beside = {name: batch[name] for name in ("position", "valid", "size")
                          if name in batch}  # fmt: skip
                return {"found": function(variables, batch)} | beside

            return run

        def fit_sums(index, batch):
            return task.fit.sums(keys_of(index, batch), batch)

        same = sharding.replicated(mesh)
        self._fit_sums = jax.jit(fit_sums, out_shardings=same)
        self._constants = jax.jit(lambda sums: task.fit.constants(sums), out_shardings=same)
        self._statistics = jax.jit(statistics, out_shardings=same)
        self._moments = jax.jit(moments, out_shardings=same)
        self._settle = jax.jit(norm.settled, out_shardings=same)
        self._evaluate = jax.jit(evaluate, out_shardings=same)
        self._pictures = jax.jit(per_photo(own.pictures), out_shardings=same)
        self._predict = jax.jit(per_photo(own.predict), out_shardings=same)

    def of(self, evaluator: Evaluator) -> "Runner":
        """A runner of the same task for another evaluator."""
        return Runner(self._task, self._mesh, self._seed, evaluator)

    def statistics(self, batches: Iterable[dict[str, np.ndarray]]) -> Tree:
        """The evaluator's sums over training batches; None if it needs none."""
        if self._own.statistics is None:
            return None
        return self._total(self._statistics, batches)

    def fitted(self, variables: Tree, batches: Iterable[dict[str, np.ndarray]]) -> Tree:
        """The variables with the task's constants fitted to these training batches."""
        return variables | {"constants": self._constants(self._total(self._fit_sums, batches))}

    def fresh_norm(self, variables: Tree, batches: Iterable[dict[str, np.ndarray]]) -> Tree:
        """The variables with averages of batch norm over only these training batches.

        Frozen layers keep theirs. Like running averages, these are taken in training mode, with
        dropout.
        """
        total = self._total(self._moments, batches, variables)
        return variables | {"batch_stats": self._settle(variables["batch_stats"], total)}

    def _total(self, function, batches: Iterable, *more) -> Tree:
        """The sums of a compiled function's results over all batches; None without batches."""
        total = None
        for index, batch in enumerate(batches):
            sums = function(index, sharding.put_batch(batch, self._mesh), *more)
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        return total

    def evaluate(
        self, variables: Tree, statistics: Tree, batches: Iterable, pictures: int = 0
    ) -> tuple[dict[str, float], dict[str, np.ndarray], dict[int, list[np.ndarray]]]:
        """The evaluator's scores over the batches of a split, and pictures of its first photos.

        Returns:
            The scores {name: number}; rows {name: [photos, ...]} of all readable photos, with their
            "position"; and {position: panels, uint8 [height, width, 3] each} of at most `pictures`
            photos.

        Raises:
            DataError: no photo of the split could be read.
        """
        shown: dict[int, list[np.ndarray]] = {}
        pending: collections.deque = collections.deque()
        sums, rows, seen = None, [], 0

        def settle(most: int) -> None:
            nonlocal sums, seen
            while len(pending) > most:
                part, found = jax.device_get(pending.popleft())
                # Summed on the host in 64 bits: 32 bits cannot count the pixels of a large split.
                part = jax.tree.map(_wide, part)
                sums = part if sums is None else jax.tree.map(np.add, sums, part)
                valid = found.pop("valid")
                seen += int(valid.sum())
                rows.append({name: values[valid] for name, values in found.items()})

        for index, batch in enumerate(batches):
            if self._own.pictures is not None and len(shown) < pictures:
                found = self.pictures(variables, [batch])
                shown.update(itertools.islice(found, pictures - len(shown)))
            placed = sharding.put_batch(batch, self._mesh)
            pending.append(self._evaluate(index, placed, variables, statistics))
            settle(RUN_AHEAD)
        settle(0)
        if not seen:
            raise DataError(
                "none of the held-out photos could be read: repair them, or evaluate on others"
            )
        joined = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
        return self._own.summarize(sums, joined), joined, shown

    def pictures(
        self, variables: Tree, batches: Iterable
    ) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Yields (position, panels [height, width, 3]) of every photo."""
        for position, panels, size in self._per_photo(self._pictures, variables, batches):
            yield position, [_uncover(panel, size) for panel in panels]

    def predictions(self, variables: Tree, batches: Iterable) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, classes [height, width] uint8) of every photo."""
        for position, classes, size in self._per_photo(self._predict, variables, batches):
            yield position, _uncover(classes, size)

    def _per_photo(self, function, variables, batches):
        for batch in batches:
            found = function(variables, sharding.put_batch(batch, self._mesh))
            found = {name: np.asarray(values) for name, values in jax.device_get(found).items()}
            for row in np.flatnonzero(found["valid"]):
                size = found["size"][row] if "size" in found else None
                yield int(found["position"][row]), found["found"][row], size


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64)


def _uncover(pixels: np.ndarray, size: np.ndarray | None) -> np.ndarray:
    """Cuts the photo of that size out of the middle of its canvas [height, width, ...]."""
    if size is None:
        return pixels
    (height, width), canvas = size.tolist(), pixels.shape
    y, x = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    return pixels[y : y + height, x : x + width]
