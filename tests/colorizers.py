"""Networks that color, for tests: of random numbers, and of little else."""

import json

import jax
import numpy as np
import tiny

from colorize_jax.checkpoints import writing
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import batch_shapes
from colorize_jax.training.step import init_variables


def save(workdir, head=True, **settings):
    """Writes a checkpoint of a network with vivid answers; settings as of `tiny.config`."""
    config = tiny.config(**settings)
    task = make_task(config)
    # Shapes alone: a random start as training has it would be compiled for seconds.
    shapes = jax.eval_shape(
        lambda batch: init_variables(jax.random.key(0), task, batch), batch_shapes(task, config)
    )
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(lambda path, x: _drawn(rng, path, x), shapes)
    if not head:
        del variables["params"]["head"]
    state = {"step": np.zeros((), np.int32), "opt_state": (), **variables}
    note = {"step": 0, "config": json.loads(json.dumps(config.to_dict()))}
    writing.write(workdir / "checkpoints" / "0", state, note)
    return workdir


def _drawn(rng, path, shape):
    name = path[-1].key
    if name == "prior":
        return np.full(shape.shape, 1 / shape.size, shape.dtype)
    if name != "kernel":
        return np.full(shape.shape, name in ("var", "scale", "count"), shape.dtype)
    spread = 3 * np.prod(shape.shape[:-1]) ** -0.5  # Three: the colors are to be vivid.
    return rng.normal(0, spread, shape.shape).astype(shape.dtype)
