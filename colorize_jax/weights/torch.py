"""Tables between torchvision's VGG-16, AlexNet and ResNets and ours, and of published ViTs to ours.

torchvision's networks read RGB in [0, 1], less a mean and divided by a deviation, both per channel.
Ours read gray (or RGB) less one mean, which takes the place of the three, and the deviations go
into the first kernel: what a network answers here is exactly what it answers there to
(x - GRAY_MEAN) / deviation. Against torchvision's own means every photo is as if tinted by
`TINT`, nine levels of 255 and less for red and green, eleven for blue; that cannot go into a bias
exactly, since zeros around the input stand for the mean too, and a ResNet has no bias.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from colorize_jax.color.spaces import GRAY_MEAN
from colorize_jax.errors import ConfigError, WeightsError
from colorize_jax.models import layers, registry, resnet, transformer
from colorize_jax.models.alexnet_bn import AlexNetBn
from colorize_jax.models.norm import EPSILON, RAMP
from colorize_jax.models.vgg16 import BLOCKS, Vgg16
from colorize_jax.models.vit import SIZES, Vit
from colorize_jax.surgery.absorb import absorb_batch_norm
from colorize_jax.weights import torch_names
from colorize_jax.weights.foreign import File, Imported
from colorize_jax.weights.tables import (
    Row,
    Shape,
    Tree,
    listed,
    same,
    shapes_of,
    to_ours,
    to_theirs,
)
from colorize_jax.weights.torch_names import Tree as Names

# Of ImageNet, as torchvision's pretrained weights expect them: RGB.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
TINT = tuple(mean - GRAY_MEAN for mean in MEAN)

# The sizes that torchvision has.
_DEPTHS = (18, 34, 50, 101, 152)

_HEAD_KERNEL, _HEAD_BIAS = (f"params/head/classes/{kind}" for kind in ("kernel", "bias"))
_COUNTER = "num_batches_tracked"
_CLASSIFIERS = ("classifier.6.", "fc.")
_NEAR = 0.25  # of what a network needs: from there on names are said to be those of a part of it
# {our layer of alexnet_bn: torchvision's of alexnet}.
_ALEXNET = {
    "conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8",
    "conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4",
}  # fmt: skip
_FIRST = {
    "vgg16": "features.0.weight",
    "alexnet_bn": "features.0.weight",
    **dict.fromkeys(registry.RESNETS, "conv1.weight"),
    "vit": "patch_embed.proj.weight",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """What a state dict is of.

    Attributes:
        title: in words.
        model: settings of `config.model`, with the channels that the file's first layer reads.
        batch_norm: VGG-16: whether batch norm stands between its layers, to be absorbed.
        whole: VGG-16: fc6 and fc7 are there too.
        place: where in the file its names are, in words.
    """

    title: str
    model: Mapping[str, Any]
    batch_norm: bool = False
    whole: bool = True
    place: str = ""

    def __str__(self):
        channels = self.model["in_channels"]
        parts = [self.title, f"{channels} channel{'s' if channels > 1 else ''}"]
        if self.model["width"] != 1:
            parts.append(f"width {self.model['width']:.4g}")
        if not self.whole:
            parts.append("features alone")
        elif "fc6_kernel" in self.model:
            size = self.model["fc6_kernel"]
            fc6 = {"vgg16": "classifier.0", "alexnet_bn": "classifier.1"}[self.model["name"]]
            parts.append(f"{fc6} on {size}x{size}")
        return ", ".join([*parts, self.place] if self.place else parts)


def recognize(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Network:
    """The network that a state dict is of, by its names, and its size, by the shapes.

    Args:
        arrays: "features.0.weight" and so on, with anything before and between.
        metadata: of the file; says nothing about the network.

    Raises:
        WeightsError: it is none of those known here, or of several; says what was found.
    """
    del metadata
    return _find(arrays, None)[0]


def import_file(
    file: File, *, color: bool = False, prefix: str | None = None, head: bool = False
) -> Imported:
    """The weights of a state dict, made for our input.

    It may be a part of the file, and its names may be wrapped: see `torch_names`. fc6 and fc7 of a
    VGG-16 that comes without its classifier are a random start, and that is said.

    Args:
        file: as `foreign.read` gives it. A first layer of three channels is taken for one that
            reads what torchvision's weights of ImageNet do, one of a single channel for one that
            reads our gray.
        color: the encoder reads RGB; otherwise gray.
        prefix: what the names of the wanted network begin with, where several are in the file.
        head: the last layer too, as the head of a classifier: it then answers as the file's network
            does, and fc6 of a VGG-16 has no padding, since the file's has none.

    Raises:
        WeightsError: names what is unknown, missing, of a wrong shape or not finite, or the
            prefixes of which several fit; there is no last layer although one is asked for.
    """
    try:
        network, tree = _find(file.arrays, prefix)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: {error}") from None
    channels = network.model["in_channels"]
    if color and channels == 1:
        raise WeightsError(f"{file.path} reads a single channel: it is not imported for color")
    model = {**network.model, "in_channels": 3 if color else 1}
    settings: dict[str, dict[str, Any]] = {"model": model}
    vit = model["name"] == "vit"
    if vit:
        _check_positions(file, tree, model)
    if vit and head:
        raise WeightsError(
            f"{file.path}: the last layer of a ViT is not kept, because it reads the token of the "
            "photo there and the mean of the patches here: leave out --head"
        )
    if head and "fc6_kernel" in model:
        model.setdefault("fc6_padding", "VALID")
    source = f"{file.path}, taken for {network},"
    try:
        encoder = registry.make_encoder(model)
    except ConfigError as error:
        raise WeightsError(f"{source} has sizes of no such network: {error}") from error
    shapes = shapes_of(
        {k: {"encoder": part} for k, part in registry.variable_shapes(encoder).items()}
    )
    new = [] if network.whole else ["fc6", "fc7"]
    head_rows: list[Row] = []
    if head:
        head_rows, head_shapes = _head(file, tree, encoder, shapes)
        shapes |= head_shapes
        outputs = head_shapes[_HEAD_BIAS][0]
        settings["task"] = {"name": "classification", "loss": "softmax", "classes": outputs}
    rows = [
        dataclasses.replace(
            row,
            theirs={tree.name(name): allowed for name, allowed in row.theirs.items()},
            optional=[tree.name(name) for name in row.optional],
        )
        for row in table(encoder, channels=channels, batch_norm=network.batch_norm)
        if not any(path.split("/")[2] in new for path in row.ours)
    ]
    inside = {*tree.names.values(), *tree.unknown}
    variables, left_over = to_ours(
        rows + head_rows,
        {name: array for name, array in file.arrays.items() if name in inside},
        {path: shape for path, shape in shapes.items() if path.split("/")[2] not in new},
        left_over=_left_over(tree, network.whole),
        source=source,
    )
    left_over += torch_names.beginnings([name for name in file.arrays if name not in inside])
    done = []
    if network.batch_norm:
        done.append("batch norm absorbed, with its scale and bias")
    if channels == 3:
        done.append(
            f"{'' if color else 'the sum over the channels and '}the deviations {DEVIATION} went "
            f"into {encoder.layers[0]}; the mean {GRAY_MEAN:.4f} takes the place of {MEAN}"
            + (", and the difference went into the bias" if vit else "")
        )
    if vit:
        done.append("its positions are the fixed ones, which are not stored here")
    for i, layer in enumerate(new):
        kernel, bias = (shapes[f"params/encoder/{layer}/{leaf}"] for leaf in ("kernel", "bias"))
        variables["params"]["encoder"][layer] = {
            "kernel": np.asarray(layers.caffe_xavier(jax.random.key(i), kernel)),
            "bias": np.zeros(bias, np.float32),
        }
    if new:
        done.append(
            f"{encoder.layers[0]} to {encoder.layers[-3]} are those of the file; it has no "
            f"classifier, so that {' and '.join(new)} begin at random, as in a new network"
        )
    if head:
        done.append(f"the last layer is kept, as a head of {outputs:,} classes")
    return Imported(network, variables, settings, left_over, done, new)


def _head(
    file: File, tree: Names, encoder, shapes: Mapping[str, Shape]
) -> tuple[list[Row], dict[str, Shape]]:
    """The rows of the last layer as the head of a classifier, and the shapes of that head."""
    layer = "fc" if isinstance(encoder, resnet.ResNet) else "classifier.6"
    weight, bias = (tree.name(f"{layer}.{kind}") for kind in ("weight", "bias"))
    shape = np.shape(file.arrays.get(weight, 0))
    if len(shape) != 2 or bias not in file.arrays:
        raise WeightsError(
            f"{file.path} has no {weight} and {bias}, which are the last layer of a classifier: "
            "without --head its encoder is taken alone"
        )
    below = encoder.layers[-1]
    if layer == "fc":
        below = resnet.convolutions(encoder.depth, below)[-1]
    features = shapes[f"params/encoder/{below}/kernel"][-1]
    rows = [
        Row({weight: [(shape[0], features)]}, [_HEAD_KERNEL], lambda array: [array.T], None),
        same(bias, _HEAD_BIAS, shape[:1]),
    ]
    return rows, {_HEAD_KERNEL: (features, shape[0]), _HEAD_BIAS: shape[:1]}


def export(
    encoder, variables: dict[str, Tree], *, gray: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A state dict for torchvision's definition, without its classifier, and notes about it.

    Args:
        encoder: `Vgg16` or `AlexNetBn`, whose batch norm is absorbed, or a `ResNet` of variant
            "torch".
        variables: {"params": ..., "batch_stats": ...} of the encoder alone.
        gray: the first layer reads one channel, as the encoder; otherwise three, as torchvision's.

    Raises:
        WeightsError: torchvision has no such network; the encoder reads color and `gray` is asked
            for; something is missing or not finite.
    """
    if gray and encoder.in_channels == 3:
        raise WeightsError("the encoder reads color: it is not written for gray")
    if encoder.norm == "layer":
        raise WeightsError(
            "the encoder has layer norm, and torchvision's networks have none: nothing is written"
        )
    if isinstance(encoder, Vit):
        raise WeightsError(
            "a ViT is read from PyTorch's files and is not written to them: its positions depend "
            "on the size of the photos"
        )
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    if encoder.absorbs and encoder.norm == "batch":
        params, batch_stats = absorb_batch_norm(params, batch_stats), {}
        encoder = encoder.clone(norm="none")
    channels = 1 if gray else 3
    rows = table(encoder, channels=channels)
    tree = {"params": {"encoder": params}, "batch_stats": {"encoder": batch_stats}}
    resnet_depth = getattr(encoder, "depth", None)
    note = {
        "format": "pt",  # as programs of PyTorch's world ask for
        "network": called(encoder, channels),
        "input": input_of(channels),
        "left_out": "fc" if resnet_depth else "classifier.6",
    }
    return to_theirs(rows, tree), note


