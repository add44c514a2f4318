r"""Converts weights from other formats and to them.

python -m colorize_jax.convert caffe vgg16.caffemodel.h5 /ckpt/larsson_vgg16
python -m colorize_jax.convert to-caffe /ckpt/vgg16 vgg16.caffemodel.h5
python -m colorize_jax.convert torch vgg16.safetensors /ckpt/imagenet_vgg16
python -m colorize_jax.convert to-torch /ckpt/vgg16 vgg16.safetensors
python -m colorize_jax.convert to-onnx /ckpt/vgg16 vgg16.onnx --size=224
python -m colorize_jax.convert inspect vgg16.caffemodel.h5

A converted checkpoint can be used by `config.init_from` and `colorize_jax.load_encoder`. See
docs/weights.md.
"""

import argparse
import ast
from collections.abc import Callable, Sequence
import os
import pathlib
import sys
from typing import Any

from colorize_jax import command_line, help, paths
from colorize_jax.config import recipe
from colorize_jax.errors import ColorizeError, ConfigError, WeightsError


def from_caffe(
    path: str,
    output: str,
    *,
    pixels: float = 1.0,
    mean: Sequence[float] | None = None,
    model: Sequence[tuple[str, Any]] = (),
    say: Callable[[str], None] = print,
) -> pathlib.Path:
    """Converts a Caffe HDF5 file to a checkpoint.

    Args:
        path: the path of the file.
        output: the new workdir; it must not exist or be an empty folder.
        pixels, mean: the scale and mean of the network's input; see `caffe.import_file`.
        model: settings of `config.model` that the file does not show, with their values.
        say: prints what was found and done.

    Returns:
        The step folder.

    Raises:
        WeightsError: the file is invalid, or is of no known network.
        CheckpointError: the output exists.
        OSError: the output cannot be written.
    """
    from colorize_jax.checkpoints import writing
    from colorize_jax.weights import caffe, foreign

    writing.check_output(pathlib.Path(output))
    file = foreign.read(path, ["HDF5"])
    found = caffe.import_file(file, pixels=pixels, mean=mean, model=dict(model))
    return _save(file, found, output, say)


def _save(file, found, output, say, classes: Sequence[str] = ()) -> pathlib.Path:
    from colorize_jax.checkpoints import writing

    origin = file.origin() | ({"random start": ", ".join(found.new)} if found.new else {})
    folder = writing.save_encoder(output, found.variables, found.settings, origin, classes)
    say(f"{file.path}: {found.network}")
    for line in found.done:
        say(line)
    if found.left_over:
        say(f"left over in the file: {', '.join(found.left_over)}")
    say(f"written to {folder}")
    return folder


