"""Cuts squares from photos: cells of a grid, tiles inside cells, and patches with gaps."""

import jax
import jax.numpy as jnp

SIDE = 3  # the number of cells in a row and in a column of the grid


def cells() -> jax.Array:
    """(row, column) of every cell of the 3x3 grid in raster order: int32 [9, 2]."""
    return grid(SIDE)


def grid(count: int) -> jax.Array:
    """(row, column) of every cell of a grid in raster order: int32 [count^2, 2]."""
    number = jnp.arange(count**2)
    return jnp.stack([number // count, number % count], -1)


def cut(image: jax.Array, corners: jax.Array, side: int) -> jax.Array:
    """Cuts squares from one photo.

    Args:
        image: [height, width, channels].
        corners: (y, x) of the upper left pixels, [n, 2]; the squares lie inside the photo.
        side: the side of the squares.

    Returns:
        [n, side, side, channels].
    """

    def square(corner):
        start = (corner[0], corner[1], jnp.zeros((), corner.dtype))
        return jax.lax.dynamic_slice(image, start, (side, side, image.shape[-1]))

    return jax.vmap(square)(corners)


def in_place(corners: jax.Array, patches: jax.Array, side: int) -> jax.Array:
    """Patches [n, patch, patch, 3] with their corners [n, 2] on black: [side, side, 3]."""

    def put(canvas, placed):
        corner, patch = placed
        start = (corner[0], corner[1], jnp.zeros((), corner.dtype))
        return jax.lax.dynamic_update_slice(canvas, patch, start), None

    canvas = jnp.zeros((side, side, 3), patches.dtype)
    return jax.lax.scan(put, canvas, (corners, patches))[0]


def put_together(tiles: jax.Array, cell: int, side: int) -> jax.Array:
    """Puts nine tiles [..., 9, tile, tile, channels] in the middle of their cells, on black.

    Returns:
        A picture [..., side, side, channels]; `side` is at least 3 cells.
    """
    tile = tiles.shape[-2]
    before, behind = (cell - tile) // 2, cell - tile - (cell - tile) // 2
    none = [(0, 0)] * (tiles.ndim - 3)
    padded = jnp.pad(tiles, [*none, (before, behind), (before, behind), (0, 0)])
    rows = padded.reshape(*tiles.shape[:-4], SIDE, SIDE, cell, cell, tiles.shape[-1])
    rows = jnp.moveaxis(rows, -3, -4)  # [..., row, y, column, x, channels]
    whole = rows.reshape(*tiles.shape[:-4], SIDE * cell, SIDE * cell, tiles.shape[-1])
    rest = side - SIDE * cell
    return jnp.pad(whole, [*none[:-1], (0, rest), (0, rest), (0, 0)])


def tile_corners(offsets: jax.Array, cell: int) -> jax.Array:
    """The corners [9, 2] of tiles at offsets (y, x) inside their cells, which have no gaps."""
    return cells() * cell + offsets


def patch_corners(
    origin: jax.Array, jitter: jax.Array, *, patch: int, gap: int, shape: tuple[int, int]
) -> jax.Array:
    """The corners (y, x) of the patches of a 3x3 grid with gaps, [9, 2], inside the photo.

    Args:
        origin: the corner of the first patch before it is moved, [2].
        jitter: the pixels by which each patch is moved, [9, 2].
        patch, gap: the sides in pixels.
        shape: the height and width of the photo.
    """
    corners = origin + cells() * (patch + gap) + jitter
    return jnp.clip(corners, 0, jnp.asarray(shape) - patch)


def standardized(tiles: jax.Array) -> jax.Array:
    """Scales every tile, float [..., side, side, channels], to mean 0 and variance 1.

    A tile with a single value becomes zeros.
    """
    axes = (-3, -2, -1)
    centered = tiles - tiles.mean(axes, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(axes, keepdims=True) + 1e-6)
