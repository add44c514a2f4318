"""Every activation of our networks equals that of torch.nn with the same weights."""

import pathlib
import re
import sys
import types

import jax
import numpy as np
import pytest
from skimage import data

from colorize_jax import convert
from colorize_jax.checkpoints import reading, writing
from colorize_jax.color import gamut, spaces
from colorize_jax.models import layers, registry
from colorize_jax.models.alexnet import AlexNet
from colorize_jax.models.classifier import Classifier
from colorize_jax.models.dense_network import DenseHead
from colorize_jax.weights import torch as tables
from colorize_jax.weights import torch_files
from colorize_jax.weights.foreign import File
from colorize_jax.weights.tables import flat

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
from safetensors import torch as safetensors_torch  # noqa: E402
import torch_networks  # noqa: E402

README = pathlib.Path(__file__).parent.parent / "README.md"
TOLERANCE = 1e-4  # It is relative to the largest value of an activation.


def imported(network, color=False):
    """Converts a torch.nn network to our (encoder, variables)."""
    arrays = {name: x.numpy() for name, x in network.state_dict().items()}
    found = tables.import_file(File("state", "PyTorch", arrays, {}), color=color)
    encoder = registry.make_encoder(registry.with_defaults(found.settings["model"]))
    return encoder, {kind: tree["encoder"] for kind, tree in found.variables.items() if tree}


def photo(side, color=False):
    """The network input [1, side, side, channels] of a photo."""
    return np.asarray(
        spaces.INPUTS[3 if color else 1](data.astronaut()[None, :side, 90 : 90 + side])
    )


def normalized(x):
    """Converts our input to torchvision's, except the mean: three channels over deviations."""
    return np.broadcast_to(x, (*x.shape[:3], 3)) / np.array(tables.DEVIATION)


def answers(network, x):
    """{layer: [batch, h, w, channels]} of a torch.nn network for [batch, h, w, channels]."""
    with torch.no_grad():
        maps = network(torch.tensor(np.moveaxis(x, -1, 1), dtype=torch.float32))
    return {name: np.moveaxis(x.numpy(), 1, -1) for name, x in maps.items()}


def assert_same(ours, theirs):
    """Compares all activations; if torch's fc6 is dense, our middle position is compared."""
    assert set(ours) == set(theirs)
    for name in set(theirs) - {"gray"}:
        here, there = np.asarray(ours[name]), theirs[name]
        if name in ("fc6", "fc7") and here.shape != there.shape:
            middle = here.shape[1] // 2
            here = here[:, middle : middle + 1, middle : middle + 1]
        assert here.shape == there.shape, name
        assert there.max() > 1e-3, f"{name} is dead"
        np.testing.assert_allclose(here, there, atol=TOLERANCE * there.max(), err_msg=name)


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize(
    ("network", "settings", "side"),
    [
        ("Vgg16", {"fc6_kernel": 3}, 96),
        ("Vgg16", {"fc6_kernel": 3, "batch_norm": True}, 96),
        ("ResNet", {"depth": 14}, 70),
        ("ResNet", {"depth": 18}, 70),
        ("ResNet", {"depth": 18, "cifar": True}, 16),
        ("TorchvisionAlexNet", {}, 100),
    ],
    ids=["vgg16", "vgg16_bn", "resnet", "resnet18", "cifar", "alexnet"],
)
def test_imported_network_answers_as_in_torch(network, settings, side, color):
    network = getattr(torch_networks, network)(width=1 / 32, **settings)
    torch_networks.randomize(network)
    encoder, variables = imported(network, color)
    assert encoder.in_channels == (3 if color else 1)
    x = photo(side, color)
    assert_same(jax.jit(encoder.apply)(variables, x), answers(network, normalized(x)))


@pytest.mark.parametrize("color", [False, True])
def test_imported_vit_answers_as_in_torch_to_the_published_input(color):
    """With torchvision's three means, which go into a bias exactly."""
    network = torch_networks.randomize(torch_networks.MaskedEncoder(side=48))
    encoder, variables = imported(network, color)
    assert (encoder.size, encoder.depth, encoder.patch) == ("tiny", 2, 8)
    x = photo(48, color)
    published = (np.broadcast_to(x, (1, 48, 48, 3)) + spaces.GRAY_MEAN - tables.MEAN) / np.array(
        tables.DEVIATION
    )
    assert_same(jax.jit(encoder.apply)(variables, x), answers(network, published))