def called(encoder, channels: int) -> str:
    """torchvision's name of the network, if it has one of that size; else what it is."""
    size = [] if encoder.width == 1 else [f"width {encoder.width:.4g}"]
    if isinstance(encoder, resnet.ResNet):
        name, title = f"resnet{encoder.depth}", f"ResNet-{encoder.depth}"
        known = encoder.depth in _DEPTHS
        size += [] if encoder.stem == "imagenet" else [f"the stem of {encoder.stem}"]
    else:
        alexnet = isinstance(encoder, AlexNetBn)
        name, title = ("alexnet", "AlexNet") if alexnet else ("vgg16", "VGG-16")
        known, side = encoder.fc6_kernel == type(encoder).fc6_kernel, encoder.fc6_kernel
        size += [] if known else [f"classifier.{int(alexnet)} on {side}x{side}"]
        if alexnet and encoder.conv1_stride != AlexNetBn.conv1_stride:
            size.append(f"features.0 with a stride of {encoder.conv1_stride}")
    if size or not known:
        described = ", ".join([title, *size])
        return f"{described} (layers called as in torchvision, which has no such size)"
    if channels == 1:
        return f"torchvision's {name} with a first layer of one channel"
    return f"torchvision's {name}"


def input_of(channels: int) -> str:
    """In words, what a written state dict reads."""
    if channels == 1:
        return f"mean of red, green and blue in [0, 1], less {GRAY_MEAN:.6f}"
    return (
        f"RGB in [0, 1], Normalize(mean={[round(GRAY_MEAN, 6)] * 3}, std={list(DEVIATION)}); "
        f"torchvision's own means {list(MEAN)} have the same average but for 0.0002"
    )


