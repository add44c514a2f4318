"""VGG-16: names, strides, counts, dropout and batch norm."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from colorize_jax.config import default_config
from colorize_jax.errors import ConfigError
from colorize_jax.models import layers, registry
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.surgery import padding

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


def test_layers_are_those_with_weights_from_the_bottom_to_the_top():
    _, variables = _shapes(Vgg16(**SMALL), 64)
    assert Vgg16.layers == tuple(Vgg16.strides)[1:]
    assert set(Vgg16.layers) == set(variables["params"])
    assert (Vgg16.layers[0], Vgg16.layers[-2:]) == ("conv1_1", ("fc6", "fc7"))


def test_color_comes_in_through_a_wider_first_layer_and_is_passed_on():
    encoder = Vgg16(**SMALL, in_channels=3)
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    maps, variables = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), x)
    assert maps["gray"].shape == (2, 64, 64, 3)
    assert variables["params"]["conv1_1"]["kernel"].shape == (3, 3, 3, 4)
    for channels in (1, 3):
        wrong = jnp.zeros((1, 32, 32, 4 - channels))
        with pytest.raises(ConfigError, match=f"takes {channels}: config.model.in_channels"):
            Vgg16(**SMALL, in_channels=channels).init(jax.random.key(0), wrong)


def test_fc6_without_padding_answers_once_at_224_pixels():
    encoder = Vgg16(width=0.0625, fc6_padding="VALID")
    for size, cells in ((224, 1), (256, 2)):
        maps, _ = _shapes(encoder, size)
        assert maps["fc6"].shape[1:3] == maps["fc7"].shape[1:3] == (cells, cells)
    assert encoder.smallest_input == 193  # The last pool rounds up.
    assert _shapes(encoder, 193)[0]["fc7"].shape[1:3] == (1, 1)
    assert Vgg16().smallest_input == 1


def test_a_map_of_any_size_is_averaged_to_the_cells_of_fc6(rng):
    encoder = Vgg16(width=1 / 32, fc6_kernel=3, fc6_padding="ADAPTIVE", norm="none")
    x = jnp.asarray(rng.normal(size=(1, 96, 160, 1)), jnp.float32)
    assert encoder.smallest_input == 1 and encoder.top_centers(160) == [80]
    params = jax.jit(encoder.init)(jax.random.key(0), x)
    small = x[:, :, :96]
    usual = jax.jit(encoder.clone(fc6_padding="VALID").apply)(params, small)
    maps = jax.jit(encoder.apply)(params, small)
    np.testing.assert_array_equal(maps["fc7"], usual["fc7"])
    maps = jax.jit(encoder.apply)(params, x)
    assert maps["fc7"].shape[1:3] == (1, 1) and not np.array_equal(maps["fc7"], usual["fc7"])
    cells = layers.adaptive_mean_pool(layers.max_pool(maps["conv5_3"]), 3)
    kernel, bias = (params["params"]["fc6"][name] for name in ("kernel", "bias"))
    fc6 = nn.relu(jnp.einsum("bhwc,hwco->bo", cells, kernel) + bias)
    np.testing.assert_allclose(maps["fc6"][:, 0, 0], fc6, rtol=1e-4, atol=1e-5)


def test_fc6_without_padding_is_the_middle_of_fc6_with_padding(rng):
    x = jnp.asarray(rng.normal(size=(1, 128, 128, 1)), jnp.float32)
    same = Vgg16(width=0.03125, fc6_kernel=3)
    variables = jax.jit(same.init)(jax.random.key(0), x)
    valid = jax.jit(same.clone(fc6_padding="VALID").apply)(variables, x)["fc7"]
    expected = jax.jit(same.apply)(variables, x)["fc7"][:, 1:-1, 1:-1]
    np.testing.assert_allclose(valid, expected, atol=1e-5)


def test_frozen_batch_norm_keeps_still_in_training(rng):
    frozen = ("conv1_1", "conv1_2", "conv2_1")
    encoder = Vgg16(width=0.03125, fc6_kernel=3, frozen=frozen)
    x = jnp.asarray(rng.normal(2, 3, (2, 32, 32, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    still = jax.jit(encoder.apply)(variables, x)
    train = jax.jit(
        lambda v: encoder.apply(
            v, x, True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
        )
    )
    moved, updated = train(variables)
    for name in encoder.layers:
        before, after = (v["batch_stats"][f"batch_{name}"] for v in (variables, updated))
        same = jax.tree.map(np.array_equal, before, after)
        assert set(jax.tree.leaves(same)) == {name in frozen}, name
    for name in ("conv1_1", "conv1_2", "conv2_1", "conv2_2"):
        assert np.allclose(moved[name], still[name], atol=1e-4) == (name in frozen), name


def test_a_frozen_layer_keeps_its_dropout(rng):
    encoder = Vgg16(width=0.03125, fc6_kernel=3, frozen=Vgg16.layers)
    x = jnp.asarray(rng.normal(size=(2, 32, 32, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    still = jax.jit(encoder.apply)(variables, x)
    moved = jax.jit(lambda k: encoder.apply(variables, x, True, rngs={"dropout": k}))(
        jax.random.key(1)
    )
    np.testing.assert_allclose(moved["conv5_3"], still["conv5_3"], atol=1e-5)
    alive = np.asarray(moved["fc6"]) != 0
    np.testing.assert_allclose(moved["fc6"][alive], 2 * still["fc6"][alive], rtol=1e-3)
    assert (np.asarray(still["fc6"])[~alive] > 0).any()


def test_borders_stand_around_the_input_of_their_layer_alone(rng):
    encoder = Vgg16(width=0.03125, fc6_kernel=3, norm="none", remat=True)
    x = jnp.asarray(rng.normal(size=(1, 64, 64, 1)), jnp.float32)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    plain = jax.jit(encoder.apply)(variables, x)
    border = jnp.asarray(rng.uniform(1, 2, 8), jnp.float32)
    corrected = functools.partial(padding.apply, encoder, variables["params"])
    actual = jax.jit(corrected)(x, {"conv3_2": border})
    np.testing.assert_array_equal(actual["conv3_1"], plain["conv3_1"])
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = jnp.pad(plain["conv3_1"] - border, edges) + border
    layer = variables["params"]["conv3_2"]
    expected = layers.convolve(padded, layer["kernel"], "VALID") + layer["bias"]
    np.testing.assert_allclose(actual["conv3_2"], jax.nn.relu(expected), atol=1e-5)


def _settings(**changed):
    settings = default_config().model
    with settings.unlocked():
        settings.update(changed)
    return settings


def test_registry_reads_every_setting_of_the_network():
    settings = _settings(in_channels=3, fc6_padding="VALID", width=0.5, fc6_kernel=5, norm="none")
    encoder = registry.make_encoder(settings)
    assert encoder == Vgg16(
        width=0.5, in_channels=3, fc6_kernel=5, fc6_padding="VALID", norm="none"
    )


def test_trained_encoder_freezes_what_is_not_finetuned():
    config = default_config()
    config.finetune = "conv1_2..fc7"
    assert registry.make_trained_encoder(config) == Vgg16(frozen=("conv1_1",))


def test_registry_takes_settings_of_a_checkpoint_that_lack_the_new_ones():
    settings = dict(_settings(fc6_padding="VALID"))
    del settings["in_channels"], settings["fc6_padding"]
    assert registry.make_encoder(ConfigDict(settings)) == Vgg16()


@pytest.mark.parametrize(
    ("setting", "value"), [("fc6_padding", "same"), ("in_channels", 2), ("norm", "group")]
)
def test_registry_names_an_unknown_setting(setting, value):
    with pytest.raises(ConfigError, match=f"config.model.{setting} is {value!r}"):
        registry.make_encoder(_settings(**{setting: value}))
