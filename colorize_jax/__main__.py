"""Lists the commands of this package: python -m colorize_jax."""

import ast
import pathlib
import sys

from colorize_jax.help import show

COMMANDS = (
    "main", "colorize", "colorize.score", "colorize.fooled", "colorize.demo", "evaluate", "extract",
    "probe", "frozen", "convert", "analysis", "data", "study", "bench", "bench.regression_scale",
)  # fmt: skip


def about(name: str) -> str:
    """The first line of a command's docstring; the command is not run."""
    path = pathlib.Path(__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    path = path if path.exists() else path.with_suffix("") / "__main__.py"
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def main(arguments: list[str]) -> None:
    """Prints the list, or how to write a command that was named after a space."""
    names = [word for word in arguments if not word.startswith("-")]
    if names:
        known = names[0] if names[0] in COMMANDS else "main"
        sys.exit(
            f"error: no command {names[0]!r} behind a space: write python -m colorize_jax.{known}, "
            f"with a dot; known: {', '.join(COMMANDS)}"
        )
    width = max(map(len, COMMANDS))
    rows = [f"  python -m colorize_jax.{name:{width}}  {about(name)}" for name in COMMANDS]
    show("\n".join(["Commands, each with --help:", "", *rows, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
