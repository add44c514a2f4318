"""Python files that describe runs: recipes with `get_config`, studies with `get_study`."""

import ast
import importlib.util
import os
import types

from ml_collections import ConfigDict

from colorize_jax import paths
from colorize_jax.errors import ConfigError


def load_file(path: str, function: str) -> types.ModuleType:
    """A Python file as a module; ConfigError if it cannot be read or lacks the function."""
    path = paths.expand(path)
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or not os.path.isfile(path):
        raise ConfigError(f"there is no file {path}, or it is not Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the file's own code raises
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not hasattr(module, function):
        raise ConfigError(f"{path} has no function {function}")
    return module


def load_config(recipe: str, changes: list[str] = ()) -> ConfigDict:
    """The config that `--config=FILE:VARIANT` names, for commands without absl's flags.

    Args:
        recipe: the path of a file with `get_config(variant="")`, and the variant after a colon.
        changes: "NAME=VALUE", as in "model.width=0.5".
    """
    path, _, variant = recipe.partition(":")
    module = load_file(path, "get_config")
    config = module.get_config(variant) if variant else module.get_config()
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
    return config
