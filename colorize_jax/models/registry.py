"""The trunks by name, built from `config.model`."""

import jax
import jax.numpy as jnp

from colorize_jax.config import default_config
from colorize_jax.errors import ConfigError
from colorize_jax.models.finetune import frozen_layers
from colorize_jax.models.vgg16 import Vgg16

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
NORMS = ("batch", "none")
IN_CHANNELS = (1, 3)
FC6_PADDINGS = ("SAME", "VALID")

# Of settings that older checkpoints were saved without.
_SINCE = {"in_channels": 1, "fc6_padding": "SAME"}


def _vgg16(settings, **common):
    return Vgg16(
        width=settings["width"],
        fc6_kernel=settings["fc6_kernel"],
        fc6_padding=settings["fc6_padding"],
        **common,
    )


ENCODERS = {"vgg16": _vgg16}


def make_trained_encoder(config, axis_name: str | None = None):
    """The encoder of a run, with the layers frozen that `config.finetune` leaves alone."""
    encoder = make_encoder(config.model, axis_name)
    return encoder.clone(frozen=frozen_layers(config.finetune, encoder.layers))


def make_encoder(settings, axis_name: str | None = None):
    """The encoder that `config.model` describes.

    Args:
        settings: `config.model`, of a run or as an older checkpoint holds it.
        axis_name: see `norm.BatchNorm`.

    Raises:
        ConfigError: names a setting that is unknown.
    """
    settings = _SINCE | dict(settings)
    for name, known in (
        ("name", ENCODERS),
        ("dtype", DTYPES),
        ("norm", NORMS),
        ("in_channels", IN_CHANNELS),
        ("fc6_padding", FC6_PADDINGS),
    ):
        if settings[name] not in known:
            raise ConfigError(
                f"config.model.{name} is {settings[name]!r}; known: {', '.join(map(repr, known))}"
            )
    if settings["width"] <= 0 or settings["hidden"] < 1:
        raise ConfigError("config.model.width and config.model.hidden must be positive")
    if settings["fc6_kernel"] < 1 or settings["fc6_kernel"] % 2 == 0:
        raise ConfigError(
            f"config.model.fc6_kernel={settings['fc6_kernel']} must be odd and positive"
        )
    return ENCODERS[settings["name"]](
        settings,
        in_channels=settings["in_channels"],
        norm=settings["norm"],
        remat=settings["remat"],
        dtype=DTYPES[settings["dtype"]],
        axis_name=axis_name,
    )


def complete(settings: dict) -> dict:
    """Some of `config.model`'s settings with the defaults of the others."""
    return default_config().model.to_dict() | settings


def variable_shapes(encoder) -> dict:
    """{"params": ..., "batch_stats": ...} of an encoder, as shapes; nothing is computed."""
    side = max(64, encoder.smallest_input)
    image = jax.ShapeDtypeStruct((1, side, side, encoder.in_channels), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), image)
