"""ResNet: its two variants, names, strides, counts, and batch norm that is kept."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models import finetune, hypercolumn, resnet
from colorize_jax.models.encoder import kept
from colorize_jax.models.resnet import ResNet
from colorize_jax.surgery import padding, rebalance
from colorize_jax.surgery.absorb import absorb_batch_norm

SMALL = {"width": 1 / 16, "depth": 14}


def _shapes(encoder, size):
    x = jax.ShapeDtypeStruct((1, size, size, encoder.in_channels), jnp.float32)
    return jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), x)


def _start(encoder, x):
    """Variables in which no value is the initial one or zero."""
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    stats = jax.tree.map(lambda v: v + 0.3, variables["batch_stats"])
    params = {
        name: jax.tree.map(lambda v: v + 0.2, layer) if name.startswith("scale") else layer
        for name, layer in variables["params"].items()
    }
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize(
    ("depth", "published"),
    [(152, 60_192_808), (101, 44_549_160), (50, 25_557_032), (34, 21_797_672), (18, 11_689_512)],
)
def test_full_size_has_the_published_number_of_parameters(depth, published):
    """The counts equal torchvision's, whose networks read color and have 1000 classes."""
    maps, variables = _shapes(encoder := ResNet(depth=depth, in_channels=3), 64)
    size = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert size + (maps[encoder.top].shape[-1] + 1) * 1000 == published


def test_basic_blocks_have_two_convolutions_and_a_shortcut_of_their_own_where_the_map_changes():
    encoder = ResNet(width=1 / 16, depth=18)
    _, variables = _shapes(encoder, 64)
    kernels = {name for name, layer in variables["params"].items() if "kernel" in layer}
    blocks = ["2a", "2b", "3a", "3b1", "4a", "4b1", "5a", "5b"]
    assert kernels == {"conv1"} | {f"res{b}_branch2{c}" for b in blocks for c in "ab"} | {
        f"res{stage}a_branch1" for stage in (3, 4, 5)
    }
    frozen = encoder.clone(frozen=("res2a", "res3a")).frozen_groups
    owned = {name for name in variables["params"] if encoder.layer_of(name) in ("res2a", "res3a")}
    assert set(frozen) == owned


