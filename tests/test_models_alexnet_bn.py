"""AlexNet with batch norm: its sizes, names and counts, and what transfer needs of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.models import layers, registry
from colorize_jax.models.alexnet_bn import AlexNetBn
from colorize_jax.surgery import padding
from colorize_jax.surgery.absorb import absorb_batch_norm

SMALL = {"width": 1 / 32, "fc6_kernel": 2}
CHANNELS = {"conv1": 64, "conv2": 192, "conv3": 384, "conv4": 256, "conv5": 256,
            "fc6": 4096, "fc7": 4096}  # fmt: skip


def _maps(encoder, size):
    x = jax.ShapeDtypeStruct((1, size, size, encoder.in_channels), jnp.float32)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], x)


def _sides(encoder, size):
    return [_maps(encoder, size)[name].shape[1] for name in ("conv1", "conv2", "conv5", "fc7")]


@pytest.fixture(scope="module")
def start():
    """Variables of the small network in which nothing is the one or the zero it begins with."""
    shapes = registry.variable_shapes(AlexNetBn(**SMALL))
    rng = np.random.default_rng(0)

    def random(path, leaf):
        if path[-1].key == "kernel":
            return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)
        low = 0.5 if path[-1].key in ("var", "scale") else -0.2
        values = rng.uniform(low, low + 0.6, leaf.shape).astype(np.float32)
        frozen = path[-1].key == "bias" and not path[-2].key.startswith("scale")
        return np.zeros_like(values) if frozen else values

    return jax.tree_util.tree_map_with_path(random, shapes)


def test_full_size_has_the_published_number_of_parameters():
    encoder = AlexNetBn(in_channels=3, norm="none")
    params = registry.variable_shapes(encoder)["params"]
    size = sum(x.size for x in jax.tree.leaves(params))
    assert size + 4096 * 1000 + 1000 == 61_100_840  # torchvision's alexnet
    variables = registry.variable_shapes(AlexNetBn())
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v}
    assert {name: shape[-1] for name, shape in kernels.items()} == CHANNELS
    assert kernels["conv1"] == (11, 11, 1, 64) and kernels["fc6"] == (6, 6, 256, 4096)
    assert set(variables["params"]) == {*CHANNELS, *(f"scale_{name}" for name in CHANNELS)}
    assert set(variables["batch_stats"]) == {f"batch_{name}" for name in CHANNELS}


def test_maps_have_the_sizes_of_rotnet():
    whole = AlexNetBn(width=1 / 32, fc6_padding="VALID")
    assert whole.smallest_input == 223 and whole.top_centers(224).tolist() == [111.5]
    assert _sides(whole, 224) == [55, 27, 13, 1]
    assert _sides(whole, 223 + 32)[-1] == 2 == len(whole.top_centers(223 + 32))
    any_size = whole.clone(fc6_padding="ADAPTIVE")
    assert _sides(any_size, 96) == [23, 11, 5, 1] and any_size.top_centers(96) == [48]
    assert _sides(any_size, 64) == [15, 7, 3, 1] and any_size.smallest_input == 63
    tiles = any_size.clone(conv1_stride=2)
    assert _sides(tiles, 64) == [29, 14, 6, 1] and tiles.smallest_input == 35


@pytest.mark.parametrize("stride", [2, 4])
def test_every_activation_has_its_stride(stride):
    encoder = AlexNetBn(**SMALL, conv1_stride=stride)
    maps = _maps(encoder, 64)
    assert list(maps) == sorted(encoder.strides) and encoder.top == "fc7"
    for name, each in encoder.strides.items():
        assert maps[name].shape[1] == 64 // each, name
    assert encoder.smallest_input == 1 and len(encoder.top_centers(64)) == maps["fc7"].shape[1]


@pytest.mark.parametrize(("mode", "side"), [("SAME", 64), ("ADAPTIVE", 100)])
def test_it_is_what_its_description_says(start, rng, mode, side):
    """Against XLA's own convolutions and pools, one after the other."""
    encoder = AlexNetBn(**SMALL, fc6_padding=mode)
    x = jnp.asarray(rng.normal(size=(1, side, side, 1)), jnp.float32)
    pool = "SAME" if mode == "SAME" else "VALID"

    def expected(variables, x):
        maps = {"gray": x}
        for name in CHANNELS:
            layer, stats = variables["params"][name], variables["batch_stats"][f"batch_{name}"]
            edges = "SAME"
            if mode == "ADAPTIVE":
                edges = {"conv1": ((2, 2), (2, 2)), "fc6": "VALID"}.get(name, "SAME")
                x = layers.adaptive_mean_pool(x, 2) if name == "fc6" else x
            stride = (4, 4) if name == "conv1" else (1, 1)
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], stride, edges, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            scale = variables["params"][f"scale_{name}"]
            x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * scale["scale"] + scale["bias"]
            x = maps[name] = nn.relu(x)
            if name in ("conv1", "conv2", "conv5"):
                x = nn.max_pool(x, (3, 3), (2, 2), pool)
        return maps

    actual, wanted = jax.jit(encoder.apply)(start, x), jax.jit(expected)(start, x)
    for name in encoder.strides:
        assert wanted[name].max() > 0.01, name
        np.testing.assert_allclose(actual[name], wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_absorbed_batch_norm_with_its_scale_leaves_the_function_as_it_was(start, rng):
    """And a featureless place then looks the same at the border and in the middle."""
    encoder = AlexNetBn(**SMALL)
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 1)), jnp.float32)
    params = absorb_batch_norm(start["params"], start["batch_stats"])
    assert set(params) == set(CHANNELS)
    before = jax.jit(encoder.apply)(start, x)
    plain = encoder.clone(norm="none")
    after = jax.jit(plain.apply)({"params": params}, x)
    for name in encoder.layers:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-3, atol=1e-4)
    # With kernels that sum to nothing every map is its bias, whatever stands in the input.
    params = {
        name: {"kernel": layer["kernel"] - layer["kernel"].mean((0, 1, 2)),
               "bias": jnp.full_like(layer["bias"], 0.1)}
        for name, layer in params.items()
    }  # fmt: skip
    zero = jnp.zeros((1, 96, 96, 1))
    found = padding.borders(params, encoder.layers)
    maps = jax.jit(lambda x: padding.apply(plain, params, x, found))(zero)
    for name in ("conv2", "conv4", "fc6"):
        np.testing.assert_allclose(maps[name], jnp.full_like(maps[name], 0.1), atol=1e-5)


def test_scale_and_statistics_of_a_frozen_layer_stay(start):
    encoder = AlexNetBn(**SMALL, frozen=("conv1", "conv2"))
    assert set(encoder.frozen_groups) == {"conv1", "conv2", "scale_conv1", "scale_conv2"}
    assert encoder.layer_of("scale_conv1") == encoder.layer_of("batch_conv1") == "conv1"
    x = jnp.ones((2, 64, 64, 1)).at[0].set(0.5)
    apply = jax.jit(lambda v, x: encoder.apply(v, x, True, mutable=["batch_stats"])[1])
    after = apply(start, x)["batch_stats"]
    moved = {k for k, v in after.items()
             if not np.array_equal(v["mean"], start["batch_stats"][k]["mean"])}  # fmt: skip
    assert moved == {f"batch_{name}" for name in CHANNELS} - {"batch_conv1", "batch_conv2"}
