"""Finds encoders by name and builds them from `config.model`."""

from collections.abc import Mapping
import re
from typing import Any

import jax
import jax.numpy as jnp

from colorize_jax.config import choices
from colorize_jax.errors import ConfigError
from colorize_jax.models.alexnet import AlexNet
from colorize_jax.models.alexnet_bn import AlexNetBn
from colorize_jax.models.encoder import Encoder, check_known
from colorize_jax.models.finetune import frozen_layers
from colorize_jax.models.nin import Nin
from colorize_jax.models.resnet import DEPTHS, ResNet
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.models.vit import Vit
from colorize_jax.models.zhang import Zhang

RESNETS = {f"resnet{depth}": ResNet for depth in DEPTHS}
ENCODERS = {
    "vgg16": Vgg16,
    "alexnet": AlexNet,
    "alexnet_bn": AlexNetBn,
    **RESNETS,
    "zhang": Zhang,
    "vit": Vit,
    "nin": Nin,
}
NORMS = ("batch", "none", "layer")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
IN_CHANNELS = (1, 3)
# `config.model` sets these attributes of every encoder; it has the same defaults.
_COMMON = ("width", "in_channels", "norm", "norm_decay", "remat")


def names() -> tuple[str, ...]:
    """The names of this package's encoders."""
    return tuple(ENCODERS)


def find_encoder(name: str) -> type[Encoder]:
    """The class that `config.model.name` names: an encoder of this package, or "module:Class".

    Raises:
        ConfigError: there is no such encoder.
    """
    if ":" not in name:
        check_known("name", name, (*ENCODERS, "module:Class"))
        return ENCODERS[name]
    found = choices.load("model.name", name)[1]
    if not (isinstance(found, type) and issubclass(found, Encoder)):
        raise ConfigError(
            f"config.model.name={name!r} is no subclass of colorize_jax.models.encoder.Encoder"
        )
    return found


def own_settings(name: str) -> Mapping[str, Any]:
    """The own settings of a network in `config.model`; see `choices`."""
    return find_encoder(name).SETTINGS


def make_trained_encoder(config, axis_name: str | None = None):
    """The encoder of a run, with the frozen layers of `config.finetune`."""
    encoder = make_encoder(config.model, axis_name)
    return encoder.clone(frozen=frozen_layers(config.finetune, encoder.layers))


def make_encoder(settings, axis_name: str | None = None):
    """Makes the encoder that `config.model` describes.

    Args:
        settings: `config.model` of a run or of an older checkpoint. A missing setting has its
            default.
        axis_name: see `norm.BatchNorm`.

    Raises:
        ConfigError: a setting is unknown, invalid, or not one of the network; the message names it.
    """
    settings = by_depth(settings)
    for name, known in (("dtype", DTYPES), ("norm", NORMS), ("in_channels", IN_CHANNELS)):
        check_known(name, settings[name], known)
    network = settings["name"]
    encoder = find_encoder(network)
    if settings["norm"] == "none" and not encoder.absorbs:
        raise ConfigError(
            f"config.model.norm='none': {network} keeps its batch norm, which is never absorbed; "
            "set config.model.norm='batch'"
        )
    if settings["norm"] == "layer" and settings.get("split"):
        raise ConfigError(
            "config.model.norm='layer' would let the two halves of config.model.split see each "
            "other; set config.model.norm='batch'"
        )
    if settings["norm"] == "layer" and not encoder.layer_norm:
        raise ConfigError(
            f"config.model.norm='layer': {network} has no layer norm; set config.model.norm='batch'"
        )
    if not 0 <= settings["norm_decay"] < 1:
        raise ConfigError(
            f"config.model.norm_decay={settings['norm_decay']}: give a number from 0 to below 1"
        )
    if settings["width"] <= 0:
        raise ConfigError(f"config.model.width={settings['width']} must be positive")
    own = {name: settings[name] for name in encoder.SETTINGS}
    if own.get("fc6_kernel") == 0:  # 0 means the network's own size.
        own["fc6_kernel"] = encoder.fc6_kernel
    encoder.check_settings(own)
    if own.get("split") and settings["in_channels"] != 3:
        raise ConfigError(
            "config.model.split=True: one half of the network sees a and b of color photos, so set "
            "config.model.in_channels=3"
        )
    return encoder(
        **own,
        **{name: settings[name] for name in _COMMON},
        dtype=DTYPES[settings["dtype"]],
        axis_name=axis_name,
    )


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings of `config.model`, and the defaults of all others that encoders have."""
    name = dict(settings).get("name", "vgg16")
    common = {key: getattr(Encoder, key) for key in _COMMON}
    return {"name": name, "dtype": "float32", **common, **own_settings(name), **settings}


def by_depth(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of `config.model`, with a ResNet named by its depth, such as "resnet50".

    Older configs name every ResNet "resnet152" and set `depth`.

    Raises:
        ConfigError: the name and the depth contradict each other.
    """
    settings = with_defaults(settings)
    called = re.fullmatch(r"resnet(\d{1,9})", str(settings["name"]))
    if not called:
        return settings
    usual, named, depth = ResNet.depth, int(called[1]), settings["depth"]
    if named != usual and depth in (usual, named):
        depth = named
    elif named not in (usual, depth):
        raise ConfigError(
            f"config.model.name={settings['name']!r} and config.model.depth={depth} are of two "
            "networks: leave one of them out"
        )
    return settings | {"name": f"resnet{depth}" if depth in DEPTHS else "resnet152", "depth": depth}


def name_of(encoder) -> str:
    """The name of an encoder in `config.model.name`."""
    if isinstance(encoder, ResNet):
        return f"resnet{encoder.depth}"
    kind = type(encoder)
    names = (name for name, known in ENCODERS.items() if known is kind)
    return next(names, f"{kind.__module__}:{kind.__qualname__}")


def variable_shapes(encoder) -> dict:
    """The shapes of an encoder's {"params": ..., "batch_stats": ...}; nothing is computed."""
    return jax.eval_shape(encoder.init, jax.random.key(0), _smallest_image(encoder))


def has_batch_norm(encoder) -> bool:
    """Whether an encoder has running averages of batch norm; nothing is computed."""
    return "batch_stats" in variable_shapes(encoder)


def random_variables(encoder, seed: int) -> dict:
    """The variables of an encoder at a random start: {"params": ..., "batch_stats": ...}."""
    side = max(64, encoder.smallest_input)
    image = jnp.zeros((1, side, side, encoder.in_channels))
    return jax.jit(encoder.init)(jax.random.key(seed), image)


def activation_shapes(encoder) -> dict:
    """The shapes of an encoder's {layer: [batch, h, w, channels]}; nothing is computed."""
    return jax.eval_shape(encoder.apply, variable_shapes(encoder), _smallest_image(encoder))


def _smallest_image(encoder) -> jax.ShapeDtypeStruct:
    side = max(64, encoder.smallest_input)
    return jax.ShapeDtypeStruct((1, side, side, encoder.in_channels), jnp.float32)


def own_fc6_kernel(name: str) -> int:
    """The side of fc6's kernel if the config has 0; 0 if the network has no fc6."""
    return getattr(ENCODERS.get(name), "fc6_kernel", 0)
