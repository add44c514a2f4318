"""Layers rescaled so that their activations have unit variance."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import CheckpointError, ConfigError, DataError

Tree = dict[str, Any]

# Variation below this share of the activations' size may be nothing but rounding.
_ROUNDING = 1e-4


def rebalance(encoder, params: Tree, batches: Iterable) -> tuple[Tree, dict[str, float]]:
    """Parameters with which every layer's activation has a standard deviation of one.

    For networks trained without batch norm, such as those from ImageNet, whose activations have
    scales that the rates of transfer do not suit. With m = 1 / std of a layer's activation (a
    scalar over images, positions and channels), W becomes W m / m_below and b becomes b m. ReLU,
    pooling and dropout are positively homogeneous, so the activation becomes m times what it was
    and nothing else changes. Local response norm is not homogeneous, and blocks that are added to
    what they read cannot have a scale of their own: such networks are refused.

    Args:
        encoder: Linen module without batch norm; its `layers` feed each other in that order.
        params: of the encoder, {layer: {"kernel", "bias"}}.
        batches: network inputs [batch, height, width, channels]; a hundred photos or more. They are
            read once: rescaling is exact, so that all layers can be measured on the old weights.

    Returns:
        The new parameters, and {layer: m}: whatever read the old top layer divides by its m.

    Raises:
        CheckpointError: names a layer whose activation is constant or not finite.
        ConfigError: the network cannot be rebalanced; see `check`.
        DataError: there is no batch.
    """
    check(encoder)

    @jax.jit
    def rows(params, gray):
        maps = encoder.apply({"params": params}, gray)
        return {name: _row_moments(maps[name]) for name in encoder.layers}

    # Rows of a map are short enough for float32; their sums are not.
    sums = {name: np.zeros(3) for name in encoder.layers}
    for batch in batches:
        for name, moments in jax.device_get(rows(params, batch)).items():
            size, mean, var = (np.asarray(x, np.float64) for x in moments)
            sums[name] += size * np.array([mean.size, mean.sum(), (var + mean**2).sum()])

    balanced, factors, below = dict(params), {}, 1.0
    for name, (count, total, squares) in sums.items():
        if count == 0:
            raise DataError("there are no photos to measure the activations on for rebalancing")
        mean, square = total / count, squares / count
        std = np.sqrt(np.maximum(square - mean**2, 0))
        if not std > _ROUNDING * np.sqrt(square):  # nor is what is not finite
            raise CheckpointError(
                f"the activation of {name} has mean {mean:.3g} and standard deviation {std:.3g} on "
                "these photos and cannot be rebalanced: look at the checkpoint, or leave it as it "
                "is with config.rebalance_photos=0"
            )
        factor = factors[name] = float(1 / std)
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        balanced[name] = {"kernel": kernel * (factor / below), "bias": bias * factor}
        below = factor
    return balanced, factors


def check(encoder) -> None:
    """ConfigError unless rescaled layers can be made up for in the layers above them."""
    problem = ""
    if getattr(encoder, "norm", "none") != "none":
        problem = (
            "is for networks without batch norm, which makes activations of unit variance itself: "
            "set config.model.norm='none' (a ResNet keeps its batch norm), or"
        )
    elif getattr(encoder, "lrn", False):
        problem = (
            "would change what an AlexNet with local response norm computes: set "
            "config.model.lrn=False if the network was trained without it, or"
        )
    if problem:
        raise ConfigError(f"config.rebalance_photos {problem} config.rebalance_photos=0")


def _row_moments(x: jax.Array) -> tuple[int, jax.Array, jax.Array]:
    """Number of values, mean and variance of every row of [batch, h, w, channels]."""
    x = x.astype(jnp.float32)
    return x.shape[2] * x.shape[3], x.mean((2, 3)), x.var((2, 3))
