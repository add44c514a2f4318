"""Zhang's network: its layers, strides and counts, what it reads, and batch norm that stays."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color, data

from colorize_jax.color import spaces
from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models import finetune, registry
from colorize_jax.models.dense_network import DenseHead, DenseNetwork
from colorize_jax.models.layers import DoublingConv
from colorize_jax.models.zhang import Zhang
from colorize_jax.surgery import padding, rebalance
from colorize_jax.surgery.absorb import absorb_batch_norm

SMALL = Zhang(width=1 / 32)
# What the sheet of the released network says of the last layer of every block: side in pixels of
# what a unit sees, and stride.
LAST = {
    "conv1_2": (5, 2), "conv2_2": (13, 4), "conv3_3": (37, 8), "conv4_3": (85, 8),
    "conv5_3": (181, 8), "conv6_3": (277, 8), "conv7_3": (325, 8),
}  # fmt: skip


def _shapes(network, size):
    x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x), x)


@functools.cache
def _start():
    """Input and variables, in which nothing is the one or the zero that it begins with."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 24, 32, 1)).astype(np.float32)
    shapes = registry.variable_shapes(SMALL.clone(norm_scale=True))
    return x, jax.tree.map(lambda v: rng.uniform(0.1, 0.4, v.shape).astype(np.float32), shapes)


def test_the_whole_network_has_the_released_number_of_parameters():
    network = DenseNetwork(Zhang(norm_scale=True), DenseHead({"bins": 313}))
    outputs, variables = _shapes(network, 176)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    # The release has 313 colors beside, which are no parameters here.
    assert count + 2 * 313 == 32_236_011
    assert outputs["bins"].shape == (1, 44, 44, 313) and network.grid == 4


