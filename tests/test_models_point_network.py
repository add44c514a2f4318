"""Tests of encoder, hypercolumn and head together."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models import layers
from colorize_jax.models.encoder import Encoder
from colorize_jax.models.fov import FieldOfView
from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.models.vgg16 import Vgg16


class Cheap(Encoder):
    """One of stride 32."""

    strides: ClassVar[dict[str, int]] = {"gray": 1, "conv": 4, "top": 32}

    @nn.compact
    def __call__(self, gray, train=False):  # noqa: D102
        conv = nn.Dense(4)(nn.avg_pool(gray, (4, 4), (4, 4)))
        return {"gray": gray, "conv": conv, "top": nn.Dense(6)(nn.avg_pool(conv, (8, 8), (8, 8)))}


def _network(encoder=None, **settings):
    encoder = encoder or Vgg16(width=0.0625, fc6_kernel=3)
    return PointNetwork(encoder, Head({"hue": 32, "chroma": 32}, hidden=16), **settings)


@pytest.mark.parametrize("hypercolumn", [True, False])
@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_dense_outputs_equal_those_at_the_points_of_the_grid(rng, hypercolumn, alignment):
    network = _network(Cheap(), hypercolumn=hypercolumn, alignment=alignment)
    gray = jnp.asarray(rng.normal(size=(2, 32, 64, 1)), jnp.float32)
    at = 0.0 if alignment == "corner" else 1.5
    y, x = np.meshgrid(np.arange(8) * 4 + at, np.arange(16) * 4 + at, indexing="ij")
    points = jnp.asarray(np.stack([y, x], -1).reshape(1, -1, 2), jnp.float32).repeat(2, 0)
    variables = jax.jit(network.init)(jax.random.key(0), gray, points)
    # The head's tiny initial weights would hide every difference.
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


def test_the_initial_head_predicts_nearly_uniform_distributions(rng):
    network = PointNetwork(Cheap(), Head({"hue": 32, "chroma": 32}, hidden=1024))
    gray = jnp.asarray(rng.normal(size=(1, 32, 32, 1)), jnp.float32)
    points = jnp.asarray(rng.integers(0, 32, (1, 9, 2)))
    variables = jax.jit(network.init)(jax.random.key(0), gray, points)
    kernel = variables["params"]["head"]["hidden"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 1e-4, rtol=0.05)
    outputs = jax.jit(network.apply)(variables, gray, points)
    assert all(np.abs(x).max() < 0.1 for x in outputs.values())


def _with_fov(**settings):
    head = Head({"classes": 5}, hidden=16, output_init=layers.he_truncated)
    return PointNetwork(Cheap(), head, fov=FieldOfView(1 / 64), **settings)


def _grid_answers(network, rng, height, width):
    """The network's outputs on the grid, and at the points of the grid."""
    gray = jnp.asarray(rng.normal(size=(1, height, width, 1)), jnp.float32)
    at = 0.0 if network.alignment == "corner" else 1.5
    y, x = np.meshgrid(np.arange(0, height, 4) + at, np.arange(0, width, 4) + at, indexing="ij")
    points = jnp.asarray(np.stack([y, x], -1).reshape(1, -1, 2), jnp.float32)
    variables = jax.jit(network.init)(jax.random.key(0), gray, points)
    variables["params"]["head"]["hidden"]["kernel"] *= 1e4
    sparse = jax.jit(network.apply)(variables, gray, points)["classes"]
    dense = jax.jit(lambda v: network.apply(v, gray, method="dense"))(variables)["classes"]
    assert dense.shape == (1, height // 4, width // 4, 5)
    return dense.reshape(sparse.shape), sparse


@pytest.mark.parametrize(
    ("hypercolumn", "alignment"), [(True, "corner"), (True, "center"), (False, "corner")]
)
def test_with_fov_dense_outputs_equal_those_at_the_points_of_the_grid(rng, hypercolumn, alignment):
    network = _with_fov(hypercolumn=hypercolumn, alignment=alignment)
    dense, sparse = _grid_answers(network, rng, 128, 256)
    np.testing.assert_allclose(dense, sparse, rtol=1e-3, atol=1e-4)


def test_with_fov_on_other_sizes_dense_answers_squeeze_the_coarse_maps(rng):
    # As on 448 pixels: 192 pixels give conv9_1 two cells, dense 96 and sparse 128 pixels apart.
    dense, sparse = _grid_answers(_with_fov(), rng, 192, 192)
    assert np.abs(dense - sparse).max() > 1e-2
    np.testing.assert_allclose(dense[:, 0], sparse[:, 0], atol=1e-4)  # Both begin at the corner.


def test_fov_is_read_last_and_with_the_top_layer_alone_too():
    gray, points = jnp.zeros((1, 128, 128, 1)), jnp.zeros((1, 4, 2), jnp.int32)
    for hypercolumn, encoder in ((True, 1 + 4 + 6), (False, 6)):
        network = _with_fov(hypercolumn=hypercolumn)
        params = jax.eval_shape(network.init, jax.random.key(0), gray, points)["params"]
        assert set(params) == {"encoder", "fov", "head"}
        assert set(params["fov"]) == {"conv8_1", "conv9_1"}
        assert params["head"]["hidden"]["kernel"].shape == (encoder + 2 * 1024 // 64, 16)
    variables = jax.jit(network.init)(jax.random.key(0), gray, points)
    fov = variables["params"]["fov"]
    for name in fov:
        fov[name] = {"kernel": fov[name]["kernel"] * 0, "bias": fov[name]["bias"] + len(name)}
    fov["conv9_1"]["bias"] += 1
    columns = jax.jit(lambda v: network.apply(v, gray, points, method="columns"))(variables)
    np.testing.assert_array_equal(columns[..., -32:-16], 7)
    np.testing.assert_array_equal(columns[..., -16:], 8)


def test_output_layers_use_the_given_initializer():
    columns = jnp.zeros((1, 7))
    for init in (layers.caffe_xavier, layers.he_truncated):
        head = Head({"classes": 400}, hidden=512, output_init=init)
        kernel = head.init(jax.random.key(0), columns)["params"]["classes"]["kernel"]
        expected = init(jax.random.key(1), kernel.shape, jnp.float32)
        np.testing.assert_allclose(kernel.std(), expected.std(), rtol=0.01)
        np.testing.assert_allclose(np.abs(kernel).max(), np.abs(expected).max(), rtol=0.01)
    assert Head.output_init is layers.caffe_xavier
