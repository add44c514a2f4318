"""The table between the released PyTorch colorizer of Zhang et al. (eccv16) and ours, head too.

The names are "model1.0.weight" to "model8.6.bias", and "model_out.weight", the colors of the bins.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from colorize_jax.color import gamut
from colorize_jax.errors import WeightsError
from colorize_jax.models import registry
from colorize_jax.models.zhang import BLOCKS
from colorize_jax.tasks.zhang import AB_SCALE
from colorize_jax.weights import torch_names
from colorize_jax.weights.foreign import File, Imported
from colorize_jax.weights.tables import Row, Shape, listed, same, to_ours
from colorize_jax.weights.torch import convolution, counter

_TOPS = frozenset({*(f"model{i}" for i in range(1, 9)), "model_out"})
_SPELLING = torch_names.Spelling(
    "", _TOPS, re.compile(r"model[1-8]|model_out|\d+"), re.compile(r"model[1-8]\.\d+|model_out")
)
_FIRST, _COLORS = "model1.0.weight", "model_out.weight"
_FARTHEST = 1.0  # units of a and b that a color in a file may be from the bin that it is


@dataclasses.dataclass(frozen=True)
class Network:
    """What a state dict is of; `str` of it is in words.

    Attributes:
        model: settings of `config.model`.
        place: where in the file its names are, in words.
    """

    model: Mapping[str, Any]
    place: str = ""

    def __str__(self):
        parts = ["colorizer (eccv16)"]
        if self.model["width"] != 1:
            parts.append(f"width {self.model['width']:.4g}")
        return ", ".join([*parts, self.place] if self.place else parts)


def is_in(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a file has names of this network: of no other, but perhaps not all of them."""
    needed = {_FIRST, "model5.0.weight", _COLORS}
    return any(tree.names.keys() & needed for tree in torch_names.trees(arrays, [_SPELLING]))