def _find(arrays: Mapping[str, np.ndarray], prefix: str | None) -> tuple[Network, Names]:
    """The one network in a file, or the one whose names begin with a prefix, and its names."""
    shapes = {name: array.shape for name, array in arrays.items()}
    fits: list[tuple[Network, Names]] = []
    halves: set[str] = set()  # prefixes of VGG-16s of which fc6 or fc7 alone is there
    obstacles: list[tuple[float, str]] = []  # how near a network is, and what is in the way
    for title, spellings, read in (
        ("VGG-16", torch_names.VGG, _vgg16),
        ("AlexNet", torch_names.ALEXNET, _alexnet),
        ("a ResNet", torch_names.RESNET, _resnet),
        ("a ViT", torch_names.VIT, _vit),
    ):
        for tree in torch_names.trees(shapes, spellings):
            place = f" {tree}" if str(tree) else ""
            try:
                found = read({ours: shapes[theirs] for ours, theirs in tree.names.items()})
            except WeightsError as error:
                obstacles.append((1, f"{error}{place}"))
                continue
            if isinstance(found, Network):
                fits.append((dataclasses.replace(found, place=str(tree)), tree))
            else:
                absent = [name for name in found if name not in tree.names]
                if all(name.startswith("classifier.") for name in absent):
                    halves.add(tree.prefix)
                what = f"{title}{place}, of which is missing {_missing(absent, tree)}"
                obstacles.append((1 - len(absent) / len(found), what))
    fits = [fit for fit in fits if fit[0].whole or fit[1].prefix not in halves]
    best: dict[str, tuple[Network, Names]] = {}
    for network, tree in fits:
        if tree.prefix == _dotted(prefix) if prefix is not None else not tree.is_part:
            first = tree.name(_FIRST[network.model["name"]])
            # Names of a whole VGG-16 are also those of its features: the most of it counts.
            if first not in best or network.whole > best[first][0].whole:
                best[first] = network, tree
    if len(best) > 1:
        raise WeightsError(f"{len(best)} networks fit; choose one by {_choices(best.values())}")
    if best:
        return next(iter(best.values()))
    if prefix is not None and fits:
        raise WeightsError(f"no network is under {prefix!r}; there are {_choices(fits)}")
    nearest, what = max(obstacles, default=(0, ""), key=lambda each: each[0])
    if nearest == 1:
        raise WeightsError(what)
    raise WeightsError(
        "the names are of no network known here: found "
        f"{listed(torch_names.beginnings(shapes)) or 'nothing'}. "
        + (f"The nearest: {what}. " if nearest >= _NEAR else "")
        + "Known are torchvision's vgg16 and vgg16_bn (features.0, ..., classifier.0, "
        "classifier.3), also by timm's names, alexnet (features.0, ..., classifier.1, "
        "classifier.4) and ResNets (conv1, layer1.0.conv1, ..., layer4.2.conv3), and published "
        "ViTs of masked autoencoders (patch_embed.proj, blocks.0.attn.qkv, ..., norm), with "
        "anything before and between these words"
    )


