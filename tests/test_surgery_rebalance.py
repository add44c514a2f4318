"""Rebalancing: the golden network, unit variance, and the same function up to the factors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import CheckpointError, DataError
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.surgery.rebalance import rebalance

ENCODER = Vgg16(width=1 / 32, fc6_kernel=3, norm="none")


class TwoLayers(nn.Module):
    """A multilayer perceptron at every position of its input."""

    layers = ("first", "second")

    @nn.compact
    def __call__(self, x):  # noqa: D102
        maps = {}
        for name, width in zip(self.layers, (7, 6), strict=True):
            x = maps[name] = nn.relu(nn.Dense(width, name=name)(x))
        return maps


@pytest.fixture(scope="module")
def unbalanced():
    """Photos, and weights whose activations have very different scales."""
    rng = np.random.default_rng(0)
    gray = jnp.asarray(rng.normal(size=(5, 64, 64, 1)), jnp.float32)
    params = jax.jit(ENCODER.init)(jax.random.key(0), gray)["params"]
    for i, layer in enumerate(params.values()):
        layer["kernel"] *= (3.0, 0.5, 2.0)[i % 3]
        layer["bias"] = jnp.asarray(rng.normal(0, 0.05, layer["bias"].shape), jnp.float32)
    return params, gray


@pytest.mark.parametrize("batch", [200, 80])
def test_golden_weights_after_rebalancing(golden, batch):
    params = {
        name: {
            "kernel": jnp.asarray(golden[f"rebal_W{i}"], jnp.float32),
            "bias": jnp.asarray(golden[f"rebal_b{i}"], jnp.float32),
        }
        for i, name in enumerate(TwoLayers.layers)
    }
    x = golden["rebal_x"].astype(np.float32)[:, None, None]
    batches = [x[i : i + batch] for i in range(0, len(x), batch)]
    balanced, factors = rebalance(TwoLayers(), params, batches)
    for i, name in enumerate(TwoLayers.layers):
        for kind, letter in (("kernel", "W"), ("bias", "b")):
            np.testing.assert_allclose(
                balanced[name][kind], golden[f"rebal_{letter}{i}_new"], rtol=1e-4, atol=1e-5
            )
    # The reader of the top layer must divide by its factor.
    readout = golden["rebal_W2"] / factors["second"]
    np.testing.assert_allclose(readout, golden["rebal_W2_new"], rtol=1e-4, atol=1e-5)
    top = TwoLayers().apply({"params": balanced}, x)["second"][:, 0, 0]
    out = np.asarray(top) @ readout + golden["rebal_b2_new"]
    np.testing.assert_allclose(out, golden["rebal_out"], rtol=1e-4, atol=1e-4)


def test_every_activation_has_unit_variance_and_is_the_old_one_times_its_factor(unbalanced):
    params, gray = unbalanced
    balanced, factors = rebalance(ENCODER, params, [gray[:2], gray[2:]])
    assert tuple(factors) == ENCODER.layers
    apply = jax.jit(ENCODER.apply)
    before, after = apply({"params": params}, gray), apply({"params": balanced}, gray)
    for name, factor in factors.items():
        np.testing.assert_allclose(after[name].std(), 1, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(after[name], before[name] * factor, atol=1e-4, err_msg=name)


def test_photos_of_different_sizes_count_by_their_pixels():
    params = {
        "first": {"kernel": jnp.ones((1, 7)), "bias": jnp.zeros(7)},
        "second": {"kernel": jnp.ones((7, 6)) / 7, "bias": jnp.zeros(6)},
    }
    large, small = np.ones((1, 4, 6, 1), np.float32), np.full((1, 2, 3, 1), 4, np.float32)
    _, factors = rebalance(TwoLayers(), params, [large, small])
    std = np.std([1] * 24 + [4] * 6)
    np.testing.assert_allclose(list(factors.values()), 1 / std, rtol=1e-5)


def test_what_is_no_layer_stays_as_it_is(unbalanced):
    params, gray = unbalanced
    other = {"kernel": jnp.ones(3)}
    balanced, _ = rebalance(ENCODER, params | {"other": other}, [gray[:2]])
    assert balanced["other"] is other


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [(0, -1), (0, 0.1), (1e38, 0)],  # The layer is dead, constant up to rounding, or overflows.
)
def test_a_layer_that_cannot_be_rebalanced_is_named(unbalanced, kernel, bias):
    params, gray = unbalanced
    layer = params["conv3_2"]
    broken = {"kernel": layer["kernel"] * kernel, "bias": layer["bias"] * 0 + bias}
    with pytest.raises(CheckpointError, match="conv3_2"):
        rebalance(ENCODER, params | {"conv3_2": broken}, [gray[:2, :, :40] * 1e6])


def test_no_photos_are_an_error(unbalanced):
    with pytest.raises(DataError, match="no photos"):
        rebalance(ENCODER, unbalanced[0], [])
