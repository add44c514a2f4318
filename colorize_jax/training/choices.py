"""What is chosen by name, an optimizer or a schedule, has settings of its own."""

from collections.abc import Collection, Mapping
from typing import Any

from colorize_jax.errors import ConfigError


def known_settings(where: str, name: str, known: Mapping[str, Mapping]) -> Mapping[str, Any]:
    """The settings of a choice; ConfigError if there is none of that name."""
    if name not in known:
        raise ConfigError(f"{where}.name is {name!r}; known: {', '.join(known)}")
    return known[name]


def own_settings(
    where: str, settings: Mapping[str, Any], known: Mapping[str, Mapping], common: Collection[str]
) -> dict[str, Any]:
    """The settings that only the chosen one has, {name: value}; what is not set has its default.

    Args:
        where: they stand, as in "config.optimizer".
        settings: with `name`, the chosen one.
        known: name -> its own settings with their defaults.
        common: settings that all have.

    Raises:
        ConfigError: there is no such name, or a setting that it does not know.
    """
    name = settings["name"]
    own = known_settings(where, name, known)
    for setting in settings:
        if setting not in own and setting not in common:
            raise ConfigError(
                f"{where}.{setting} is no setting of {name!r}, which has "
                f"{', '.join(own) or 'none of its own'}"
            )
    return {setting: settings.get(setting, default) for setting, default in own.items()}
