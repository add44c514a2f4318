"""VGG-16: names, strides, counts, and what dropout and batch norm do to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models.vgg16 import Vgg16

SMALL = {"width": 0.0625, "fc6_kernel": 3}


def _shapes(encoder, size):
    x = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), x)


def test_full_size_has_the_published_number_of_parameters():
    maps, variables = _shapes(Vgg16(), 352)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 134_259_392
    assert sum(m.shape[-1] for m in maps.values()) == 12417
    assert set(variables["batch_stats"]) == {f"batch_{n}" for n in maps if n != "gray"}


@pytest.mark.parametrize("size", [64, 352])
def test_every_activation_has_its_stride(size):
    maps, _ = _shapes(Vgg16(**SMALL), size)
    assert set(maps) == set(Vgg16.strides)
    for name, stride in Vgg16.strides.items():
        assert maps[name].shape[1:3] == (size // stride, size // stride), name


def test_biases_exist_and_stay_zero_under_batch_norm(rng):
    encoder = Vgg16(**SMALL)
    x = jnp.asarray(rng.normal(size=(2, 32, 32, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)

    def loss(params):
        maps, _ = encoder.apply(
            {**variables, "params": params}, x, True, rngs={"dropout": jax.random.key(1)},
            mutable=["batch_stats"],
        )  # fmt: skip
        return maps["fc7"].sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for name, layer in gradient.items():
        np.testing.assert_array_equal(layer["bias"], 0, err_msg=name)
        np.testing.assert_array_equal(variables["params"][name]["bias"], 0)
        assert np.abs(layer["kernel"]).max() > 0, name


def test_dropout_acts_on_fc6_and_fc7_only_and_only_in_training(rng):
    encoder = Vgg16(**SMALL, norm="none", dropout=0.5)
    x = jnp.asarray(rng.normal(size=(2, 32, 32, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    still = jax.jit(encoder.apply)(variables, x)
    moved = jax.jit(lambda key: encoder.apply(variables, x, True, rngs={"dropout": key}))(
        jax.random.key(1)
    )
    for name in still:
        same = np.allclose(still[name], moved[name], atol=1e-3 * still[name].max())
        assert same == (name not in ("fc6", "fc7")), name
    alive = np.asarray(moved["fc6"]) != 0
    np.testing.assert_allclose(moved["fc6"][alive], 2 * still["fc6"][alive], rtol=1e-3)


def test_half_precision_computes_in_it_and_keeps_single_precision_parameters(rng):
    encoder = Vgg16(**SMALL, dtype=jnp.bfloat16)
    x = jnp.asarray(rng.normal(size=(1, 32, 32, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
    rounded = jax.jit(encoder.apply)(variables, x)
    assert all(v.dtype == jnp.bfloat16 for v in rounded.values())
    exact, rounded = jax.jit(Vgg16(**SMALL).apply)(variables, x)["conv5_3"], rounded["conv5_3"]
    np.testing.assert_allclose(exact, rounded.astype(jnp.float32), atol=0.05 * np.abs(exact).max())
