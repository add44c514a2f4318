"""Hypercolumns: the activations of many layers at one pixel, sparse (sampled) or on a grid."""

from collections.abc import Callable, Mapping
import functools
import math

import jax
import jax.numpy as jnp

from colorize_jax.models.encoder import Keep

# Where the pixel with index 0 of a map with stride s lies in the input, in pixels.
ALIGNMENTS = {
    "corner": lambda stride: 0.0,  # the paper's evaluation code; equals TF1's resize
    "center": lambda stride: (stride - 1) / 2,
}

# Up to this many cells a product with the matrix of bilinear weights beats gathering: a gather's
# gradient is a scatter, slow on CPU and not deterministic on GPU, and small maps are the wide ones.
_MATMUL_CELLS = 512


def sample(features: jax.Array, points: jax.Array, stride: int, alignment: str) -> jax.Array:
    """Bilinear samples of one map at pixels of the input.

    Args:
        features: [batch, height, width, channels], `stride` pixels apart.
        points: [batch, points, 2] (y, x) in pixels of the input.
        stride, alignment: where the map lies (`ALIGNMENTS`).

    Returns:
        [batch, points, channels]; positions beyond the outermost cells are clamped onto them.
        Gradients flow into the features only.
    """
    _, height, width, channels = features.shape
    flat = features.reshape(-1, height * width, channels)
    if _on_cells(points, stride, alignment):
        return jax.vmap(lambda cells, at: cells[at])(flat, points[..., 0] * width + points[..., 1])
    (y0, y1, fy), (x0, x1, fx) = _around(points, height, width, stride, alignment)
    if height * width <= _MATMUL_CELLS:
        rows = _weights(y0, y1, fy, height)[..., :, None]
        weights = rows * _weights(x0, x1, fx, width)[..., None, :]
        weights = weights.reshape(*weights.shape[:2], -1).astype(features.dtype)
        return jnp.matmul(weights, flat, precision="highest")
    take = jax.vmap(lambda cells, index: cells[index])
    fy, fx = (f[..., None].astype(features.dtype) for f in (fy, fx))
    top = take(flat, y0 * width + x0) * (1 - fx) + take(flat, y0 * width + x1) * fx
    bottom = take(flat, y1 * width + x0) * (1 - fx) + take(flat, y1 * width + x1) * fx
    return top * (1 - fy) + bottom * fy


def _neighbors(at: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cells below and above positions along one axis, and the weight of the upper one."""
    at = jnp.clip(jnp.asarray(at, jnp.float32), 0, size - 1)
    low = jnp.floor(at).astype(jnp.int32)
    return low, jnp.minimum(low + 1, size - 1), at - low.astype(jnp.float32)


def _weights(low: jax.Array, high: jax.Array, fraction: jax.Array, size: int) -> jax.Array:
    """Bilinear weights as rows of a matrix: [batch, points] -> [batch, points, size]."""
    cells = jnp.arange(size)
    fraction = fraction[..., None]
    at_low, at_high = ((cells == at[..., None]).astype(fraction.dtype) for at in (low, high))
    return at_low * (1 - fraction) + at_high * fraction


def _tap(features, points, stride, alignment):
    """A map for the next layer, and its `sample`, whose gradient is added into that of the map.

    JAX's own derivative would scatter into a map of zeros and add two maps. This one scatters into
    the gradient that comes from the next layer, and equals it but for the order of the sums.
    """
    if math.prod(features.shape[1:3]) <= _MATMUL_CELLS:
        return features, sample(features, points, stride, alignment)
    return _tap_large(features, points, stride, alignment)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _tap_large(features, points, stride, alignment):
    return features, sample(features, points, stride, alignment)


def _tap_forward(features, points, stride, alignment):
    return _tap_large(features, points, stride, alignment), points


def _tap_backward(stride, alignment, points, gradients):
    def in_place(into_map, into_samples):
        return _add_samples(into_map, into_samples, points, stride, alignment)

    def apart(into_map, into_samples):  # no slower on CPU, where all numbers stay as they were
        zeros = jnp.zeros(into_map.shape, into_map.dtype)
        _, pull = jax.vjp(lambda map_: sample(map_, points, stride, alignment), zeros)
        return into_map + pull(into_samples)[0]

    return jax.lax.platform_dependent(*gradients, cpu=apart, default=in_place), None


def _add_samples(into_map, into_samples, points, stride, alignment):
    """The gradient of a map with that of its samples added to it."""
    shape = into_map.shape
    flat = into_map.reshape(len(into_map), -1, shape[-1])
    cells, parts = [], []
    for cell, weight in _cells(points, *shape[1:3], stride, alignment):
        cells.append(cell)
        parts.append((into_samples * weight).astype(flat.dtype))
    at, part = jnp.concatenate(cells, 1), jnp.concatenate(parts, 1)
    return jax.vmap(lambda map_, at, part: map_.at[at].add(part))(flat, at, part).reshape(shape)


_tap_large.defvjp(_tap_forward, _tap_backward)


def _cells(points, height, width, stride, alignment):
    """The cells that a sample is made of, flat [batch, points], and how much of each, float32
    [batch, points, 1] or 1."""
    if _on_cells(points, stride, alignment):
        return [(points[..., 0] * width + points[..., 1], 1)]
    (y0, y1, fy), (x0, x1, fx) = _around(points, height, width, stride, alignment)
    fy, fx = fy[..., None], fx[..., None]
    return [
        (y * width + x, weight_y * weight_x)
        for y, weight_y in ((y0, 1 - fy), (y1, fy))
        for x, weight_x in ((x0, 1 - fx), (x1, fx))
    ]


def _on_cells(points, stride, alignment):
    """Whether every point is a cell of the map."""
    return stride == 1 and alignment == "corner" and jnp.issubdtype(points.dtype, jnp.integer)


def _around(points, height, width, stride, alignment):
    """`_neighbors` of points along both axes of a map."""
    at = (jnp.asarray(points, jnp.float32) - ALIGNMENTS[alignment](stride)) / stride
    return _neighbors(at[..., 0], height), _neighbors(at[..., 1], width)


def sparse_columns(
    read: Callable[[Keep], Mapping[str, jax.Array]],
    strides: Mapping[str, int],
    points: jax.Array,
    alignment: str = "corner",
) -> jax.Array:
    """Columns at sampled points: layers in the order of `strides`, [batch, points, all channels].

    Args:
        read: passes every activation through what it is given, as `Encoder.read` does, and gives
            what was kept of each.
        strides: {layer: stride}; its order is that of the channels, and so part of the format.
            Layers that are not in it are left out.
        points: [batch, points, 2] (y, x) in pixels of the input.
        alignment: see `ALIGNMENTS`.
    """

    def keep(name, x):
        return _tap(x, points, strides[name], alignment) if name in strides else (x, x)

    found = read(keep)
    return jnp.concatenate([found[name] for name in strides], -1)


def resize_bilinear(x: jax.Array, height: int, width: int) -> jax.Array:
    """TF1's legacy resize of [batch, h, w, channels]: source = target * (in / out), clamped."""
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in (height, width))
    return _on_grid(x, rows * (x.shape[1] / height), columns * (x.shape[2] / width))


