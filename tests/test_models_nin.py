"""Network in network: its sizes, strides and layers, one after the other, and its recipe."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from colorize_jax.config import recipe
from colorize_jax.errors import ConfigError, WeightsError
from colorize_jax.models import layers, registry
from colorize_jax.models.nin import Nin
from colorize_jax.tasks.registry import make_task
from colorize_jax.weights import caffe, torch

SMALL = Nin(width=1 / 32, in_channels=3)
# (layer, side of the kernel, channels, what follows) from the bottom to the top
LAYERS = [
    ("conv1_1", 5, 192, ""), ("conv1_2", 1, 160, ""), ("conv1_3", 1, 96, "max"),
    ("conv2_1", 5, 192, ""), ("conv2_2", 1, 192, ""), ("conv2_3", 1, 192, "mean"),
    ("conv3_1", 3, 192, ""), ("conv3_2", 1, 192, ""), ("conv3_3", 1, 192, ""),
    ("conv4_1", 3, 192, ""), ("conv4_2", 1, 192, ""), ("conv4_3", 1, 192, ""),
]  # fmt: skip


def test_layers_have_the_published_sizes():
    encoder, below = Nin(in_channels=3), 3
    params = registry.variable_shapes(encoder)["params"]
    for name, size, channels, _ in LAYERS:
        assert set(params[name]) == {"kernel"}  # It has no bias.
        assert params[name]["kernel"].shape == (size, size, below, channels), name
        assert params[f"scale_{name}"]["bias"].shape == (channels,)
        below = channels
    assert encoder.layers == tuple(name for name, *_ in LAYERS) and encoder.top == "conv4_3"
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    maps = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x)[0], x)
    for name, stride in encoder.strides.items():
        assert maps[name].shape[1:3] == (32 // stride, 32 // stride), name
    assert encoder.strides["conv4_3"] == 4 and encoder.top_centers(9).tolist() == [0, 4, 8]


def test_it_is_what_its_description_says(rng):
    """Against XLA's own convolutions and pools, one after the other."""
    x = rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
    shapes = registry.variable_shapes(SMALL)
    variables = jax.tree.map(lambda v: rng.uniform(0.5, 1.5, v.shape).astype(np.float32), shapes)
    params, stats = variables["params"], variables["batch_stats"]
    for name, *_ in LAYERS:
        params[name]["kernel"] = rng.normal(0, 0.3, params[name]["kernel"].shape)

    def expected(x):
        maps = {}
        for name, _, _, pool in LAYERS:
            x = jax.lax.conv_general_dilated(
                x, params[name]["kernel"].astype(np.float32), (1, 1), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            own, scale = stats[f"batch_{name}"], params[f"scale_{name}"]
            x = (x - own["mean"]) / jnp.sqrt(own["var"] + 1e-5) * scale["scale"] + scale["bias"]
            x = maps[name] = nn.relu(x)
            edges = ((1, 1), (1, 1))
            if pool == "max":
                x = nn.max_pool(x, (3, 3), (2, 2), edges)
            elif pool:
                x = nn.avg_pool(x, (3, 3), (2, 2), edges, count_include_pad=True)
        return maps

    wanted, actual = jax.jit(expected)(x), jax.jit(SMALL.apply)(variables, x)
    for name, *_ in LAYERS:
        assert wanted[name].max() > 0.01, name
        np.testing.assert_allclose(actual[name], wanted[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_mean_pool_of_odd_sides_and_its_gradient(rng):
    x = jnp.asarray(rng.normal(size=(1, 5, 6, 2)), jnp.float32)

    def ours(x):
        return layers.overlapping_mean_pool(x, "BOTH")

    def flax(x):
        return nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=True)

    np.testing.assert_allclose(ours(x), flax(x), atol=1e-6)
    slopes = (jax.grad(lambda x, pool=pool: jnp.sin(pool(x)).sum())(x) for pool in (ours, flax))
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_names_of_groups_lead_to_layers():
    encoder = SMALL.clone(frozen=("conv1_1", "conv1_2"))
    assert set(encoder.frozen_groups) == {"conv1_1", "conv1_2", "scale_conv1_1", "scale_conv1_2"}
    shapes = registry.variable_shapes(encoder)
    groups = {*shapes["params"], *shapes["batch_stats"]}
    assert {encoder.layer_of(name) for name in groups} == set(encoder.layers)


def test_it_keeps_its_batch_norm_and_other_programs_do_not_have_it():
    with pytest.raises(ConfigError, match="norm='none': nin keeps its batch norm"):
        registry.make_encoder({"name": "nin", "norm": "none"})
    with pytest.raises(WeightsError, match="nin is no network of Caffe"):
        caffe.export(SMALL, {"params": {"encoder": {}}})
    with pytest.raises(WeightsError, match="Nin has no counterpart"):
        torch.table(SMALL, channels=3)


def test_recipe_of_rotation_on_cifar_is_the_released_training():
    config = recipe.read_config("rotation:cifar")
    task = make_task(config)
    assert isinstance(task.model.encoder, Nin) and task.model.layer == "conv4_3"
    assert (config.data.crop, config.data.batch_size, config.optimizer.rate) == (32, 128, 0.1)
    rates = [0.1 * config.schedule.factor**i for i in range(4)]
    np.testing.assert_allclose(rates, [0.1, 0.02, 0.004, 0.0008])
    drops = [drop * config.schedule.epochs for drop in config.schedule.drops]
    assert drops == [60, 120, 160] and config.optimizer.nesterov
    assert config.optimizer.weight_decay == 5e-4
