"""AlexNet: its padding modes, groups and response norm, names, strides and counts."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models import hypercolumn
from colorize_jax.models.alexnet import AlexNet
from colorize_jax.models.encoder import kept
from colorize_jax.surgery import padding
from colorize_jax.surgery.absorb import absorb_batch_norm

SMALL = {"width": 1 / 32, "fc6_kernel": 2}
CLASSIFIER = SMALL | {"fc6_padding": "VALID"}


def _shapes(encoder, size):
    x = jax.ShapeDtypeStruct((1, size, size, encoder.in_channels), jnp.float32)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), x)


def _start(encoder, x):
    """Variables with statistics that differ from the initial ones."""
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    stats = jax.tree.map(lambda v: v + 0.3, variables["batch_stats"])
    return variables | {"batch_stats": stats}


def test_full_size_has_the_published_number_of_parameters():
    maps, variables = _shapes(AlexNet(in_channels=3), 352)
    size = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert size + 4096 * 1000 + 1000 == 60_965_224  # This is Caffe's count, with fc8.
    maps, variables = _shapes(AlexNet(), 352)
    assert sum(m.shape[-1] for m in maps.values()) == 9568 + 1
    kernels = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    assert kernels == {
        "conv1": (11, 11, 1, 96), "conv2": (5, 5, 48, 256), "conv3": (3, 3, 256, 384),
        "conv4": (3, 3, 192, 384), "conv5": (3, 3, 192, 256), "fc6": (6, 6, 256, 4096),
        "fc7": (1, 1, 4096, 4096),
    }  # fmt: skip
    assert set(variables["batch_stats"]) == {f"batch_{name}" for name in kernels}
    assert set(AlexNet().layers) == set(kernels)


@pytest.mark.parametrize("size", [64, 352])
def test_every_activation_has_its_stride(size):
    maps, _ = _shapes(AlexNet(**SMALL), size)
    assert set(maps) == set(AlexNet().strides)
    for name, stride in AlexNet().strides.items():
        assert maps[name].shape[1:3] == (size // stride, size // stride), name


def test_as_a_classifier_it_answers_once_at_227_pixels():
    encoder = AlexNet(width=1 / 32, fc6_padding="VALID")
    maps, _ = _shapes(encoder, 227)
    sides = {name: m.shape[1] for name, m in maps.items()}
    assert sides == {
        "gray": 227, "conv1": 55, "conv2": 27, "conv3": 13, "conv4": 13, "conv5": 13,
        "fc6": 1, "fc7": 1,
    }  # fmt: skip
    assert encoder.smallest_input == 227
    for some in (encoder, AlexNet(**CLASSIFIER)):
        for size in range(some.smallest_input - 1, some.smallest_input + 66, 13):
            cells = _shapes(some, size)[0]["fc7"].shape[1]
            assert cells == len(some.top_centers(size))
            assert (cells > 0) == (size >= some.smallest_input)
        assert some.top_centers(some.smallest_input) == [some.smallest_input / 2]
    assert AlexNet().smallest_input == 1
    tiles, _ = _shapes(AlexNet(width=1 / 32, fc6_kernel=1, conv1_stride=2), 64)
    assert [tiles[name].shape[1] for name in ("conv1", "conv2", "conv5", "fc7")] == [32, 16, 8, 4]


@pytest.mark.parametrize("settings", [SMALL, SMALL | {"fc6_kernel": 6}, CLASSIFIER])
def test_it_is_what_its_description_says(rng, settings):
    """The network equals XLA's grouped convolutions and pools, one after the other."""
    encoder = AlexNet(**settings)
    x = jnp.asarray(rng.normal(size=(1, 128, 128, 1)), jnp.float32)
    variables = _start(encoder, x)
    mode = encoder.fc6_padding

    def expected(variables, x):
        maps = {"gray": x}
        for name in AlexNet().layers:
            layer, stats = variables["params"][name], variables["batch_stats"][f"batch_{name}"]
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (4, 4) if name == "conv1" else (1, 1),
                mode if name in ("conv1", "fc6") else "SAME",
                feature_group_count=2 if name in ("conv2", "conv4", "conv5") else 1,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            x = nn.relu((x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5))
            maps[name] = x
            if name in ("conv1", "conv2"):
                around = jnp.pad(jnp.square(x), ((0, 0),) * 3 + ((2, 2),))
                total = sum(around[..., i : i + x.shape[-1]] for i in range(5))
                x = x / (1 + 2e-5 * total) ** 0.75
            if name in ("conv1", "conv2", "conv5"):
                x = nn.max_pool(x, (3, 3), (2, 2), mode)
        return maps

    actual = jax.jit(encoder.apply)(variables, x)
    wanted = jax.jit(expected)(variables, x)
    for name in AlexNet().strides:
        np.testing.assert_allclose(actual[name], wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_response_norm_is_left_out_by_option(rng):
    x = jnp.asarray(rng.normal(0, 100, (1, 64, 64, 1)), jnp.float32)
    encoder = AlexNet(**SMALL, norm="none")
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    with_, without = (jax.jit(encoder.clone(lrn=lrn).apply)(variables, x) for lrn in (True, False))
    np.testing.assert_array_equal(with_["conv1"], without["conv1"])
    assert not np.allclose(with_["conv2"], without["conv2"], rtol=1e-3)


def test_absorbing_batch_norm_does_not_change_the_function(rng):
    encoder = AlexNet(**SMALL)
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 1)), jnp.float32)
    variables = _start(encoder, x)
    params = absorb_batch_norm(variables["params"], variables["batch_stats"])
    before = jax.jit(encoder.apply)(variables, x)
    after = jax.jit(encoder.clone(norm="none").apply)({"params": params}, x)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-4)


