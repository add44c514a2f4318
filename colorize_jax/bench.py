r"""Measures speed on this machine.

python -m colorize_jax.bench data /data/photos
python -m colorize_jax.bench memory /data/photos --count=100000
"""

import argparse
import os
import sys
import tempfile

from colorize_jax.config import default_config
from colorize_jax.data import benchmark, pack, sources
from colorize_jax.errors import ColorizeError


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and prints a table."""
    parser = argparse.ArgumentParser(
        "python -m colorize_jax.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="images per second of the input pipeline")
    data.add_argument("source", metavar="SOURCE", help=sources.KINDS)
    data.add_argument("--crops", type=int, nargs="+", default=(352, 224))
    data.add_argument("--count", type=int, default=400, help="photos of one measurement")
    data.add_argument("--workers", type=int, default=os.cpu_count())
    data.add_argument("--repeats", type=int, default=5)
    memory = commands.add_parser("memory", help="resident memory over a long read")
    memory.add_argument("source", metavar="SOURCE", help=sources.KINDS)
    memory.add_argument("--count", type=int, default=100_000)
    memory.add_argument("--crop", type=int, default=352)
    memory.add_argument("--workers", type=int, default=0)
    settings = parser.parse_args(arguments)
    try:
        photos, _ = sources.open_splits(settings.source, 0.001)
        if settings.command == "memory":
            config = default_config()
            config.data.crop = settings.crop
            config.data.scale = (settings.crop, settings.crop * 600 // 352)
            config.data.batch_size = 32
            config.data.workers = settings.workers
            config.data.threads = os.cpu_count()
            print(benchmark.memory(photos, config, settings.count))
            return
        with tempfile.TemporaryDirectory() as folder:
            pack.pack(sources.open_all(settings.source), folder, pack.Packing(), os.cpu_count())
            packed, _ = sources.open_splits(folder, 0.001)
            print(
                benchmark.table(
                    photos, packed, crops=tuple(settings.crops), count=settings.count,
                    workers=settings.workers, repeats=settings.repeats,
                )
            )  # fmt: skip
    except ColorizeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
