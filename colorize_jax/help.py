"""The `--help` of commands: their flags and the recipes, and with --help=settings every setting.

Settings and their comments are read from the source of config/settings.py, and recipes from the
docstrings of their files, so that each is written only once. No recipe is run.
"""

import argparse
import ast
from collections.abc import Iterator
import dataclasses
import functools
import inspect
import os
import pathlib
import re
import sys
import textwrap

from ml_collections import ConfigDict

from colorize_jax.config import choices, recipe
from colorize_jax.config import settings as settings_module

# The folders of the modules whose dictionaries SETTINGS have the own settings of choices.
_SETTINGS = {
    "task": "tasks/*.py", "model": "models/*.py", "optimizer": "training/optimizers.py",
    "schedule": "training/schedules.py",
}  # fmt: skip
WIDTH, SCREEN = 100, 45  # the characters of a line, and the lines of a help that fits a screen


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting or section of `default_config`.

    Attributes:
        name: the name, such as "model.width"; the name of a section, such as "model".
        default: the default value; the ConfigDict of a section.
        comment: the comment in config/settings.py, in one line.
    """

    name: str
    default: object
    comment: str


def settings(task: str = "colorization", network: str = "vgg16") -> list[Setting]:
    """All sections and settings of a config with this task and network, with their comments.

    They are in the order of the source.
    """
    comments = _comments(inspect.getsource(settings_module.default_config))
    own = {}  # the comments of a choice's own settings, from the dictionary SETTINGS of its module
    package = pathlib.Path(__file__).parent
    for group, room in _SETTINGS.items():
        # Of settings of one name, those of other tasks are overwritten by what tasks share, and
        # that by the task's own.
        others = set(choices.names(group)) - {task}
        rank = {path: (path.stem == task, path.stem not in others) for path in package.glob(room)}
        for path in sorted(rank, key=lambda path: (rank[path], path)):
            for key, comment in _comments(path.read_text()).items():
                own[key if "." in key else f"{group}.{key}"] = comment
    defaults = settings_module.default_config(task, network)
    brought = {key: comment for key, comment in own.items() if key not in comments}
    names = list(comments)
    for key in brought:  # It follows the other settings of its section.
        group = key.partition(".")[0]
        names.insert(max(i for i, n in enumerate(names) if n.partition(".")[0] == group) + 1, key)
    found = []
    for name in names:
        *groups, last = name.split(".")
        section = functools.reduce(ConfigDict.__getitem__, groups, defaults)
        if last in section:
            found.append(Setting(name, section[last], (comments | brought)[name]))
    return found


def _comments(source: str) -> dict[str, str]:
    """{name: comment} of every `config.a.b = ...` and every key of a dictionary SETTINGS.

    Comments stand above or after them in the source.
    """
    source = textwrap.dedent(source)
    lines, found = source.splitlines(), {}

    def add(name, first, last):
        above, at = [], first.lineno - 2
        while at >= 0 and lines[at].lstrip().startswith("#"):
            above.insert(0, lines[at])
            at -= 1
        behind = lines[last.end_lineno - 1].encode()[last.end_col_offset :].decode()
        parts = [part for part in (*above, behind) if "#" in part]
        found[name] = " ".join(part.lstrip("# ,").rstrip(" \\") for part in parts)

    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if ast.unparse(target).startswith("config."):
            add(ast.unparse(target).removeprefix("config."), node, node)
        elif ast.unparse(target) in ("SETTINGS", "OPTIMIZERS"):
            for brought in ast.walk(node.value):
                if isinstance(brought, ast.Dict):
                    for key, value in zip(brought.keys, brought.values, strict=True):
                        if not isinstance(value, ast.Dict | ast.Call) and key.value not in found:
                            add(key.value, key, value)
    return found


def recipes(function: str = "get_config") -> dict[str, str]:
    """{name: docstring} of all recipes that ship with the package ("get_study": of all studies).

    Other recipes in configs/ of the working directory are added by their paths.
    """
    files = dict(recipe.shipped(function))
    if function == "get_config":
        own = {path.resolve() for path in files.values()}
        here = sorted(pathlib.Path("configs").glob("*.py"))
        files |= {str(path): path for path in here if path.resolve() not in own}
    found = {name: about_file(path, function) for name, path in files.items()}
    return {name: about for name, about in found.items() if about}


def about_file(path: pathlib.Path, function: str) -> str:
    """The docstring of a Python file, without running it; "" if the file lacks the function."""
    try:
        tree = ast.parse(path.read_text())
    except (OSError, ValueError, SyntaxError):
        return ""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return (ast.get_docstring(tree) or "") if function in names else ""


def variants(about: str) -> dict[str, str]:
    """{variant: description} from a recipe's docstring.

    They are below a line that begins with "Variants", indented by four.
    """
    block = re.search(r"^Variants.*\n((?: {4}.*\n?)+)", about, re.MULTILINE)
    rows = re.findall(r"^ {4}(\w+) {2,}(.*(?:\n {6,}.*)*)", block[1] if block else "", re.M)
    return {name: " ".join(text.split()) for name, text in rows}


def list_of(function: str, room: int) -> str:
    """A line for every recipe or study, and lines with variants if all fit into `room` lines.

    If there is no room for a line each, the names alone.
    """
    found = recipes(function)
    width = max(map(len, found), default=0)
    lines = []
    for name, about in found.items():
        lines.append(_line(f"  {name:{width}}  {about.splitlines()[0]}"))
        if names := variants(about):
            lines.append(_line(" " * (width + 4) + " ".join(f":{name}" for name in names)))
    if len(lines) > room:
        lines = [line for line in lines if line[2] != " "]
    if len(lines) > room:
        lines = _paragraph(", ".join(found), 2)
    return "\n".join(lines) + "\n"


def all_settings() -> str:
    """All settings with their defaults and comments."""
    lines = ["Settings with their defaults; a recipe changes some, and a command line any of them:"]
    for setting in settings():
        if isinstance(setting.default, ConfigDict) and len(setting.default):
            lines += ["", f"  config.{setting.name}", *_paragraph(setting.comment, 6)]
            continue
        line = f"  --config.{setting.name}={_shown(setting.default)}"
        beside = f"{line:<40}  {setting.comment}"
        if len(beside) <= WIDTH:
            lines.append(beside.rstrip())
        else:
            lines += [line, *_paragraph(setting.comment, 6)]
    for group in choices.GROUPS:
        lines += ["", f"  With another config.{group}.name, in the place of what it brings:"]
        lines += _other_choices(group)
    return "\n".join(lines) + "\n"


def _other_choices(group: str) -> Iterator[str]:
    """Lines with the own settings of the other choices of a group."""
    for name in choices.names(group):
        config = settings_module.default_config()
        if name == config[group].name:
            continue
        choices.choose(config, group, name)
        if name.startswith("resnet"):  # A default holds for all of them, but the name counts.
            config.model.depth = int(name.removeprefix("resnet"))
        own = []
        for key in choices.own_settings(group, name):
            place, setting = key.split(".")
            shown = setting if place == group else key
            own.append(f"{shown}={_shown(config[place][setting])}")
        yield from _paragraph(f"{name}: {', '.join(own) or 'none of its own'}", 4)


def _shown(value) -> str:
    """A value as typed in a shell."""
    # The text of a ConfigDict ends with a newline.
    text = value if isinstance(value, str) else repr(value).strip()
    if isinstance(value, tuple):
        text = repr(tuple(round(v, 4) if isinstance(v, float) else v for v in value))
    return f'"{text}"' if not text or re.search(r"[ (),*]", text) else text


def _line(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _paragraph(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=space, subsequent_indent=space)


class _Format(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of docstrings, and shows only defaults that are informative."""

    def _get_help_string(self, action):
        text = action.help or ""
        empty = action.default is None or action.default is False or action.default in ("", [])
        if empty or action.default is argparse.SUPPRESS or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


