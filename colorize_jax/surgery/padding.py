"""What stands around a map, so that units at the border of a photo see nothing unusual there."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models.layers import Conv


def borders(params: dict[str, Any], layers: Sequence[str]) -> dict[str, jax.Array]:
    """What each layer reads of a featureless place: ReLU of the bias of the layer below.

    In place of the zeros of the padding, which are far from what is usual once batch norm is
    absorbed (footnote 3 of the paper). For looking at activations; transfer gains nothing from it.
    AlexNet's LRN is left out: on activations of unit scale it changes next to nothing.

    Args:
        params: of an encoder whose batch norm is absorbed, {layer: {"kernel", "bias"}}.
        layers: of the encoder, each the input of the next; poolings in between change nothing.

    Returns:
        {layer: [channels of its input]} for `apply`; not for the first layer, which reads the
        photo.

    Raises:
        CheckpointError: a layer has no bias, as those of a ResNet, whose batch norm stays.
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
    """`encoder.apply` with other padding: constants stand around the input of some convolutions.

    Args:
        encoder: whose convolutions are `models.layers.Conv`.
        params: of the encoder.
        x: its input, [batch, height, width, channels].
        borders: {layer: [channels of its input]}, as `borders` gives them.

    Returns:
        What the encoder returns: {layer: [batch, h, w, channels]}.

    Raises:
        ConfigError: a convolution that is named has no padding around it, as in a classifier; the
            network keeps its batch norm.
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
        # Without its name, so that it is not surrounded once more.
        unpadded = conv.clone(parent=None, name=None, padding="VALID")
        return unpadded.apply(conv.variables, _surround(*args, border, conv.kernel_size))

    with nn.intercept_methods(surround):
        return encoder.apply({"params": params}, x)


def _surround(x: jax.Array, border: jax.Array, kernel_size: int) -> jax.Array:
    """[batch, h, w, channels] in a ring of constants [channels], as wide as SAME's zeros."""
    ring = ((kernel_size - 1) // 2, kernel_size // 2)
    edges = ((0, 0), ring, ring, (0, 0))
    inside = jnp.pad(jnp.ones((1, *x.shape[1:3], 1), bool), edges)
    return jnp.where(inside, jnp.pad(x, edges), border.astype(x.dtype))
