"""Python files that describe runs: recipes with `get_config`, studies with `get_study`."""

import ast
import contextlib
import importlib.util
import os
import textwrap
import traceback
import types

from ml_collections import ConfigDict

from colorize_jax import paths
from colorize_jax.config.settings import check_numbers, default_config
from colorize_jax.errors import ColorizeError, ConfigError


def load_file(path: str, function: str) -> types.ModuleType:
    """A Python file as a module; ConfigError if it cannot be read or lacks the function."""
    path = paths.expand(path)
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or not os.path.isfile(path):
        raise ConfigError(f"there is no file {path}, or it is not Python")
    module = importlib.util.module_from_spec(spec)
    with explained(path):
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"{path} has no function {function}")
    return module


@contextlib.contextmanager
def explained(path: str):
    """ConfigError with the line of the file, in place of whatever its own code raises inside."""
    try:
        yield
    except ColorizeError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == os.path.abspath(path)]
        if isinstance(error, SyntaxError) and error.filename in (os.path.abspath(path), None):
            what, lines = error.msg, [error.lineno]
        else:
            what = f"{type(error).__name__}: {textwrap.shorten(str(error), 300)}"
        where = f", line {lines[-1]}," if lines and lines[-1] else ""
        raise ConfigError(f"{path}{where} cannot be read: {what}") from None


def read_config(recipe: str) -> ConfigDict:
    """The config that `--config=FILE:VARIANT` names.

    Raises:
        ConfigError: with the line where the file's own code fails; or it gives no complete config.
    """
    path, _, variant = recipe.partition(":")
    module = load_file(path, "get_config")
    with explained(path):
        config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config must give a ConfigDict and gives {config!r:.50}")
    if lacking := sorted(_names(default_config()) - _names(config)):
        raise ConfigError(
            f"{path}: the config of get_config has no {lacking[0]}; let it begin with that of "
            "colorize_jax.config.default_config()"
        )
    return config


def _names(config: ConfigDict, prefix: str = "") -> set[str]:
    """Of all settings, as in model.width."""
    found = set()
    for name in config:
        inner = config[name]
        is_group = isinstance(inner, ConfigDict)
        found |= _names(inner, f"{prefix}{name}.") if is_group else {prefix + name}
    return found


def load_config(recipe: str, changes: list[str] = ()) -> ConfigDict:
    """The config that `--config=FILE:VARIANT` names, for commands without absl's flags.

    Args:
        recipe: the path of a file with `get_config(variant="")`, and the variant after a colon.
        changes: "NAME=VALUE", as in "model.width=0.5".
    """
    config = read_config(recipe)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: give NAME=VALUE")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            config.update_from_flattened_dict({name: value})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--set {change}: {reason}") from None
    paths.expand_settings(config)
    check_numbers(config)
    return config
