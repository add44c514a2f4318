r"""Shows the patches of photos that units of a layer answer most.

python -m colorize_jax.analysis top --checkpoint=/ckpt/vgg16 --source=/data/val --layer=fc7 \
    --output=top
python -m colorize_jax.analysis top --checkpoint=/ckpt/vgg16 --after=/ckpt/seg --source=/data/val \
    --output=moved

Writes index.html, which needs no network, a PNG for every page of units, and top.json. Take photos
that the network was not trained on. See docs/analysis.md.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import re

import numpy as np
from tqdm import tqdm

from colorize_jax import command_line
from colorize_jax.data import ahead, sources
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.features import crops
from colorize_jax.files import atomic_write_bytes, atomic_write_text
from colorize_jax.log import say_once
from colorize_jax.paths import argument

PAGE, NUMBERS = "index.html", "top.json"
WINDOW = 180  # pixels: the paper gives none, and the field of its fc7 is larger than most photos
_SMALLEST = 32  # pixels of a window, below which nothing could be seen
_NAMED = 20  # photos that are left out by name
_REPLACED, _REUSED = 0.3, 0.7


@dataclasses.dataclass(frozen=True)
class View:
    """What networks see of a photo.

    Attributes:
        photos: from `sources.open_all`.
        shortest, crop, least: see `crops.central`.
    """

    photos: sources.Photos
    shortest: int
    crop: int
    least: int

    def read(self, number: int) -> tuple[np.ndarray | None, str]:
        """See `crops.central`."""
        return crops.central(self.photos, number, self.shortest, self.crop, least=self.least)


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found in the photos.

    Attributes:
        best: a `peaks.Best` of every network.
        rows: the units of the layer that the rows of `best` are.
        correlation: of all units of the layer, before and after; None with one network.
        where: the windows of the cells.
        seen: the number of photos.
        left_out: the number of photos that were not seen.
    """

    best: Sequence
    rows: np.ndarray
    correlation: np.ndarray | None
    where: "peaks.Places"  # noqa: F821
    seen: int
    left_out: int


