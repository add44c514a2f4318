"""The trunks by name, built from `config.model`."""

import jax.numpy as jnp

from colorize_jax.errors import ConfigError
from colorize_jax.models.vgg16 import Vgg16

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
NORMS = ("batch", "none")


def _vgg16(settings, **common):
    return Vgg16(width=settings.width, fc6_kernel=settings.fc6_kernel, **common)


ENCODERS = {"vgg16": _vgg16}


def make_encoder(settings, axis_name: str | None = None):
    """The encoder that `config.model` describes; ConfigError names a setting that is unknown."""
    for name, known in (("name", ENCODERS), ("dtype", DTYPES), ("norm", NORMS)):
        if settings[name] not in known:
            raise ConfigError(
                f"config.model.{name} is {settings[name]!r}; known: {', '.join(map(repr, known))}"
            )
    if settings.width <= 0 or settings.hidden < 1:
        raise ConfigError("config.model.width and config.model.hidden must be positive")
    if settings.fc6_kernel < 1 or settings.fc6_kernel % 2 == 0:
        raise ConfigError(f"config.model.fc6_kernel={settings.fc6_kernel} must be odd and positive")
    return ENCODERS[settings.name](
        settings,
        norm=settings.norm,
        remat=settings.remat,
        dtype=DTYPES[settings.dtype],
        axis_name=axis_name,
    )
