"""What `--help` of a command shows: its own flags, the recipes, and every setting.

Settings and their comments are read from the source of config/settings.py, recipes from the
docstrings of their files, so that each is written in one place. No recipe is run for it.
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
import dataclasses
import inspect
import os
import pathlib
import re
import sys
import textwrap

from ml_collections import ConfigDict

from colorize_jax.config import settings as settings_module

WIDTH = 100
FLAGS = ("-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull")
_SEE = "Recipes and settings of runs: python -m colorize_jax.main --help\n"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One line of `default_config`.

    Attributes:
        name: as in "model.width"; of a section, as in "model".
        default: its value; a ConfigDict of a section.
        comment: what config/settings.py says of it, in one line.
    """

    name: str
    default: object
    comment: str


def settings() -> list[Setting]:
    """Every section and setting in the order of the source, with its comments."""
    source = textwrap.dedent(inspect.getsource(settings_module.default_config))
    lines = source.splitlines()
    defaults = settings_module.default_config()
    found = []
    for node in ast.parse(source).body[0].body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        name = ast.unparse(node.targets[0]).removeprefix("config.")
        above, at = [], node.lineno - 2
        while at >= 0 and lines[at].lstrip().startswith("#"):
            above.insert(0, lines[at])
            at -= 1
        last = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        comment = " ".join(part.strip("# \\") for part in (*above, last) if "#" in part)
        value = defaults
        for part in name.split("."):
            value = value[part]
        found.append(Setting(name, value, comment))
    return found


def recipes(folder: pathlib.Path) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(path, what it is, [(variant, what it is)]) of every recipe in a folder, from its docstring.

    Variants stand in the docstring below a line that begins with "Variants", indented by four.
    """
    for path in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(path.read_text())
        except (OSError, ValueError, SyntaxError):
            continue
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        about = ast.get_docstring(tree)
        if "get_config" not in names or not about:
            continue
        block = re.search(r"^Variants.*\n((?: {4}.*\n?)+)", about, re.MULTILINE)
        rows = re.findall(r"^ {4}(\w+) {2,}(.*(?:\n {6,}.*)*)", block[1] if block else "", re.M)
        yield str(path), about.splitlines()[0], [(n, " ".join(t.split())) for n, t in rows]


def folder_of_recipes() -> pathlib.Path:
    """configs/ of the working directory, or the one beside the package."""
    here = pathlib.Path("configs")
    return here if here.is_dir() else pathlib.Path(__file__).parent.parent / "configs"


def recipes_and_settings() -> str:
    """The text that follows the flags of a command which takes a recipe."""
    lines = ["Recipes, as in --config=FILE or --config=FILE:VARIANT,ANOTHER:", ""]
    for path, what, variants in recipes(folder_of_recipes()):
        lines.append(f"  {path}")
        lines += _paragraph(what, 6)
        width = max((len(name) for name, _ in variants), default=0) + 1
        for name, text in variants:
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=f"      {':' + name:{width}}  ",
                subsequent_indent=" " * (8 + width),
            )  # fmt: skip
    lines += ["", "Settings with their defaults; a recipe changes some, and a flag any of them:"]
    for setting in settings():
        if isinstance(setting.default, ConfigDict):
            lines += ["", f"  config.{setting.name}", *_paragraph(setting.comment, 6)]
            continue
        line = f"  --config.{setting.name}={_shown(setting.default)}"
        beside = f"{line:<40}  {setting.comment}"
        if len(beside) <= WIDTH:
            lines.append(beside.rstrip())
        else:
            lines += [line, *_paragraph(setting.comment, 6)]
    return "\n".join(lines) + "\n"


def _shown(value) -> str:
    """A value as it is typed in a shell."""
    text = value if isinstance(value, str) else repr(value)
    if isinstance(value, tuple):
        text = repr(tuple(round(v, 4) if isinstance(v, float) else v for v in value))
    return f'"{text}"' if not text or re.search(r"[ (),*]", text) else text


def _paragraph(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=space, subsequent_indent=space)


class _Format(argparse.RawDescriptionHelpFormatter):
    """A docstring as it is written, and defaults that say something."""

    def _get_help_string(self, action):
        text = action.help or ""
        empty = action.default is None or action.default is False or action.default in ("", [])
        if empty or action.default is argparse.SUPPRESS or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An argparse parser whose help goes on with recipes and settings if it, or one of its
    commands, takes them, and otherwise says which command shows them.

    Args:
        recipes: whether they matter although this parser has no --config.
    """

    def __init__(self, *arguments, recipes: bool = False, **settings):
        super().__init__(*arguments, **{"formatter_class": _Format} | settings)
        self._recipes = recipes

    def format_help(self) -> str:
        """What --help prints."""
        takes = self._recipes or any(action.dest == "config" for action in self._actions)
        return f"{super().format_help()}\n{recipes_and_settings() if takes else _SEE}"

    def print_help(self, file=None) -> None:
        """Prints it, or as much as its reader wants."""
        if file is None:
            show(self.format_help())
        else:
            super().print_help(file)


def of_flags(flags: Sequence, about: str, required: Sequence[str]) -> str:
    """The help of a command with absl's flags.

    Args:
        flags: absl's, of the command's own module.
        about: its docstring.
        required: names of flags that must be given.
    """
    lines = [about.strip(), "", "Flags:"]
    for flag in flags:
        must = " (required)" if flag.name in required else ""
        lines += textwrap.wrap(
            f"{flag.help}{must}", WIDTH, initial_indent=f"  {'--' + flag.name:<14}",
            subsequent_indent=" " * 16,
        )  # fmt: skip
    return "\n".join([*lines, "", recipes_and_settings()])


def show(text: str) -> None:
    """Prints a long text; a reader that goes away, as `head` does, is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
