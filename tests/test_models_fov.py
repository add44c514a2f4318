"""The blocks for a larger field of view: sizes, strides, parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models.fov import FieldOfView


def _shapes(network, size, channels=16):
    top = jax.ShapeDtypeStruct((2, size, size, channels), network.dtype)
    return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x), top)


def test_full_size_has_1024_channels_and_only_kernels_and_biases():
    maps, variables = _shapes(FieldOfView(), 14, 4096)  # This is the size of fc7 for 448 pixels.
    assert maps["conv8_1"].shape == (2, 7, 7, 1024)
    assert maps["conv9_1"].shape == (2, 4, 4, 1024)
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes == {
        "params": {
            "conv8_1": {"kernel": (3, 3, 4096, 1024), "bias": (1024,)},
            "conv9_1": {"kernel": (3, 3, 1024, 1024), "bias": (1024,)},
        }
    }


@pytest.mark.parametrize("size", [4, 8])
def test_every_map_has_its_stride(size):
    maps, _ = _shapes(FieldOfView(1 / 64), size)
    assert list(maps) == ["conv8_1", "conv9_1"]
    for below in (8, 32):
        for name, stride in FieldOfView(below=below).strides.items():
            assert maps[name].shape[1] == size * below // stride


def test_pools_before_it_convolves_and_cuts_off_below_zero(rng):
    network = FieldOfView(1 / 128)
    top = jnp.asarray(rng.normal(size=(1, 4, 4, 3)), jnp.float32)
    kernel, bias = rng.normal(size=(3, 3, 3, 8)), rng.normal(size=8)
    params = {
        "conv8_1": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias)},
        "conv9_1": {"kernel": jnp.ones((3, 3, 8, 8)), "bias": jnp.full(8, -1.0)},
    }
    maps = network.apply({"params": params}, top)
    pooled = np.asarray(top).reshape(2, 2, 2, 2, 3).max((1, 3))
    corner = sum(pooled[y, x] @ kernel[y + 1, x + 1] for y in range(2) for x in range(2)) + bias
    np.testing.assert_allclose(maps["conv8_1"][0, 0, 0], np.maximum(corner, 0), rtol=1e-4)
    strongest = np.asarray(maps["conv8_1"]).max((0, 1, 2)).sum()
    np.testing.assert_allclose(maps["conv9_1"][0, 0, 0], max(strongest - 1, 0), rtol=1e-4)


def test_starts_as_he_says():
    variables = FieldOfView(1 / 16).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))
    kernel = variables["params"]["conv8_1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)
    np.testing.assert_array_equal(variables["params"]["conv9_1"]["bias"], 0)


def test_half_precision_computes_in_it():
    maps, variables = _shapes(FieldOfView(1 / 64, jnp.bfloat16), 4)
    assert all(x.dtype == jnp.bfloat16 for x in maps.values())
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
