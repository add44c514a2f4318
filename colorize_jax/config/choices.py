"""What a config chooses by name, and the settings that each choice brings with it.

`config.task`, `config.model`, `config.optimizer` and `config.schedule` have a `name` each. Beside
the settings that all choices share, a config holds those of what it has chosen and no others, so
that a setting which means nothing is an error by name.
"""

from collections.abc import Callable
import importlib
import traceback
from typing import Any

from ml_collections import ConfigDict

from colorize_jax.errors import ConfigError

# {group: the module with `names()` and `own_settings(name)`}. They are imported on use, like a
# user's own task, because their rooms are above this one.
GROUPS = {
    "task": "colorize_jax.tasks.registry",
    "model": "colorize_jax.models.registry",
    "optimizer": "colorize_jax.training.optimizers",
    "schedule": "colorize_jax.training.schedules",
}
# The default of a setting: a value, or a function of the config, for example a share of the crop.
Default = Any | Callable[[ConfigDict], Any]


def load(setting: str, name: str) -> tuple[Any, Any]:
    """(module, object) of a name "module:object", for what users bring from their own files.

    Args:
        setting: the setting with this value, such as "task.name", for errors.
        name: the name "module:object".

    Raises:
        ConfigError: the module cannot be imported, or has no such object.
    """
    place, _, attribute = name.partition(":")
    said = f"config.{setting}={name!r}"
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{said}: there is no module {place!r}, neither in the folder of the command nor "
                "among the installed packages (PYTHONPATH adds folders)"
            ) from None
        raise ConfigError(f"{said}: {place} cannot be imported: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise ConfigError(
            f"{said}: {place} cannot be imported: {type(error).__name__}: {error}{where}"
        ) from error
    if not hasattr(module, attribute):
        raise ConfigError(f"{said}: the module {place} has no {attribute!r}")
    return module, getattr(module, attribute)


def names(group: str) -> tuple[str, ...]:
    """The choices of this package."""
    return importlib.import_module(GROUPS[group]).names()


def own_settings(group: str, name: str) -> dict[str, Default]:
    """The settings that a choice brings: {"task.points": 128, "model.hidden": 1024, ...}.

    Raises:
        ConfigError: there is no choice of that name.
    """
    found = importlib.import_module(GROUPS[group]).own_settings(name)
    return {key if "." in key else f"{group}.{key}": value for key, value in found.items()}


def add(config: ConfigDict, group: str, name: str) -> None:
    """Sets `config.<group>.name`, and the settings of that choice to their defaults."""
    own = own_settings(group, name)
    with config.unlocked():
        config[group].name = name
        for key, default in own.items():
            place, _, setting = key.partition(".")
            config[place][setting] = default(config) if callable(default) else default


def choose(config: ConfigDict, group: str, name: str) -> None:
    """Takes another task, network, optimizer or schedule, in place.

    The settings of the old choice go. Those of the new one get their defaults, but for settings
    that both have with the same default, which keep their values.

    Raises:
        ConfigError: there is no choice of that name.
    """
    before, after = (own_settings(group, each) for each in (config[group].name, name))
    with config.unlocked():
        kept = {}
        for key, default in before.items():
            place, _, setting = key.partition(".")
            if key in after and after[key] == default:
                kept[key] = config[place].get_ref(setting)
            del config[place][setting]
        add(config, group, name)
        for key, value in kept.items():
            place, _, setting = key.partition(".")
            config[place][setting] = value
