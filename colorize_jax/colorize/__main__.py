r"""Colors photos.

python -m colorize_jax.colorize photo.jpg -o colored.jpg
python -m colorize_jax.colorize /data/album --recursive -o /data/colored --page
python -m colorize_jax.colorize film.mp4 -o colored.mp4 --video
find . -name '*.tif' | python -m colorize_jax.colorize - -o colored --checkpoint=/ckpt/vgg16

The result has the size of the photo, its gray, and its metadata; only colors come from the network.
They are a guess: no evidence of what a scene looked like. Scratches are not mended, and nothing is
enlarged. Names of the results are printed, everything else is on standard error.

Exit codes: 0 all done, 1 some photos failed (each is named, the others are done), 2 wrong use.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import os
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from colorize_jax import command_line, help
from colorize_jax.colorize import inputs, photos, video
from colorize_jax.data import ahead, decode, listing, sources, tree
from colorize_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    printable,
    why,
)
from colorize_jax.files import atomic_write_bytes
from colorize_jax.paths import argument

_MOST_SHOWN = 300  # results on a page, which holds about 0.3 MB of each
_LARGE = 2**25  # pixels of a photo above which no other one is read meanwhile


@dataclasses.dataclass
class _Work:
    """A photo on its way.

    Attributes:
        item: which.
        outputs: the files that it becomes.
        data: of its file.
        scan: None until it is decoded; its pixels are gone once the gray is known.
        gray, small: see `Colorizer`.
        truth: small RGB of a photo with colors, for the page.
        colored: the photo has colors of its own.
    """

    item: inputs.Item
    outputs: list[pathlib.Path]
    data: bytes
    scan: photos.Scan | None = None
    gray: np.ndarray | None = None
    small: np.ndarray | None = None
    colored: bool = False
    dtype: type = np.uint8
    truth: np.ndarray | None = None


class Job:
    """Photos that are colored one after the other.

    Args:
        colorizer: colors them.
        asked: the arguments of the command.

    Attributes:
        failed: how many photos were not colored.
        done: how many were.
        page: what `page.write` gets, of `asked.page`.
    """

    def __init__(self, colorizer, asked: argparse.Namespace):
        self._colorizer, self._asked = colorizer, asked
        self._how = [colorizer.decoding(asked.decode, asked.temperature, asked.saturation)]
        if asked.samples:
            self._how = [
                colorizer.decoding(asked.decode, asked.temperature, asked.saturation, seed)
                for seed in range(asked.seed, asked.seed + asked.samples)
            ]
        self.failed = self.done = 0
        self.page = []

    def run(self, waiting: list[tuple[inputs.Item, list[pathlib.Path]]]) -> None:
        """Colors them all, with a progress bar."""
        groups: dict[tuple, list[_Work]] = {}
        with (
            tqdm(total=len(waiting), unit="photo", dynamic_ncols=True) as self._bar,
            ahead.threads(1) as pool,
        ):
            # One photo is read while another one is colored.
            found = ahead.in_order(pool, self._read, waiting, 1)
            for (item, _), work in zip(waiting, found, strict=True):
                if isinstance(work, Exception):
                    self._give_up(item, work)
                    continue
                if not self._prepare(work):
                    continue
                group = groups.setdefault((*self._colorizer.group(work.small),), [])
                group.append(work)
                held = sum(w.gray.size for works in groups.values() for w in works)
                if len(group) == self._asked.batch_size or held > _LARGE:
                    for key in [key for key in groups if held > _LARGE or groups[key] is group]:
                        self._color(groups.pop(key))
            for works in groups.values():
                self._color(works)

    def run_videos(self, waiting: list[tuple[inputs.Item, list[pathlib.Path]]]) -> None:
        """Colors videos, one after the other, each with a progress bar of its own."""
        (how,) = self._how
        for item, (path,) in waiting:
            self.say(f"coloring {item.name}")
            try:
                found = video.color(self._colorizer, item.path, path, how, self._asked.smooth)
            except (DataError, OSError) as error:
                self.fail(item.name, why(error))
                continue
            self.done += 1
            command_line.say(str(path))
            flicker = "nothing in it keeps still"
            if found.after == found.after:
                flicker = (
                    f"where nothing moves chroma changes by {found.after:.2%} of its mean from "
                    f"frame to frame, and by {found.before:.2%} without smoothing"
                )
            self.say(f"{item.name}: {found.frames:,} frames, scenes: {found.scenes:,}; {flicker}")

    def fail(self, name: str, reason: str) -> None:
        """Says why a photo is not colored, and counts it."""
        self.failed += 1
        self.say(f"failed: {name}: {reason}")

    def say(self, text: str) -> None:
        """A line on standard error."""
        tqdm.write(printable(text), file=sys.stderr)

    def _give_up(self, work: _Work | inputs.Item, error: Exception | str) -> None:
        item = work.item if isinstance(work, _Work) else work
        reason = error if isinstance(error, str) else why(error)
        if isinstance(error, MemoryError):
            reason = "there is not enough memory for it"
        self.fail(item.name, reason)
        self._bar.update()

    def _read(self, asked: tuple[inputs.Item, list[pathlib.Path]]) -> _Work | Exception:
        """In a thread of its own: decodes it too unless it is large. What went wrong is given."""
        item, outputs = asked
        try:
            work = _Work(item, outputs, item.read())
            photo = decode.open_photo(work.data, sys.maxsize // decode.BYTES)
            if photo.height * photo.width <= _LARGE:
                self._decode(work)
            return work
        except (DataError, OSError, MemoryError) as error:
            return error

    def _decode(self, work: _Work) -> None:
        work.scan = photos.read(work.data, self._asked.max_pixels)

    def _prepare(self, work: _Work) -> bool:
        """Whether it is to be colored: its gray is known then, and its pixels are gone."""
        try:
            if work.scan is None:
                self._decode(work)
            scan = work.scan
            if self._asked.no_metadata:
                scan.metadata = photos.Metadata(tagged=scan.metadata.tagged)
            for note in scan.notes:
                self.say(f"{work.item.name}: {note}")
            few = scan.pixels[:: max(len(scan.pixels) // 512, 1)]
            work.colored = not sources.is_gray(few if few.dtype == np.uint8 else few >> 8)
            if work.colored and self._asked.keep_color:
                self._copy(work)
                return False
            work.gray, work.dtype = self._colorizer.gray(scan.pixels), scan.pixels.dtype.type
            seen = work.gray
            if scan.alpha is not None:  # what cannot be seen is no clue: the network sees mid-gray
                share = scan.alpha / np.float32(np.iinfo(work.dtype).max)
                seen = seen * share + np.float32(0.5) * (1 - share)
            work.small = self._colorizer.small(seen)
            if self._asked.page is not None:
                from colorize_jax.colorize import page

                work.truth = page.shown(scan.pixels) if work.colored else None
            scan.pixels = None
            work.data = b""
            return True
        except (DataError, OSError, MemoryError) as error:
            self._give_up(work, error)
            return False

    def _copy(self, work: _Work) -> None:
        """A photo that has colors, as it is; under the name that its own format has."""
        path = work.outputs[0]
        own = pathlib.Path(work.item.place).suffix
        self._write(path.with_suffix(own), work.data)
        self.say(f"{work.item.name}: it has colors, and is copied as it is")
        self.done += 1
        self._bar.update()

    def _color(self, works: list[_Work]) -> None:
        try:
            found = self._colorizer.planes(
                [work.small for work in works], self._how, self._asked.batch_size
            )
        except Exception as error:
            from colorize_jax.training import memory

            if not memory.exhausted(error):
                raise
            for work in works:
                self._give_up(work, "the network has not enough memory for it: a smaller --size")
            return
        for work, planes in zip(works, found, strict=True):
            self._finish(work, planes)

    def _finish(self, work: _Work, planes: list[np.ndarray]) -> None:
        """Joins, encodes and writes all results of a photo."""
        notes: list[str] = []
        try:
            for plane, path in zip(planes, work.outputs, strict=True):
                rgb = self._colorizer.join(plane, work.gray, work.dtype, self._asked.saturation)
                form = self._asked.form or photos.format_of(path.name)
                content = photos.write(
                    rgb, work.scan.alpha, form, work.scan.metadata, self._asked.quality, notes
                )
                self._write(path, content)
                if self._asked.page is not None and len(self.page) < _MOST_SHOWN:
                    from colorize_jax.colorize import page

                    self.page.append(page.entry(path, work.gray, rgb, work.truth))
            self.done += 1
        except (DataError, OSError, MemoryError) as error:
            self._give_up(work, error)
            return
        for note in dict.fromkeys(notes):
            self.say(f"{work.item.name}: {note}")
        self._bar.update()

    def _write(self, path: pathlib.Path, content: bytes) -> None:
        if os.path.lexists(path) and not self._asked.overwrite:  # it came meanwhile
            raise DataError(f"{path} is there already: --overwrite replaces it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(path, content)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {why(error)}") from error
        with tqdm.external_write_mode():
            command_line.say(str(path))


def main(asked: argparse.Namespace) -> None:
    """Colors."""
    try:
        _check(asked)
        asked.form = photos.asked_format(asked.format)
        one = _one_file(asked)
        listed = []
        if "-" in asked.inputs:
            listed = listing.lines(sys.stdin.buffer.read(), "standard input")
        named = [path for path in asked.inputs if path != "-"]
        folder = str(pathlib.Path(asked.output).parent) if one else asked.output
        if asked.video:
            _check_videos(asked, [*named, *listed])
        found = inputs.find(named, listed, folder, asked.recursive)
        from colorize_jax.colorize.colorizer import Colorizer
        from colorize_jax.training import compiler

        compiler.keep_programs()
        job = Job(Colorizer.load(asked.checkpoint, asked.size), asked)
    except (ConfigError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for line in found.remarks:
        job.say(line)
    for name, reason in found.failed:
        job.fail(name, reason)
    if one and found.items:
        path = pathlib.Path(asked.output)
        item = dataclasses.replace(found.items[0], place=path.name)
        found.items = [item]
    waiting = list(_waiting(found.items, folder, job, asked))
    if asked.video:
        job.run_videos(waiting)
    elif waiting:
        job.run(waiting)
    if asked.page is not None and job.page:
        from colorize_jax.colorize import page

        where = pathlib.Path(asked.page or os.path.join(folder, "index.html"))
        page.write(where, job.page)
        command_line.say(str(where))
        if len(job.page) == _MOST_SHOWN:
            job.say(f"the page shows the first {_MOST_SHOWN} results only")
    what = "video" if asked.video else "photo"
    job.say(f"{_count(job.done, what)} colored, {job.failed:,} failed")
    if job.failed or not found.items:
        sys.exit(1)


def _check(asked: argparse.Namespace) -> None:
    if asked.overwrite and asked.skip_existing:
        raise ConfigError("--overwrite and --skip_existing contradict each other: give one of them")
    if not 1 <= asked.quality <= 100:
        raise ConfigError(f"--quality={asked.quality} must be between 1 and 100")
    if asked.samples < 0 or asked.batch_size < 1 or asked.max_pixels < 1 or asked.seed < 0:
        raise ConfigError(
            "--samples and --seed must not be negative, --batch_size and --max_pixels be positive"
        )


def _one_file(asked: argparse.Namespace) -> bool:
    """Whether the output is a file, and not a folder; ConfigError if there are several inputs."""
    path = asked.output
    ending = os.path.splitext(path)[1].lower()
    form = photos.format_of(os.path.basename(path))
    known = ending in video.CONTAINERS if asked.video else bool(form)
    if path.endswith("/") or os.path.isdir(path) or not known:
        return False
    only = asked.inputs[0]
    if len(asked.inputs) > 1 or only == "-" or os.path.isdir(only) or _is_archive(only):
        raise ConfigError(
            f"--output={path} is a file, and there may be several photos: name a folder"
        )
    if asked.form and asked.form != form:
        raise ConfigError(f"--output={path} and --format={asked.format} contradict each other")
    return True


def _check_videos(asked: argparse.Namespace, paths: Sequence[str]) -> None:
    video.check(asked.smooth)
    without = {
        "--samples": asked.samples,
        "--page": asked.page is not None,
        "--format": asked.form,
        "--keep_color": asked.keep_color,
    }
    for name, there in without.items():
        if there:
            raise ConfigError(f"{name} is of photos, and not of --video")
    for path in paths:
        if os.path.isdir(path) or _is_archive(path):
            raise ConfigError(f"--video: {path} is no video: name the files, or list them on -")


def _is_archive(path: str) -> bool:
    return path.lower().endswith(".zip") or bool(tree.into_zip(path)[1])


def _waiting(
    items: list[inputs.Item], folder: str, job: Job, asked: argparse.Namespace
) -> Iterator[tuple[inputs.Item, list[pathlib.Path]]]:
    """What is to be done; what must not be done is said."""
    if asked.video:
        places = [[video.output_name(item.place)] for item in items]
    else:
        places = inputs.results(items, asked.form, asked.samples)
    clashes = inputs.clashes(places)
    root = pathlib.Path(folder)
    skipped = 0
    for number, (item, names) in enumerate(zip(items, places, strict=True)):
        outputs = [root / name for name in names]
        if number in clashes:
            other = items[clashes[number]].name
            job.fail(item.name, f"its result would be called as that of {other}: {names[0]}")
            continue
        if any(item.path and _same(item.path, path) for path in outputs):
            job.fail(item.name, "its result would replace it: name another --output")
            continue
        there = [path for path in outputs if os.path.lexists(path)]
        if there and asked.skip_existing:
            skipped += 1
        elif there and not asked.overwrite:
            job.fail(
                item.name,
                f"{there[0]} is there already: --overwrite replaces it, --skip_existing goes on",
            )
        else:
            yield item, outputs
    if skipped:
        job.say(f"left out: {_count(skipped, 'photo')} with a result that is there")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _same(path: str, other: pathlib.Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def parser() -> help.Parser:
    """Of this command."""
    found = help.Parser("python -m colorize_jax.colorize", description=__doc__)
    add = found.add_argument
    add(
        "inputs", nargs="+", type=argument, metavar="IN",
        help="photos, folders, zip archives; -: a list of them on standard input",
    )  # fmt: skip
    add(
        "-o", "--output", default="colorized", type=argument, metavar="OUT",
        help="a folder, or a file for one photo (default: %(default)s)",
    )  # fmt: skip
    add(
        "--checkpoint", default="", type=argument, metavar="PATH",
        help="a run's workdir, one of its checkpoints/<step>, or a file of Colorizer.save; "
        "default: the network of the package",
    )  # fmt: skip
    add("--recursive", action="store_true", help="folders below folders too, kept in the results")
    add("--overwrite", action="store_true", help="replaces results that are there")
    add("--skip_existing", action="store_true", help="leaves photos out whose results are there")
    add(
        "--size", type=int,
        help="shortest side of what the network sees; 0: the photo's own (default: the network's, "
        "or 256)",
    )  # fmt: skip
    add("--decode", default="", help="median, mean, mode or annealed; default: the network's")
    add("--temperature", type=float, help="of annealed and of samples: low is vivid, 1 dull")
    add("--saturation", type=float, default=1.0, help="factor on the colors (default: 1)")
    add("--samples", type=int, default=0, metavar="N", help="N different colorizations of a photo")
    add("--seed", type=int, default=0, help="of the samples (default: 0)")
    add("--keep_color", action="store_true", help="copies photos that have colors")
    add("--format", default="same", help="same, jpg, png, tiff, webp, ... (default: %(default)s)")
    add("--quality", type=int, default=95, help="of JPEG, WebP and AVIF")
    add("--no_metadata", action="store_true", help="leaves EXIF, XMP and IPTC out")
    add("--batch_size", type=int, default=1, help="photos at a time, of like sizes")
    add(
        "--max_pixels", type=int, default=decode.MAX_PIXELS,
        help="of a photo; larger ones are refused (default: %(default)s)",
    )  # fmt: skip
    add(
        "--page", nargs="?", const="", type=argument, metavar="FILE",
        help="writes a page to look at; default of FILE: index.html beside the results",
    )  # fmt: skip
    add("--video", action="store_true", help="the inputs are videos; sound is copied")
    add(
        "--smooth", type=float, default=0.8, metavar="SHARE",
        help="of the past in a video's colors, where nothing moves (default: %(default)s)",
    )  # fmt: skip
    return found


if __name__ == "__main__":
    command_line.run(main, parser())
