r"""Weights from other formats and to them.

python -m colorize_jax.convert caffe vgg16.caffemodel.h5 /ckpt/larsson_vgg16
python -m colorize_jax.convert to-caffe /ckpt/vgg16 vgg16.caffemodel.h5
python -m colorize_jax.convert inspect vgg16.caffemodel.h5

What is written is a checkpoint that `config.init_from` and `colorize_jax.load_encoder` take. See
docs/weights.md.
"""

import argparse
from collections.abc import Callable, Sequence
import os
import pathlib
import sys

from colorize_jax.errors import ColorizeError, WeightsError


def from_caffe(
    path: str,
    output: str,
    *,
    pixels: float = 1.0,
    mean: Sequence[float] | None = None,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
    """Writes a Caffe HDF5 file as a checkpoint.

    Args:
        path: of the file.
        output: the new workdir, absent or empty.
        pixels, mean: of the input that the network was made for, see `caffe.import_file`.
        say: is told what was found and done.

    Returns:
        The step folder.

    Raises:
        WeightsError: the file is not what it should be.
        CheckpointError: the output exists.
        OSError: the output cannot be written.
    """
    from colorize_jax.surgery import caffe, foreign
    from colorize_jax.training import checkpoint

    checkpoint.check_output(pathlib.Path(output))
    file = foreign.read(path)
    if file.format != "HDF5":
        raise WeightsError(f"{path} is a {file.format} file, not Caffe's HDF5")
    found = caffe.import_file(file, pixels=pixels, mean=mean)
    folder = checkpoint.save_encoder(output, found.variables, found.settings, file.origin())
    say(f"{path}: {found.network}")
    for line in found.done:
        say(line)
    if found.left_over:
        say(f"left over in the file: {', '.join(found.left_over)}")
    say(f"written to {folder}")
    return folder


def _caffe(add) -> None:
    parser = add("caffe", "a Caffe HDF5 file becomes a checkpoint", from_caffe)
    parser.add_argument("path", metavar="FILE", help="NAME.caffemodel.h5")
    parser.add_argument("output", metavar="OUT", help="new folder for the checkpoint")
    _add_input(parser)


def _add_input(parser) -> None:
    parser.add_argument("--pixels", type=float, default=1.0, help="value of white: 1, or 255")
    parser.add_argument("--mean", type=_numbers, help="subtracted from the input: M or R,G,B")


def _numbers(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError("one number, or three: red, green, blue")
    return numbers


COMMANDS = (_caffe,)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and converts."""
    parser = argparse.ArgumentParser(
        "python -m colorize_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text, function):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        return command

    for command in COMMANDS:
        command(add)
    settings = vars(parser.parse_args(arguments))
    function, _ = settings.pop("function"), settings.pop("command")
    # Weights are only moved here: no accelerator need be free, or there at all.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        function(**settings)
    except (ColorizeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
