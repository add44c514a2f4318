"""Reads Python files that describe runs: recipes with `get_config`, studies with `get_study`."""

import ast
from collections.abc import Sequence
import contextlib
import difflib
import importlib.util
import os
import pathlib
import textwrap
import traceback
import types
from typing import Any

from ml_collections import ConfigDict

from colorize_jax import paths
from colorize_jax.config import choices
from colorize_jax.config.settings import check_numbers, default_like
from colorize_jax.errors import ColorizeError, ConfigError

_PACKAGE = pathlib.Path(__file__).parent.parent
# These settings decide which other settings their groups have.
_CHOICES = ("task.name", "model.name", "optimizer.name", "schedule.name")
_ANY_NAMES = ("optimizer.groups",)  # Settings of these groups may have any name.
_KINDS = {
    bool: "True or False", int: "a whole number", float: "a number",
    ConfigDict: "settings with their values, as in {'head': {'rate': 0.1}}",
}  # fmt: skip


def shipped(function: str = "get_config") -> dict[str, pathlib.Path]:
    """{name: file} of the recipes that ship with this package, or of its studies ("get_study")."""
    installed = _PACKAGE / "recipes"  # setup.py copies configs/ of a checkout to this folder.
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    folder = folder / "studies" if function == "get_study" else folder
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def load_file(name: str, function: str) -> types.ModuleType:
    """Loads a Python file as a module; ConfigError if it cannot be read or lacks the function.

    Args:
        name: the path of a file, or the name of one that ships with the package.
        function: the function that it must have, such as "get_config" or "get_study".
    """
    known = shipped(function)
    path = str(known[name]) if name in known else paths.expand(name)
    if not os.path.isfile(path):
        kind = "study" if function == "get_study" else "recipe"
        raise ConfigError(
            f"there is no file {path}, and no {kind} of this name; known: {', '.join(known)}"
        )
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None:
        raise ConfigError(f"{path} is not Python")
    module = importlib.util.module_from_spec(spec)
    with explained(path):
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ConfigError(f"{path} has no function {function}")
    return module


@contextlib.contextmanager
def explained(path: str):
    """Replaces any error of the file's own code by a ConfigError that names the line."""
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
    """The config that `--config=RECIPE` names.

    Args:
        recipe: the name of a recipe that ships with the package, or the path of a file, with
            variants after a colon.

    Raises:
        ConfigError: the file's own code fails (the message names the line), or it returns no
            complete config.
    """
    name, _, variant = recipe.partition(":")
    module = load_file(name, "get_config")
    path = module.__file__
    with explained(path):
        config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config must give a ConfigDict and gives {config!r:.50}")
    if lacking := sorted(_names(default_like(config)) - _names(config)):
        raise ConfigError(
            f"{path}: the config of get_config has no {lacking[0]}; let it begin with that of "
            "colorize_jax.config.default_config()"
        )
    return config


def _names(config: ConfigDict, prefix: str = "") -> set[str]:
    """The names of all settings, such as model.width."""
    found = set()
    for name in config:
        inner = config[name]
        is_group = isinstance(inner, ConfigDict)
        found |= _names(inner, f"{prefix}{name}.") if is_group else {prefix + name}
    return found


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into changes of settings and all other words.

    Returns:
        changes: "NAME=VALUE" for every `--config.NAME=VALUE` or `--config.NAME VALUE`; "NAME" for a
            `--config.NAME` without a value, which turns a setting on.
        others: the rest, in order.
    """
    changes, others, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--config."):
            others.append(word)
            continue
        if "=" not in word and left and not left[0].startswith("--"):
            word = f"{word}={left.pop(0)}"
        changes.append(word.removeprefix("--config."))
    return changes, others


def stated(changes: Sequence[str]) -> frozenset[str]:
    """The names of the settings in these changes, such as "model.width"."""
    return frozenset(change.partition("=")[0] for change in changes)


def load_config(recipe: str, changes: Sequence[str] = ()) -> ConfigDict:
    """The config that `--config=RECIPE --config.NAME=VALUE` names.

    Args:
        recipe: see `read_config`.
        changes: "NAME=VALUE", such as "model.width=0.5", in any order; only "NAME" turns a setting
            on. A setting that depends on another one, such as task.edge_buffer on the crop, follows
            its change.

    Raises:
        ConfigError: the recipe cannot be read, or a setting does not exist or is invalid.
    """
    config = read_config(recipe)
    change(config, changes)
    paths.expand_settings(config)
    check_numbers(config)
    return config


def change(config: ConfigDict, changes: Sequence[str]) -> None:
    """Applies changes (see `load_config`) in place; paths are not expanded.

    Raises:
        ConfigError: a setting does not exist, or a value has the wrong kind.
    """
    pairs = [change.partition("=") for change in changes]
    for name, equals, text in sorted(pairs, key=lambda pair: pair[0] not in _CHOICES):
        _change(config, name, text if equals else None)
    config.lock()


def _change(config: ConfigDict, name: str, text: str | None) -> None:
    """Sets a setting to a value from a command line; None if there is no value."""
    *groups, field = name.split(".")
    group = config
    for part in groups:
        group = group.get(part) if isinstance(group, ConfigDict) else None
    if not isinstance(group, ConfigDict) or field not in group:
        close = difflib.get_close_matches(name, _names(config), 1)
        hint = f"Did you mean {close[0]}?" if close else "--help=settings lists all."
        raise ConfigError(f"the config has no field {name}. {hint}")
    kind = group.get_type(field)
    if kind is ConfigDict and name not in _ANY_NAMES:
        raise ConfigError(f"config.{name} is a group of settings: give one of them a value")
    if text is None and kind is not bool:
        raise ConfigError(f"config.{name} needs a value: --config.{name}=VALUE")
    try:
        value = True if text is None else _value(text, kind)
    except ValueError:
        raise ConfigError(f"config.{name}={text} must be {_KINDS[kind]}") from None
    if name in _CHOICES:
        choices.choose(config, groups[0], value)
    else:
        group[field] = value


def _value(text: str, kind: type) -> Any:
    """The value of a command line's text for a setting of this kind; ValueError if invalid."""
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    if kind is tuple:
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(text)
            return tuple(value) if isinstance(value, tuple | list) else (value,)
        # Names without quotes, as in cat,dog.
        return tuple(part.strip() for part in text.strip("()").split(",") if part.strip())
    if kind is ConfigDict:
        with contextlib.suppress(SyntaxError, TypeError):
            return ConfigDict(ast.literal_eval(text))
        raise ValueError(text)
    return kind(text)