def _dotted(prefix: str) -> str:
    return f"{prefix.rstrip('.')}." if prefix else ""


def _missing(absent: Sequence[str], tree: Names) -> str:
    """Names of torchvision that are not there, as the file would have them, and what is instead."""
    said = listed([tree.name(name) for name in absent])
    if tree.unknown:
        said += f", while there is {listed(tree.unknown)}"
    if all(name.startswith("classifier.") for name in absent):
        said += f"; --prefix={tree.prefix}features takes the features alone"
    return said


def _choices(fits: Iterable[tuple[Network, Names]]) -> str:
    return "; ".join(
        f"--prefix={tree.prefix.rstrip('.') or repr('')} for "
        f"{dataclasses.replace(network, place=tree.spelling.title)}"
        for network, tree in fits
    )


def _left_over(tree: Names, whole: bool) -> Callable[[str], bool]:
    """Tells the classifier, and of a VGG-16 without fc6 and fc7 all but its features."""
    known = {theirs: ours for ours, theirs in tree.names.items()}

    def is_left_over(name):
        # A classifier of another form is not known, but begins so.
        plain = tree.spelling.plain(name.removeprefix(tree.prefix).split("."))
        ours = known.get(name, plain)
        if tree.spelling in torch_names.VIT:
            return ours == "pos_embed" or ours.startswith("head.")
        return ours.startswith(_CLASSIFIERS) or not (whole or ours.startswith("features."))

    return is_left_over


