"""Rescales layers so that their activations have unit variance."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import CheckpointError, ConfigError, DataError

Tree = dict[str, Any]

# A smaller variation, as a share of the activations' size, may be only rounding.
_ROUNDING = 1e-4


def rebalance(encoder, params: Tree, batches: Iterable) -> tuple[Tree, dict[str, float]]:
    """Parameters with which every layer's activation has a standard deviation of one.

    It is for networks trained without batch norm, for example on ImageNet, because the rates of
    transfer do not suit the scales of their activations. With m = 1 / std of a layer's activation
    (a scalar over images, positions and channels), W becomes W m / m_below and b becomes b m. ReLU,
    pooling and dropout are positively homogeneous, so the activation is multiplied by m and nothing
    else changes. Networks with local response norm, which is not homogeneous, are refused. So are
    networks whose blocks are added to their input, because a sum needs equal scales.

    Args:
        encoder: a Linen module without batch norm; each of its `layers` reads the previous one.
        params: the encoder's parameters, {layer: {"kernel", "bias"}}.
        batches: network inputs [batch, height, width, channels] of a hundred photos or more. They
            are read once: rescaling is exact, so all layers can be measured with the old weights.

    Returns:
        The new parameters, and {layer: m}. A head that read the old top layer must divide its
        input by the top layer's m.

    Raises:
        CheckpointError: the activation of a layer is constant or not finite; the message names it.
        ConfigError: the network cannot be rebalanced; see `check`.
        DataError: there is no batch.
    """
    check(encoder)

    @jax.jit
    def rows(params, gray):
        maps = encoder.apply({"params": params}, gray)
        return {name: _row_moments(maps[name]) for name in encoder.layers}

    # Statistics of one row are exact enough in float32, but sums over all rows are not.
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
        if not std > _ROUNDING * np.sqrt(square):  # A std that is not finite fails too.
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
    """ConfigError if the layers above cannot compensate for rescaled layers."""
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
    """The number of values, and the mean and variance of every row of [batch, h, w, channels]."""
    x = x.astype(jnp.float32)
    return x.shape[2] * x.shape[3], x.mean((2, 3)), x.var((2, 3))
