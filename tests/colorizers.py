"""Networks that color, for tests: of random numbers, and of little else."""

import json

import jax
import jax.numpy as jnp
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
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch_shapes(task, config))
    variables = init_variables(jax.random.key(0), task, batch)
    layers = variables["params"]["head"]
    if "hidden" in layers:  # it begins near zero, as the paper has it
        layers["hidden"]["kernel"] *= 1e4
        for name in layers.keys() - {"hidden"}:
            layers[name]["kernel"] *= 3
    if not head:
        del variables["params"]["head"]
    state = {"step": np.zeros((), np.int32), "opt_state": (), **variables}
    state = jax.tree.map(np.asarray, state)
    note = {"step": 0, "config": json.loads(json.dumps(config.to_dict()))}
    writing.write(workdir / "checkpoints" / "0", state, note)
    return workdir
