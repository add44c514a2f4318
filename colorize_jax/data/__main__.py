r"""Looks at photos, and packs them.

python -m colorize_jax.data check /data/photos
python -m colorize_jax.data check /data/imagenet --relabel=wordnet:16 --split=train --sheet=16.png
python -m colorize_jax.data pack /data/photos /data/packed --shortest=600
"""

import argparse
import os
import sys

from colorize_jax import command_line, help
from colorize_jax.command_line import say
from colorize_jax.data import check, label_samples, pack, sources
from colorize_jax.data.class_folders import ClassFolders
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.paths import argument, expand


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and runs `check` or `pack`."""
    parser = help.Parser("python -m colorize_jax.data", description=__doc__)
    parser.add_argument(
        "--threads",
        type=_number(1),
        default=os.cpu_count(),
        help="number of threads that read and decode",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    source = {"metavar": "SOURCE", "help": f"{sources.KINDS}; A,B joins several"}

    checking = commands.add_parser("check", help="read everything once and report")
    checking.add_argument("source", **source)
    checking.add_argument(
        "--scale", type=int, nargs=2, default=(352, 600),
        help="config.data.scale of the run: photos with a shorter side are counted",
    )  # fmt: skip
    checking.add_argument("--crop", type=_number(1), default=352, help="config.data.crop of it")
    checking.add_argument(
        "--relabel", default="",
        help="shows only what this config.data.relabel makes of class folders, as in random:50",
    )  # fmt: skip
    checking.add_argument("--split", default="", help="config.data.split, for --relabel")
    checking.add_argument("--seed", type=_number(0), default=0, help="config.seed, for --relabel")
    checking.add_argument(
        "--sheet", default="", type=argument,
        help="a PNG with photos of every bucket of --relabel",
    )  # fmt: skip

    packing = commands.add_parser("pack", help="write ArrayRecord shards; resumes if stopped")
    packing.add_argument("source", **source)
    packing.add_argument("out", metavar="OUT", type=argument, help="folder for the shards")
    options = pack.Packing()
    packing.add_argument(
        "--shortest", type=_number(0), default=options.shortest,
        help="re-encode photos whose shortest side is longer; 0 (default): keep every byte",
    )  # fmt: skip
    packing.add_argument(
        "--quality", type=_number(1, 100), default=options.quality,
        help="quality of the JPEGs that are re-encoded",
    )  # fmt: skip
    packing.add_argument(
        "--shard_photos", type=_number(1), default=options.shard_photos, help="photos in a shard"
    )

    settings = parser.parse_args(arguments)
    try:
        if settings.command == "check" and settings.relabel:
            _show_labels(settings)
            return
        if settings.command == "check":
            if settings.sheet or settings.split:
                raise ConfigError("--sheet and --split are for --relabel: give that too")
            scale, crop = tuple(settings.scale), settings.crop
            if not 0 < crop <= scale[0] < scale[1]:
                raise ConfigError(
                    f"--scale {scale[0]} {scale[1]} --crop {crop}: give crop <= smallest < end"
                )
            photos = sources.open_all(settings.source)
            found = check.check(photos, settings.threads)
            say(check.report(found, photos.left_out(), scale=scale, crop=crop))
            return
        options = pack.Packing(settings.shortest, settings.quality, settings.shard_photos)
        photos = sources.open_all(settings.source)
        packed, left_out = pack.pack(photos, settings.out, options, settings.threads)
        for line in photos.left_out():
            say(line)
        say(f"{packed:,} photos packed and verified in {settings.out}, {left_out:,} left out")
        if left_out:
            say(f"{settings.out}/bad_records.jsonl names them with the reasons")
    except (ColorizeError, OSError) as error:
        sys.exit(f"error: {error}")


def _show_labels(settings: argparse.Namespace) -> None:
    """Prints samples of every bucket, and writes the picture if it is asked for."""
    photos, classes = ClassFolders(settings.source).split(settings.split)
    spec = settings.relabel
    if spec.startswith("file:"):
        spec = "file:" + expand(spec.removeprefix("file:"))
    samples = label_samples.Samples(photos, classes, spec, settings.seed)
    say(samples.report())
    if settings.sheet:
        samples.picture().save(settings.sheet, "PNG")
        say(f"photos of the buckets are in {settings.sheet}")


def _number(smallest: int, largest: int | None = None):
    """The type of an argument that is a whole number in [smallest, largest]."""

    def number(text: str) -> int:
        value = int(text)
        if value < smallest or (largest is not None and value > largest):
            raise ValueError
        return value

    return number


if __name__ == "__main__":
    command_line.interruptible(main)
