r"""Looks at photos, and packs them.

python -m colorize_jax.data check /data/photos
python -m colorize_jax.data pack /data/photos /data/packed --shortest=600
"""

import argparse
import os
import sys

from colorize_jax.data import check, pack, sources
from colorize_jax.errors import ColorizeError


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and runs `check` or `pack`."""
    parser = argparse.ArgumentParser("python -m colorize_jax.data", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    commands = parser.add_subparsers(dest="command", required=True)
    source = {"metavar": "SOURCE", "help": f"{sources.KINDS}; A,B joins several for check"}

    checking = commands.add_parser("check", help="read everything once and report")
    checking.add_argument("source", **source)
    checking.add_argument("--scale", type=int, nargs=2, default=(352, 600))
    checking.add_argument("--crop", type=int, default=352)

    packing = commands.add_parser("pack", help="write ArrayRecord shards; goes on if stopped")
    packing.add_argument("source", **source)
    packing.add_argument("out", metavar="OUT", help="folder for the shards")
    options = pack.Packing()
    packing.add_argument(
        "--shortest", type=int, default=options.shortest,
        help="re-encode photos whose shortest side is longer; 0 (default): keep every byte",
    )  # fmt: skip
    packing.add_argument("--quality", type=int, default=options.quality)
    packing.add_argument("--shard_photos", type=int, default=options.shard_photos)

    settings = parser.parse_args(arguments)
    try:
        if settings.command == "check":
            found = []
            for path in sources.parse(settings.source)[0]:
                found += check.check(sources.open_source(path), settings.threads)
            print(check.report(found, scale=tuple(settings.scale), crop=settings.crop))
            return
        options = pack.Packing(settings.shortest, settings.quality, settings.shard_photos)
        packed, left_out = pack.pack(
            sources.open_source(settings.source), settings.out, options, settings.threads
        )
        print(f"{packed:,} photos packed and verified in {settings.out}, {left_out:,} left out")
        if left_out:
            print(f"{settings.out}/bad_records.jsonl names them with the reasons")
    except ColorizeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
