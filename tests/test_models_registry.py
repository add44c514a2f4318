"""Networks by name: the settings that each network reads, and those that it refuses."""

import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from colorize_jax.config import check_numbers, choices, default_config
from colorize_jax.errors import CheckpointError, ConfigError
from colorize_jax.models import registry
from colorize_jax.models.alexnet import AlexNet
from colorize_jax.models.alexnet_bn import AlexNetBn
from colorize_jax.models.resnet import ResNet
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.training import same_run, start


def _settings(**changed):
    config = default_config()
    choices.choose(config, "model", changed.get("name", config.model.name))
    with config.model.unlocked():
        config.model.update(changed)
    return config.model


def _encoder(**changed):
    return registry.make_encoder(_settings(**changed))


def test_every_network_is_the_paper_s_by_default():
    assert _encoder() == Vgg16()
    assert _encoder(name="alexnet") == AlexNet()
    assert _encoder(name="alexnet_bn") == AlexNetBn()
    assert _encoder(name="resnet152") == ResNet()


def test_every_network_reads_all_of_its_settings():
    common = {"in_channels": 3, "width": 0.5, "remat": True, "norm_decay": 0.99}
    half = {"dtype": "bfloat16"}
    assert _encoder(
        name="alexnet", lrn=False, fc6_kernel=4, fc6_padding="VALID", norm="none", **common, **half
    ) == AlexNet(
        lrn=False, fc6_kernel=4, fc6_padding="VALID", norm="none", dtype=jnp.bfloat16, **common
    )
    assert _encoder(
        name="alexnet_bn", conv1_stride=2, dropout=0.5, fc6_padding="ADAPTIVE", **common
    ) == AlexNetBn(conv1_stride=2, dropout=0.5, fc6_padding="ADAPTIVE", **common)
    assert _encoder(name="resnet152", depth=50, variant="torch", **common, **half) == ResNet(
        depth=50, variant="torch", dtype=jnp.bfloat16, **common
    )
    assert _encoder(name="resnet18", stem="cifar") == ResNet(depth=18, stem="cifar")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet"}, "'alexnet', 'alexnet_bn', 'resnet152', 'resnet101', 'resnet50'"),
        ({"name": "resnet50", "depth": 101}, "name='resnet50' and config.model.depth=101"),
        ({"name": "resnet50", "norm": "none"}, "resnet50 keeps its batch norm"),
        ({"name": "resnet152", "norm": "none"}, "resnet152 keeps its batch norm"),
        ({"norm": "group"}, "norm is 'group'; known: 'batch', 'none', 'layer'"),
        ({"name": "zhang", "norm": "layer"}, "zhang has no layer norm"),
        ({"norm": "layer", "split": True}, "two halves of config.model.split"),
        ({"name": "resnet152", "depth": 33}, "depth is 33; known: 152, 101, 50, 26, 14, 34, 18"),
        ({"name": "resnet18", "stem": "tiny"}, "stem is 'tiny'; known: 'imagenet', 'cifar'"),
        ({"name": "alexnet_bn", "conv1_stride": 8}, "conv1_stride=8: give 4, or 2"),
        ({"name": "alexnet_bn", "dropout": 1.0}, "dropout=1.0: give a number from 0 to below 1"),
        ({"name": "resnet152", "variant": "tf"}, "variant is 'tf'; known: 'caffe', 'torch'"),
        ({"fc6_padding": "FULL"}, "fc6_padding is 'FULL'; known: 'SAME', 'VALID', 'ADAPTIVE'"),
        ({"norm_decay": 1.0}, "norm_decay=1.0: give a number from 0 to below 1"),
        ({"fc6_kernel": 6}, "must be odd in VGG-16"),
        ({"name": "alexnet", "fc6_kernel": -1}, "fc6_kernel=-1 must be positive"),
    ],
)
def test_what_a_network_does_not_have_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        _encoder(**settings)


@pytest.mark.parametrize(
    ("network", "setting", "value"),
    [("resnet50", "lrn", False), ("resnet152", "fc6_kernel", 3), ("alexnet", "depth", 50),
     ("vgg16", "variant", "torch")],
)  # fmt: skip
def test_a_setting_of_another_network_is_named(network, setting, value):
    config = default_config(network=network)
    assert setting not in config.model
    with config.unlocked():
        config.model[setting] = value
    with pytest.raises(ConfigError, match=f"config.model.{setting}: {network} has no such setting"):
        check_numbers(config)


def test_another_network_adds_its_settings_and_keeps_common_ones():
    config = default_config(network="vgg16")
    config.model.fc6_kernel, config.model.width = 3, 0.5
    choices.choose(config, "model", "alexnet")
    assert (config.model.fc6_kernel, config.model.width, config.model.lrn) == (3, 0.5, True)
    choices.choose(config, "model", "resnet50")
    assert "fc6_kernel" not in config.model and config.model.variant == "caffe"
    check_numbers(config)


def test_another_task_brings_its_settings_which_follow_the_config():
    config = default_config()
    choices.choose(config, "task", "segmentation")
    assert set(config.task) == {"name", "classes", "points", "edge_buffer"}
    config.data.crop = 224
    assert config.task.edge_buffer == 61 and config.eval.classes == ()
    choices.choose(config, "task", "classification")
    own = {"classes", "loss", "smoothing", "mixup", "cutmix"}
    assert set(config.task) == {"name", *own} and "hidden" not in config.model
    assert "classes" not in config.eval


