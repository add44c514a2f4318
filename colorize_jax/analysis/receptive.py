"""The receptive field of every layer of any encoder: which pixels a cell of its map depends on."""

from collections.abc import Sequence
import contextlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colorize_jax.errors import ConfigError
from colorize_jax.models import registry
from colorize_jax.models.encoder import Encoder

_LARGEST = 4096  # pixels; a field that does not fit is the whole photo


class Field(NamedTuple):
    """The pixels, along one side, that the cells of a layer's map depend on.

    Attributes:
        size: how many pixels one cell depends on.
        stride: how many pixels apart the fields of two neighbors begin.
        start: the first pixel of cell 0; a negative one lies in the padding.
    """

    size: int
    stride: int
    start: int

    @property
    def center(self) -> float:
        """The middle of the field of cell 0; that of cell i is at center + i stride."""
        return self.start + (self.size - 1) / 2


def fields(encoder: Encoder, layers: Sequence[str], side: int) -> dict[str, Field | None]:
    """{layer: its field} for an input of this side.

    The network itself is asked: where some rows of its input are NaN, exactly those cells become
    NaN that depend on one of them. No width and no weight matters for that, so that a narrow
    network with zeros for weights is asked. Rows and columns are taken to be alike.

    Args:
        encoder: any encoder.
        layers: names in `encoder.layers`.
        side: the side of the input, in pixels. Paddings, and thus `Field.start`, may depend on it.

    Returns:
        None for a layer whose cells depend on all pixels, as behind a pooling to a fixed size.

    Raises:
        ConfigError: NaN does not pass through the layer, or its cells are not `strides` apart.
    """
    strides = encoder.strides
    step = math.lcm(*(strides[layer] for layer in layers))
    narrow = encoder.clone(width=1 / 64, norm_decay=0.0, dtype=jnp.float32, remat=False)
    shapes = registry.variable_shapes(narrow)
    with contextlib.ExitStack() as stack:
        # Some algorithms of GPUs compute tiles of cells together, over which a NaN would spread.
        with contextlib.suppress(RuntimeError):  # There may be no CPU in JAX_PLATFORMS.
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        found: dict[str, Field | None] = dict.fromkeys(layers)
        least = max(encoder.smallest_input, 4 * step)
        height = side + max(-(-(least - side) // step), 0) * step
        while height <= _LARGEST and None in found.values():
            missing = [layer for layer in layers if found[layer] is None]
            for layer, counted in _touched(narrow, variables, missing, height, step).items():
                found[layer] = _field(layer, strides[layer], *counted)
            height += -(-height // step) * step
    return found


def _touched(encoder, variables, layers, height: int, step: int) -> dict[str, tuple]:
    """Of some layers, of step + 1 inputs each: the number of cells that depend on one of the first
    1, 2, ... rows; on none of the last 1, 2, ... rows; the number of all cells; and the height."""
    width = max(encoder.smallest_input, step)
    counts = np.arange(1, step + 2)[:, None]
    rows = np.arange(height)
    bad = np.concatenate([rows < counts, rows >= height - counts])
    image = np.where(bad, np.float32(np.nan), np.float32(0))[:, :, None, None]
    image = np.broadcast_to(image, (len(bad), height, width, encoder.in_channels))

    @jax.jit
    def reached(variables, image):
        maps = encoder.apply(variables, image, train=False)
        return {layer: jnp.isnan(maps[layer]).any((2, 3)) for layer in layers}

    found = {}
    for layer, cells in reached(variables, image).items():
        first, last = np.split(np.asarray(cells), 2)
        found[layer] = first.sum(1), (~last).sum(1), first.shape[1], height
    return found


def _field(
    layer: str, stride: int, first: np.ndarray, last: np.ndarray, cells: int, height: int
) -> Field | None:
    """The field of a layer by what `_touched` counts; None if it does not fit into the height."""
    if first[-1] == 0:
        raise ConfigError(
            f"the receptive field of {layer} cannot be found: NaN in the input never reaches it"
        )
    if first[-1] == cells or last[-1] == 0:
        return None
    if first[-1] - first[0] != (len(first) - 1) // stride:
        raise ConfigError(f"the cells of {layer} are not {stride} pixels apart, as `strides` says")
    # With one more row of NaN one more cell is reached: that row is the first of the cell's field.
    rows = int(np.flatnonzero(np.diff(first))[0]) + 1
    start = rows - (int(first[rows]) - 1) * stride
    # With one row less at the end one more cell is spared: that row is the last of its field.
    rows = int(np.flatnonzero(np.diff(last))[0]) + 2
    end = height - rows - int(last[rows - 1]) * stride
    return Field(end - start + 1, stride, start)