def _vgg16(shapes: Mapping[str, Shape]) -> Network | list[str]:
    """What the names are of; or those that are needed, if one is not there."""
    batch_norm = "features.1.running_mean" in shapes
    needed = {layer: f"{name}.weight" for layer, (name, _) in _vgg16_names(batch_norm).items()}
    whole = needed["fc6"] in shapes or needed["fc7"] in shapes
    if not whole:
        needed = {layer: name for layer, name in needed.items() if layer.startswith("conv")}
    if not shapes.keys() >= set(needed.values()):
        return list(needed.values())
    outputs, inputs = _first_layer("features.0.weight", shapes)
    model = {
        "name": "vgg16",
        "width": outputs / BLOCKS[0][0],
        "in_channels": inputs,
        "norm": "none",
    }
    if whole:
        model["fc6_kernel"] = _fc6_kernel(needed["fc6"], needed["conv5_3"], shapes)
    return Network("VGG-16 with batch norm" if batch_norm else "VGG-16", model, batch_norm, whole)


def _alexnet(shapes: Mapping[str, Shape]) -> Network | list[str]:
    """What the names are of; or those that are needed, if one is not there."""
    needed = {layer: f"{name}.weight" for layer, name in _ALEXNET.items()}
    if not shapes.keys() >= set(needed.values()):
        return list(needed.values())
    outputs, inputs = _first_layer(needed["conv1"], shapes)
    return Network(
        "AlexNet",
        {
            "name": "alexnet_bn",
            "width": outputs / 64,
            "in_channels": inputs,
            "norm": "none",
            "fc6_kernel": _fc6_kernel(needed["fc6"], needed["conv5"], shapes),
            "fc6_padding": "ADAPTIVE",  # as there
        },
    )