def resize_nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """TF1's legacy nearest neighbor of [batch, h, w, ...]: source = floor(target * (in / out))."""
    y = jnp.arange(height) * x.shape[1] // height
    x_ = jnp.arange(width) * x.shape[2] // width
    return x[:, y][:, :, x_]


def _on_grid(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear values of [batch, h, w, channels] at every (row, column)."""
    y0, y1, fy = _neighbors(rows, x.shape[1])
    fy = fy[:, None, None].astype(x.dtype)
    x = x[:, y0] * (1 - fy) + x[:, y1] * fy
    x0, x1, fx = _neighbors(columns, x.shape[2])
    fx = fx[:, None].astype(x.dtype)
    return x[:, :, x0] * (1 - fx) + x[:, :, x1] * fx


def dense_projection(
    maps: Mapping[str, jax.Array],
    strides: Mapping[str, int],
    kernel: jax.Array,
    grid: int = 4,
    alignment: str = "corner",
) -> jax.Array:
    """Columns on a regular grid times a kernel, without ever holding the columns.

    A layer coarser than the grid is multiplied first and resized afterwards, a finer one is
    subsampled first; both commute with the product, and coarse layers are the wide ones. Equals
    `sparse_columns(...) @ kernel` at the grid's pixels.

    Args:
        maps, strides, alignment: as in `sparse_columns`.
        kernel: [all channels, features], rows in the order of `strides`.
        grid: stride of the grid in pixels; the input's size is a multiple of it.

    Returns:
        [batch, height / grid, width / grid, features].
    """
    first, stride = next(iter(strides.items()))
    height, width = (size * stride // grid for size in maps[first].shape[1:3])
    # The pixel that a cell of the grid stands for: its corner, or its center.
    sides = (jnp.arange(side, dtype=jnp.float32) for side in (height, width))
    rows, columns = (side * grid + ALIGNMENTS[alignment](grid) for side in sides)
    total, start = 0.0, 0
    for name, stride in strides.items():
        features = maps[name]
        part = kernel[start : start + features.shape[-1]].astype(features.dtype)
        start += features.shape[-1]
        if alignment == "corner" and stride < grid:
            total += resize_nearest(features, height, width) @ part
        elif alignment == "corner":
            total += resize_bilinear(features @ part, height, width)
        else:
            offset = ALIGNMENTS[alignment](stride)
            at = (rows - offset) / stride, (columns - offset) / stride
            finer = stride < grid
            total += _on_grid(features, *at) @ part if finer else _on_grid(features @ part, *at)
    return total


def from_grid(x: jax.Array, height: int, width: int, alignment: str = "corner") -> jax.Array:
    """Values on the grid of `dense_projection` [batch, h, w, channels] -> every pixel, bilinear."""
    grid = height // x.shape[1]
    offset = ALIGNMENTS[alignment](grid)
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in (height, width))
    return _on_grid(x, (rows - offset) / grid, (columns - offset) / grid)