@pytest.mark.parametrize(
    ("network", "settings", "side"),
    [
        ("Vgg16", {"fc6_kernel": 3}, 96),
        ("ResNet", {"depth": 14}, 70),
        ("ResNet", {"depth": 18}, 40),
        ("TorchvisionAlexNet", {"fc6_kernel": 2}, 160),
    ],
    ids=["vgg16", "resnet", "resnet18", "alexnet"],
)
def test_imported_classifier_gives_the_logits_of_torch(network, settings, side):
    network = torch_networks.randomize(getattr(torch_networks, network)(width=1 / 32, **settings))
    arrays = {name: x.numpy() for name, x in network.state_dict().items()}
    found = tables.import_file(File("state", "PyTorch", arrays, {}), color=True, head=True)
    encoder = registry.make_encoder(registry.with_defaults(found.settings["model"]))
    model = Classifier(encoder=encoder, classes=found.settings["task"]["classes"])
    x = photo(side, color=True)
    last = network.classifier[6] if hasattr(network, "classifier") else network.fc
    top = answers(network, normalized(x))[encoder.top].mean((1, 2))
    with torch.no_grad():
        theirs = last(torch.tensor(top)).numpy()
    variables = {kind: tree for kind, tree in found.variables.items() if tree}
    ours = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * abs(theirs).max())


@pytest.mark.parametrize(
    "width", [1 / 32, pytest.param(1.0, marks=pytest.mark.slow)], ids=["narrow", "released"]
)
def test_released_colorizer_answers_as_in_torch(width, tmp_path, rng):
    """From the file to the colors on the grid, for any order of the bins."""
    colors = rng.permutation(gamut.bins()).T / 110
    network = torch_networks.randomize(torch_networks.Zhang(width, colors))
    if width == 1:
        assert sum(x.numel() for x in network.parameters()) == 32_236_011
    torch.save(network.state_dict(), tmp_path / "colorizer.pth")
    convert.main(["torch", str(tmp_path / "colorizer.pth"), str(tmp_path / "checkpoint")])
    folder = reading.find(tmp_path / "checkpoint")
    encoder, variables = reading.load_encoder(folder)
    x = np.asarray(encoder.network_input(data.astronaut()[None, :64, 90:170]))
    theirs = answers(network, x)
    logits, ab = theirs.pop("logits"), theirs.pop("ab")
    maps = jax.jit(encoder.apply)(variables, x)
    assert_same(maps, theirs)

    head = DenseHead({"bins": gamut.BINS}, encoder.width)
    ours = jax.jit(head.apply)({"params": reading.load_head(folder)}, maps[encoder.top])["bins"]
    # Their outputs in our order of the bins.
    place = [colors.T.tolist().index(bin) for bin in (gamut.bins() / 110).tolist()]
    np.testing.assert_allclose(ours, logits[..., place], atol=TOLERANCE * np.abs(logits).max())
    found = gamut.annealed_mean(ours, 1.0)
    np.testing.assert_allclose(found, ab, atol=TOLERANCE * np.abs(ab).max())
    assert np.abs(ab).max() > 1


@pytest.mark.parametrize("side", [64, 70])
def test_resnet_of_the_paper_answers_as_in_torch(side):
    network = torch_networks.ResNet(14, 1 / 32, variant="caffe")
    encoder, variables = imported(torch_networks.randomize(network))
    x = photo(side)
    theirs = answers(network, normalized(x))
    assert_same(jax.jit(encoder.clone(variant="caffe").apply)(variables, x), theirs)


@pytest.mark.parametrize("lrn", [True, False])
@pytest.mark.parametrize(("padding", "side"), [("SAME", 64), ("VALID", 227)])
def test_alexnet_answers_as_in_torch(padding, side, lrn):
    network = torch_networks.AlexNet(1 / 16, lrn=lrn, padding=padding)
    torch_networks.randomize(network)
    with torch.no_grad():  # The values are so large that LRN matters.
        network.conv1.weight *= 100
        network.conv2.weight *= 100
    params = {
        name: {
            "kernel": getattr(network, name).weight.detach().numpy().transpose(2, 3, 1, 0),
            "bias": getattr(network, name).bias.detach().numpy(),
        }
        for name in AlexNet().layers
    }
    encoder = AlexNet(width=1 / 16, norm="none", lrn=lrn, fc6_padding=padding)
    x = photo(side)
    ours = jax.jit(encoder.apply)({"params": params}, x)
    assert_same(ours, answers(network, x))


