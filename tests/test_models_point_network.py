"""Trunk, hypercolumn and head together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.models.vgg16 import Vgg16


def _network(**settings):
    encoder = Vgg16(width=0.0625, fc6_kernel=3)
    return PointNetwork(encoder, Head({"hue": 32, "chroma": 32}, hidden=16), **settings)


@pytest.mark.parametrize("hypercolumn", [True, False])
@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_dense_answers_are_those_at_the_points_of_the_grid(rng, hypercolumn, alignment):
    network = _network(hypercolumn=hypercolumn, alignment=alignment)
    gray = jnp.asarray(rng.normal(size=(2, 32, 64, 1)), jnp.float32)
    at = 0.0 if alignment == "corner" else 1.5
    y, x = np.meshgrid(np.arange(8) * 4 + at, np.arange(16) * 4 + at, indexing="ij")
    points = jnp.asarray(np.stack([y, x], -1).reshape(1, -1, 2), jnp.float32).repeat(2, 0)
    variables = jax.jit(network.init)(jax.random.key(0), gray, points)
    # The tiny start of the head would hide every difference.
    variables["params"]["head"]["hidden"]["kernel"] *= 1e4
    sparse = jax.jit(network.apply)(variables, gray, points)
    dense = jax.jit(lambda v: network.apply(v, gray, method="dense"))(variables)
    for name in ("hue", "chroma"):
        assert dense[name].shape == (2, 8, 16, 32)
        np.testing.assert_allclose(
            dense[name].reshape(2, -1, 32), sparse[name], rtol=1e-3, atol=1e-4
        )


def test_without_hypercolumn_the_head_reads_the_top_layer_alone():
    gray, points = jnp.zeros((1, 32, 32, 1)), jnp.zeros((1, 4, 2), jnp.int32)
    for hypercolumn, width in ((True, 1 + 12416 // 16), (False, 4096 // 16)):
        network = _network(hypercolumn=hypercolumn)
        params = jax.eval_shape(network.init, jax.random.key(0), gray, points)["params"]
        assert params["head"]["hidden"]["kernel"].shape == (width, 16)
        assert set(params) == {"encoder", "head"} and set(params["head"]) == {
            "hidden",
            "hue",
            "chroma",
        }


def test_head_starts_tiny_so_that_all_answers_are_uniform(rng):
    network = _network()
    gray = jnp.asarray(rng.normal(size=(1, 32, 32, 1)), jnp.float32)
    points = jnp.asarray(rng.integers(0, 32, (1, 9, 2)))
    variables = jax.jit(network.init)(jax.random.key(0), gray, points)
    kernel = variables["params"]["head"]["hidden"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 1e-4, rtol=0.05)
    outputs = jax.jit(network.apply)(variables, gray, points)
    assert all(np.abs(x).max() < 0.1 for x in outputs.values())