class _Help(argparse.Action):
    """The action of --help, --help=settings and --help=RECIPE."""

    def __call__(self, parser, namespace, topic, option=None):
        if not topic:
            parser.print_help()
        elif topic == "settings":
            show(all_settings())
        else:
            known, (name, _, _) = recipes(), topic.partition(":")
            about = known.get(name) or about_file(pathlib.Path(name), "get_config")
            if not about:
                parser.error(f"--help={topic}: known: settings, {', '.join(known)}")
            show(f"{about}\n")
        parser.exit()


class Parser(argparse.ArgumentParser):
    """An argparse parser whose help fits a screen.

    Args:
        recipes: whether the command takes --config=RECIPE, which `command_line.parse` reads.
        studies: whether its help lists the studies.
    """

    def __init__(self, *arguments, recipes: bool = False, studies: bool = False, **settings):
        settings = {"formatter_class": _Format, "add_help": not recipes} | settings
        if recipes:
            usage = "%(prog)s --config=RECIPE [--config.NAME=VALUE ...] [...]"
            settings = {"usage": usage} | settings
        super().__init__(*arguments, **settings)
        self._recipes, self._studies = recipes, studies
        if recipes:
            self.add_argument(
                "-h", "--help", nargs="?", const="", metavar="TOPIC", action=_Help,
                help="show this; --help=settings: all settings, --help=RECIPE: what a recipe does",
            )  # fmt: skip
            self.add_argument(
                "--config", required=True, metavar="RECIPE", help="recipe, by its name or the path "
                "of its file; --config.NAME=VALUE changes a setting, as in --config.data.crop=224",
            )  # fmt: skip

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does; a flag may be spelled with hyphens: --batch-size is --batch_size."""
        words = list(sys.argv[1:] if args is None else args)
        flags = words.index("--") if "--" in words else len(words)
        words[:flags] = map(self._known_spelling, words[:flags])
        return super().parse_known_args(words, namespace)

    def _known_spelling(self, word: str) -> str:
        flag, equals, value = word.partition("=")
        other = "--" + flag[2:].replace("-", "_")
        known = self._option_string_actions
        hyphens = flag.startswith("--") and flag not in known and other in known
        return other + equals + value if hyphens else word

    def format_help(self) -> str:
        """What --help prints."""
        text = super().format_help()
        if self._recipes:
            text += "\nRecipes; variants as in --config=vgg16_col:long,no_drop\n"
            text += list_of("get_config", SCREEN - text.count("\n"))
        if self._studies:
            text += "\nStudies\n" + list_of("get_study", SCREEN)
        return text

    def print_help(self, file=None) -> None:
        """Prints the help; a reader may stop early."""
        if file is None:
            show(self.format_help())
        else:
            super().print_help(file)


def show(text: str) -> None:
    """Prints a long text; it is no error if the reader, such as `head`, stops early."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
