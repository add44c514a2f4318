"""Paths as people write them: with ~ and $HOME, which a shell does not always replace."""

import argparse
import os
import re

from colorize_jax.errors import ConfigError

# Settings that name a place, or may: a list of photos is known by its name, or by its path.
SETTINGS = (
    "init_from", "schedule_from", "replay", "data.source", "data.sbd", "data.split",
    "data.eval_split", "evals.knn.source", "evals.linear.source",
)  # fmt: skip


def expand(path: str) -> str:
    """A path with ~, ~user, $NAME and ${NAME} replaced; one that exists as it stands is left alone.

    Raises:
        ConfigError: there is no such user or variable: a folder of that name would be a trap.
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
    """`expand` for every setting of a config that names a place, in place; of a source for each
    of several."""
    for name in SETTINGS:
        *groups, field = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        value = group[field]
        if isinstance(value, str):
            group[field] = expand_source(value) if field == "source" else expand(value)


def expand_source(spec: str) -> str:
    """`expand` for each part of "A,B"; a comma of a path that exists is left alone."""
    if os.path.lexists(spec):
        return spec
    return ",".join(expand(part.strip()) for part in spec.split(","))


def argument(text: str) -> str:
    """`expand`, as the type of an argument of a command."""
    try:
        return expand(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