@pytest.mark.parametrize("depth", [14, 18])
def test_the_stem_of_cifar_halves_nothing(depth):
    encoder = ResNet(width=1 / 16, depth=depth, stem="cifar", variant="caffe")
    maps, variables = _shapes(encoder, 32)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 1, 4)
    assert encoder.smallest_input == 1 and encoder.strides[encoder.top] == 8
    for name, stride in encoder.strides.items():
        assert maps[name].shape[1:3] == (32 // stride, 32 // stride), name


def _convolved(variables, x, name, stride=1):
    """XLA's own convolution, then batch norm by its running averages, scale and bias."""
    params, stats = variables["params"], variables["batch_stats"]
    kernel = params["conv1" if name == "_conv1" else f"res{name}"]["kernel"]
    half = kernel.shape[0] // 2
    x = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((half, half), (half, half)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    mean, var = stats[f"bn{name}"]["mean"], stats[f"bn{name}"]["var"]
    scale = params[f"scale{name}"]
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale["scale"] + scale["bias"]


def test_basic_blocks_are_what_their_description_says(rng, monkeypatch):
    """Against XLA's own convolutions, one after the other; one block in every stage."""
    for known in (resnet.BASIC, resnet.DEPTHS):
        monkeypatch.setitem(known, 10, (1, 1, 1, 1))
    encoder = ResNet(width=1 / 16, depth=10, stem="cifar")
    x = jnp.asarray(rng.normal(size=(1, 16, 16, 1)), jnp.float32)
    variables = _start(encoder, x)

    def expected(variables, x):
        conv = functools.partial(_convolved, variables)

        maps = {"gray": x}
        x = maps["conv1"] = nn.relu(conv(x, "_conv1"))
        for block in ("2a", "3a", "4a", "5a"):
            stride = 1 if block == "2a" else 2
            inner = nn.relu(conv(x, f"{block}_branch2a", stride))
            inner = conv(inner, f"{block}_branch2b")
            shortcut = conv(x, f"{block}_branch1", stride) if stride == 2 else x
            x = maps[f"res{block}"] = nn.relu(inner + shortcut)
        return maps

    actual = jax.jit(encoder.apply)(variables, x)
    wanted = jax.jit(expected)(variables, x)
    assert set(actual) == set(wanted)
    for name in wanted:
        scale = float(np.abs(wanted[name]).max())
        assert scale > 0
        np.testing.assert_allclose(actual[name], wanted[name], atol=1e-4 * scale, err_msg=name)


def test_layers_and_parameters_have_the_names_of_the_release():
    encoder = ResNet()
    maps, variables = _shapes(encoder, 64)
    blocks = ["2a", "2b", "2c", "3a", *(f"3b{i}" for i in range(1, 8)), "4a",
              *(f"4b{i}" for i in range(1, 36)), "5a", "5b", "5c"]  # fmt: skip
    assert encoder.layers == ("conv1", *(f"res{b}" for b in blocks)) and encoder.top == "res5c"
    assert set(maps) == {"gray", *encoder.layers} == set(encoder.strides)
    convs = [f"{b}_branch2{c}" for b in blocks for c in "abc"]
    convs += [f"{b}a_branch1" for b in "2345"]
    params, stats = variables["params"], variables["batch_stats"]
    assert set(params) == {
        "conv1", "scale_conv1", *(kind + c for c in convs for kind in ("res", "scale"))
    }  # fmt: skip
    assert set(stats) == {"bn_conv1", *(f"bn{c}" for c in convs)}
    assert len([name for name in params if "kernel" in params[name]]) == 155
    assert set(params["res4b17_branch2b"]) == {"kernel"}
    assert params["res4b17_branch2b"]["kernel"].shape == (3, 3, 256, 256)
    assert {k: v.shape for k, v in params["scale5a_branch1"].items()} == {
        "scale": (2048,), "bias": (2048,)
    }  # fmt: skip
    owners = {encoder.layer_of(name) for name in (*params, *stats)}
    assert owners == set(encoder.layers)
    assert encoder.layer_of("bn4b35_branch2c") == "res4b35"
    assert encoder.layer_of("scale_conv1") == encoder.layer_of("bn_conv1") == "conv1"


def test_the_hypercolumn_is_that_of_the_paper():
    maps, _ = _shapes(ResNet(), 64)
    assert ResNet().hypercolumn == {
        "conv1": 2, "res2a": 4, "res2b": 4, "res2c": 4, "res3b1": 8, "res3b4": 8, "res3b7": 8,
        "res4b5": 16, "res4b10": 16, "res4b15": 16, "res4b20": 16, "res4b25": 16, "res4b30": 16,
        "res4b35": 16, "res5c": 32,
    }  # fmt: skip
    assert sum(maps[name].shape[-1] for name in ResNet().hypercolumn) == 11584
    assert list(ResNet(depth=50).hypercolumn) == [
        "conv1", "res2a", "res2b", "res2c", "res3b1", "res3b3", "res4b5", "res5c"
    ]  # fmt: skip
    assert list(ResNet(depth=14).hypercolumn) == ["conv1", "res2a", "res3a", "res4a", "res5a"]


@pytest.mark.parametrize("variant", ["caffe", "torch"])
@pytest.mark.parametrize("size", [64, 224])
def test_every_activation_has_its_stride(variant, size):
    encoder = ResNet(width=1 / 16, depth=26, variant=variant)
    maps, _ = _shapes(encoder, size)
    for name, stride in encoder.strides.items():
        assert maps[name].shape[1:3] == (size // stride, size // stride), name
    assert len(encoder.top_centers(size)) == size // 32
    smallest = encoder.smallest_input
    assert _shapes(encoder, smallest)[0][encoder.top].shape[1] == 1
    assert smallest == {"caffe": 3, "torch": 1}[variant]


@pytest.mark.parametrize("variant", ["caffe", "torch"])
def test_it_is_what_its_description_says(rng, variant):
    """The network equals XLA's convolutions and pools, one after the other."""
    encoder = ResNet(**SMALL, variant=variant)
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 1)), jnp.float32)
    variables = _start(encoder, x)

    def expected(variables, x):
        conv = functools.partial(_convolved, variables)

        maps = {"gray": x, "conv1": nn.relu(conv(x, "_conv1", 2))}
        edges = {"caffe": ((0, 1), (0, 1)), "torch": ((1, 1), (1, 1))}[variant]
        x = nn.max_pool(maps["conv1"], (3, 3), (2, 2), edges)
        for stage in (2, 3, 4, 5):
            stride = 1 if stage == 2 else 2
            first, second = (stride, 1) if variant == "caffe" else (1, stride)
            inner = nn.relu(conv(x, f"{stage}a_branch2a", first))
            inner = nn.relu(conv(inner, f"{stage}a_branch2b", second))
            inner = conv(inner, f"{stage}a_branch2c")
            x = maps[f"res{stage}a"] = nn.relu(inner + conv(x, f"{stage}a_branch1", stride))
        return maps

    actual = jax.jit(encoder.apply)(variables, x)
    wanted = jax.jit(expected)(variables, x)
    assert set(actual) == set(wanted)
    for name in wanted:
        scale = float(np.abs(wanted[name]).max())
        assert scale > 0
        np.testing.assert_allclose(actual[name], wanted[name], atol=1e-4 * scale, err_msg=name)


