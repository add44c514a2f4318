"""Absorbing batch norm: the golden layer, and a whole network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import CheckpointError
from colorize_jax.models import layers
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.surgery.absorb import absorb_batch_norm


def _golden(golden):
    scale = golden["bn_blob2_scale"]
    stats = {
        "mean": golden["bn_blob0_mean"] / scale,
        "var": golden["bn_blob1_var"] / scale,
        "count": np.float32(1000),
    }
    params = {"conv": {"kernel": golden["bn_W"], "bias": golden["bn_b"]}}
    return absorb_batch_norm(params, {"batch_conv": stats})["conv"]


def test_golden_weights_after_absorption(golden):
    absorbed = _golden(golden)
    np.testing.assert_allclose(absorbed["kernel"], golden["bn_W_absorbed"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(absorbed["bias"], golden["bn_b_absorbed"], rtol=1e-4, atol=1e-6)


def test_golden_answers_after_absorption(golden):
    x = jnp.asarray(golden["bn_x"], jnp.float32)[None]
    out = layers.Conv(4, padding="VALID").apply({"params": _golden(golden)}, x)
    np.testing.assert_allclose(out[0], golden["bn_out"], rtol=1e-4, atol=1e-5)


def test_every_activation_of_the_network_stays_the_same(rng):
    encoder = Vgg16(width=1 / 32, fc6_kernel=3)
    gray = jnp.asarray(rng.normal(size=(2, 64, 64, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), gray)
    stats = {
        name: {
            "mean": jnp.asarray(rng.normal(0, 0.3, group["mean"].shape), jnp.float32),
            "var": jnp.asarray(rng.uniform(0.2, 2, group["var"].shape), jnp.float32),
            "count": group["count"] + 1000,
        }
        for name, group in variables["batch_stats"].items()
    }
    before = jax.jit(encoder.apply)({"params": variables["params"], "batch_stats": stats}, gray)
    params = absorb_batch_norm(variables["params"], stats)
    after = jax.jit(encoder.clone(norm="none").apply)({"params": params}, gray)
    for name in encoder.layers:
        assert before[name].std() > 1e-3, name
        np.testing.assert_allclose(after[name], before[name], atol=1e-4, err_msg=name)


def test_a_layer_without_statistics_stays_as_it_is():
    params = {name: {"kernel": jnp.ones((1, 1, 2, 3)), "bias": jnp.ones(3)} for name in "ab"}
    stats = {"batch_a": {"mean": jnp.ones(3), "var": jnp.ones(3), "count": jnp.ones(())}}
    absorbed = absorb_batch_norm(params, stats)
    assert absorbed["b"] is params["b"]
    np.testing.assert_allclose(absorbed["a"]["bias"], 0)


@pytest.mark.parametrize("name", ["batch_conv9_9", "a"])
def test_statistics_of_no_layer_are_an_error_that_names_them(name):
    params = {"a": {"kernel": jnp.ones((1, 1, 2, 3)), "bias": jnp.ones(3)}}
    with pytest.raises(CheckpointError, match=f"'{name}' belong to no layer"):
        absorb_batch_norm(params, {name: {"mean": jnp.ones(3), "var": jnp.ones(3)}})
