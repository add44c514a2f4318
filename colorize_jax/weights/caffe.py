"""Tables of Caffe's networks: AlexNet, VGG-16, ResNet, and the colorizer on top of VGG-16.

Our layers have Caffe's names, so a table follows from the shapes of our own parameters.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
from typing import Any

import numpy as np

from colorize_jax.color.spaces import GRAY_MEAN
from colorize_jax.config import default_config
from colorize_jax.errors import ConfigError, WeightsError
from colorize_jax.models import norm, registry
from colorize_jax.models.alexnet_bn import AlexNetBn
from colorize_jax.models.nin import Nin
from colorize_jax.models.resnet import BASIC
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.models.zhang import Zhang
from colorize_jax.surgery import first_conv
from colorize_jax.weights import tables
from colorize_jax.weights.foreign import File, Imported
from colorize_jax.weights.tables import Row, Shape

Tree = dict[str, Any]

# The layers that distinguish the networks, and the layers that each network needs at least.
_MARKS = {
    "vgg16": {"conv1_1"},
    "alexnet": {"conv1", "conv2"},
    "resnet": {"conv1", "res2a_branch1"},
}
_NEEDS = {
    "vgg16": Vgg16.layers,
    "alexnet": ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"),
    "resnet": ("conv1", "res2a_branch1", "res2a_branch2a", "...", "res5c_branch2c"),
}
_TITLES = {"vgg16": "VGG-16", "alexnet": "AlexNet", "resnet": "ResNet"}
# The layers whose number of outputs gives the width, and that number at width 1.
_WIDEST = {"vgg16": ("fc7", 4096), "alexnet": ("fc7", 4096), "resnet": ("res5a_branch2c", 2048)}
_FIRST = {"vgg16": "conv1_1", "alexnet": "conv1", "resnet": "conv1"}
_UNDER_FC6 = {"vgg16": "conv5_3", "alexnet": "conv5"}
# Settings that the weights do not show, or not exactly. Our own files store them.
UNSEEN = ("fc6_padding", "lrn", "alignment", "hypercolumn", "width")


@dataclasses.dataclass(frozen=True)
class Head:
    """The names of the head in a colorizer's file, and the conventions that go with them.

    Attributes:
        layers: {our name: their name}.
        convolutions: whether the head is stored as 1x1 convolutions, not as inner products.
        mean: the value that is subtracted from gray in [0, 1] before the network.
        alignment: the hypercolumn's alignment; see `models.hypercolumn.ALIGNMENTS`.
    """

    layers: Mapping[str, str]
    convolutions: bool
    mean: float
    alignment: str


HEADS = {
    # The released inference network reads raw gray and is aligned at centers.
    "released": Head(
        {"hidden": "h_fc1", "hue": "prediction_h", "chroma": "prediction_c"}, True, 0.0, "center"
    ),
    # The released training network has its own mean of gray (0.4488, equal to ours in four digits).
    "training": Head(
        {"hidden": "colorize_fc1", "hue": "prediction_h4", "chroma": "prediction_c4"},
        False, GRAY_MEAN, "corner",
    ),
}  # fmt: skip


EXPORTED = "training"  # These names go with our mean of gray.


@dataclasses.dataclass(frozen=True)
class Network:
    """The network that a file was recognized as.

    Attributes:
        model: the settings of `config.model` that follow from it.
        head: a key of `HEADS`, or "" without a head.
    """

    model: dict[str, Any]
    head: str = ""

    def __str__(self):
        model = self.model
        channels = model["in_channels"]
        title = f"ResNet-{model['depth']}" if "depth" in model else _TITLES[model["name"]]
        parts = [
            title,
            f"{channels} channel{'s' if channels > 1 else ''}",
            "batch norm" if model["norm"] == "batch" else "no batch norm",
        ]
        if model["width"] != 1:
            parts.append(f"width {model['width']:.4g}")
        if model.get("fc6_kernel"):
            parts.append(f"fc6 {model['fc6_kernel']}x{model['fc6_kernel']}")
        if self.head:
            parts.append(f"head of the colorizer ({self.head} names)")
        return ", ".join(parts)


def recognize(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None):
    """Recognizes the `Network` from the names and shapes of the arrays.

    Args:
        arrays: {"conv1_1/0": array, ...}.
        metadata: the metadata of the file; see `foreign.File`.

    Raises:
        WeightsError: the arrays fit no network, or several.
    """
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in arrays))
    found = [name for name, marks in _MARKS.items() if marks <= set(layers)]
    if len(found) != 1:
        needs = "; ".join(f"{_TITLES[k]} needs {tables.listed(v)}" for k, v in _NEEDS.items())
        of = "none of the networks" if not found else " and ".join(_TITLES[k] for k in found)
        raise WeightsError(
            f"the layers are those of {of}: found {tables.listed(layers) or 'nothing'}; {needs}"
        )
    name = found[0]
    widest, channels = _WIDEST[name]
    first = _shape(arrays, _FIRST[name], (0, 1, 0, 0))
    if len(first) != 4:
        raise WeightsError(f"{_FIRST[name]}/0 is {first}, which is no convolution")
    model = {
        "name": name,
        "width": _outputs(arrays, widest, channels) / channels,
        "in_channels": first[1],
        "norm": "batch" if any(x.startswith(("batch_", "bn")) for x in layers) else "none",
    }
    if model["in_channels"] not in registry.IN_CHANNELS:
        raise WeightsError(
            f"{_FIRST[name]}/0 reads {model['in_channels']} channels; known are "
            f"{' and '.join(map(str, registry.IN_CHANNELS))}"
        )
    if name == "resnet":
        blocks = {x.partition("_")[0] for x in layers if x.startswith("res")}
        depth = 3 * len(blocks) + 2
        model |= {
            "name": f"resnet{depth}", "depth": depth, "variant": "caffe", "norm": "batch"
        }  # fmt: skip
    else:
        model["fc6_kernel"] = _fc6_kernel(arrays, name)
    heads = [k for k, head in HEADS.items() if set(head.layers.values()) & set(layers)]
    if len(heads) > 1:
        raise WeightsError(f"there are two heads of a colorizer, {' and '.join(heads)}")
    head = heads[0] if heads else ""
    if head:
        model |= {"alignment": HEADS[head].alignment, "hypercolumn": True}
    noted = _noted(metadata or {})
    # The noted width must equal the width in the shapes up to rounding: shapes are rounded.
    if not abs(noted.get("width", model["width"]) - model["width"]) * channels <= 1:
        raise WeightsError(
            f"the note in the file says width {noted['width']}, {widest} is {model['width']:g} wide"
        )
    return Network(model | noted, head)


def _noted(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The settings that our own files store."""
    try:
        saved = json.loads(metadata.get("model", "{}"))
        return checked({name: saved[name] for name in UNSEEN if name in saved})
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise WeightsError(f"the note about the model in the file is damaged: {error}") from error


def checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the model; ConfigError if one is not in `UNSEEN`, or has another type."""
    usual = default_config(network="alexnet").model  # AlexNet has all of these settings.
    for name, value in settings.items():
        if name not in UNSEEN:
            raise ConfigError(
                f"model.{name} follows from the file; what does not: {', '.join(UNSEEN)}"
            )
        if type(value) is not type(usual[name]):
            raise ConfigError(
                f"model.{name} is {value!r}, not a {type(usual[name]).__name__}"
                f" like {usual[name]!r}"
            )
    return dict(settings)


def note(model: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of our own files, for `hdf5.write`."""
    return {
        "model": json.dumps({name: model[name] for name in UNSEEN if name in model}),
        "input": f"mean of red, green and blue in [0, 1], less {GRAY_MEAN:.6f}",
    }


def rows(shapes: Mapping[str, Shape], head: str = "", *, dense: bool = True) -> list[Row]:
    """The table of one of our networks.

    Args:
        shapes: {path: shape} of all its parameters and statistics; see `tables.shapes_of`.
        head: a key of `HEADS` if they include a head.
        dense: whether fc6 and fc7 are written as (out, in), like Caffe's inner products.
    """
    found = []
    for path, shape in shapes.items():
        _, group, layer, leaf = path.split("/")
        theirs = HEADS[head].layers[layer] if group == "head" else layer
        inner = group == "head" or layer.startswith("fc")
        if leaf == "kernel":
            flat = not HEADS[head].convolutions if group == "head" else dense
            flip = layer in _FIRST.values() and shape[-2] == 3
            found.append(_kernel(theirs, path, shape, inner=inner, flat=flat, flip=flip))
        elif leaf == "mean":
            found.append(_batch_norm(theirs, path.removesuffix("mean"), shape))
        elif leaf == "scale":
            found.append(_scale(theirs, path.removesuffix("scale"), shape))
        elif leaf == "bias" and not layer.startswith("scale"):
            found.append(_vector(f"{theirs}/1", path, shape))
    return found


