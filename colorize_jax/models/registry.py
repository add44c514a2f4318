"""The trunks by name, built from `config.model`."""

from collections.abc import Mapping
import re
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.config.settings import default_config
from colorize_jax.errors import ConfigError
from colorize_jax.models.alexnet import AlexNet
from colorize_jax.models.finetune import frozen_layers
from colorize_jax.models.resnet import DEPTHS, VARIANTS, ResNet
from colorize_jax.models.vgg16 import Vgg16

RESNETS = {f"resnet{depth}": ResNet for depth in DEPTHS}
ENCODERS = {"vgg16": Vgg16, "alexnet": AlexNet, **RESNETS}
NORMS = ("batch", "none")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
IN_CHANNELS = (1, 3)
FC6_PADDINGS = ("SAME", "VALID")

# What a network reads besides what all of them do; the others must be left as they are.
_OWN = {
    "vgg16": ("fc6_kernel", "fc6_padding"),
    "alexnet": ("fc6_kernel", "fc6_padding", "lrn"),
    **dict.fromkeys(RESNETS, ("depth", "variant")),
}


def make_trained_encoder(config, axis_name: str | None = None):
    """The encoder of a run, with the layers frozen that `config.finetune` leaves alone."""
    encoder = make_encoder(config.model, axis_name)
    return encoder.clone(frozen=frozen_layers(config.finetune, encoder.layers))


def make_encoder(settings, axis_name: str | None = None):
    """The encoder that `config.model` describes.

    Args:
        settings: `config.model`, of a run or as an older checkpoint holds it; what is not there
            has its default.
        axis_name: see `norm.BatchNorm`.

    Raises:
        ConfigError: names a setting that is unknown, or that the network does not have.
    """
    usual = with_defaults({})
    settings = by_depth(settings)
    for name, known in (
        ("name", ENCODERS),
        ("dtype", DTYPES),
        ("norm", NORMS),
        ("in_channels", IN_CHANNELS),
        ("fc6_padding", FC6_PADDINGS),
        ("variant", VARIANTS),
        ("depth", DEPTHS),
    ):
        _check(name, settings[name], known)
    network, own = settings["name"], _OWN[settings["name"]]
    encoder = ENCODERS[network]
    if settings["norm"] == "none" and not encoder.absorbs:
        raise ConfigError(
            f"config.model.norm='none': {network} keeps its batch norm, which is never absorbed; "
            "set config.model.norm='batch'"
        )
    for name in sorted(foreign(network)):
        if settings[name] != usual[name]:
            raise ConfigError(
                f"config.model.{name}={settings[name]!r}: {network} has no such setting; leave it "
                f"at {usual[name]!r}"
            )
    # A 0 stands for the network's own number.
    settings["fc6_kernel"] = settings["fc6_kernel"] or own_fc6_kernel(network)
    if not 0 <= settings["norm_decay"] < 1:
        raise ConfigError(
            f"config.model.norm_decay={settings['norm_decay']}: give a number from 0 to below 1"
        )
    if settings["width"] <= 0 or settings["hidden"] < 1:
        raise ConfigError("config.model.width and config.model.hidden must be positive")
    if "fc6_kernel" in own and settings["fc6_kernel"] < 1:
        raise ConfigError(f"config.model.fc6_kernel={settings['fc6_kernel']} must be positive")
    if network == "vgg16" and settings["fc6_kernel"] % 2 == 0:
        raise ConfigError(f"config.model.fc6_kernel={settings['fc6_kernel']} must be odd in VGG-16")
    return encoder(
        **{name: settings[name] for name in own},
        width=settings["width"],
        in_channels=settings["in_channels"],
        norm=settings["norm"],
        norm_decay=settings["norm_decay"],
        remat=settings["remat"],
        dtype=DTYPES[settings["dtype"]],
        axis_name=axis_name,
    )


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Some of `config.model`'s settings, with the defaults of the others."""
    return default_config().model.to_dict() | dict(settings)


def by_depth(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model`'s settings, complete, with a ResNet called by its depth: "resnet50".

    The name says the depth, or `depth` does: "resnet152" with another depth is how all ResNets were
    called once.

    Raises:
        ConfigError: name and depth are of two networks.
    """
    usual, settings = with_defaults({}), with_defaults(settings)
    called = re.fullmatch(r"resnet(\d{1,9})", str(settings["name"]))
    if not called:
        return settings
    named, depth = int(called[1]), settings["depth"]
    if named != usual["depth"] and depth in (usual["depth"], named):
        depth = named
    elif named not in (usual["depth"], depth):
        raise ConfigError(
            f"config.model.name={settings['name']!r} and config.model.depth={depth} are of two "
            "networks: leave one of them out"
        )
    return settings | {"name": f"resnet{depth}" if depth in DEPTHS else "resnet152", "depth": depth}


def family(name: str) -> type | None:
    """The class of the networks that are called so: one for all ResNets; None if there is none."""
    return ENCODERS.get(name)


def foreign(name: str) -> set[str]:
    """Settings of `config.model` that a network of that name does not have, but others do."""
    return {setting for own in _OWN.values() for setting in own}.difference(_OWN.get(name, ()))


def name_of(encoder) -> str:
    """What `config.model.name` is for an encoder."""
    if isinstance(encoder, ResNet):
        return f"resnet{encoder.depth}"
    return next(name for name, kind in ENCODERS.items() if isinstance(encoder, kind))


def variable_shapes(encoder) -> dict:
    """{"params": ..., "batch_stats": ...} of an encoder, as shapes; nothing is computed."""
    return jax.eval_shape(encoder.init, jax.random.key(0), _smallest_image(encoder))


def activation_shapes(encoder) -> dict:
    """{layer: [batch, h, w, channels]} of an encoder, as shapes; nothing is computed."""
    return jax.eval_shape(encoder.apply, variable_shapes(encoder), _smallest_image(encoder))


def _smallest_image(encoder) -> jax.ShapeDtypeStruct:
    side = max(64, encoder.smallest_input)
    return jax.ShapeDtypeStruct((1, side, side, encoder.in_channels), jnp.float32)


def own_fc6_kernel(name: str) -> int:
    """The side of the kernel of fc6 that a network has if the config has 0; 0 if it has no fc6."""
    return getattr(ENCODERS.get(name), "fc6_kernel", 0)


def _check(name, value, known):
    if value not in known:
        raise ConfigError(f"config.model.{name} is {value!r}; known: {', '.join(map(repr, known))}")