@pytest.mark.parametrize(
    ("network", "settings", "top"),
    [
        ("Vgg16", {"name": "vgg16", "fc6_kernel": 3, "norm": "batch"}, "classifier.6"),
        ("ResNet", {"name": "resnet152", "depth": 14, "variant": "torch"}, "fc"),
        (
            "TorchvisionAlexNet",
            {"name": "alexnet_bn", "fc6_kernel": 2, "fc6_padding": "ADAPTIVE"},
            "classifier.6",
        ),
    ],
    ids=["vgg16", "resnet", "alexnet"],
)
@pytest.mark.parametrize("gray", [False, True])
def test_exported_network_loads_into_torch_and_answers_as_ours(
    network, settings, top, gray, rng, tmp_path
):
    encoder = registry.make_encoder(registry.with_defaults(settings | {"width": 1 / 32}))
    shapes = registry.variable_shapes(encoder)
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(np.float32), shapes)
    for layer in variables["params"].values():
        if "kernel" in layer:  # Both signs occur, so that values cancel.
            layer["kernel"] *= rng.choice([-1, 1], layer["kernel"].shape).astype(np.float32)
    path = tmp_path / "state.safetensors"
    torch_files.write_safetensors(path, *tables.export(encoder, variables, gray=gray))
    own = {k: v for k, v in settings.items() if k in ("depth", "fc6_kernel")}
    network = getattr(torch_networks, network)(width=1 / 32, in_channels=1 if gray else 3, **own)
    missing, unexpected = network.load_state_dict(safetensors_torch.load_file(path), strict=False)
    assert (missing, unexpected) == ([f"{top}.weight", f"{top}.bias"], [])
    image = data.astronaut()[None, :96, 90:186]
    ours = jax.jit(encoder.apply)(variables, np.asarray(spaces.network_input(image)))
    # torchvision's network gets the color photo, and ours the mean of its channels.
    theirs = (spaces.network_input if gray else spaces.color_input)(image)
    theirs = answers(network.eval(), np.asarray(theirs if gray else normalized(theirs)))
    assert_same(ours, theirs)


def test_example_of_the_readme_runs_as_written(rng, tmp_path, monkeypatch):
    section = README.read_text().split("## Take the result to PyTorch")[1].split("\n## ")[0]
    command = re.search(r"```sh\npython -m colorize_jax.convert (.*)\n```", section)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert "/ckpt/vgg16" in command
    settings = {"name": "vgg16", "width": 1 / 32, "fc6_kernel": 1}
    encoder = registry.make_encoder(registry.with_defaults(settings))
    shapes = registry.variable_shapes(encoder)
    variables = jax.tree.map(lambda x: rng.uniform(-0.5, 1, x.shape).astype(np.float32), shapes)
    for stats in variables["batch_stats"].values():
        stats["var"] += 1
    nested = {kind: {"encoder": tree} for kind, tree in variables.items()}
    writing.save_encoder(tmp_path / "ckpt", nested, {"model": settings}, {})
    # torchvision does not import beside the CPU build of torch; our definition stands in for its.
    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.SimpleNamespace(
        vgg16=lambda: torch_networks.Vgg16(width=1 / 32, fc6_kernel=1)
    )
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.chdir(tmp_path)
    image = data.astronaut()[None, :64, 90:154]

    convert.main(command.replace("/ckpt/vgg16", "ckpt").split())
    names = {"rgb": torch.tensor(np.moveaxis(np.asarray(spaces.from_uint8(image)), -1, 1))}
    exec(code, names)

    top = jax.jit(encoder.apply)(variables, np.asarray(spaces.network_input(image)))["conv5_3"]
    pooled = np.moveaxis(np.asarray(layers.max_pool(top)), -1, 1)
    found = names["features"].detach().numpy()
    np.testing.assert_allclose(found, pooled, atol=TOLERANCE * pooled.max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "parameters"),
    [("Vgg16", 138_357_544), ("ResNet", 60_192_808), ("TorchvisionAlexNet", 61_100_840)],
)
def test_full_size_answers_as_in_torch(network, parameters):
    network = torch_networks.randomize(getattr(torch_networks, network)())
    # This is torchvision's own count.
    assert sum(x.numel() for x in network.parameters()) == parameters
    encoder, variables = imported(network)
    x = photo(224)
    theirs = answers(network, normalized(x))
    del network
    assert_same(jax.jit(encoder.apply)(variables, x), theirs)


def test_photos_look_to_imported_networks_as_if_tinted(rng):
    network = torch_networks.randomize(torch_networks.Vgg16(1 / 32, fc6_kernel=1))
    encoder, variables = imported(network)
    image = data.astronaut()[None, :32, 90:122]
    gray = np.asarray(spaces.gray(spaces.from_uint8(image)))[..., None]
    tinted = (gray + np.array(tables.TINT) - np.array(tables.MEAN)) / np.array(tables.DEVIATION)
    ours = jax.jit(encoder.apply)(variables, np.asarray(spaces.network_input(image)))
    assert_same(ours, answers(network, tinted))
    # The tint is small, but without it the activations differ.
    assert np.abs(tables.TINT).max() * 255 < 11.2
    plain = answers(network, (gray - np.array(tables.MEAN)) / np.array(tables.DEVIATION))["conv1_1"]
    deviation = np.abs(plain - np.asarray(ours["conv1_1"])).max() / plain.max()
    assert 1e-3 < deviation < 0.5


def test_variables_are_single_precision_and_named_as_ours():
    _, variables = imported(torch_networks.ResNet(14, 1 / 32))
    names = flat(variables)
    assert {"params/scale_conv1/scale", "batch_stats/bn5a_branch2c/count"} <= set(names)
    assert {x.dtype for x in names.values()} == {np.dtype(np.float32)}
