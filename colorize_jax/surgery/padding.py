"""Replaces the zeros of padding by usual activations, so that borders of photos look normal."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models.layers import Conv


def borders(params: dict[str, Any], layers: Sequence[str]) -> dict[str, jax.Array]:
    """The input of each layer at a place without features: ReLU of the bias of the layer below.

    It replaces the padding's zeros, which are unusual values once batch norm is absorbed (footnote
    3 of the paper). It is meant for the analysis of activations; transfer gains nothing from it.
    AlexNet's LRN is ignored, because it hardly changes activations of unit scale.

    Args:
        params: parameters of an encoder with absorbed batch norm, {layer: {"kernel", "bias"}}.
        layers: the encoder's layers, each the input of the next; poolings between them change
            nothing.

    Returns:
        {layer: [channels of its input]} for `apply`, without the first layer, which reads the
        photo.

    Raises:
        CheckpointError: a layer has no bias, as in a ResNet, whose batch norm is kept.
    """
    if missing := [layer for layer in layers[:-1] if "bias" not in params.get(layer, ())]:
        raise CheckpointError(
            f"the layer {missing[0]} has no kernel with a bias of its own: what stands around its "
            "map is known only of networks whose batch norm is absorbed, and a ResNet keeps it"
        )
    return {
        layer: jax.nn.relu(jnp.asarray(params[below]["bias"]))
        for below, layer in itertools.pairwise(layers)
    }


def apply(
    encoder: nn.Module, params: dict[str, Any], x: jax.Array, borders: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """`encoder.apply`, but some convolutions are padded with constants and not with zeros.

    Args:
        encoder: an encoder whose convolutions are `models.layers.Conv`.
        params: the encoder's parameters.
        x: its input, [batch, height, width, channels].
        borders: {layer: [channels of its input]}, as `borders` returns it.

    Returns:
        The encoder's activations: {layer: [batch, h, w, channels]}.

    Raises:
        ConfigError: a convolution in `borders` has no padding, as in a classifier; or the network
            keeps its batch norm.
    """
    if not getattr(encoder, "absorbs", True):
        raise ConfigError(
            f"{type(encoder).__name__} keeps its batch norm, behind which the usual activation is "
            "not far from the zeros of the padding: nothing is put in their place"
        )

    def surround(convolve, args, kwargs, context):
        conv = context.module
        border = borders.get(conv.name) if isinstance(conv, Conv) else None
        if border is None:
            return convolve(*args, **kwargs)
        if conv.padding != "SAME" or conv.stride != 1:
            raise ConfigError(
                f"{conv.name} has padding {conv.padding!r} and stride {conv.stride}: constants can "
                "stand only in place of the padding 'SAME' of a stride of 1"
            )
        # The clone has no name, so that it is not padded a second time.
        unpadded = conv.clone(parent=None, name=None, padding="VALID")
        return unpadded.apply(conv.variables, _surround(*args, border, conv.kernel_size))

    with nn.intercept_methods(surround):
        return encoder.apply({"params": params}, x)


def _surround(x: jax.Array, border: jax.Array, kernel_size: int) -> jax.Array:
    """Pads [batch, h, w, channels] with constants [channels], as wide as SAME's zeros."""
    ring = ((kernel_size - 1) // 2, kernel_size // 2)
    edges = ((0, 0), ring, ring, (0, 0))
    inside = jnp.pad(jnp.ones((1, *x.shape[1:3], 1), bool), edges)
    return jnp.where(inside, jnp.pad(x, edges), border.astype(x.dtype))