def recognize(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Network:
    """The network that a state dict is of; WeightsError if it is none of this kind."""
    del metadata
    return _find(arrays, None)[0]


def import_file(file: File, *, prefix: str | None = None) -> Imported:
    """The weights of a state dict as a checkpoint of the task "zhang": encoder, head and prior.

    Bins that stand in another order in the file are put into ours, by the colors that it gives
    them. How often they occurred in training is not in the file: the prior is uniform.

    Args:
        file: as `foreign.read` gives it.
        prefix: what the names of the wanted network begin with, where several are in the file.

    Raises:
        WeightsError: names what is unknown, missing, of a wrong shape or not finite; the colors of
            its bins are not ours.
    """
    try:
        network, tree = _find(file.arrays, prefix)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from None
    encoder = registry.make_encoder(network.model)
    rows, shapes = _table(encoder.width)
    rows = [
        dataclasses.replace(
            row, theirs={tree.name(name): allowed for name, allowed in row.theirs.items()}
        )
        for row in rows
    ]
    inside = {*tree.names.values(), *tree.unknown}
    variables, _ = to_ours(
        rows,
        {name: array for name, array in file.arrays.items() if name in inside},
        shapes,
        source=f"{file.path}, taken for {network},",
    )
    variables["constants"] = {"head": {"prior": np.full(gamut.BINS, 1 / gamut.BINS, np.float32)}}
    done = [
        "the head comes along; the prior of the bins is not in the file and taken as uniform, so "
        "that losses count all colors alike",
        "config.task.temperature=1, since the file's network itself decodes without a temperature",
    ]
    settings = {"model": dict(network.model), "task": {"name": "zhang", "temperature": 1.0}}
    left_over = torch_names.beginnings([name for name in file.arrays if name not in inside])
    return Imported(network, variables, settings, left_over, done)


def _find(arrays: Mapping[str, np.ndarray], prefix: str | None):
    """The one network in a file, or the one whose names begin with a prefix, and its names."""
    trees = [tree for tree in torch_names.trees(arrays, [_SPELLING]) if _FIRST in tree.names]
    if prefix is not None:
        trees = [tree for tree in trees if tree.prefix.rstrip(".") == prefix.rstrip(".")]
    if not trees:
        raise WeightsError(
            f"{_FIRST} is missing, with which the names of Zhang's colorizer begin; found "
            f"{listed(torch_names.beginnings(arrays)) or 'nothing'}"
        )
    if len(trees) > 1:
        raise WeightsError(
            f"{len(trees)} networks fit; choose one by "
            + "; ".join(f"--prefix={tree.prefix.rstrip('.') or repr('')}" for tree in trees)
        )
    (tree,) = trees
    shape = arrays[tree.name(_FIRST)].shape
    if len(shape) != 4 or 0 in shape or shape[1] != 1:
        raise WeightsError(
            f"{tree.name(_FIRST)} is {shape}; Zhang's colorizer reads one channel, the lightness. "
            "(The later colorizer with hints, siggraph17, reads four, and is not known here)"
        )
    width = shape[0] / BLOCKS[0].channels
    return Network({"name": "zhang", "width": width, "norm_scale": True}, str(tree)), tree


def _table(width: float) -> tuple[list[Row], dict[str, Shape]]:
    """The rows, and {path: shape} of all that they fill."""
    rows: list[Row] = []
    shapes: dict[str, Shape] = {}

    def features(channels):
        return max(1, round(channels * width))

    def add(row, *of):
        rows.append(row)
        shapes.update(zip(row.ours, of, strict=True))

    def add_convolution(theirs, ours, inputs, outputs):
        shape, own = (3, 3, inputs, outputs), f"params/{ours}"
        add(convolution(f"{theirs}.weight", f"{own}/kernel", shape, 0), shape)
        add(same(f"{theirs}.bias", f"{own}/bias", (outputs,)), (outputs,))

    below = 1
    for number, block in enumerate(BLOCKS, 1):
        outputs = features(block.channels)
        for i in range(block.convolutions):
            ours = f"encoder/conv{number}_{i + 1}"
            add_convolution(f"model{number}.{2 * i}", ours, below, outputs)
            below = outputs
        norm = f"model{number}.{2 * block.convolutions}"  # every convolution has a ReLU behind it
        for theirs, path in (
            ("weight", f"params/{ours}scale/scale"),
            ("bias", f"params/{ours}scale/bias"),
            ("running_mean", f"batch_stats/{ours}norm/mean"),
            ("running_var", f"batch_stats/{ours}norm/var"),
        ):
            add(same(f"{norm}.{theirs}", path, (outputs,)), (outputs,))
        add(counter(f"{norm}.num_batches_tracked", f"batch_stats/{ours}norm/count"), ())
    outputs = features(256)
    shape, head = (4, 4, below, outputs), "params/head"
    add(
        Row(
            {"model8.0.weight": [(below, outputs, 4, 4)]},
            [f"{head}/conv8_1/kernel"],
            lambda weight: [weight.transpose(2, 3, 0, 1)],
            None,
        ),
        shape,
    )
    add(same("model8.0.bias", f"{head}/conv8_1/bias", (outputs,)), (outputs,))
    for i in (1, 2):
        add_convolution(f"model8.{2 * i}", f"head/conv8_{i + 1}", outputs, outputs)
    add(
        Row(
            {
                "model8.6.weight": [(gamut.BINS, outputs, 1, 1)],
                "model8.6.bias": [(gamut.BINS,)],
                _COLORS: [(2, gamut.BINS, 1, 1)],
            },
            [f"{head}/bins/kernel", f"{head}/bins/bias"],
            _in_our_order,
            None,
        ),
        (outputs, gamut.BINS),
        (gamut.BINS,),
    )
    return rows, shapes


def _in_our_order(weight: np.ndarray, bias: np.ndarray, colors: np.ndarray) -> list[np.ndarray]:
    """The last layer [outputs, 313] and [313], whose bins have the colors [2, 313, 1, 1]."""
    ab = AB_SCALE * colors[:, :, 0, 0].T
    distance = np.abs(ab[:, None] - gamut.bins()).max(-1)
    place = distance.argmin(0)  # of each of our bins in the file
    if distance.min(0).max() > _FARTHEST or len(set(place)) < gamut.BINS:
        raise WeightsError(
            f"{_COLORS} times {AB_SCALE:g} should have the colors of the 313 bins, in any order; "
            f"the farthest of them is off by {distance.min(0).max():.3g} units of a and b"
        )
    return [weight[place, :, 0, 0].T, bias[place]]
