"""Frozen and trained layers: the setting, the gradient, and its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colorize_jax.errors import ConfigError
from colorize_jax.models import finetune
from colorize_jax.models.fov import FieldOfView
from colorize_jax.models.heads import Head
from colorize_jax.models.point_network import PointNetwork
from colorize_jax.models.vgg16 import Vgg16

LAYERS = Vgg16.layers


@pytest.mark.parametrize(
    ("setting", "trained"),
    [
        ("all", LAYERS),
        ("head", ()),
        ("fc6,fc7", ("fc6", "fc7")),
        ("fc7, fc6", ("fc6", "fc7")),
        ("conv4_1..fc7", LAYERS[7:]),
        ("conv1_1,conv4_1..conv5_3", ("conv1_1", *LAYERS[7:13])),
        ("conv1_1..fc7", LAYERS),
        ("conv3_2..conv3_2", ("conv3_2",)),
        ("conv3_1..conv3_3,conv3_2", LAYERS[4:7]),
    ],
)
def test_the_layers_not_named_are_frozen(setting, trained):
    assert finetune.frozen_layers(setting, LAYERS) == tuple(x for x in LAYERS if x not in trained)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("conv9_1", "layer 'conv9_1'; known: .*conv1_1, .*fc7"),
        ("fc6,conv6_1..fc7", "'conv6_1'"),
        ("conv4_1..fc8", "'fc8'"),
        ("conv4_1..", "layer ''"),
        ("conv4_1..fc6..fc7", "'fc6..fc7'"),
        ("fc7..conv4_1", "write conv4_1..fc7"),
        ("", "layer ''"),
        ("fc6,,fc7", "layer ''"),
        ("all,fc6", "layer 'all'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_an_error(setting, message):
    with pytest.raises(ConfigError, match=message):
        finetune.frozen_layers(setting, LAYERS)


@pytest.fixture(scope="module")
def start():
    """A tiny network for segmentation and its inputs."""
    rng = np.random.default_rng(0)
    inputs = (
        jnp.asarray(rng.normal(size=(2, 64, 64, 1)), jnp.float32),
        jnp.asarray(rng.integers(0, 64, (2, 5, 2))),
    )
    network = PointNetwork(
        Vgg16(width=1 / 32, fc6_kernel=3),
        Head({"classes": 4}, hidden=8),
        fov=FieldOfView(1 / 64),
        hypercolumn=False,
    )
    variables = jax.jit(network.init)(jax.random.key(0), *inputs)
    variables["params"]["head"]["hidden"]["kernel"] *= 1e4
    return network, variables, inputs


def _compiled(start, setting, remat=False):
    network, variables, inputs = start
    frozen = finetune.frozen_layers(setting, LAYERS)
    network = network.clone(encoder=network.encoder.clone(frozen=frozen, remat=remat))

    def loss(params):
        outputs, updated = network.apply(
            variables | {"params": finetune.freeze(params, frozen)}, *inputs, True,
            rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.square(outputs["classes"] - 1).sum(), updated["batch_stats"]

    return jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"]).compile()


@pytest.mark.parametrize("remat", [False, True])
def test_frozen_layers_have_no_gradient_and_keep_their_statistics(start, remat):
    _, variables, _ = start
    gradient, stats = _compiled(start, "conv5_2..fc6", remat)(variables["params"])
    for name, layer in gradient["encoder"].items():
        frozen = name not in ("conv5_2", "conv5_3", "fc6")
        assert (np.abs(layer["kernel"]).max() == 0) == frozen, name
        before = variables["batch_stats"]["encoder"][f"batch_{name}"]
        after = stats["encoder"][f"batch_{name}"]
        for kind in ("mean", "var", "count"):
            assert np.array_equal(before[kind], after[kind]) == frozen, (name, kind)
    for group in ("fov", "head"):
        for name, layer in gradient[group].items():
            assert np.abs(layer["kernel"]).max() > 0, name


def test_frozen_layers_cost_no_gradient(start):
    flops = {
        setting: _compiled(start, setting).cost_analysis()["flops"] for setting in ("all", "head")
    }
    assert flops["head"] < 0.4 * flops["all"]  # The forward pass is a third of training.


def test_layers_of_the_same_name_outside_of_the_encoder_are_trained():
    params = {group: {"fc7": {"kernel": jnp.ones(2)}} for group in ("encoder", "head")}
    labels = finetune.labels(params, ("fc7",))
    assert labels["encoder"]["fc7"]["kernel"] == "frozen"
    assert labels["head"]["fc7"]["kernel"] == "trained"

    def total(params):
        return sum(x.sum() for x in jax.tree.leaves(finetune.freeze(params, ("fc7",))))

    gradient = jax.grad(total)(params)
    np.testing.assert_array_equal(gradient["encoder"]["fc7"]["kernel"], 0)
    np.testing.assert_array_equal(gradient["head"]["fc7"]["kernel"], 1)


def test_labels_let_an_optimizer_leave_frozen_layers_alone(start):
    _, variables, _ = start
    params = variables["params"]
    frozen = finetune.frozen_layers("fc6,fc7", LAYERS)
    labels = finetune.labels(params, frozen)
    assert jax.tree.structure(labels) == jax.tree.structure(params)
    optimizer = optax.partition({"trained": optax.sgd(1.0), "frozen": optax.set_to_zero()}, labels)
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for group, layers in updates.items():
        for name, layer in layers.items():
            expected = 0 if name in frozen else -1
            np.testing.assert_array_equal(layer["kernel"], expected, err_msg=f"{group}/{name}")
            np.testing.assert_array_equal(layer["bias"], expected)