def test_checkpoints_of_before_the_other_networks_are_read():
    settings = dict(_settings(fc6_kernel=7))
    for new in ("in_channels", "fc6_padding"):
        del settings[new]
    assert registry.make_encoder(ConfigDict(settings)) == Vgg16()


def test_an_older_run_with_an_explicit_size_of_fc6_resumes():
    before = same_run.plain(default_config())
    # Older configs had all settings for every network.
    before["model"] |= {"fc6_kernel": 7, "depth": 152, "lrn": True}
    assert same_run.differences(before, default_config()) == []
    before["model"]["fc6_kernel"] = 3
    assert same_run.differences(before, default_config()) == [
        "  config.model.fc6_kernel: 3 there, 7 here"
    ]
    resnet = default_config(network="resnet152")
    assert same_run.differences(same_run.plain(resnet), resnet) == []


@pytest.mark.parametrize(
    ("found", "ours", "message"),
    [
        (AlexNet(lrn=False), {"name": "alexnet"}, "lrn is True here and False there"),
        (AlexNet(fc6_kernel=3), {"name": "alexnet"}, "fc6_kernel is 6 here and 3 there"),
        (ResNet(depth=50), {"name": "resnet152"}, "depth is 152 here and 50 there"),
        (ResNet(variant="torch"), {"name": "resnet152"}, "variant is 'caffe' here and 'torch'"),
        (ResNet(depth=14), {"name": "vgg16"}, "name is 'vgg16' here and 'resnet14' there"),
        (ResNet(stem="cifar"), {"name": "resnet152"}, "stem is 'imagenet' here and 'cifar' there"),
        (AlexNet(), {"name": "alexnet_bn"}, "name is 'alexnet_bn' here and 'alexnet' there"),
        (Vgg16(split=True), {"name": "vgg16"}, "split is False here and True there"),
    ],
)
def test_a_start_from_another_network_is_refused(monkeypatch, found, ours, message):
    monkeypatch.setattr(start.reading, "saved_encoder", lambda path: found)
    config = default_config(network=ours["name"])
    config.init_from = "/ckpt/other"
    with pytest.raises(CheckpointError, match=message):
        start.check(config, registry.make_encoder(config.model), pathlib.Path("/ckpt"))


@pytest.mark.parametrize("network", [AlexNet, AlexNetBn])
def test_a_transfer_may_take_another_stride_of_the_first_convolution(monkeypatch, network):
    monkeypatch.setattr(start.reading, "saved_encoder", lambda path: network(conv1_stride=2))
    config = default_config(network=registry.name_of(network()))
    config.init_from, config.model.norm = "/ckpt/jigsaw", "none"
    encoder = registry.make_encoder(config.model)
    start.check(config, encoder, pathlib.Path("/ckpt"))
    strides = [registry.variable_shapes(encoder.clone(conv1_stride=stride)) for stride in (2, 4)]
    assert strides[0] == strides[1]


def test_response_norm_cannot_be_rebalanced(monkeypatch):
    monkeypatch.setattr(start.reading, "saved_encoder", lambda path: AlexNet(norm="none"))
    config = default_config(network="alexnet")
    config.init_from, config.rebalance_photos, config.model.norm = "/ckpt/alexnet", 10, "none"
    with pytest.raises(ConfigError, match=r"local response norm computes.*config.model.lrn=False"):
        start.check(config, registry.make_encoder(config.model), pathlib.Path("/ckpt"))
    config.model.lrn = False
    monkeypatch.setattr(start.reading, "saved_encoder", lambda p: AlexNet(norm="none", lrn=False))
    start.check(config, registry.make_encoder(config.model), pathlib.Path("/ckpt"))


@pytest.mark.parametrize("name", registry.names())
def test_missing_settings_have_the_defaults_of_the_config(name):
    usual = default_config(network=name).model
    found = registry.with_defaults({"name": name})
    assert found == {key: usual[key] for key in found}
    assert found.keys() >= {"width", "in_channels", "norm", "norm_decay", "remat", "dtype"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
# Of ResNets one: they differ in depth alone.
@pytest.mark.parametrize(
    "network", [name for name in registry.names() if name in ("resnet14",) or "resnet" not in name]
)
def test_no_type_is_promoted_unless_it_is_said(network, dtype):
    """Half precision that becomes single precision unseen takes twice the memory."""
    config = default_config(network=network)
    config.model.width, config.model.dtype = 1 / 16, dtype
    if "blocks" in config.model:
        config.model.blocks = 1  # All blocks are alike.
    encoder = registry.make_encoder(config.model)
    image = jax.ShapeDtypeStruct((2, 64, 64, encoder.in_channels), jnp.float32)

    def loss(variables, image, key):
        maps, _ = encoder.apply(variables, image, True, rngs={"dropout": key}, mutable=True)
        return sum(x.astype(jnp.float32).sum() for x in maps.values())

    def gradient(image):
        variables = encoder.init(jax.random.key(0), image)
        return jax.grad(lambda params: loss(variables | params, image, jax.random.key(0)))(
            {"params": variables["params"]}
        )

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(gradient, image)