def test_layers_strides_and_names():
    encoder = Zhang()
    maps, variables = _shapes(encoder, 64)
    assert len(encoder.layers) == 19 and encoder.top == "conv7_3"
    assert set(maps) == {"gray", *encoder.layers} == set(encoder.strides)
    for name, stride in encoder.strides.items():
        assert maps[name].shape[1:3] == (64 // stride, 64 // stride), name
    assert {name: encoder.strides[name] for name in LAST} == {
        name: stride for name, (_, stride) in LAST.items()
    }
    assert encoder.top_centers(20).tolist() == [0, 8, 16]
    assert set(variables["params"]) == set(encoder.layers)
    assert set(variables["batch_stats"]) == {f"{name}norm" for name in LAST}
    scaled = registry.variable_shapes(Zhang(norm_scale=True))
    groups = {*scaled["params"], *scaled["batch_stats"]}
    assert set(scaled["params"]) == {*encoder.layers, *(f"{name}scale" for name in LAST)}
    assert {encoder.layer_of(name) for name in groups} == set(encoder.layers)


def test_units_see_as_far_as_published():
    encoder = Zhang(width=1 / 512)  # one channel up to conv6
    x = np.ones((1, 400, 400, 1), np.float32)
    variables = jax.tree.map(jnp.ones_like, registry.variable_shapes(encoder))
    variables = jax.tree.map(lambda v: jnp.full(v.shape, 0.1), variables)

    @jax.jit
    def slopes(x):
        def middle(x):
            maps = encoder.apply(variables, x)
            return jnp.stack(
                [maps[name][0, 200 // s, 200 // s, 0] for name, (_, s) in LAST.items()]
            )

        return jax.jacrev(middle)(x)[:, 0, :, :, 0]

    for slope, (name, (side, _)) in zip(slopes(x), LAST.items(), strict=True):
        rows = np.flatnonzero(np.asarray(slope).any(1))
        assert (rows[0], rows[-1]) == (200 - side // 2, 200 + side // 2), name


def test_it_is_what_its_description_says():
    """Against XLA's own convolutions, one after the other."""
    x, variables = _start()
    params, stats = variables["params"], variables["batch_stats"]
    signs = np.random.default_rng(1)
    for name in SMALL.layers:
        params[name]["kernel"] *= signs.choice([-1, 1], params[name]["kernel"].shape)

    def expected(x):
        maps = {"gray": x}
        for name in SMALL.layers:
            block = int(name[4])
            dilation = 2 if block in (5, 6) else 1
            stride = 2 if name in ("conv1_2", "conv2_2", "conv3_3") else 1
            x = jax.lax.conv_general_dilated(
                x, params[name]["kernel"], (stride, stride), [(dilation, dilation)] * 2,
                rhs_dilation=(dilation, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            x = nn.relu(x + params[name]["bias"])
            if name in LAST:
                own, scale = stats[f"{name}norm"], params[f"{name}scale"]
                x = (x - own["mean"]) / jnp.sqrt(own["var"] + 1e-5)
                x = x * scale["scale"] + scale["bias"]
            maps[name] = x
        return maps

    wanted = jax.jit(expected)(x)
    for encoder in (SMALL, SMALL.clone(remat=True)):
        actual = jax.jit(encoder.clone(norm_scale=True).apply)(variables, x)
        assert list(actual) == list(wanted)
        for name in wanted:
            scale = float(np.abs(wanted[name]).max())
            np.testing.assert_allclose(actual[name], wanted[name], atol=1e-4 * scale, err_msg=name)


def test_a_doubling_convolution_is_a_transposed_one(rng):
    x = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    kernel = rng.normal(size=(4, 4, 4, 6)).astype(np.float32)
    bias = rng.normal(size=6).astype(np.float32)
    found = DoublingConv(6).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    wanted = np.zeros((2, 6 + 2, 10 + 2, 6))  # with a ring that is cut off
    for i in range(3):
        for j in range(5):
            wanted[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "bc,hwco->bhwo", x[:, i, j], kernel
            )
    np.testing.assert_allclose(found, wanted[:, 1:-1, 1:-1] + bias, rtol=1e-4, atol=1e-4)


def test_it_reads_the_lightness_and_nothing_else():
    photo = data.astronaut()[:32, :48]
    found = SMALL.network_input(photo)
    lightness = color.rgb2lab(photo)[None, ..., :1]
    np.testing.assert_allclose(found, (lightness - 50) / 100, atol=1e-4)
    gray = np.repeat(photo[..., :1], 3, -1)
    three = SMALL.clone(in_channels=3).network_input(gray)
    np.testing.assert_allclose(three, np.repeat(SMALL.network_input(gray), 3, -1), atol=1e-6)
    assert SMALL.clone(in_channels=3).network_input(photo[None]).shape == (1, 32, 48, 3)
    assert float(spaces.lightness_input(np.zeros((1, 1, 3), np.uint8))[0, 0, 0, 0]) == -0.5


def test_frozen_layers_have_no_gradient_and_keep_their_statistics():
    frozen = finetune.frozen_layers("conv2_2..conv7_3", SMALL.layers)
    encoder = SMALL.clone(frozen=frozen, norm_scale=True)
    assert encoder.frozen_groups == ("conv1_1", "conv1_2", "conv2_1", "conv1_2scale")
    x, variables = _start()

    def loss(params):
        params = finetune.freeze({"encoder": params}, encoder.frozen_groups)["encoder"]
        maps, updated = encoder.apply(
            variables | {"params": params}, x, True, mutable=["batch_stats"]
        )
        return jnp.sin(maps["conv2_2"]).sum(), updated["batch_stats"]

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for name in ("conv1_1", "conv1_2", "conv1_2scale", "conv2_1", "conv2_2", "conv2_2scale"):
        still = encoder.layer_of(name) in frozen
        for leaf in gradient[name].values():
            assert (np.abs(leaf).max() == 0) == still, name
    before = variables["batch_stats"]
    for name, still in (("conv1_2norm", True), ("conv2_2norm", False)):
        assert np.array_equal(before[name]["mean"], stats[name]["mean"]) == still


def test_its_batch_norm_is_never_absorbed():
    x, variables = _start()
    with pytest.raises(CheckpointError, match="'conv1_2norm' belong to no layer.*Zhang's network"):
        absorb_batch_norm(variables["params"], variables["batch_stats"])
    with pytest.raises(ConfigError, match="norm='none': zhang keeps its batch norm"):
        registry.make_encoder({"name": "zhang", "norm": "none"})
    with pytest.raises(ConfigError, match="rebalance_photos"):
        rebalance.check(SMALL)
    with pytest.raises(ConfigError, match="Zhang keeps its batch norm, behind which"):
        padding.apply(SMALL, variables["params"], x, {})
