"""Tables in Markdown."""

from collections.abc import Sequence


def table(header: str, rows: Sequence[Sequence]) -> str:
    """A table; columns are separated by "|" in the header."""
    names = [name.strip() for name in header.split("|")]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
