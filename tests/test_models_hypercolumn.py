"""Sparse and dense hypercolumns equal the golden vectors and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models import hypercolumn
from colorize_jax.models.encoder import kept

SCALES = (1, 2, 4, 8, 16)
SUFFIX = {"corner": "off0", "center": "offc"}


def _sample(features, points, stride, alignment):
    # Without jit every operation would be compiled separately.
    return jax.jit(lambda f, p: hypercolumn.sample(f, p, stride, alignment))(features, points)


def _columns(maps, strides, points, alignment="corner"):
    columns = jax.jit(
        lambda m, p: hypercolumn.sparse_columns(partial(kept, m), strides, p, alignment)
    )
    return columns(maps, points)


def _golden_maps(golden):
    return {
        f"layer{s}": jnp.asarray(golden[f"hc_feat_scale{s}"], jnp.float32)[None] for s in SCALES
    }


def _border_tolerance(golden):
    # The release clamps 1e-4 of a cell before the last one; we clamp onto it, so that a pixel at
    # the border is itself. Along both axes that moves a value by at most so much:
    return 4e-4 * max(np.abs(golden[f"hc_feat_scale{s}"]).max() for s in SCALES)


def _strides():
    return {f"layer{s}": s for s in SCALES}


@pytest.mark.parametrize("alignment", SUFFIX)
@pytest.mark.parametrize("cells", [0, 10**6])  # These choose gathering and the product.
def test_golden_sparse_columns(golden, alignment, cells, monkeypatch):
    monkeypatch.setattr(hypercolumn, "_MATMUL_CELLS", cells)
    points = jnp.asarray(golden["hc_centroids_yx"], jnp.float32)[None]
    maps = _golden_maps(golden)
    for s in SCALES:
        actual = _sample(maps[f"layer{s}"], points, s, alignment)
        expected = golden[f"hc_sample_scale{s}_{SUFFIX[alignment]}"]
        np.testing.assert_allclose(actual[0], expected, atol=_border_tolerance(golden))
    actual = _columns(maps, _strides(), points, alignment)
    expected = golden[f"hc_hypercolumn_{SUFFIX[alignment]}"]
    np.testing.assert_allclose(actual[0], expected, atol=_border_tolerance(golden))


def test_golden_sparse_columns_at_integer_points(golden):
    points = golden["hc_centroids_yx"]
    assert (points == points.round()).all(), "this file's points are not whole pixels"
    actual = _columns(_golden_maps(golden), _strides(), jnp.asarray(points, jnp.int32)[None])
    expected = golden["hc_hypercolumn_off0"]
    np.testing.assert_allclose(actual[0], expected, atol=_border_tolerance(golden))


def test_golden_legacy_resize(golden):
    x = jnp.asarray(golden["resize_in"], jnp.float32)[None]
    for height, width in ((8, 8), (7, 9)):
        resize = jax.jit(lambda x, h=height, w=width: hypercolumn.resize_bilinear(x, h, w))
        actual = resize(x)[0]
        expected = golden[f"resize_tf1_bilinear_{height}x{width}"]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    x = jnp.asarray(golden["resize_nn_in"], jnp.float32)[None]
    actual = hypercolumn.resize_nearest(x, 4, 4)[0]
    np.testing.assert_allclose(actual, golden["resize_tf1_nearest_4x4"], atol=1e-6)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("stride", [1, 4])
def test_gradient_of_columns_is_that_of_plain_samples(rng, stride, integer, monkeypatch):
    """Added into the gradient of the next layer, and by either way of sampling."""
    features = jnp.asarray(rng.normal(size=(2, 5, 6, 3)), jnp.float32)
    points = rng.uniform(-3, 5.4 * stride, (2, 40, 2))
    if integer:
        points = rng.integers(0, [5 * stride, 6 * stride], (2, 40, 2))
    points = jnp.asarray(points, jnp.int32 if integer else jnp.float32)

    def plain(map_):
        return map_, hypercolumn.sample(map_, points, stride, "corner")

    def columns(map_):
        passed = []

        def read(keep):
            x, kept = keep("map", map_)
            passed.append(x)
            return {"map": kept}

        columns = hypercolumn.sparse_columns(read, {"map": stride}, points)
        return passed[0], columns

    def gradient(of, cells):
        monkeypatch.setattr(hypercolumn, "_MATMUL_CELLS", cells)

        def total(map_):
            map_, samples = of(map_)
            return jnp.sin(samples).sum() + jnp.square(map_).sum()

        return jax.jit(jax.grad(total))(features)

    expected = gradient(plain, 0)
    assert np.abs(expected - 2 * features).max() > 1
    samples = hypercolumn.sample(features, points, stride, "corner")
    in_place = jax.jit(
        lambda *gradients: hypercolumn._add_samples(*gradients, points, stride, "corner")
    )(2 * features, jnp.cos(samples))
    for found in (gradient(columns, 0), gradient(columns, 10**6), in_place):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("alignment", SUFFIX)
def test_dense_projection_is_the_sparse_sample_on_a_grid(rng, alignment):
    strides = {"a": 1, "b": 2, "c": 4, "d": 8, "e": 32}
    maps = {
        name: jnp.asarray(rng.normal(size=(2, 64 // s, 96 // s, i + 2)), jnp.float32)
        for i, (name, s) in enumerate(strides.items())
    }
    kernel = jnp.asarray(rng.normal(size=(sum(m.shape[-1] for m in maps.values()), 5)), jnp.float32)
    dense = jax.jit(
        lambda maps: hypercolumn.dense_projection(maps, strides, kernel, alignment=alignment)
    )(maps)
    at = hypercolumn.ALIGNMENTS[alignment](4)
    y, x = np.meshgrid(np.arange(16) * 4 + at, np.arange(24) * 4 + at, indexing="ij")
    points = np.broadcast_to(np.stack([y, x], -1).reshape(1, -1, 2), (2, 16 * 24, 2))
    sparse = _columns(maps, strides, jnp.asarray(points), alignment) @ kernel
    np.testing.assert_allclose(dense.reshape(2, -1, 5), sparse, atol=2e-5)


@pytest.mark.parametrize("alignment", SUFFIX)
def test_from_grid_restores_a_ramp(alignment):
    at = hypercolumn.ALIGNMENTS[alignment](4)
    ramp = jnp.arange(32.0)
    grid = jnp.broadcast_to((jnp.arange(8) * 4 + at)[:, None, None], (8, 8, 1))[None]
    from_grid = jax.jit(lambda grid: hypercolumn.from_grid(grid, 32, 32, alignment))
    actual = from_grid(grid)[0, :, 5, 0]
    inside = slice(2, 28)  # Positions outside the outermost cells are clamped.
    np.testing.assert_allclose(actual[inside], ramp[inside], atol=1e-5)


def test_half_precision_positions_are_exact():
    # In bfloat16 a position such as 301 / 1 would be off by a pixel.
    features = jnp.arange(512.0).reshape(1, 512, 1, 1)
    points = jnp.array([[[301.0, 0.0]]])
    actual = _sample(features / 512, points, 1, "corner")
    np.testing.assert_allclose(actual, 301 / 512, atol=1e-6)
    half = _sample((features / 512).astype(jnp.bfloat16), points, 1, "corner")
    assert half.dtype == jnp.bfloat16
