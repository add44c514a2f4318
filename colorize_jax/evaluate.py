r"""Scores a trained network on another split or view; writes its predictions as files.

python -m colorize_jax.evaluate --config=configs/voc2007_cls.py --config.data.source=/data/VOC2007 \
    --config.eval.view=ten --checkpoint=/ckpt/vgg16_voc07 --output=/ckpt/vgg16_voc07/ten

It prints the same table as the end of a run, and writes results.json and images/ to --output.
"""

import argparse
import pathlib

from colorize_jax import command_line, help
from colorize_jax.paths import argument


def main(asked: argparse.Namespace) -> None:
    """Evaluates."""
    from colorize_jax.training import evaluation, hosts

    hosts.start(asked.config.distributed)
    evaluation.evaluate(
        asked.config, asked.checkpoint, pathlib.Path(asked.output), stated=asked.stated
    )


def parser() -> help.Parser:
    """Of this command."""
    found = help.Parser(
        "python -m colorize_jax.evaluate",
        usage="%(prog)s --config=RECIPE [--config.NAME=VALUE ...]\n"
        "    --checkpoint=PATH --output=DIR",
        description=__doc__,
        recipes=True,
    )
    add = found.add_argument
    add(
        "--checkpoint", required=True, type=argument, metavar="PATH",
        help="a run's workdir, or one of its checkpoints/<step>",
    )  # fmt: skip
    add("--output", required=True, type=argument, metavar="DIR", help="for the results")
    return found


if __name__ == "__main__":
    command_line.run(main, parser())