def test_half_precision_and_remat_compute_the_same(rng):
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 1)), jnp.float32)
    encoder = ResNet(**SMALL)
    variables = _start(encoder, x)
    exact = jax.jit(encoder.apply)(variables, x)["res5a"]
    again = jax.jit(encoder.clone(remat=True).apply)(variables, x)["res5a"]
    np.testing.assert_allclose(again, exact, rtol=1e-4, atol=1e-4)
    rounded = jax.jit(encoder.clone(dtype=jnp.bfloat16).apply)(variables, x)
    assert all(v.dtype == jnp.bfloat16 for v in rounded.values())
    # Rounding after every layer; their root mean square is 5 % of the values'.
    deviations = np.asarray(rounded["res5a"], np.float32) - exact
    assert np.linalg.norm(deviations) < 0.06 * np.linalg.norm(exact)


@pytest.mark.parametrize("remat", [False, True])
def test_frozen_blocks_have_no_gradient_and_keep_their_statistics(rng, remat):
    frozen = finetune.frozen_layers("res4a,res5a", ResNet(**SMALL).layers)
    assert frozen == ("conv1", "res2a", "res3a")
    encoder = ResNet(**SMALL, frozen=frozen, remat=remat)
    x = jnp.asarray(rng.normal(2, 3, (2, 64, 64, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)

    def loss(params):
        params = finetune.freeze({"encoder": params}, encoder.frozen_groups)["encoder"]
        maps, updated = encoder.apply(
            variables | {"params": params}, x, True, mutable=["batch_stats"]
        )
        return jnp.sin(maps["res5a"]).sum(), updated["batch_stats"]

    gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for name, layer in gradient.items():
        still = encoder.layer_of(name) in frozen
        for leaf in layer.values():
            assert (np.abs(leaf).max() == 0) == still, name
    for name, before in variables["batch_stats"].items():
        same = jax.tree.leaves(jax.tree.map(np.array_equal, before, stats[name]))
        assert set(same) == {encoder.layer_of(name) in frozen}, name


@pytest.mark.parametrize("alignment", ["corner", "center"])
def test_columns_on_the_grid_are_those_at_its_pixels(rng, alignment):
    """The hypercolumn begins with a map of stride 2, not with the input."""
    strides = ResNet(**SMALL).hypercolumn
    maps = {
        name: jnp.asarray(rng.normal(size=(1, 64 // s, 64 // s, 3)), jnp.float32)
        for name, s in strides.items()
    }
    kernel = jnp.asarray(rng.normal(size=(3 * len(maps), 5)), jnp.float32)
    project = functools.partial(hypercolumn.dense_projection, strides=strides)
    dense = jax.jit(lambda: project(maps, kernel=kernel, alignment=alignment))()
    first = 0.0 if alignment == "corner" else 1.5
    grid = np.stack(np.meshgrid(*[np.arange(0, 64, 4) + first] * 2, indexing="ij"), -1)
    points = jnp.asarray(grid.reshape(1, -1, 2), jnp.float32)
    sparse = jax.jit(
        lambda: hypercolumn.sparse_columns(
            functools.partial(kept, maps), strides, points, alignment
        )
    )()
    np.testing.assert_allclose(dense.reshape(1, -1, 5), sparse @ kernel, atol=1e-4)


def test_color_comes_in_through_a_wider_first_layer():
    _, variables = _shapes(ResNet(**SMALL, in_channels=3), 64)
    assert variables["params"]["conv1"]["kernel"].shape == (7, 7, 3, 4)
    with pytest.raises(ConfigError, match="takes 3: config.model.in_channels"):
        ResNet(**SMALL, in_channels=3).init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))


def test_surgery_that_needs_biases_is_refused():
    encoder = ResNet(**SMALL)
    _, variables = _shapes(encoder, 64)
    params = variables["params"]
    with pytest.raises(CheckpointError, match="ResNet.*never"):
        absorb_batch_norm(params, variables["batch_stats"])
    with pytest.raises(ConfigError, match="ResNet.*batch norm"):
        rebalance.rebalance(encoder, params, [])
    with pytest.raises(CheckpointError, match="conv1.*bias.*ResNet"):
        padding.borders(params, encoder.layers)