def _fc6_kernel(name: str, below: str, shapes: Mapping[str, Shape]) -> int:
    """The side of fc6's kernel, from its own shape and that of the layer below."""
    top, channels = shapes[name], shapes[below]
    if len(top) == 4:  # a convolution
        return top[2]
    if len(top) == 2 and len(channels) == 4:
        return math.isqrt(top[1] // max(channels[0], 1))
    raise WeightsError(f"{name} is {top}, which is no layer above {channels}")


def _first_layer(name: str, shapes: Mapping[str, Shape]) -> tuple[int, int]:
    """Outputs and inputs; WeightsError if they are none of a network here."""
    shape = shapes[name]
    if len(shape) != 4 or 0 in shape:
        raise WeightsError(f"{name} is {shape}, which is no convolution")
    if shape[1] not in registry.IN_CHANNELS:
        raise WeightsError(f"{name} reads {shape[1]} channels; gray has 1, color 3")
    return shape[0], shape[1]


def _resnet(shapes: Mapping[str, Shape]) -> Network | list[str]:
    """What the names are of; or those that are needed, if one is not there."""
    needed = ["conv1.weight", *(f"layer{i}.0.conv{k}.weight" for i in (1, 2, 3, 4) for k in (1, 2))]
    if not shapes.keys() >= set(needed):
        return needed
    found = {
        name.rpartition(".conv1.weight")[0] for name in shapes if name.endswith("conv1.weight")
    }
    blocks = tuple(sum(name.startswith(f"layer{i}.") for name in found) for i in (1, 2, 3, 4))
    bottlenecks = "layer1.0.conv3.weight" in shapes
    kind = "bottlenecks" if bottlenecks else "blocks of two convolutions"
    known = resnet.BOTTLENECKS if bottlenecks else resnet.BASIC
    depths = {counts: depth for depth, counts in known.items()}
    if blocks not in depths:
        named = ", ".join(f"{counts} (ResNet-{depth})" for counts, depth in depths.items())
        raise WeightsError(
            f"this is a ResNet whose stages have {blocks} {kind}; known here are those of {kind} "
            f"with {named}"
        )
    outputs, inputs = _first_layer("conv1.weight", shapes)
    return Network(
        f"ResNet-{depths[blocks]}",
        {
            "name": f"resnet{depths[blocks]}",
            "depth": depths[blocks],
            "variant": "torch",
            # A first layer of 3x3 is taken for that of CIFAR, without a pool above it.
            "stem": "cifar" if shapes["conv1.weight"][2:] == (3, 3) else "imagenet",
            "width": outputs / 64,
            "in_channels": inputs,
            "norm": "batch",
        },
    )


def _vit(shapes: Mapping[str, Shape]) -> Network | list[str]:
    """What the names are of; or those that are needed, if one is not there."""
    first = "patch_embed.proj.weight"
    needed = [first, "cls_token", "blocks.0.attn.qkv.weight", "norm.weight"]
    if not shapes.keys() >= set(needed):
        return needed
    features, inputs = _first_layer(first, shapes)
    sizes = {size.heads * size.channels: name for name, size in SIZES.items()}
    if features not in sizes:
        known = ", ".join(f"{number} ({name})" for number, name in sizes.items())
        raise WeightsError(
            f"this is a ViT of {features} features, and a file does not tell the number of its "
            f"heads; known are those of {known} features"
        )
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    size, patch = sizes[features], shapes[first][2]
    return Network(
        f"ViT ({size}), patches of {patch} pixels",
        {
            "name": "vit",
            "size": size,
            "blocks": 0 if len(blocks) == SIZES[size].blocks else len(blocks),
            "patch": patch,
            "width": 1.0,
            "in_channels": inputs,
        },
    )


def _check_positions(file: File, tree: Names, model: Mapping[str, Any]) -> None:
    """WeightsError if a file has other positions than the fixed ones."""
    name = tree.name("pos_embed")
    if name not in file.arrays:
        return
    found = np.asarray(file.arrays[name])
    features = registry.make_encoder(model).features
    side = math.isqrt(max(found.shape[1] - 1, 0)) if found.ndim == 3 else 0
    if found.shape != (1, 1 + side**2, features):
        raise WeightsError(
            f"{file.path}: {name} is {found.shape}, and not (1, 1 + patches of a square, "
            f"{features})"
        )
    fixed = np.zeros((1 + side**2, features), np.float32)
    fixed[1:] = transformer.positions(side, side, features)
    if not np.allclose(found[0].astype(np.float32), fixed, atol=1e-3):
        raise WeightsError(
            f"{file.path}: {name} holds positions that were learned. The ViT here has fixed ones, "
            "the sines and cosines of masked autoencoders, and would compute something else"
        )


def table(encoder, *, channels: int, batch_norm: bool = False) -> list[Row]:
    """The rows between torchvision's names and the paths of an encoder.

    Args:
        encoder: `Vgg16` or `AlexNetBn` without batch norm, a `ResNet`, or a `Vit`.
        channels: that the first layer of the state dict reads. 3: RGB, normalized as torchvision
            does it; the encoder may read gray. 1: the encoder's gray.
        batch_norm: VGG-16: the state dict has batch norm, which is absorbed; no way back.

    Raises:
        WeightsError: the encoder has no counterpart in torchvision.
    """
    if isinstance(encoder, resnet.ResNet):
        if encoder.variant != "torch":
            raise WeightsError(
                "a ResNet of config.model.variant='caffe' has its strides on the 1x1 convolutions "
                "and pads pool1 otherwise: with the same weights torchvision's ResNet would "
                "compute something else, so there is nothing to write"
            )
        rows = _resnet_rows
    elif isinstance(encoder, Vit):
        rows = _vit_rows
    elif isinstance(encoder, Vgg16 | AlexNetBn):
        if encoder.split:
            raise WeightsError(
                "the network has two halves that read L, and a and b (model.split), and "
                "torchvision's does not"
            )
        if encoder.norm != "none":
            raise WeightsError("torchvision's network has no batch norm: absorb it first")
        names = {layer: (name, None) for layer, name in _ALEXNET.items()}
        if isinstance(encoder, Vgg16):
            names = _vgg16_names(batch_norm)
        rows = functools.partial(_plain_rows, names=names)
    else:
        raise WeightsError(
            f"{type(encoder).__name__} has no counterpart in torchvision (whose alexnet is "
            "alexnet_bn here: it has other channels than AlexNet, and no groups)"
        )
    return rows(encoder, _shapes(encoder), channels)


def _shapes(encoder) -> dict[str, Shape]:
    return shapes_of({"params": {"encoder": registry.variable_shapes(encoder)["params"]}})


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


def _plain_rows(encoder, shapes, channels, names) -> list[Row]:
    rows = []
    for layer, (theirs, norm) in names.items():
        kernel, bias = (f"params/encoder/{layer}/{kind}" for kind in ("kernel", "bias"))
        shape = shapes[kernel]
        if layer in ("fc6", "fc7"):
            weight = _dense(f"{theirs}.weight", kernel, shape)
        else:
            weight = convolution(
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
        for conv in resnet.convolutions(encoder.depth, block):
            names = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
            if not conv.endswith("_branch1"):
                i = "abc".index(conv[-1]) + 1
                names = (f"{theirs}.conv{i}", f"{theirs}.bn{i}")
            convolutions.append((conv, *names, conv.removeprefix("res")))
        places[stage] += 1
    for ours, conv, norm, suffix in convolutions:
        separator = "_" if ours == "conv1" else ""
        kernel = f"params/encoder/{ours}/kernel"
        rows.append(
            convolution(
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
            counter(f"{norm}.{_COUNTER}", f"{stats}/count"),
        ]
    return rows


def _vit_rows(encoder, shapes, channels) -> list[Row]:
    place = "params/encoder"
    first = f"{place}/embed/kernel"
    rows = [
        _embedding(
            convolution("patch_embed.proj.weight", first, shapes[first], channels), channels
        ),
        Row(
            {"cls_token": [(1, 1, encoder.features)]},
            [f"{place}/embed/token"],
            lambda array: [array.reshape(-1)],
            None,
        ),
    ]
    norms, denses = {"norm": "norm"}, {}
    for i in range(encoder.depth):
        ours, theirs = f"block{i + 1}", f"blocks.{i}"
        norms |= {f"{ours}/{name}": f"{theirs}.{name}" for name in ("norm1", "norm2")}
        denses |= {f"{ours}/{name}": f"{theirs}.attn.{name}" for name in ("qkv", "proj")}
        denses |= {f"{ours}/{name}": f"{theirs}.mlp.{name}" for name in ("fc1", "fc2")}
    for ours, theirs in norms.items():
        for leaf, name in (("scale", "weight"), ("bias", "bias")):
            path = f"{place}/{ours}/{leaf}"
            rows.append(same(f"{theirs}.{name}", path, shapes[path]))
    for ours, theirs in denses.items():
        kernel, bias = (f"{place}/{ours}/{leaf}" for leaf in ("kernel", "bias"))
        rows += [
            Row(
                {f"{theirs}.weight": [shapes[kernel][::-1]]},
                [kernel],
                lambda array: [array.T],
                lambda array: [array.T],
            ),
            same(f"{theirs}.bias", bias, shapes[bias]),
        ]
    return rows


def _embedding(weight: Row, channels: int) -> Row:
    """The kernel of the patches and its bias, into which the difference of the means goes.

    There is no padding whose zeros would stand for the mean, so that this is exact.
    """
    (name, (shape,)), (path,) = next(iter(weight.theirs.items())), weight.ours

    def convert(array, bias):
        if channels == 3:
            shift = (GRAY_MEAN - np.array(MEAN)) / np.array(DEVIATION)
            bias = bias + np.einsum("ochw,c->o", array.astype(np.float64), shift)
        return [*weight.to_ours(array), bias]

    return Row(
        {name: [shape], name.replace("weight", "bias"): [shape[:1]]},
        [path, path.replace("kernel", "bias")],
        convert,
        None,
    )


def convolution(name: str, path: str, shape: Shape, channels: int) -> Row:
    """A kernel [h, w, in, out] of ours; `channels`: of the first layer, what the file's reads."""
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
    wide = kernel.astype(np.float64)
    red, green = ((wide * (deviation / 3)).astype(np.float32) for deviation in DEVIATION[:2])
    rest = wide - red.astype(np.float64) / DEVIATION[0] - green.astype(np.float64) / DEVIATION[1]
    return np.concatenate([red, green, (rest * DEVIATION[2]).astype(np.float32)], 2)


def _dense(name: str, path: str, shape: Shape) -> Row:
    """fc6 and fc7: dense over [channels, height, width] there (of timm convolutions too)."""
    height, width, inputs, outputs = shape

    def kernel(weight):
        return [weight.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)]

    def weight(kernel):
        return [kernel.transpose(3, 2, 0, 1).reshape(outputs, -1)]

    forms = [(outputs, inputs * height * width), (outputs, inputs, height, width)]
    return Row({name: forms}, [path], kernel, weight)


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


def counter(name: str, path: str) -> Row:
    """Steps behind the running averages; old files do not count them: those of a whole training."""
    return Row(
        {name: [()]},
        [path],
        lambda count: [np.asarray(count, np.float32)],
        lambda count: [np.asarray(np.round(count), np.int64)],
        default=(np.float32(RAMP),),
    )
