"""Prints the receptive field of every layer of a network.

A cell of a layer's map depends on `size` x `size` pixels; neighbors lie `stride` pixels apart, and
the middle of the first one is at pixel `center`, in an input of --crop pixels a side. The numbers
are those of the network itself, whatever its kind: see docs/analysis.md.
"""

import argparse

from colorize_jax import command_line
from colorize_jax.paths import argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument(
        "--checkpoint", required=True, type=argument,
        help="a run's workdir, or one of its checkpoints/<step>",
    )  # fmt: skip
    parser.add_argument("--crop", type=int, default=224, help="side of the input, in pixels")


def main(asked: argparse.Namespace) -> None:
    """Prints the table."""
    from colorize_jax.analysis import receptive
    from colorize_jax.checkpoints import reading
    from colorize_jax.errors import ConfigError

    encoder = reading.saved_encoder(asked.checkpoint)
    if asked.crop < encoder.smallest_input:
        raise ConfigError(
            f"--crop={asked.crop} is too small: the network takes {encoder.smallest_input} pixels "
            "a side at least"
        )
    found = receptive.fields(encoder, encoder.layers, asked.crop)
    width = max(map(len, found), default=0) + 2
    lines = [f"{'layer':<{width}}{'size':>6}{'stride':>8}{'center':>8}"]
    for layer, field in found.items():
        cells = f"{'all':>6}" if field is None else (
            f"{field.size:>6}{field.stride:>8}{field.center:>8.1f}"
        )  # fmt: skip
        lines.append(f"{layer:<{width}}{cells}")
    command_line.say("\n".join(lines))
