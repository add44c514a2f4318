r"""Trains what a config file describes, or resumes where it was stopped.

python -m colorize_jax.main --config=configs/quickstart.py --workdir=quickstart

Exit codes: 0 after all steps. 75 after a signal, or if storage or data workers fail for good; the
state is saved, and the same command resumes. 74 if the last state could not be saved. 1 for any
other error; the last line explains it.
"""

import argparse
import pathlib

from colorize_jax import command_line, help
from colorize_jax.paths import argument
from colorize_jax.training.signals import Signals


def main(asked: argparse.Namespace) -> None:
    """Trains, or replays a step that was not finite."""
    with Signals() as signals:
        # JAX is imported only after the command line is checked, and starts on all hosts together.
        from colorize_jax.training import hosts, loop, nonfinite

        config, workdir = asked.config, asked.workdir
        signals.wait_for(lambda: hosts.start(config.distributed))
        if config.replay:
            folder = pathlib.Path(workdir)
            signals.wait_for(lambda: nonfinite.replay(config, folder, asked.stated))
        else:
            loop.train(config, workdir, signals, stated=asked.stated)


def parser() -> help.Parser:
    """Of this command."""
    found = help.Parser(
        "python -m colorize_jax.main",
        usage="%(prog)s --config=RECIPE [--config.NAME=VALUE ...] --workdir=FOLDER",
        description=__doc__,
        recipes=True,
    )
    found.add_argument(
        "--workdir", required=True, type=argument, metavar="FOLDER",
        help="folder for all outputs of the run",
    )  # fmt: skip
    return found


if __name__ == "__main__":
    command_line.run(main, parser())
