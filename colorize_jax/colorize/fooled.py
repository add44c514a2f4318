r"""How often people took false colors for real ones, by the answers of a real-or-fake page.

python -m colorize_jax.colorize.fooled real-or-fake-*.csv --json=fooled.json

The interval is a bootstrap over persons, who differ more than the answers of one person do; with a
single person it is one over answers, and that is said. Pairs for practice do not count.
"""

import argparse
from collections.abc import Iterable, Sequence
import csv
import io
import json
import pathlib

import numpy as np

from colorize_jax import command_line, help
from colorize_jax.colorize.real_or_fake import COLUMNS
from colorize_jax.errors import DataError
from colorize_jax.files import atomic_write_text
from colorize_jax.log import say_once
from colorize_jax.paths import argument

_LARGEST = 2**26  # bytes of a file of answers
_COVERED = 0.95


def read(paths: Sequence[str]) -> tuple[list[dict[str, str]], int]:
    """The answers that count, of several files, and how many were there twice.

    Raises:
        DataError: a file is none of a page's, or a row of it is damaged; says which.
        OSError: one cannot be read.
    """
    found: dict[tuple, dict[str, str]] = {}
    twice = 0
    for path in map(pathlib.Path, paths):
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise DataError(f"{path} is no file of answers")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except ValueError as error:
            raise DataError(f"{path} is no text: {error}") from error
        lines = csv.DictReader(io.StringIO(text, newline=""))
        if absent := [name for name in COLUMNS if name not in (lines.fieldnames or ())]:
            raise DataError(
                f"{path} has no column {absent[0]!r}: it is not what a page of real-or-fake saved"
            )
        for number, row in enumerate(lines, 2):
            if row["practice"] not in ("0", "1") or row["fooled"] not in ("0", "1"):
                raise DataError(
                    f"{path}, line {number}: practice and fooled must be 0 or 1, not "
                    f"{row['practice']!r} and {row['fooled']!r}"
                )
            if row["practice"] == "1":
                continue
            key = (row["person"], row["photo"], row["method"], row["time"])
            twice += key in found
            found[key] = row
    if not found:
        raise DataError("there is no answer that counts in these files")
    return list(found.values()), twice


def share(
    answers: Iterable[dict[str, str]], *, draws: int = 10_000, seed: int = 0
) -> dict[str, dict[str, float | int | str]]:
    """{method: its numbers}, and of "all" methods together if there are several.

    Returns:
        Of each "trials", "persons", "fooled" (share of the trials in which the false colors were
        taken for real), "low" and "high" (the middle 95 % of that share when persons, or answers,
        are drawn with replacement), and "over": which of them.
    """
    answers = list(answers)
    methods = {answer["method"]: None for answer in answers}
    groups = {name: [a for a in answers if a["method"] == name] for name in methods}
    if len(groups) > 1:
        groups["all"] = answers
    return {
        name: _interval(own, draws, np.random.default_rng(seed)) for name, own in groups.items()
    }


def _interval(answers: list[dict[str, str]], draws: int, rng: np.random.Generator) -> dict:
    units: dict[str, list[int]] = {}
    for answer in answers:
        units.setdefault(answer["person"], []).append(int(answer["fooled"]))
    persons = len(units)
    # [units, 2]: how often a person was fooled, in how many trials; or of every answer.
    counts = [[sum(own), len(own)] for own in units.values()]
    if persons == 1:
        counts = [[int(answer["fooled"]), 1] for answer in answers]
    counts = np.array(counts)
    drawn = counts[rng.integers(len(counts), size=(draws, len(counts)))].sum(1)
    shares = drawn[:, 0] / drawn[:, 1]
    low, high = np.quantile(shares, [(1 - _COVERED) / 2, (1 + _COVERED) / 2])
    return {
        "trials": len(answers),
        "persons": persons,
        "fooled": float(counts[:, 0].sum() / counts[:, 1].sum()),
        "low": float(low),
        "high": float(high),
        "over": "answers" if persons == 1 else "persons",
    }


def table(found: dict[str, dict]) -> list[str]:
    """The lines of the table."""
    width = max(len("method"), *map(len, found)) + 2
    lines = [
        f"{'method':<{width}}{'trials':>8}{'persons':>9}{'fooled':>9}{'95 % interval':>19}  over"
    ]
    for name, row in found.items():
        interval = f"{row['low']:.1%} to {row['high']:.1%}"
        lines.append(
            f"{name:<{width}}{row['trials']:>8}{row['persons']:>9}{row['fooled']:>9.1%}"
            f"{interval:>19}  {row['over']}"
        )
    return lines


def main(asked: argparse.Namespace) -> None:
    """Prints the table and writes the numbers."""
    answers, twice = read(asked.files)
    if twice:
        say_once(f"{twice:,} answers were there twice, and count once")
    found = share(answers, seed=asked.seed)
    lines = [*table(found), "", "At 50 % nobody can tell false colors from real ones."]
    command_line.say("\n".join(lines))
    if asked.json:
        atomic_write_text(pathlib.Path(asked.json), json.dumps(found, indent=1) + "\n")


def parser() -> help.Parser:
    """Of this command."""
    found = help.Parser("python -m colorize_jax.colorize.fooled", description=__doc__)
    found.add_argument("files", nargs="+", type=argument, metavar="CSV", help="saved by the page")
    found.add_argument("--json", default="", type=argument, metavar="FILE", help="for the numbers")
    found.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    return found


if __name__ == "__main__":
    command_line.run(main, parser())