def to_caffe(
    path: str,
    output: str,
    *,
    fc: str = "dense",
    head: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Converts the encoder of a checkpoint to a Caffe HDF5 file.

    Args:
        path: a run's workdir (its newest complete checkpoint) or one step folder in its
            `checkpoints`.
        output: the new file.
        fc: "dense" writes fc6 and fc7 as inner products, (out, in); "conv" as convolutions.
        head: whether to write the head of colorization too.
        say: prints what was written and what was left out.

    Raises:
        WeightsError: Caffe has no such network, or the file exists.
        SaveError: the file cannot be written.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    from colorize_jax.checkpoints import reading
    from colorize_jax.weights import caffe, foreign, hdf5

    foreign.check_output(output)
    folder = reading.find(path)
    encoder, variables = reading.load_encoder(folder)
    variables = {kind: {"encoder": tree} for kind, tree in variables.items() if tree}
    if head:
        variables["params"]["head"] = reading.load_head(folder)
    arrays = caffe.export(encoder, variables, dense=fc == "dense")
    note = caffe.note(reading.saved_note(folder)["config"]["model"])
    foreign.write(output, lambda draft: hdf5.write(draft, arrays, note))
    rest = reading.groups_besides(folder, "encoder")
    if rest := [name for name in rest if not (head and name.startswith("head/"))]:
        say(f"left over in the checkpoint: {', '.join(rest)}")
    say(f"{folder} is written to {output}; its input is {note['input']}")


def from_torch(
    path: str,
    output: str,
    *,
    color: bool = False,
    prefix: str | None = None,
    head: bool = False,
    classes: str | None = None,
    say: Callable[[str], None] = print,
) -> pathlib.Path:
    """Converts a state dict of torchvision's VGG-16, AlexNet or ResNets, or Zhang's colorizer, to a
    checkpoint.

    Args:
        path: the path of the file, .safetensors or a file of `torch.save`.
        output: the new workdir; it must not exist or be an empty folder.
        color: whether the encoder reads RGB; otherwise it reads gray.
        prefix: the prefix of the network's names, if the file holds several networks.
        head: whether to keep the last layer as the head of a classifier.
        classes: a text file with the names of the last layer's classes, one per line; needs `head`.
        say: prints what was found and done.

    Returns:
        The step folder.

    Raises:
        WeightsError: the file is invalid, or the text file does not name every class.
        CheckpointError: the output exists.
        OSError: the output cannot be written, or the names cannot be read.
    """
    from colorize_jax.checkpoints import writing
    from colorize_jax.weights import foreign, torch, zhang

    if classes is not None and not head:
        raise ConfigError("--classes names those of the last layer: give --head too")
    writing.check_output(pathlib.Path(output))
    file = foreign.read(path, ["safetensors", "PyTorch"])
    if zhang.is_in(file.arrays):
        if color or head:
            raise ConfigError(
                f"{path} is of Zhang's colorizer, which reads no color and whose head comes along "
                "anyway: leave --color, --head and --classes out"
            )
        return _save(file, zhang.import_file(file, prefix=prefix), output, say)
    found = torch.import_file(file, color=color, prefix=prefix, head=head)
    names = _class_names(classes, found.settings["task"]["classes"]) if classes else ()
    return _save(file, found, output, say, names)


def _class_names(path: str, number: int) -> list[str]:
    try:
        names = [line.strip() for line in pathlib.Path(path).read_text().splitlines()]
    except ValueError as error:
        raise WeightsError(f"--classes: {path} is no text: {error}") from error
    names = [name for name in names if name]
    if len(names) != number or len(set(names)) != number:
        raise WeightsError(
            f"--classes: {path} has {len(names)} lines, {len(set(names))} of them different, and "
            f"the last layer {number} classes: name each of them once"
        )
    return names


def to_torch(
    path: str, output: str, *, gray: bool = False, say: Callable[[str], None] = print
) -> None:
    """Converts the encoder of a checkpoint to .safetensors for torchvision's networks.

    Args:
        path: a run's workdir (its newest complete checkpoint) or one step folder in its
            `checkpoints`.
        output: the new file.
        gray: whether the first layer reads one channel; otherwise three, as in torchvision.
        say: prints what was written and what was left out.

    Raises:
        WeightsError: torchvision has no such network, or the file exists.
        SaveError: the file cannot be written.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    from colorize_jax.checkpoints import reading
    from colorize_jax.weights import foreign, torch, torch_files

    foreign.check_output(output)
    folder = reading.find(path)
    encoder, variables = reading.load_encoder(folder)
    arrays, note = torch.export(encoder, variables, gray=gray)
    foreign.write(output, lambda draft: torch_files.write_safetensors(draft, arrays, note))
    if rest := reading.groups_besides(folder, "encoder"):
        say(f"left over in the checkpoint: {', '.join(rest)}")
    say(f"{folder} is written to {output}: {note['network']} without {note['left_out']}")
    say(f"its input is {note['input']}")


def to_onnx(
    path: str,
    output: str,
    *,
    size: tuple[int, int] = (224, 224),
    colorizer: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Converts the network of a checkpoint to an ONNX file, and checks onnxruntime's outputs.

    Args:
        path: a run's workdir (its newest complete checkpoint) or one step folder in its
            `checkpoints`.
        output: the new file.
        size: the height and width of the input; the batch may have any size.
        colorizer: whether the outputs are those of the head of colorization, on the grid of every
            fourth pixel; otherwise they are all activations of the encoder.
        say: prints what was written.

    Raises:
        WeightsError: jax2onnx is not installed, the size does not fit the network, there is no
            head, or the file exists.
        SaveError: the file cannot be written.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    from colorize_jax.weights import foreign, onnx_export

    foreign.check_output(output)
    folder, model, shape, deviation = onnx_export.export(path, size=size, colorizer=colorizer)
    foreign.write(output, lambda draft: draft.write_bytes(model))
    shown = ", ".join(map(str, shape))
    say(f"{folder} is written to {output}; its input {onnx_export.INPUT} is [batch, {shown}]")
    say(f"onnxruntime's answers deviate by {deviation:.1e} of the largest value")


def inspect(path: str, *, say: Callable[[str], None] = print) -> None:
    """Prints the arrays of a file of weights or of a checkpoint, and the network they are from.

    Raises:
        WeightsError: the file holds no weights, or is damaged.
        CheckpointError: the folder holds no checkpoint, or a damaged one.
    """
    from colorize_jax.weights import inspection

    for line in inspection.describe(path):
        say(line)


def _caffe(add) -> None:
    parser = add("caffe", "a Caffe HDF5 file becomes a checkpoint", from_caffe)
    parser.add_argument("path", metavar="FILE", help="NAME.caffemodel.h5")
    parser.add_argument("output", metavar="OUT", help="new folder for the checkpoint")
    _add_input(parser)
    parser.epilog = (
        "What the file does not show is told by --config.model.lrn=False,\n"
        "--config.model.fc6_padding=VALID and the like."
    )


def _to_caffe(add) -> None:
    parser = add("to-caffe", "the encoder of a checkpoint becomes a Caffe HDF5 file", to_caffe)
    parser.add_argument("path", metavar="CHECKPOINT", help="a workdir, or a checkpoints/<step>")
    parser.add_argument("output", metavar="FILE", help="new file, NAME.caffemodel.h5")
    parser.add_argument("--fc", choices=("dense", "conv"), default="dense", help="of fc6 and fc7")
    parser.add_argument("--head", action="store_true", help="with the head of colorization")


def _torch(add) -> None:
    parser = add("torch", "a state dict of PyTorch becomes a checkpoint", from_torch)
    parser.add_argument("path", metavar="FILE", help="NAME.safetensors or NAME.pth")
    parser.add_argument("output", metavar="OUT", help="new folder for the checkpoint")
    parser.add_argument("--color", action="store_true", help="the encoder reads color, not gray")
    parser.add_argument(
        "--prefix", help="of the names in the file, where several networks are in it: encoder_q"
    )
    parser.add_argument(
        "--head", action="store_true", help="its last layer too: a classifier, for `score`"
    )
    parser.add_argument(
        "--classes", metavar="NAMES", help="a text file with the names of its classes, one a line"
    )


def _to_torch(add) -> None:
    parser = add("to-torch", "the encoder of a checkpoint becomes .safetensors", to_torch)
    parser.add_argument("path", metavar="CHECKPOINT", help="a workdir, or a checkpoints/<step>")
    parser.add_argument("output", metavar="FILE", help="new file, NAME.safetensors")
    parser.add_argument("--gray", action="store_true", help="the first layer reads one channel")


def _to_onnx(add) -> None:
    parser = add("to-onnx", "the network of a checkpoint becomes an ONNX file", to_onnx)
    parser.add_argument("path", metavar="CHECKPOINT", help="a workdir, or a checkpoints/<step>")
    parser.add_argument("output", metavar="FILE", help="new file, NAME.onnx")
    parser.add_argument("--size", type=_size, default=(224, 224), help="SIDE, or HEIGHTxWIDTH")
    parser.add_argument("--colorizer", action="store_true", help="with the head of colorization")


def _inspect(add) -> None:
    parser = add("inspect", "names, shapes, types, and what it is taken for", inspect)
    parser.add_argument("path", metavar="FILE_OR_CHECKPOINT", help="what to look into")


def _add_input(parser) -> None:
    parser.add_argument("--pixels", type=float, default=1.0, help="value of white: 1, or 255")
    parser.add_argument("--mean", type=_numbers, help="subtracted from the input: M or R,G,B")


def _numbers(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError("one number, or three: red, green, blue")
    return numbers


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    sides = int(height), int(width or height)
    if min(sides) < 1:
        raise argparse.ArgumentTypeError("SIDE, or HEIGHTxWIDTH, in pixels")
    return sides


def _setting(change: str) -> tuple[str, Any]:
    """(name, value) of a setting of `config.model`, from text such as "model.lrn=False"."""
    name, equals, value = change.removeprefix("model.").partition("=")
    if not change.startswith("model.") or not equals:
        raise ConfigError(f"--config.{change}: give --config.model.NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


COMMANDS = (_caffe, _to_caffe, _torch, _to_torch, _to_onnx, _inspect)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and converts."""
    parser = help.Parser("python -m colorize_jax.convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text, function):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(function=function)
        return command

    for command in COMMANDS:
        command(add)
    changes, others = recipe.split(sys.argv[1:] if arguments is None else arguments)
    settings = vars(parser.parse_args(others))
    function, _ = settings.pop("function"), settings.pop("command")
    if changes and function is not from_caffe:
        parser.error(f"--config.{changes[0]}: only caffe takes settings")
    # Weights are only copied here, so no accelerator is needed.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        if changes:
            settings["model"] = [_setting(change) for change in changes]
        for name in {"path", "output", "classes"}.intersection(settings):
            settings[name] = settings[name] and paths.expand(settings[name])
        function(**settings, say=command_line.say)
    except (ColorizeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    command_line.interruptible(main)
