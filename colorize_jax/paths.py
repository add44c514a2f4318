"""Expands ~ and $HOME in paths, because a shell does not always replace them."""

import argparse
import os
import re

from colorize_jax.errors import ConfigError

# Settings that are or may be paths: a list of photos is given by its name or by its path.
SETTINGS = (
    "init_from", "schedule_from", "replay", "data.source", "data.sbd", "data.split",
    "data.eval_split", "evals.knn.source", "evals.linear.source", "evals.spread.source",
)  # fmt: skip
_FILE = "file:"  # how a path in config.data.relabel begins


def expand(path: str) -> str:
    """Replaces ~, ~user, $NAME and ${NAME} in a path; a path that exists as written is kept.

    Raises:
        ConfigError: the user or variable does not exist. A folder of that name would be a trap.
    """
    if (not path.startswith("~") and "$" not in path) or os.path.lexists(path):
        return path
    found = os.path.expandvars(os.path.expanduser(path))
    if unknown := re.search(r"^~[^/]*|\$(\w+|\{\w+\})", found):
        raise ConfigError(
            f"{path}: there is no {'user' if found.startswith('~') else 'variable'} {unknown[0]} "
            "in the environment"
        )
    return found


def expand_settings(config) -> None:
    """Expands all settings of a config that are paths, in place, and every part of a source."""
    for name in SETTINGS:
        *groups, field = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        value = group[field]
        if isinstance(value, str):
            group[field] = expand_source(value) if field == "source" else expand(value)
    if config.data.relabel.startswith(_FILE):
        config.data.relabel = _FILE + expand(config.data.relabel.removeprefix(_FILE))


def expand_source(spec: str) -> str:
    """Expands each part of "A,B"; a comma inside a path that exists does not split it."""
    if os.path.lexists(spec):
        return spec
    return ",".join(expand(part.strip()) for part in spec.split(","))


def argument(text: str) -> str:
    """`expand` as the type of a command's argument."""
    try:
        return expand(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
