"""What stands around a map, so that units at the border of a photo see nothing unusual there."""

from collections.abc import Sequence
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.errors import CheckpointError


def borders(params: dict[str, Any], layers: Sequence[str]) -> dict[str, jax.Array]:
    """What each layer reads of a featureless place: ReLU of the bias of the layer below.

    In place of the zeros of the padding, which are far from what is usual once batch norm is
    absorbed (footnote 3 of the paper). For looking at activations; transfer gains nothing from it.
    AlexNet's LRN is left out: on activations of unit scale it changes next to nothing.

    Args:
        params: of an encoder whose batch norm is absorbed, {layer: {"kernel", "bias"}}.
        layers: of the encoder, each the input of the next; poolings in between change nothing.

    Returns:
        {layer: [channels of its input]} for `encoder.apply(..., borders=...)`; not for the first
        layer, which reads the photo.

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
