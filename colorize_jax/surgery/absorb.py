"""Absorbs batch norm into the weights and biases of the layer before it."""

from typing import Any

import jax.numpy as jnp

from colorize_jax.errors import CheckpointError
from colorize_jax.models.norm import EPSILON

Tree = dict[str, Any]


def absorb_batch_norm(params: Tree, batch_stats: Tree) -> Tree:
    """Parameters of an encoder that compute without batch norm what they computed with it.

    They are W / sigma and (b - mean) / sigma with sigma = sqrt(variance + 1e-5) of each output
    channel. This is what batch norm without parameters computes with its running averages. If it
    has a scale and a bias, both are multiplied by the scale, and its bias is added to the second.

    Args:
        params: {"conv1_1": {"kernel": [..., out], "bias": [out]}, ...}, with "scale_conv1_1":
            {"scale": [out], "bias": [out]} if the batch norm of the layer has these parameters.
        batch_stats: {"batch_conv1_1": {"mean": [out], "var": [out], "count"}, ...}. A layer without
            statistics is not changed.

    Returns:
        Parameters like `params`, without those of batch norm.

    Raises:
        CheckpointError: `params` lack a layer that has statistics. This includes every ResNet,
            whose batch norm has its own parameters and is kept.
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
        learned = absorbed.pop(f"scale_{layer}", None)
        if learned:
            scale *= learned["scale"]
        absorbed[layer] = {"kernel": kernel * scale, "bias": (bias - stats["mean"]) * scale}
        if learned:
            absorbed[layer]["bias"] += learned["bias"]
    return absorbed