def import_file(
    file: File,
    *,
    pixels: float = 1.0,
    mean: Sequence[float] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Imported:
    """The weights of a Caffe file, converted to our input: gray in [0, 1] minus its mean.

    Args:
        file: a file from `foreign.read`.
        pixels: the value of white in the network's input: 1, or 255 for Caffe's ImageNet models.
        mean: the mean that was subtracted from its input, in the same unit: one number, or red,
            green and blue. None takes our networks' mean, or 0 for the released colorizer.
        model: settings in `UNSEEN` that the caller knows.

    Raises:
        WeightsError: names are unknown or missing, or arrays have a wrong shape or are not finite.
        ConfigError: `model` or `mean` does not fit the file.
    """
    try:
        network = recognize(file.arrays, file.metadata)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from None
    network = dataclasses.replace(network, model=network.model | checked(model or {}))
    try:
        encoder = registry.make_encoder(network.model)
    except ConfigError as error:
        raise WeightsError(f"{file.path} has sizes of no {network}: {error}") from error
    shapes = tables.shapes_of(
        {kind: {"encoder": tree} for kind, tree in registry.variable_shapes(encoder).items()}
    )
    settings: dict[str, dict[str, Any]] = {"model": dict(network.model)}
    if network.head:
        shapes |= _head_shapes(file.arrays, network.head, encoder, network.model["hypercolumn"])
        hidden, bins = shapes["params/head/hue/kernel"]
        settings["model"]["hidden"], settings["task"] = hidden, {"bins": bins}
    variables, left_over = tables.to_ours(
        rows(shapes, network.head),
        file.arrays,
        shapes,
        left_over=lambda name: _is_left_over(name, file.arrays, network),
        source=f"{file.path}, taken for {network},",
    )
    done = []
    if plain := [name for name in variables["params"]["encoder"]
                 if name.startswith("scale") and f"{name}/0" not in file.arrays]:  # fmt: skip
        done.append(f"without scale and bias of their own, 1 and 0: {tables.listed(plain)}")
    if mean is None:
        mean = [pixels * (HEADS[network.head].mean if network.head else GRAY_MEAN)]
    if len(mean) not in (1, encoder.in_channels):
        raise ConfigError(
            f"--mean has {len(mean)} numbers, and the network in {file.path} reads "
            f"{encoder.in_channels} channel(s)"
        )
    if pixels != 1 or any(pixels * GRAY_MEAN != each for each in mean):
        variables = _refit(encoder, variables, pixels, mean)
        done.append(
            f"the input's scale {pixels:g} and mean {', '.join(f'{m:g}' for m in mean)} went into "
            f"{encoder.layers[0]}: exact but for the outermost pixels, where zeros around the map "
            "now are gray's mean"
        )
    return Imported(network, variables, settings, left_over, done)


def export(encoder, variables: dict[str, Tree], *, dense: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a Caffe file for an encoder.

    Args:
        encoder: any of our encoders.
        variables: {"params": {"encoder": ..., "head" if it should be written}, "batch_stats": ...}.
        dense: see `rows`.

    Raises:
        WeightsError: an array is missing or not finite, or Caffe has no such network.
    """
    if getattr(encoder, "variant", "caffe") != "caffe":
        raise WeightsError(
            "a ResNet of model.variant='torch' has its strides on the 3x3 and pads pool1 on both "
            "sides: Caffe's ResNet with these weights would be another function"
        )
    if isinstance(encoder, AlexNetBn) or getattr(encoder, "depth", 50) in BASIC:
        raise WeightsError(
            f"{registry.name_of(encoder)} is no network of Caffe: it is not written for it. "
            "PyTorch has it: convert to-torch"
        )
    if getattr(encoder, "split", False):
        raise WeightsError(
            "the network has two halves that read L, and a and b (model.split): Caffe's with these "
            "weights would be another function, and it is not written for it"
        )
    if getattr(encoder, "stem", "imagenet") != "imagenet":
        raise WeightsError(
            "a ResNet of model.stem='cifar' has another first layer and no pool1: Caffe's ResNet "
            "with these weights would be another function"
        )
    if isinstance(encoder, Nin):
        raise WeightsError("nin is no network of Caffe: it is not written for it")
    if getattr(encoder, "norm", "none") == "layer":
        raise WeightsError("the encoder has layer norm, and Caffe has none: nothing is written")
    if isinstance(encoder, Zhang):
        raise WeightsError(
            "Zhang's network reads the lightness L and has its batch norm behind the ReLU: there "
            "is no table for it, and it is not written for Caffe"
        )
    head = variables["params"].get("head")
    if head is not None and set(head) != set(HEADS[EXPORTED].layers):
        raise WeightsError(
            f"the head has the layers {', '.join(head)}; Caffe's colorizer has "
            f"{', '.join(HEADS[EXPORTED].layers)}, of the histogram loss"
        )
    shapes = tables.shapes_of(variables)
    return tables.to_theirs(rows(shapes, EXPORTED if head else "", dense=dense), variables)


def _kernel(layer: str, path: str, shape: Shape, *, inner: bool, flat: bool, flip: bool) -> Row:
    """The row of a kernel [h, w, in, out]: (out, in, h, w), or (out, in h w) in inner products."""
    *space, channels, out = shape
    height, width = space or (1, 1)
    whole = (out, channels, height, width)
    matrix = (out, channels * height * width)
    forms: list[Shape] = [whole]
    if inner:
        forms = [matrix, whole] if flat else [whole, matrix]
        forms.append((1, 1, *matrix))  # Old files have this shape.

    def to_ours(array):
        kernel = array.reshape(whole).transpose(2, 3, 1, 0)
        return [(kernel[:, :, ::-1] if flip else kernel).reshape(shape)]

    def to_theirs(kernel):
        kernel = kernel.reshape(height, width, channels, out)
        kernel = kernel[:, :, ::-1] if flip else kernel  # Caffe's channels are blue, green, red.
        return [kernel.transpose(3, 2, 0, 1).reshape(forms[0])]

    return Row({f"{layer}/0": forms}, [path], to_ours, to_theirs)


def _vector(name: str, path: str, shape: Shape) -> Row:
    return Row(
        {name: _vector_shapes(shape)}, [path], lambda b: [b.reshape(shape)], lambda b: [b]
    )  # fmt: skip


def _vector_shapes(shape: Shape) -> list[Shape]:
    return [shape, (1, 1, 1, *shape)]  # Old files have the second shape.


def _batch_norm(layer: str, path: str, shape: Shape) -> Row:
    """The row of Caffe's batch norm: sums of means and variances, and the factor to divide by."""
    count_name = f"colorize_jax/{layer}/count"

    def to_ours(mean, var, factor, count):
        divisor = factor.reshape(())
        if divisor == 0:  # They were never updated, so they become our initial statistics.
            return [np.zeros(shape, np.float32), np.ones(shape, np.float32), np.float32(0)]
        # Without a count in the file, the statistics count as those of a finished training.
        count = np.float32(norm.RAMP) if count is None else count
        return [mean.reshape(shape) / divisor, var.reshape(shape) / divisor, count]

    def to_theirs(mean, var, count):
        unusual = None if count == norm.RAMP else count
        return [mean, var, np.ones(1, np.float32), unusual]

    vector = _vector_shapes(shape)
    theirs = {f"{layer}/0": vector, f"{layer}/1": vector, f"{layer}/2": [(1,), (1, 1, 1, 1)]}
    return Row(
        theirs | {count_name: [()]},
        [f"{path}mean", f"{path}var", f"{path}count"],
        to_ours,
        to_theirs,
        optional=[count_name],
    )


def _scale(layer: str, path: str, shape: Shape) -> Row:
    """The row of gamma and beta; they are 1 and 0 for batch norm without parameters."""
    vector = _vector_shapes(shape)
    return Row(
        {f"{layer}/0": vector, f"{layer}/1": vector},
        [f"{path}scale", f"{path}bias"],
        lambda scale, bias: [scale.reshape(shape), bias.reshape(shape)],
        lambda scale, bias: [scale, bias],
        default=[np.ones(shape, np.float32), np.zeros(shape, np.float32)],
    )


def _head_shapes(arrays, head: str, encoder, hypercolumn: bool) -> dict[str, Shape]:
    """The shapes of the head's parameters."""
    read = encoder.hypercolumn if hypercolumn else (encoder.top,)
    names = HEADS[head].layers
    units = _outputs(arrays, names["hidden"], 1024)
    maps = registry.activation_shapes(encoder)
    columns = sum(maps[layer].shape[-1] for layer in read)
    found = {}
    for layer, inputs, outputs in (
        ("hidden", columns, units),
        ("hue", units, _outputs(arrays, names["hue"], 32)),
        ("chroma", units, _outputs(arrays, names["hue"], 32)),
    ):
        found[f"params/head/{layer}/kernel"] = (inputs, outputs)
        found[f"params/head/{layer}/bias"] = (outputs,)
    return found


def _refit(encoder, variables, pixels: float, mean: Sequence[float]):
    """Converts the network to our input, if its own input is scale * ours + shift."""
    shift = np.array([pixels * GRAY_MEAN - each for each in mean])
    params = dict(variables["params"]["encoder"])
    stats = dict(variables["batch_stats"].get("encoder", {}))
    first = encoder.layers[0]
    kernel, constant = first_conv.refit(params[first]["kernel"], pixels, shift)
    params[first] = params[first] | {"kernel": kernel}
    if "bias" in params[first]:
        params[first]["bias"] = params[first]["bias"] + constant
    else:  # A ResNet has no bias, so its batch norm subtracts the constant.
        stats[f"bn_{first}"] = stats[f"bn_{first}"] | {
            "mean": stats[f"bn_{first}"]["mean"] - constant
        }
    changed = {"params": variables["params"] | {"encoder": params}, "batch_stats": {}}
    if stats:
        changed["batch_stats"] = {"encoder": stats}
    if "head" in variables["params"]:
        head = dict(changed["params"]["head"])
        rows_ = head["hidden"]["kernel"][: encoder.in_channels]  # These rows read the input itself.
        lifted = head["hidden"]["bias"] + (rows_ * shift[:, None]).sum(0)
        weights = np.concatenate(
            [rows_ * np.float32(pixels), head["hidden"]["kernel"][encoder.in_channels :]]
        )
        head["hidden"] = {"kernel": weights, "bias": lifted.astype(np.float32)}
        changed["params"]["head"] = head
    return changed


def _is_left_over(name: str, arrays, network: Network) -> bool:
    """Whether an array is not used: the classifier, or a colorizer's fixed upsampling filters."""
    if name.rpartition("/")[0] in ("fc8", "fc1000"):
        return True
    array = arrays[name]
    fixed = array.ndim == 4 and array.shape[1] == 1 and len(array) > 1
    return bool(network.head) and fixed and bool((array == array[:1]).all())


def _shape(arrays, layer: str, otherwise: Shape) -> Shape:
    return arrays[f"{layer}/0"].shape if f"{layer}/0" in arrays else otherwise


def _outputs(arrays, layer: str, otherwise: int) -> int:
    shape = _shape(arrays, layer, (otherwise,))
    return shape[2] if len(shape) == 4 and shape[:2] == (1, 1) else (shape or (otherwise,))[0]


def _fc6_kernel(arrays, network: str) -> int:
    """The side of fc6's kernel as in the config: 0 if it is the network's own, or unknown."""
    shape = _shape(arrays, "fc6", ())
    inputs = _outputs(arrays, _UNDER_FC6[network], 0)
    if len(shape) == 4 and shape[:2] != (1, 1):
        side = shape[2]
    elif shape and inputs:
        side = math.isqrt(shape[-1] // inputs)
    else:
        side = 0
    return 0 if side == registry.own_fc6_kernel(network) else side