def find(
    networks: Sequence,
    layer: str,
    view: View,
    *,
    field,
    window: int,
    count: int,
    units: np.ndarray | None = None,
    batch_size: int = 16,
    threads: int = 4,
    say: Callable[[str], None] = say_once,
) -> Found:
    """Reads all photos once, with a progress bar, and keeps the strongest answers.

    Args:
        networks: one `networks.Network`, or two whose units are compared.
        layer: its name.
        view: what the networks see of the photos.
        field: of the layer, from `receptive.fields`.
        window: the side of a patch, in pixels.
        count: how many photos are kept of each unit.
        units: the units of the layer whose answers are kept; None: all.
        batch_size: the smallest number of photos in a batch over all devices.
        threads: that read and decode.
        say: prints which photos are left out, and why.

    Raises:
        DataError: no photo could be seen.
    """
    import jax

    from colorize_jax.analysis import correlation, peaks
    from colorize_jax.training import sharding

    photos, mesh = view.photos, sharding.make_mesh()
    rows = -(-batch_size // mesh.size) * mesh.size
    compute = [network.maps((layer,)) for network in networks]
    held = [(network.variables, network.borders) for network in networks]
    image = jax.ShapeDtypeStruct((rows, view.crop, view.crop, 3), np.uint8)
    _, cells, _, channels = jax.eval_shape(compute[0], *held[0], image)[layer].shape
    where = peaks.places(field, cells, window, view.crop)
    chosen = np.arange(channels) if units is None else units

    @jax.jit
    def answers(held, batch):
        maps = [one(*own, batch["image"])[layer] for one, own in zip(compute, held, strict=True)]
        kept = maps if units is None else [m[..., units] for m in maps]
        found = [peaks.peaks(m, batch["image"], batch["valid"], where) for m in kept]
        if len(maps) == 1:
            return found, None
        flat = [m.reshape(-1, channels) for m in maps]
        places = np.prod(maps[0].shape[1:3])
        return found, correlation.sums(*flat, batch["valid"].repeat(places))

    held = jax.device_put(held, sharding.replicated(mesh))
    best = [peaks.Best(len(chosen), count) for _ in networks]
    total = None
    seen = left_out = 0

    def readable(pool, bar) -> Iterator[tuple[int, np.ndarray]]:
        nonlocal left_out
        read = ahead.in_order(pool, view.read, range(len(photos)), 2 * rows + threads)
        for number, (pixels, reason) in enumerate(read):
            bar.update()
            if pixels is not None:
                yield number, pixels
                continue
            left_out += 1
            if left_out <= _NAMED:
                say(f"left out: {photos.name(number)}: {reason}")
            elif left_out == _NAMED + 1:
                say("left out: more photos, which are counted and not named")

    def add(numbers, computed) -> None:
        nonlocal total
        found, sums = computed
        for own, answer in zip(best, found, strict=True):
            own.add(np.array(numbers), {name: np.asarray(x) for name, x in answer.items()})
        if sums is not None:
            total = correlation.merged(total, sums)

    waiting = None  # A batch is computed while the next one is read.
    with (
        ahead.threads(threads) as pool,
        tqdm(total=len(photos), unit="photo", dynamic_ncols=True, desc="seen") as bar,
    ):
        for numbers, pixels in crops.batches(readable(pool, bar), rows, view.crop):
            batch = {"image": pixels, "valid": np.arange(rows) < len(numbers)}
            computed = answers(held, sharding.put_batch(batch, mesh))
            if waiting is not None:
                add(*waiting)
            waiting, seen = (numbers, computed), seen + len(numbers)
        if waiting is None:
            raise DataError(
                f"none of the {len(photos)} photos could be used: see above. Their shortest sides "
                f"must have {view.least} pixels at least, as many as the window (--window)"
            )
        add(*waiting)
    r = None if total is None else correlation.correlations(total)
    return Found(best, chosen, r, where, seen, left_out)


def patches(
    view: View, found: Found, rows: Sequence[int], threads: int
) -> Iterator[tuple[int, list[list[np.ndarray]]]]:
    """The patches of units, each a row of `found.best`, in color; photos are read a second time.

    Yields:
        The row, and for every network its patches, uint8 [window, window, 3], the strongest first.

    Raises:
        DataError: a photo has changed in the meantime.
    """

    def unit(row: int) -> list[list[np.ndarray]]:
        return [
            [
                cut(int(best.photo[row, i]), int(best.cell[row, i]))
                for i in np.flatnonzero(best.answered[row])
            ]
            for best in found.best
        ]

    def cut(number: int, cell: int) -> np.ndarray:
        pixels, reason = view.read(number)
        if pixels is None:
            raise DataError(f"{view.photos.name(number)} can no longer be read: {reason}")
        return found.where.cut(pixels, cell)

    with ahead.threads(threads) as pool:
        yield from zip(rows, ahead.in_order(pool, unit, rows, threads), strict=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    add(
        "--checkpoint", required=True, type=argument,
        help="a run's workdir, one of its checkpoints/<step>, or a file of Colorizer.save",
    )  # fmt: skip
    add("--after", default="", type=argument, help="the same network after a transfer, to compare")
    add("--source", required=True, help="photos, as for extract; A,B joins several")
    add("--output", required=True, type=argument, help="a folder for the pages")
    add("--layer", default="", help="its name; default: the top one")
    add(
        "--units", default="",
        help="every:N, spread:N, chroma:N (least and most of color), or numbers as in 3,17; "
        "default: about 64, evenly",
    )  # fmt: skip
    add("--patches", type=int, default=9, help="of a unit; one of each photo")
    add("--window", type=int, default=0, help="side of a patch; default: the receptive field, but "
        f"at most {WINDOW} and half the crop")  # fmt: skip
    add("--crop", type=int, default=0, help="side that is seen; default: as in training")
    add("--shortest", type=int, default=0, help="side that photos are scaled to; default: the crop")
    add(
        "--thresholds", type=float, nargs=2, default=(_REPLACED, _REUSED), metavar="R",
        help="with --after: units of a lower correlation are replaced, of a higher one reused",
    )  # fmt: skip
    add("--zero_padding", action="store_true", help="keeps the zeros around maps")
    add("--per_page", type=int, default=8, help="units on a PNG")
    add("--batch_size", type=int, default=16, help="photos at a time")
    add("--threads", type=int, default=os.cpu_count(), help="that read and decode")


def main(asked: argparse.Namespace) -> None:
    """Looks at all photos and writes the pages."""
    from colorize_jax.analysis import networks, receptive, top_page, units

    for name in ("patches", "per_page", "batch_size", "threads"):
        if getattr(asked, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1")
    replaced, reused = asked.thresholds
    if not -1 <= replaced < reused <= 1:
        raise ConfigError(
            f"--thresholds {replaced:g} {reused:g}: give two correlations, the lower one first"
        )
    paths = [asked.checkpoint, *([asked.after] if asked.after else [])]
    photos = sources.open_all(asked.source)
    looked = [networks.load(path, asked.zero_padding) for path in paths]
    encoder = looked[0].encoder
    if asked.after:
        networks.check_alike(*looked)
    layer = asked.layer or encoder.top
    networks.check_layers(encoder, (layer,))
    crop = asked.crop or looked[0].crop
    shortest = asked.shortest or crop
    if not encoder.smallest_input <= crop <= shortest:
        raise ConfigError(
            f"--crop={crop} --shortest={shortest}: the crop must be at least "
            f"{encoder.smallest_input} for this network, and no larger than the shortest side"
        )
    if not 0 <= asked.window <= crop:
        raise ConfigError(
            f"--window={asked.window}: give 1 to {crop}, the side of what is seen (--crop)"
        )
    rule = units.Rule(asked.units, networks.channels(looked[0], layer))
    field = receptive.fields(encoder, (layer,), crop)[layer]
    size = crop if field is None else field.size
    window = asked.window or min(max(size, _SMALLEST), WINDOW, max(crop // 2, 1))
    view = View(photos, shortest, crop, window)
    for line in photos.left_out():
        say_once(line)
    found = find(
        looked, layer, view, field=field, window=window, count=asked.patches,
        units=rule.early, batch_size=asked.batch_size, threads=asked.threads,
    )  # fmt: skip
    chosen = rule.choose(found.best[0])
    numbers = top_page.numbers(found, chosen, photos, tuple(asked.thresholds)) | {
        "checkpoint": asked.checkpoint, "after": asked.after, "source": asked.source,
        "layer": layer, "rule": str(rule), "crop": crop, "shortest": shortest,
        "window": found.where.window, "receptive_field": "all" if field is None else field.size,
        "padding": [network.padding for network in looked],
    }  # fmt: skip
    _write(asked, found, numbers, view)


def _write(asked, found: Found, numbers: dict, view: View) -> None:
    """Writes the pages of units and top.json, and says where they are."""
    from colorize_jax.analysis import top_page
    from colorize_jax.training import pictures

    output = pathlib.Path(asked.output)
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("top-*.png"):
        if re.fullmatch(r"top-\d{3}\.png", old.name):
            old.unlink()
    entries = numbers["units"]
    rows = [int(np.flatnonzero(found.rows == entry["unit"])[0]) for entry in entries]
    html, page, written = [], [], []
    cut = patches(view, found, rows, asked.threads)
    with tqdm(total=len(rows), unit="unit", dynamic_ncols=True, desc="drawn") as bar:
        for entry, (_, own) in zip(entries, cut, strict=True):
            html.append(top_page.section(entry, own))
            page.append(top_page.row(entry, own, numbers["layer"]))
            bar.update()
            if len(page) == asked.per_page or len(html) == len(rows):
                written.append(output / f"top-{len(written) + 1:03}.png")
                headings = top_page.names(len(own)) if len(own) > 1 else ()
                atomic_write_bytes(written[-1], pictures.png(pictures.page(page, headings)))
                page = []
    atomic_write_text(output / NUMBERS, json.dumps(numbers, indent=1) + "\n")
    atomic_write_bytes(output / PAGE, top_page.page(numbers, html).encode("utf-8", "replace"))
    for path in (output / PAGE, *written, output / NUMBERS):
        command_line.say(str(path))
    for line in top_page.summary(numbers):
        say_once(line)
