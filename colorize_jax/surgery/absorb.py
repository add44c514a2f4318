"""Batch norm absorbed into the weights and biases before it."""

from typing import Any

import jax.numpy as jnp

from colorize_jax.errors import CheckpointError
from colorize_jax.models.norm import EPSILON

Tree = dict[str, Any]


def absorb_batch_norm(params: Tree, batch_stats: Tree) -> Tree:
    """An encoder's parameters that compute, without batch norm, what they did before it.

    W / sigma and (b - mean) / sigma with sigma = sqrt(variance + 1e-5), per output channel: what
    parameter-free batch norm does with its running averages.

    Args:
        params: {"conv1_1": {"kernel": [..., out], "bias": [out]}, ...}.
        batch_stats: {"batch_conv1_1": {"mean": [out], "var": [out], "count"}, ...}; a layer without
            statistics stays as it is.

    Returns:
        As `params`.

    Raises:
        CheckpointError: there are statistics of a layer that is not in `params`; so there are in a
            ResNet, whose batch norm has parameters of its own and stays.
    """
    absorbed = dict(params)
    for name, stats in batch_stats.items():
        layer = name.removeprefix("batch_")
        if layer not in params or layer == name:
            raise CheckpointError(
                f"the batch norm statistics {name!r} belong to no layer with weights and biases, "
                "and cannot be absorbed (those of a ResNet and of Zhang's network never are); the "
                f"layers are {', '.join(params)}"
            )
        scale = 1 / jnp.sqrt(EPSILON + stats["var"])
        kernel, bias = params[layer]["kernel"], params[layer]["bias"]
        absorbed[layer] = {"kernel": kernel * scale, "bias": (bias - stats["mean"]) * scale}
    return absorbed
