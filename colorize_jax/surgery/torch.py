"""Tables between torchvision's VGG-16 and ResNets and ours.

torchvision's networks read RGB in [0, 1], less a mean and divided by a deviation, both per channel.
Ours read gray (or RGB) less one mean, which takes the place of the three, and the deviations go
into the first kernel: what a network answers here is exactly what it answers there to
(x - GRAY_MEAN) / deviation. Against torchvision's own means every photo is as if tinted by
`TINT`, nine levels of 255 and less for red and green, eleven for blue; that cannot go into a bias
exactly, since zeros around the input stand for the mean too, and a ResNet has no bias.
"""

from collections.abc import Collection, Mapping
import dataclasses
import math

import numpy as np

from colorize_jax.color.spaces import GRAY_MEAN
from colorize_jax.errors import WeightsError
from colorize_jax.models import registry, resnet
from colorize_jax.models.norm import EPSILON, RAMP
from colorize_jax.models.vgg16 import BLOCKS
from colorize_jax.surgery.tables import Row, Shape, Tree, listed, same, shapes_of

# Of ImageNet, as torchvision's pretrained weights expect them: RGB.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
TINT = tuple(round(mean - GRAY_MEAN, 4) for mean in MEAN)

_PREFIX = "module."  # of torch.nn.DataParallel
_COUNTER = "num_batches_tracked"
_CLASSIFIERS = ("classifier.6.", "fc.")
# torchvision's alexnet, without its classifier's last layer.
_ALEXNET = {f"features.{i}.weight" for i in (0, 3, 6, 8, 10)} | {
    "classifier.1.weight", "classifier.4.weight",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Network:
    """What a state dict is of.

    Attributes:
        title: in words.
        settings: of `config.model`, with the channels that the file's first layer reads.
        batch_norm: VGG-16: whether batch norm stands between its layers, to be absorbed.
    """

    title: str
    settings: Mapping[str, object]
    batch_norm: bool = False


def is_classifier(name: str) -> bool:
    """Whether an array belongs to the classifier on top, of which an encoder has no use."""
    return name.startswith(_CLASSIFIERS)


def without_prefix(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays without what DataParallel puts before all names."""
    if arrays and all(name.startswith(_PREFIX) for name in arrays):
        return {name.removeprefix(_PREFIX): array for name, array in arrays.items()}
    return dict(arrays)


def recognize(shapes: Mapping[str, Shape], source: str = "the file") -> Network:
    """The network that a state dict is of, by its names, and its size, by the shapes.

    Args:
        shapes: {name: shape}, without the prefix of DataParallel.
        source: where they are from, for errors.

    Raises:
        WeightsError: it is none of those known here; says what was found.
    """
    for first, read in (("features.0.weight", _vgg16), ("conv1.weight", _resnet)):
        if len(shapes.get(first, ())) == 4 and (found := read(shapes, source)):
            return found
    raise WeightsError(
        f"{source} is of no network known here: {len(shapes)} arrays, {listed(shapes)}. Known are "
        "torchvision's vgg16 (features.N, classifier.0, classifier.3), vgg16_bn and ResNets with "
        "bottlenecks (conv1, layer1.0.conv1, ... layer4)"
    )


def _vgg16(shapes, source) -> Network | None:
    if set(shapes) >= _ALEXNET and "features.2.weight" not in shapes:
        raise WeightsError(
            f"{source} holds torchvision's alexnet, which is another network than AlexNet here: "
            "64, 192, 384, 256 and 256 channels in place of 96, 256, 384, 384 and 256, and no "
            "groups. Its weights fit no network of this library"
        )
    batch_norm = "features.1.running_mean" in shapes
    names = _vgg16_names(batch_norm)
    if {name for conv, _ in names.values() for name in (f"{conv}.weight",)} - set(shapes):
        return None
    top, below = shapes["classifier.0.weight"], shapes[f"{names['conv5_3'][0]}.weight"]
    kernel = math.isqrt(top[-1] // below[0])
    channels, _ = _first(shapes["features.0.weight"], source)
    return Network(
        f"torchvision's VGG-16{' with batch norm' if batch_norm else ''}",
        {
            "name": "vgg16",
            "width": channels / BLOCKS[0][0],
            "in_channels": shapes["features.0.weight"][1],
            "fc6_kernel": kernel,
            "norm": "none",
        },
        batch_norm,
    )


def _resnet(shapes, source) -> Network | None:
    blocks = tuple(
        sum(f"layer{stage}.{i}.conv1.weight" in shapes for i in range(len(shapes)))
        for stage in (1, 2, 3, 4)
    )
    if "layer1.0.conv1.weight" not in shapes:
        return None
    depths = {counts: depth for depth, counts in resnet.DEPTHS.items()}
    if blocks not in depths or "layer1.0.conv3.weight" not in shapes:
        kind = "bottlenecks" if "layer1.0.conv3.weight" in shapes else "blocks of two convolutions"
        known = ", ".join(f"{depth}: {counts}" for counts, depth in depths.items())
        raise WeightsError(
            f"{source} holds a ResNet whose stages have {blocks} {kind}; known here are those with "
            f"bottlenecks, {known}"
        )
    channels, _ = _first(shapes["conv1.weight"], source)
    return Network(
        f"torchvision's ResNet-{depths[blocks]}",
        {
            "name": "resnet152",
            "depth": depths[blocks],
            "variant": "torch",
            "width": channels / 64,
            "in_channels": shapes["conv1.weight"][1],
            "norm": "batch",
        },
    )


def _first(shape, source):
    if shape[1] not in registry.IN_CHANNELS:
        raise WeightsError(
            f"the first layer of {source} reads {shape[1]} channels; gray has 1 and color 3"
        )
    return shape[:2]


def table(encoder, *, channels: int, batch_norm: bool = False) -> list[Row]:
    """The rows between torchvision's names and the paths of an encoder.

    Args:
        encoder: `Vgg16` without batch norm, or a `ResNet`.
        channels: that the first layer of the state dict reads. 3: RGB, normalized as torchvision
            does it; the encoder may read gray. 1: what the encoder reads.
        batch_norm: VGG-16: the state dict has batch norm, which is absorbed; no way back.

    Raises:
        WeightsError: the encoder has no counterpart in torchvision, or reads color and the state
            dict does not.
    """
    if encoder.in_channels == 3 and channels == 1:
        raise WeightsError("the first layer reads gray and cannot become one of color here")
    shapes = shapes_of({"params": {"encoder": registry.variable_shapes(encoder)["params"]}})
    if isinstance(encoder, resnet.ResNet):
        if encoder.variant != "torch":
            raise WeightsError(
                "a ResNet of config.model.variant='caffe' has its strides on the 1x1 convolutions "
                "and pads pool1 otherwise: with the same weights torchvision's ResNet would "
                "compute something else, so there is nothing to write"
            )
        return _resnet_rows(encoder, shapes, channels)
    if getattr(encoder, "layers", ()) != tuple(_vgg16_names(False)):
        raise WeightsError(
            f"{type(encoder).__name__} has no counterpart in torchvision, whose alexnet is another "
            "network: other channels and no groups"
        )
    if encoder.norm != "none":
        raise WeightsError("torchvision's vgg16 has no batch norm: absorb it first")
    return _vgg16_rows(encoder, shapes, channels, batch_norm)


def _vgg16_names(batch_norm: bool) -> dict[str, tuple[str, str | None]]:
    """{our layer: (torchvision's convolution or dense layer, its batch norm)}."""
    names, index = {}, 0
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for i in range(1, convolutions + 1):
            norm = f"features.{index + 1}" if batch_norm else None
            names[f"conv{block}_{i}"] = (f"features.{index}", norm)
            index += 3 if batch_norm else 2  # with ReLU
        index += 1  # the pool
    return names | {"fc6": ("classifier.0", None), "fc7": ("classifier.3", None)}


def _vgg16_rows(encoder, shapes, channels, batch_norm) -> list[Row]:
    rows = []
    for layer, (theirs, norm) in _vgg16_names(batch_norm).items():
        kernel, bias = (f"params/encoder/{layer}/{kind}" for kind in ("kernel", "bias"))
        shape = shapes[kernel]
        if layer in ("fc6", "fc7"):
            weight = _dense(f"{theirs}.weight", kernel, shape)
        else:
            weight = _convolution(
                f"{theirs}.weight", kernel, shape, channels if layer == encoder.layers[0] else 0
            )
        rows += (
            [weight, same(f"{theirs}.bias", bias, shapes[bias])]
            if norm is None
            else [_absorbed(weight, f"{theirs}.bias", norm, bias, shapes[bias])]
        )
    return rows


def _resnet_rows(encoder, shapes, channels) -> list[Row]:
    rows, places = [], {stage: 0 for stage in (2, 3, 4, 5)}
    convolutions = [("conv1", "conv1", "bn1", "conv1")]
    for block in encoder.layers[1:]:
        stage = int(block.removeprefix("res")[0])
        theirs = f"layer{stage - 1}.{places[stage]}"
        if places[stage] == 0:
            names = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
            convolutions.append((f"{block}_branch1", *names, f"{block[3:]}_branch1"))
        for i, branch in enumerate(("branch2a", "branch2b", "branch2c"), 1):
            names = (f"{theirs}.conv{i}", f"{theirs}.bn{i}")
            convolutions.append((f"{block}_{branch}", *names, f"{block[3:]}_{branch}"))
        places[stage] += 1
    for ours, conv, norm, suffix in convolutions:
        separator = "_" if ours == "conv1" else ""
        kernel = f"params/encoder/{ours}/kernel"
        rows.append(
            _convolution(
                f"{conv}.weight", kernel, shapes[kernel], channels if ours == "conv1" else 0
            )
        )
        scale = f"params/encoder/scale{separator}{suffix}"
        stats = f"batch_stats/encoder/bn{separator}{suffix}"
        shape = shapes[f"{scale}/scale"]
        rows += [
            same(f"{norm}.weight", f"{scale}/scale", shape),
            same(f"{norm}.bias", f"{scale}/bias", shape),
            same(f"{norm}.running_mean", f"{stats}/mean", shape),
            same(f"{norm}.running_var", f"{stats}/var", shape),
            _counter(f"{norm}.{_COUNTER}", f"{stats}/count"),
        ]
    return rows


def _convolution(name: str, path: str, shape: Shape, channels: int) -> Row:
    """A kernel [h, w, in, out] of ours; of the first layer `channels` says what the file's reads."""
    height, width, inputs, outputs = shape
    theirs = (outputs, channels or inputs, height, width)
    if channels != 3:
        return Row(
            {name: [theirs]},
            [path],
            lambda weight: [weight.transpose(2, 3, 1, 0)],
            lambda kernel: [kernel.transpose(3, 2, 0, 1)],
        )
    from_color = _summed if inputs == 1 else _divided
    to_color = _spread if inputs == 1 else _multiplied
    return Row(
        {name: [theirs]},
        [path],
        lambda weight: [from_color(weight.transpose(2, 3, 1, 0))],
        lambda kernel: [to_color(kernel).transpose(3, 2, 0, 1)],
    )


def _divided(kernel: np.ndarray) -> np.ndarray:
    return (kernel / np.reshape(DEVIATION, (3, 1))).astype(np.float32)


def _multiplied(kernel: np.ndarray) -> np.ndarray:
    return (kernel * np.reshape(DEVIATION, (3, 1))).astype(np.float32)


def _summed(kernel: np.ndarray) -> np.ndarray:
    return (kernel / np.reshape(DEVIATION, (3, 1))).sum(2, keepdims=True).astype(np.float32)


def _spread(kernel: np.ndarray) -> np.ndarray:
    """[h, w, 1, out] -> [h, w, 3, out] that reads the mean of the channels, as our gray is.

    The last channel makes up for the rounding of the first two, so that `_summed` gives back the
    kernel bit for bit: what is left is less than half a unit in the last place.
    """
    red, green = (
        (kernel.astype(np.float64) * (deviation / 3)).astype(np.float32)
        for deviation in DEVIATION[:2]
    )
    rest = kernel - red / DEVIATION[0] - green / DEVIATION[1]
    return np.concatenate([red, green, (rest * DEVIATION[2]).astype(np.float32)], 2)


def _dense(name: str, path: str, shape: Shape) -> Row:
    """fc6 and fc7: dense over [channels, height, width] there, convolutions here."""
    height, width, inputs, outputs = shape

    def kernel(weight):
        return [weight.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)]

    def weight(kernel):
        return [kernel.transpose(3, 2, 0, 1).reshape(outputs, -1)]

    return Row({name: [(outputs, inputs * height * width)]}, [path], kernel, weight)


def _absorbed(weight: Row, bias_name: str, norm: str, bias_path: str, shape: Shape) -> Row:
    """A convolution of `weight` and the batch norm behind it, scale and bias included."""
    kinds = ("weight", "bias", "running_mean", "running_var")

    def absorb(array, bias, scale, offset, mean, var, _):
        factor = scale / np.sqrt(var.astype(np.float64) + EPSILON)
        (kernel,) = weight.to_ours(array)
        return [
            (kernel * factor).astype(np.float32),
            ((bias - mean) * factor + offset).astype(np.float32),
        ]

    return Row(
        weight.theirs
        | {bias_name: [shape]}
        | {f"{norm}.{kind}": [shape] for kind in kinds}
        | {f"{norm}.{_COUNTER}": [()]},
        [*weight.ours, bias_path],
        absorb,
        None,
        optional=(f"{norm}.{_COUNTER}",),
    )


def _counter(name: str, path: str) -> Row:
    """Steps behind the running averages; old files do not count them: those of a whole training."""
    return Row(
        {name: [()]},
        [path],
        lambda count: [np.asarray(count, np.float32)],
        lambda count: [np.asarray(np.round(count), np.int64)],
        default=(np.float32(RAMP),),
    )


def normalization(channels: int) -> str:
    """In words, what a written state dict reads."""
    if channels == 1:
        return f"gray (the mean of the channels, in [0, 1]) less {GRAY_MEAN:.6g}"
    return f"RGB in [0, 1], less {GRAY_MEAN:.6g} in every channel, divided by {DEVIATION}"


def names_of(rows: Collection[Row]) -> list[str]:
    """All foreign names of a table."""
    return [name for row in rows for name in row.theirs]
