"""Lists the arrays of a file of weights or of a checkpoint, and names the network."""

from collections.abc import Iterator, Mapping
import math
import pathlib
from typing import Any

from colorize_jax.checkpoints import reading
from colorize_jax.errors import WeightsError
from colorize_jax.models import registry
from colorize_jax.weights import caffe, foreign, torch, zhang

# Each recognizes a network by names and shapes, or raises a WeightsError that says what is missing.
RECOGNIZERS = {
    "Caffe": caffe.recognize,
    "Zhang": zhang.recognize,
    "torchvision": torch.recognize,
}


def describe(path: str | pathlib.Path) -> Iterator[str]:
    """Yields lines: the network, every array with shape and type, and the numbers of values.

    Raises:
        WeightsError: the file holds no weights, or is damaged.
        CheckpointError: the folder holds no checkpoint, or a damaged one.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        folder = reading.find(path)
        note = reading.saved_note(folder)
        arrays = reading.saved_arrays(folder)
        yield f"{folder}: checkpoint of colorize_jax, {_settings(note['config']['model'])}"
        for name, value in note.get("origin", {}).items():
            yield f"from {name}: {value}"
    else:
        file = foreign.read(path)
        arrays = file.arrays
        yield f"{path}: {file.format} {_taken_for(file)}"
        for name, value in file.metadata.items():
            yield f"note {name}: {value}"
    yield from _table(arrays)


def _settings(model: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in registry.by_depth(model).items())


def _taken_for(file: foreign.File) -> str:
    """The recognized network in words; for an unknown one, what is missing for each format."""
    reasons = []
    for name, recognize in RECOGNIZERS.items():
        try:
            return f"of {name}'s {recognize(file.arrays, file.metadata)}"
        except WeightsError as error:
            reasons.append(f"not {name}'s: {error}")
    return "\n".join(["of an unknown network", *reasons])


def _table(arrays: Mapping[str, Any]) -> Iterator[str]:
    wide = max((len(name) for name in arrays), default=0)
    shapes = {name: " x ".join(map(str, array.shape)) or "()" for name, array in arrays.items()}
    widest = max((len(shape) for shape in shapes.values()), default=0)
    for name, array in arrays.items():
        yield f"{name:{wide}}  {shapes[name]:>{widest}}  {array.dtype}"
    total = sum(math.prod(array.shape) for array in arrays.values())
    yield f"{total:,} numbers in {len(arrays)} arrays"
    parameters = [array for name, array in arrays.items() if name.startswith("params/")]
    if parameters:
        count = sum(math.prod(array.shape) for array in parameters)
        yield f"{count:,} of them are parameters"
