r"""Numbers of color of colored photos, beside those of photos left gray.

python -m colorize_jax.colorize.score --truth=photos --colored=ours --colored=theirs
python -m colorize_jax.colorize.score --truth=photos --checkpoint=/ckpt/vgg16 --output=numbers
python -m colorize_jax.colorize.score --truth=val --colored=ours --classifier=/ckpt/resnet50
python -m colorize_jax.colorize.score --truth=photos --colored=ours --page=real-or-fake --output=on

Prints a table, and leaves the numbers and a page with the worst and the best photos in --output.
Photos belong together that have the same name below their folder, whatever their endings. See
docs/color.md for what the numbers mean.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import math
import os
import pathlib
import sys
import textwrap

import numpy as np
from tqdm import tqdm

from colorize_jax import command_line, help
from colorize_jax.colorize import pairs, real_or_fake, report, scoring
from colorize_jax.errors import ConfigError, DataError, why
from colorize_jax.files import atomic_write_text
from colorize_jax.log import say_once
from colorize_jax.paths import argument

SCORES, PAGE, GAME = "scores.json", "scores.html", "real-or-fake.html"
PACKAGE = "the package's network"  # the row of --checkpoint= without a path
_PAGES = ("worst-best", "real-or-fake")
_NAMED = 20  # photos that are named one by one where something is wrong with many
_QUIET = 5  # likewise, below the table


class _Failures:
    """Photos that could not be compared: said as they come, and counted."""

    def __init__(self):
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, reason: str) -> None:
        self.reasons[name] = reason
        if len(self.reasons) <= _NAMED:
            say_once(f"left out: {name}: {reason}")
        elif len(self.reasons) == _NAMED + 1:
            say_once(f"left out: more photos; {SCORES} in --output names all of them")


class Rows:
    """The sets of photos that are compared with the originals, by name.

    Args:
        truth: the folder of the originals.
        colored: folders of the same photos in color.
        checkpoints: networks that color the originals' gray.

    Raises:
        DataError, CheckpointError: one of them cannot be used.
        ConfigError: two have the same name.
    """

    def __init__(self, truth: str, colored: Sequence[str], checkpoints: Sequence[str] = ()):
        self.names = [*colored, *(path or PACKAGE for path in checkpoints)]
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ConfigError(f"{twice[0]} is named twice")
        if reserved := [name for name in self.names if name in scoring.BASELINES]:
            raise ConfigError(
                f"a row of the table is called {reserved[0]!r}: write ./{reserved[0]}"
            )
        self.paired = pairs.pair(truth, colored)
        self._colorizers = [_load(path) for path in checkpoints]

    @property
    def others(self) -> bool:
        """Whether there are several originals, to lend each other their colors."""
        return len(self.paired.names) > 1

    def read(
        self, names: Sequence[str], threads: int, failed: Callable[[str, str], None]
    ) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
        """(name, the original, {row: the colored photo}) of the photos that can be read."""
        for name, truth, colored in pairs.read(self.paired, names, threads, failed):
            photos = colored + [colorizer(truth) for colorizer in self._colorizers]
            yield name, truth, dict(zip(self.names, photos, strict=True))


def score(
    rows: Rows,
    reference: scoring.Reference,
    *,
    judge=None,
    window: str = "uniform",
    seed: int = 0,
    threads: int = 2,
    failed: Callable[[str, str], None] = lambda name, reason: None,
) -> scoring.Scorer:
    """Compares all photos, with a progress bar.

    Args:
        rows: what is compared.
        reference: from `reference_of`.
        judge: an `interpretability.Judge` that is shown every photo; None: none.
        window: of SSIM.
        seed: of the order in which originals lend each other their colors.
        threads: that read and decode.
        failed: is told which photos are left out, and why.
    """
    names = rows.paired.names
    scorer = scoring.Scorer(rows.names, reference, window, rows.others)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    other = None
    for name in reversed(order):  # the last one that can be read lends its colors to the first one
        with contextlib.suppress(DataError, OSError):
            other = rows.paired.truth.read(name)
            break
    with tqdm(total=len(order), unit="photo", dynamic_ncols=True, desc="compared") as bar:

        def left_out(name, reason):
            bar.update()
            failed(name, reason)

        for name, truth, colored in rows.read(order, threads, left_out):
            photos = scorer.add(name, truth, colored, other)
            if judge is not None and photos is not None:
                judge.add(name, photos)
            other = truth
            bar.update()
    if not scorer.scores[scoring.TRUTH].photos:
        raise DataError(
            "no photo could be compared: "
            + (f"all {len(scorer.without_color)} originals are gray" if scorer.without_color
               else "see the reasons above")
        )  # fmt: skip
    return scorer


def reference_of(
    folder: pairs.Folder, names: Sequence[str], failed: Callable[[str, str], None]
) -> scoring.Reference:
    """The mean color and the frequency of every color of some photos, with a progress bar.

    Args:
        folder: of the photos.
        names: of those that are looked at.
        failed: is told which photos cannot be read, and why.

    Raises:
        DataError: none of them has any color.
    """

    def readable() -> Iterator[np.ndarray]:
        for name in tqdm(names, unit="photo", dynamic_ncols=True, desc=f"colors of {folder.path}"):
            try:
                yield folder.read(name)
            except (DataError, OSError) as error:
                failed(name, why(error))

    found = scoring.Reference.of(readable())
    if not found.photos:
        raise DataError(
            f"no photo of {folder.path} has any color, so that there is nothing to compare"
        )
    return found


def _load(path: str) -> Callable[[np.ndarray], np.ndarray]:
    from colorize_jax.colorize.colorizer import Colorizer

    return Colorizer.load(path)


def main(asked: argparse.Namespace) -> None:
    """Scores."""
    for name in ("photos", "seed", "crop", "shortest"):
        if getattr(asked, name) < 0:
            raise ConfigError(f"--{name}={getattr(asked, name)} must not be negative")
    if not asked.colored and not asked.checkpoint:
        raise ConfigError("there is nothing to compare: give --colored=DIR or --checkpoint=PATH")
    output = pathlib.Path(asked.output) if asked.output else None
    game = asked.page == "real-or-fake"
    if game and output is None:
        raise ConfigError("--page=real-or-fake writes a page: give --output=DIR")
    if output is not None:
        _check_output(output, [GAME] if game else [SCORES, PAGE], asked.overwrite)
    rows = Rows(asked.truth, asked.colored, asked.checkpoint)
    for line in rows.paired.report():
        say_once(line)
    if asked.photos:
        shuffled = np.random.default_rng(asked.seed).permutation(len(rows.paired.names))
        rows.paired.names[:] = [rows.paired.names[i] for i in sorted(shuffled[: asked.photos])]
    failures = _Failures()
    if game:
        settings = real_or_fake.Settings(
            trials=asked.trials, practice=asked.practice, seconds=asked.seconds, seed=asked.seed
        )
        page, shown = real_or_fake.make(rows, settings, asked.threads, failures)
        atomic_write_text(output / GAME, page)
        command_line.say(f"{output / GAME}: {shown}")
    else:
        _numbers(asked, rows, output, failures)
    if failures.reasons:
        say_once(f"{pairs.counted(failures.reasons)} could not be compared; the rest was")
        sys.exit(1)


def _numbers(asked, rows: Rows, output: pathlib.Path | None, failures: _Failures) -> None:
    judge = None
    if asked.classifier:
        from colorize_jax.colorize.interpretability import Judge

        judge = Judge(
            asked.classifier, rows.paired.names, scoring.all_rows(rows.names, rows.others),
            crop=asked.crop, shortest=asked.shortest,
        )  # fmt: skip
        if judge.remark:
            say_once(judge.remark)
    source = asked.fit_from or asked.truth
    if asked.fit_from:
        folder = pairs.Folder(source)
        reference = reference_of(
            folder,
            list(folder.numbers),
            lambda name, reason: failures(f"{folder.name(name)} of {source}", reason),
        )
    else:  # what cannot be read is said when it is to be compared
        reference = reference_of(rows.paired.truth, rows.paired.names, lambda *_: None)
    scorer = score(
        rows, reference, judge=judge, window=asked.ssim, seed=asked.seed, threads=asked.threads,
        failed=failures,
    )  # fmt: skip
    summary = scorer.summary()
    if judge is not None:
        for row, numbers in judge.summary().items():
            summary[row] |= numbers
    remarks = _remarks(asked, scorer, judge, source)
    wrapped = (textwrap.fill(remark, help.WIDTH, break_long_words=False) for remark in remarks)
    command_line.say("\n".join([*report.table(summary), "", *wrapped]))
    if output is None:
        return
    content = {
        "truth": asked.truth,
        "photos": len(scorer.scores[scoring.TRUTH].photos),
        "reference": {
            "source": source,
            "photos": reference.photos,
            "ab": reference.ab.tolist(),
        },
        "ssim": asked.ssim,
        "seed": asked.seed,
        "rows": summary,
        "classifier": None if judge is None else {"path": judge.path, "photos": judge.photos},
        "unpaired": rows.paired.unpaired,
        "without_color": scorer.without_color,
        "left_out": failures.reasons,
        "each": {row: scores.photos for row, scores in scorer.scores.items()},
    }
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    atomic_write_text(output / SCORES, f"{text}\n")
    first = rows.names[0]
    chosen = report.choose(scorer.order(first), asked.seed)

    def photos(name):
        found = next(rows.read([name], 1, failures), None)
        if found is None:
            raise DataError(f"{name} was compared, and cannot be read again for the page")
        _, truth, colored = found
        gray = scoring.left_gray(truth)
        return {scoring.TRUTH: truth, scoring.GRAY: gray} | colored

    about = (
        f"{pairs.counted(scorer.order(first))} of {asked.truth}. Worst and best by how much the "
        f"AuC of {first} is above that of the photo left gray."
    )
    page = report.page("Numbers of color", about, scorer, summary, chosen, photos, remarks)
    atomic_write_text(output / PAGE, page)
    command_line.say(f"written: {output / SCORES}, {output / PAGE}")


def _remarks(asked, scorer: scoring.Scorer, judge, source: str) -> list[str]:
    reference = scorer.reference
    a, b = reference.ab
    kind = "the originals themselves" if not asked.fit_from else source
    found = [
        f"{pairs.counted(scorer.scores[scoring.TRUTH].photos)}. Constant color (a {a:.1f}, "
        f"b {b:.1f}) and frequencies of colors: from {kind} ({reference.photos:,} with color)."
    ]
    if scorer.without_color:
        some = ", ".join(scorer.without_color[:_QUIET])
        more = ", ..." if len(scorer.without_color) > _QUIET else ""
        found.append(
            f"{pairs.counted(scorer.without_color)} without color, in no number: {some}{more}."
        )
    if judge is not None:
        found.append(
            f"top-1 and top-5: of {judge.photos:,} photos by {judge.path}, the middle "
            f"{judge.crop} pixels of a shortest side of {judge.shortest}."
        )
    return [*found, report.REMARK]


def _finite(value):
    """What JSON can hold: null for NaN."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_output(folder: pathlib.Path, names: Sequence[str], overwrite: bool) -> None:
    """ConfigError or OSError if the results cannot be written, before they are made."""
    there = [name for name in names if (folder / name).exists()]
    if there and not overwrite:
        raise ConfigError(f"{folder / there[0]} exists: name another --output, or give --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{os.getpid()}.tmp"
    draft.touch()
    draft.unlink()


def parser() -> help.Parser:
    """Of this command."""
    found = help.Parser(
        "python -m colorize_jax.colorize.score",
        usage="%(prog)s --truth=DIR --colored=DIR [--checkpoint=PATH] [...]",
        description=__doc__,
    )
    add = found.add_argument
    add("--truth", required=True, type=argument, metavar="DIR", help="the photos in true color")
    add(
        "--colored", action="append", default=[], type=argument, metavar="DIR",
        help="the same photos, colored; may be given several times",
    )  # fmt: skip
    add(
        "--checkpoint", action="append", default=[], type=argument, metavar="PATH",
        help="a network that colors the truth's gray here; without a path that of the package; may "
        "be given several times",
    )  # fmt: skip
    add(
        "--fit_from", default="", type=argument, metavar="DIR",
        help="photos whose mean color is the constant one, and whose frequencies of colors "
        "rebalance; default: the truth",
    )  # fmt: skip
    add("--ssim", choices=scoring.WINDOWS, default="uniform", help="the windows of SSIM")
    add(
        "--classifier", default="", type=argument, metavar="PATH",
        help="of color photos; the folders of the truth are its classes",
    )  # fmt: skip
    add("--crop", type=int, default=0, help="what it sees; 0: as it was evaluated, imported: 224")
    add("--shortest", type=int, default=0, help="side that photos get before; likewise, 256")
    add("--output", default="", type=argument, metavar="DIR", help="for the numbers and the page")
    add("--overwrite", action="store_true", help="replace what is in --output")
    add("--page", choices=_PAGES, default=_PAGES[0], help="what the page in --output is")
    add("--trials", type=int, default=40, help="of real-or-fake, pairs that count")
    add("--practice", type=int, default=10, help="of real-or-fake, pairs before, with the answer")
    add("--seconds", type=float, default=1.0, help="of real-or-fake, that a pair is shown")
    add("--photos", type=int, default=0, help="so many, drawn by chance; 0: all")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add("--threads", type=int, default=os.cpu_count(), help="that read and decode")
    return found


if __name__ == "__main__":
    command_line.run(main, parser())
