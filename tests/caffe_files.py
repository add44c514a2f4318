"""Caffe's published files, written down layer by layer, in any width."""

import h5py
import numpy as np

_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_COLUMN = 1 + sum(channels * count for channels, count in _VGG16) + 2 * 4096  # 12,417


def vgg16(*, width=1.0, channels=1, fc6=7, norm=False, dense=True):
    """{layer: shapes of its blobs}."""
    layers, below = {}, channels
    for block, (out, count) in enumerate(_VGG16):
        out = round(out * width)
        for i in range(count):
            layers[f"conv{block + 1}_{i + 1}"] = [(out, below, 3, 3), (out,)]
            below = out
        layers[f"pool{block + 1}"] = []
    layers |= _top(below, fc6, round(4096 * width), dense)
    return layers | (_batch_norms(layers) if norm else {})


def alexnet(*, width=1.0, channels=1, fc6=6, norm=False, dense=True):
    """{layer: shapes of its blobs}."""

    def out(usual):
        return round(usual * width)

    layers = {
        "conv1": [(out(96), channels, 11, 11), (out(96),)],
        "relu1": [],
        "norm1": [],
        "conv2": [(out(256), out(96) // 2, 5, 5), (out(256),)],
        "conv3": [(out(384), out(256), 3, 3), (out(384),)],
        "conv4": [(out(384), out(384) // 2, 3, 3), (out(384),)],
        "conv5": [(out(256), out(384) // 2, 3, 3), (out(256),)],
    }
    layers |= _top(out(256), fc6, out(4096), dense)
    return layers | (_batch_norms(layers) if norm else {})


def resnet(*, blocks=(3, 8, 36, 3), width=1.0, channels=1, scale=True):
    """{layer: shapes of its blobs}."""
    convolutions, below = {"conv1": (round(64 * width), channels, 7, 7)}, round(64 * width)
    for stage, count in enumerate(blocks, 2):
        inner, outer = round(64 * width) * 2 ** (stage - 2), round(256 * width) * 2 ** (stage - 2)
        for i in range(count):
            letters = stage in (2, 5)
            block = f"{stage}a" if i == 0 else f"{stage}{'abc'[i] if letters else f'b{i}'}"
            if i == 0:
                convolutions[f"res{block}_branch1"] = (outer, below, 1, 1)
            convolutions[f"res{block}_branch2a"] = (inner, below, 1, 1)
            convolutions[f"res{block}_branch2b"] = (inner, inner, 3, 3)
            convolutions[f"res{block}_branch2c"] = (outer, inner, 1, 1)
            below = outer
    layers = {}
    for name, shape in convolutions.items():
        rest, vector = "_conv1" if name == "conv1" else name.removeprefix("res"), (shape[0],)
        layers |= {name: [shape], f"bn{rest}": [vector, vector, (1,)]}
        if scale:
            layers[f"scale{rest}"] = [vector, vector]
    return layers | {"pool5": []}


def colorizer(*, width=1.0, fc6=7, hidden=1024, bins=32):
    """The released colorizer: VGG-16 with absorbed batch norm, head, and fixed filters."""
    layers = vgg16(width=width, fc6=fc6, dense=False)
    columns = 1 + sum(b[0][0] for b in layers.values() if b)
    assert width != 1 or columns == _COLUMN
    return layers | {
        "h_fc1": [(hidden, columns, 1, 1), (hidden,)],
        "prediction_h": [(bins, hidden, 1, 1), (bins,)],
        "prediction_c": [(bins, hidden, 1, 1), (bins,)],
        "fc7_full": [(round(4096 * width), 1, 16, 16)],
        "prediction_h_full": [(bins, 1, 8, 8)],
    }


def write(path, layers, rng, dtype=np.float32):
    """Random weights of these shapes as a file; batch norms are sums over 50 updates."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for layer, shapes in layers.items():
            group = data.create_group(layer)
            for i, shape in enumerate(shapes):
                group.create_dataset(str(i), data=_blob(layer, i, shape, rng, dtype))
    return path


def read(path):
    """{"conv1_1/0": array, ...}, read only by h5py."""
    with h5py.File(path) as file:
        return {f"{layer}/{i}": b[()] for layer, g in file["data"].items() for i, b in g.items()}


def _blob(layer, i, shape, rng, dtype):
    if layer.endswith("_full"):
        return np.full(shape, 0.25, dtype)
    if layer.startswith(("batch_", "bn")) and i == 2:
        return np.full(shape, 50, dtype)
    values = rng.standard_normal(shape, np.float32) * np.float32(0.05)
    if layer.startswith(("batch_", "bn")) and i == 1:
        values = np.abs(values) + np.float32(0.5)
    return values.astype(dtype)


def _top(below, side, out, dense):
    fc6 = (out, below * side * side) if dense else (out, below, side, side)
    fc7 = (out, out) if dense else (out, out, 1, 1)
    return {"fc6": [fc6, (out,)], "relu6": [], "fc7": [fc7, (out,)]}


def _batch_norms(layers):
    found = {}
    for name, blobs in layers.items():
        if blobs:
            found[f"batch_{name}"] = [blobs[1], blobs[1], (1,)]
    return found