def test_borders_of_grouped_and_even_convolutions(rng):
    """A place without features has the same activations at the border and in the middle."""
    encoder = AlexNet(width=1 / 32, fc6_kernel=4, norm="none", lrn=False)
    x = jnp.zeros((1, 160, 160, 1))
    params = jax.jit(encoder.init)(jax.random.key(0), x)["params"]
    params = {
        name: {"kernel": layer["kernel"] * (name != "conv1"), "bias": layer["bias"] + 0.1}
        for name, layer in params.items()
    }
    # Kernels that sum to zero make every map equal its bias for any constant input.
    params = {
        name: layer | {"kernel": layer["kernel"] - layer["kernel"].mean((0, 1, 2))}
        for name, layer in params.items()
    }
    found = padding.borders(params, encoder.layers)
    maps = jax.jit(lambda x: padding.apply(encoder, params, x, found))(x)
    plain = jax.jit(encoder.apply)({"params": params}, x)
    for name in ("conv2", "conv4", "fc6"):
        np.testing.assert_allclose(maps[name], jnp.full_like(maps[name], 0.1), atol=1e-5)
        assert np.ptp(plain[name]) > 1e-3, name


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_columns_on_the_grid_are_those_at_its_pixels(rng, alignment):
    shape = {name: (1, 64 // s, 64 // s, 3) for name, s in AlexNet().strides.items()}
    maps = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shape.items()}
    kernel = jnp.asarray(rng.normal(size=(3 * len(maps), 5)), jnp.float32)
    project = functools.partial(hypercolumn.dense_projection, strides=AlexNet().hypercolumn)
    dense = jax.jit(lambda: project(maps, kernel=kernel, alignment=alignment))()
    first = 0.0 if alignment == "corner" else 1.5
    grid = np.stack(np.meshgrid(*[np.arange(0, 64, 4) + first] * 2, indexing="ij"), -1)
    points = jnp.asarray(grid.reshape(1, -1, 2), jnp.float32)
    sparse = jax.jit(
        lambda: hypercolumn.sparse_columns(
            functools.partial(kept, maps), AlexNet().hypercolumn, points, alignment
        )
    )()
    np.testing.assert_allclose(dense.reshape(1, -1, 5), sparse @ kernel, atol=1e-4)


def test_half_precision_and_remat_compute_the_same(rng):
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 1)), jnp.float32)
    encoder = AlexNet(**SMALL)
    variables = _start(encoder, x)
    exact = jax.jit(encoder.apply)(variables, x)["conv5"]
    again = jax.jit(encoder.clone(remat=True).apply)(variables, x)["conv5"]
    np.testing.assert_allclose(again, exact, rtol=1e-5, atol=1e-5)
    rounded = jax.jit(encoder.clone(dtype=jnp.bfloat16).apply)(variables, x)
    assert all(v.dtype == jnp.bfloat16 for v in rounded.values())
    scale = np.abs(exact).max()
    np.testing.assert_allclose(rounded["conv5"].astype(jnp.float32), exact, atol=0.05 * scale)
