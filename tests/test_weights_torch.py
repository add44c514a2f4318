"""torchvision's state dicts: there and back, and what is refused."""

import argparse
import os
import pickle
import re
import sys

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors
import saved as saved_files

import colorize_jax
from colorize_jax import convert
from colorize_jax.checkpoints import reading, writing
from colorize_jax.color.spaces import GRAY_MEAN
from colorize_jax.errors import WeightsError
from colorize_jax.models import registry, transformer
from colorize_jax.weights import foreign, inspection
from colorize_jax.weights import torch as tables
from colorize_jax.weights.tables import flat, shapes_of

SMALL = {
    "vgg16": {"name": "vgg16", "width": 1 / 32, "fc6_kernel": 1, "norm": "none"},
    "resnet152": {"name": "resnet152", "width": 1 / 32, "depth": 14, "variant": "torch"},
    "alexnet_bn": {
        "name": "alexnet_bn", "width": 1 / 32, "fc6_kernel": 1, "fc6_padding": "ADAPTIVE",
        "norm": "none",
    },
    "resnet18": {"name": "resnet18", "depth": 18, "width": 1 / 32, "variant": "torch"},
    "cifar": {
        "name": "resnet18", "depth": 18, "width": 1 / 32, "variant": "torch", "stem": "cifar",
    },
}  # fmt: skip
TOPS = {"vgg16": "classifier.6", "alexnet_bn": "classifier.6"}  # of ResNets: "fc"


def variables_of(settings, rng):
    """(encoder, random variables) of some of `config.model`."""
    encoder = registry.make_encoder(registry.with_defaults(settings))

    def random(path, leaf):
        if path[-1].key == "count":
            return np.float32(rng.integers(1, 10**6))
        return rng.uniform(0.1, 2, leaf.shape).astype(np.float32)

    return encoder, jax.tree_util.tree_map_with_path(random, registry.variable_shapes(encoder))


def state_of(network, rng, **settings):
    """A state dict of that network, of three channels, with its classifier."""
    encoder, variables = variables_of(SMALL[network] | settings, rng)
    state, _ = tables.export(encoder, variables)
    top = TOPS.get(network, "fc")
    return state | {f"{top}.weight": np.ones((5, 3), np.float32)}


def imported(state, path="state.safetensors", **settings):
    return tables.import_file(foreign.File(path, "safetensors", state, {}), **settings)


def saved(tmp_path, settings, rng):
    """A checkpoint with random weights: (its folder, encoder, variables)."""
    encoder, variables = variables_of(settings, rng)
    nested = {kind: {"encoder": tree} for kind, tree in variables.items()}
    folder = tmp_path / "checkpoint"
    writing.save_encoder(folder, nested, {"model": settings}, {})
    return folder, encoder, variables


def assert_equal(ours, theirs):
    ours, theirs = flat(ours), flat(theirs)
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("network", SMALL)
def test_ours_comes_back_bit_for_bit(network, gray, rng):
    encoder, variables = variables_of(SMALL[network], rng)
    # Large and small numbers, for what three channels sum up to.
    first = variables["params"][encoder.layers[0]]
    first["kernel"] = rng.normal(size=first["kernel"].shape).astype(np.float32) ** 15
    first["kernel"][np.abs(first["kernel"]) < 1e-30] = 0  # Below, floats have fewer digits.
    state, _ = tables.export(encoder, variables, gray=gray)
    found = imported(state)
    assert not found.left_over
    back = {kind: tree["encoder"] for kind, tree in found.variables.items() if tree}
    assert_equal(back, {kind: tree for kind, tree in variables.items() if tree})
    same = registry.make_encoder(registry.with_defaults(found.settings["model"]))
    assert same == encoder


@pytest.mark.parametrize("network", SMALL)
def test_theirs_comes_back(network, rng):
    state = state_of(network, rng)
    del state[f"{TOPS.get(network, 'fc')}.weight"]
    found = imported(state, color=True)
    encoder = registry.make_encoder(registry.with_defaults(found.settings["model"]))
    back, _ = tables.export(encoder, {k: t["encoder"] for k, t in found.variables.items() if t})
    assert {k: v.dtype for k, v in back.items()} == {k: v.dtype for k, v in state.items()}
    first = next(iter(state))
    np.testing.assert_array_max_ulp(back.pop(first), state.pop(first), 1)
    assert_equal(back, state)


def test_sum_over_channels_and_deviations_go_into_the_first_kernel(rng):
    state = state_of("vgg16", rng)
    weight = rng.normal(size=(2, 3, 3, 3)).astype(np.float32)
    state["features.0.weight"] = weight
    deviation = np.array([0.229, 0.224, 0.225])
    gray = imported(state).variables["params"]["encoder"]["conv1_1"]
    expected = (weight / deviation[:, None, None]).sum(1)
    np.testing.assert_allclose(np.moveaxis(gray["kernel"][:, :, 0], 2, 0), expected, rtol=1e-5)
    np.testing.assert_array_equal(gray["bias"], state["features.0.bias"])
    color = imported(state, color=True).variables["params"]["encoder"]["conv1_1"]["kernel"]
    expected = weight / deviation[:, None, None]
    np.testing.assert_allclose(color.transpose(3, 2, 0, 1), expected, rtol=1e-6)


def test_dense_fc6_becomes_a_convolution_over_channels_rows_and_columns(rng):
    state = state_of("vgg16", rng, fc6_kernel=3)
    maps = rng.normal(size=(16, 3, 3)).astype(np.float32)  # channels first, as torch flattens them
    kernel = imported(state).variables["params"]["encoder"]["fc6"]["kernel"]
    np.testing.assert_allclose(
        np.einsum("chw,hwco->o", maps, kernel),
        state["classifier.0.weight"] @ maps.ravel(),
        rtol=1e-4,
    )


def under(prefix, state):
    return {prefix + name: array for name, array in state.items()}


def replaced(before, after, state):
    return {name.replace(before, after): array for name, array in state.items()}


def test_short_floats_are_read(rng):
    state = state_of("vgg16", rng)
    state["features.0.bias"] = state["features.0.bias"].astype(np.float16)
    found = imported(state)
    assert found.variables["params"]["encoder"]["conv1_1"]["bias"].dtype == np.float32
    assert found.left_over == ["classifier.6.weight"]


WRAPPED = {
    "of DataParallel": lambda state: under("module.", state),
    "compiled in parallel": lambda state: under("module._orig_mod.", state),
    "of a training with more": lambda state: (
        under("state_dict.model.backbone.", state)
        | under("state_dict.model.projector.", {"0.weight": np.ones((2, 2))})
        | under("optimizer.state.0.", {"momentum_buffer": np.ones(3)})
    ),
    "parts in parallel": lambda state: replaced("0.", "0.module.", replaced("s.", "s.m.", state)),
    "beside a queue": lambda state: state | {"queue": np.ones((2, 3)), "queue_ptr": np.ones(1)},
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("network", SMALL)
def test_network_is_found_whatever_stands_before_and_between_its_names(network, wrap, rng):
    state = state_of(network, rng)
    found = imported(WRAPPED[wrap](state))
    assert_equal(found.variables, imported(state).variables)


def test_what_was_chosen_and_what_was_left_is_said(tmp_path, rng, capsys):
    path = tmp_path / "training.safetensors"
    state = under(
        "model.encoder.", replaced("layer1.", "layer1.module.", state_of("resnet152", rng))
    )
    ema = {f"ema.{i}.weight": np.ones(1, np.float32) for i in range(3)}
    safetensors.save_file(state | ema | {"model.queue": np.ones(2, np.float32)}, path)
    convert.main(["torch", str(path), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "ResNet-14, 3 channels, width 0.03125, under 'model.encoder.' without module" in said
    assert "left over in the file: model.encoder.fc.weight, ema. (3 arrays), model." in said


def test_of_two_networks_one_is_chosen_by_its_prefix(tmp_path, rng, capsys):
    path = tmp_path / "moco.safetensors"
    states = {f"module.encoder_{k}": state_of("resnet152", rng) for k in "qk"}
    both = [under(f"{prefix}.", state) for prefix, state in states.items()]
    safetensors.save_file(both[0] | both[1], path)
    with pytest.raises(SystemExit):
        convert.main(["torch", str(path), str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "2 networks fit; choose one" in said and path.name in said
    assert all(f"--prefix={prefix} for ResNet-14, 3 channels" in said for prefix in states)
    with pytest.raises(WeightsError, match="no network is under 'encoder_q'.*module.encoder_k"):
        convert.from_torch(str(path), str(tmp_path / "out"), prefix="encoder_q")
    prefix = "module.encoder_q"
    convert.main(["torch", str(path), str(tmp_path / "out"), f"--prefix={prefix}"])
    _, variables = colorize_jax.load_encoder(tmp_path / "out")
    wanted = imported(states[prefix]).variables
    assert_equal(variables, {kind: tree["encoder"] for kind, tree in wanted.items()})


def test_root_is_chosen_by_an_empty_prefix(rng):
    state = state_of("resnet152", rng)
    both = under("ema.", state_of("resnet152", rng)) | state
    with pytest.raises(WeightsError, match="--prefix='' for"):
        imported(both)
    assert_equal(imported(both, prefix="").variables, imported(state).variables)


def _timm(state):
    """fc6 and fc7 as convolutions, with names of their own."""
    for ours, theirs in (("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2")):
        weight = state[f"{ours}.weight"]
        side = {"classifier.0": 3, "classifier.3": 1}[ours]
        state[f"{ours}.weight"] = weight.reshape(len(weight), -1, side, side)
        state = replaced(ours, theirs, state)
    return replaced("classifier.6", "head.fc", state)


def _old_torchvision(state):
    return replaced("classifier.3", "classifier.4", replaced("classifier.0", "classifier.1", state))


@pytest.mark.parametrize("rename", [_timm, _old_torchvision])
def test_vgg16_is_read_by_other_names(rename, rng):
    state = state_of("vgg16", rng, fc6_kernel=3)
    found = imported(under("model.", rename(dict(state))))
    assert_equal(found.variables, imported(state).variables)
    assert len(found.left_over) == 1
    renamed = {k: v for k, v in rename(dict(state)).items() if k != "features.2.bias"}
    with pytest.raises(WeightsError, match=r"missing: model.features.2.bias \(for "):
        imported(under("model.", renamed))


def test_resnet_without_names_is_read_by_the_order_of_its_parts(rng):
    state = state_of("resnet152", rng)
    parts = {"conv1.": "0.", "bn1.": "1."} | {f"layer{i}.": f"{i + 3}." for i in (1, 2, 3, 4)}
    numbered = {
        parts[begin] + name.removeprefix(begin): array
        for name, array in state.items()
        for begin in parts
        if name.startswith(begin)
    }
    assert_equal(imported(under("backbone.", numbered)).variables, imported(state).variables)


FEATURES = {
    "alone": lambda state: {k: v for k, v in state.items() if k.startswith("features.")},
    "by numbers": lambda state: replaced("features.", "", FEATURES["alone"](state)),
    "another classifier": lambda state: (
        FEATURES["alone"](state) | {"classifier.weight": np.ones((10, 16), np.float32)}
    ),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_features_of_vgg16_are_taken_and_the_rest_is_said_to_be_new(kind, tmp_path, rng, capsys):
    state, path = state_of("vgg16", rng), tmp_path / "features.safetensors"
    safetensors.save_file(FEATURES[kind](state), path)
    convert.main(["torch", str(path), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "features alone" in said
    assert (
        "conv1_1 to conv5_3 are those of the file" in said and "fc6 and fc7 begin at random" in said
    )
    _, variables = colorize_jax.load_encoder(tmp_path / "out")
    wanted = imported(state).variables["params"]["encoder"]
    for layer, tree in variables["params"].items():
        if layer.startswith("conv"):
            assert_equal(tree, wanted[layer])
        else:
            assert tree["kernel"].std() > 0 and not tree["bias"].any()
    assert "from random start: fc6, fc7" in list(inspection.describe(tmp_path / "out"))


def test_half_a_classifier_is_an_error_that_says_how_to_go_on(rng):
    state = {k: v for k, v in state_of("vgg16", rng).items() if not k.startswith("classifier.3")}
    with pytest.raises(WeightsError, match=r"classifier\.3\.weight; --prefix=features takes"):
        imported(state)
    assert imported(state, prefix="features").new == ["fc6", "fc7"]
    with pytest.raises(WeightsError, match="pre_logits.fc2.weight; --prefix=features takes"):
        imported(replaced("classifier.0", "pre_logits.fc1", state))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "layer3.0.conv2.weight"},
         r"found model\.conv1\., model\.bn1\. \(5 arrays\), .*nearest: a ResNet under 'model.', "
         r"of which is missing model.layer3.0.conv2.weight"),
        (lambda s: s | {"layer1.0.se.fc1.weight": np.ones(3, np.float32)},
         "1 not known: model.layer1.0.se.fc1.weight"),
        (lambda s: s | {"layer1.0.se.conv1.weight": np.ones(3, np.float32)},
         "1 not known: model.layer1.0.se.conv1.weight"),
        (lambda s: s | {"conv2.weight": np.ones(3, np.float32)}, "1 not known: model.conv2.weight"),
        (lambda s: {f"blocks.{i}.qkv": np.ones(3, np.float32) for i in range(20)},
         r"no network known here: found model\.blocks\.0\., .* and 12 more\. Known are"),
    ],
)  # fmt: skip
def test_what_is_missing_and_what_there_is_instead_is_named(spoil, words, rng):
    with pytest.raises(WeightsError, match=words):
        imported(under("model.", spoil(state_of("resnet152", rng))))


def test_files_without_counters_count_as_trained(rng):
    state = state_of("resnet152", rng)
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    stats = imported(state).variables["batch_stats"]["encoder"]
    assert {float(stats[name]["count"]) for name in stats} == {1000.0}


def _renamed(state):
    return under("blocks.", replaced("features.", "layers.c", state))


def _four_channels(state):
    return state | {"features.0.weight": np.ones((2, 4, 3, 3), np.float32)}


def _no_fc7_bias(state):
    return {name: array for name, array in state.items() if name != "classifier.3.bias"}


def _extra(state):
    return state | {"features.99.weight": np.ones(3, np.float32)}


def _wrong_shape(state):
    return state | {"features.2.weight": np.ones((2, 2, 5, 5), np.float32)}


def _nan(state):
    return state | {"features.2.bias": np.full(2, np.nan, np.float32)}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_renamed, r"no network known here: found blocks\.classifier\. \(5 arrays\)"),
        (lambda state: {}, "found nothing"),
        (_four_channels, "features.0.weight reads 4 channels"),
        (_no_fc7_bias, r"missing: classifier.3.bias \(for params/encoder/fc7/bias\)"),
        (_extra, "not known: features.99.weight"),
        (_wrong_shape, r"features.2.weight is \(2, 2, 5, 5\), not \(2, 2, 3, 3\)"),
        (_nan, "not finite: features.2.bias"),
    ],
)
def test_what_does_not_fit_is_named_and_leaves_nothing(tmp_path, rng, spoil, words):
    path, output = tmp_path / "state.safetensors", tmp_path / "out"
    safetensors.save_file(spoil(state_of("vgg16", rng)), path)
    with pytest.raises(WeightsError, match=words):
        convert.from_torch(str(path), str(output))
    assert set(os.listdir(tmp_path)) == {path.name}


def test_resnets_of_other_blocks_are_refused(rng):
    state = state_of("resnet152", rng)
    basic = {k: v for k, v in state.items() if ".conv3." not in k and ".bn3." not in k}
    with pytest.raises(WeightsError, match=r"\(1, 1, 1, 1\) blocks of two convolutions"):
        imported(basic)
    more = state | {k.replace("layer2.0", "layer2.1"): v for k, v in state.items()}
    with pytest.raises(WeightsError, match=r"\(1, 2, 1, 1\) bottlenecks; known here"):
        imported(more)
    with pytest.raises(WeightsError, match="layer1.0.conv2.weight is"):  # of a ResNeXt
        imported(state | {"layer1.0.conv2.weight": np.ones((2, 1, 3, 3), np.float32)})


def test_one_channel_is_not_imported_for_color(rng):
    encoder, variables = variables_of(SMALL["vgg16"], rng)
    state, _ = tables.export(encoder, variables, gray=True)
    with pytest.raises(WeightsError, match="reads a single channel"):
        imported(state, color=True)


@pytest.mark.parametrize(
    ("settings", "gray", "words"),
    [
        ({"name": "alexnet", "fc6_kernel": 1, "width": 1 / 16}, False, "no counterpart"),
        (SMALL["resnet152"] | {"variant": "caffe"}, False, "strides on the 1x1"),
        (SMALL["vgg16"] | {"in_channels": 3}, True, "reads color"),
        (SMALL["vgg16"] | {"norm": "layer"}, False, "has layer norm"),
    ],
    ids=["alexnet", "caffe", "gray of color", "layer norm"],
)
def test_what_torchvision_does_not_have_is_not_written(settings, gray, words, rng):
    encoder, variables = variables_of(settings, rng)
    with pytest.raises(WeightsError, match=words):
        tables.export(encoder, variables, gray=gray)


@pytest.mark.parametrize(
    ("settings", "channels", "called"),
    [
        ({"name": "vgg16"}, 3, "torchvision's vgg16"),
        ({"name": "vgg16"}, 1, "torchvision's vgg16 with a first layer of one channel"),
        ({"name": "vgg16", "width": 0.25, "fc6_kernel": 3}, 3, "VGG-16, width 0.25, classifier.0"),
        ({"name": "vgg16", "fc6_kernel": 3}, 3, "VGG-16, classifier.0 on 3x3 (layers called as in"),
        ({"name": "resnet50"}, 3, "torchvision's resnet50"),
        ({"name": "resnet18"}, 3, "torchvision's resnet18"),
        ({"name": "resnet18", "stem": "cifar"}, 3, "ResNet-18, the stem of cifar (layers called"),
        ({"name": "alexnet_bn"}, 3, "torchvision's alexnet"),
        ({"name": "alexnet_bn", "conv1_stride": 2}, 3, "AlexNet, features.0 with a stride of 2 (l"),
        ({"name": "resnet26"}, 3, "ResNet-26 (layers called as in torchvision, which has no such"),
        ({"name": "resnet50", "width": 0.5}, 3, "ResNet-50, width 0.5 (layers"),
    ],
)
def test_a_network_is_called_torchvisions_only_in_sizes_that_torchvision_has(
    settings, channels, called
):
    encoder = registry.make_encoder(settings)
    assert tables.called(encoder, channels).startswith(called)
    assert tables.called(encoder, channels).endswith(called) == called.startswith("torchvision")


def test_command_makes_a_checkpoint_that_says_where_it_is_from(tmp_path, rng, capsys):
    path, output = tmp_path / "state.safetensors", tmp_path / "out"
    safetensors.save_file(state_of("resnet152", rng), path)
    convert.main(["torch", str(path), str(output)])
    said = capsys.readouterr().out
    assert "ResNet-14, 3 channels" in said and "left over in the file: fc.weight" in said
    assert "0.4488 takes the place of (0.485, 0.456, 0.406)" in said
    encoder, variables = colorize_jax.load_encoder(output)
    assert (encoder.variant, encoder.depth, encoder.in_channels) == ("torch", 14, 1)
    assert shapes_of(variables) == shapes_of(registry.variable_shapes(encoder))
    note = reading.saved_note(reading.find(output))
    assert note["origin"]["file"] == path.name and len(note["origin"]["sha256"]) == 64
    assert any("torchvision's ResNet-14" in line for line in inspection.describe(path))


def test_command_absorbs_batch_norm_and_says_what_the_file_reads(tmp_path, rng, capsys):
    settings = SMALL["vgg16"] | {"norm": "batch"}
    folder, encoder, variables = saved(tmp_path, settings, rng)
    path = tmp_path / "vgg16.safetensors"
    convert.main(["to-torch", str(folder), str(path)])
    said = capsys.readouterr().out
    assert "has no such size) without classifier.6" in said and "mean=[0.448827, " in said
    file = foreign.read(path)
    assert file.metadata["input"] in said
    factor = 1 / np.sqrt(variables["batch_stats"]["batch_conv2_1"]["var"] + 1e-5)
    kernel = variables["params"]["conv2_1"]["kernel"] * factor
    np.testing.assert_allclose(
        file.arrays["features.5.weight"], kernel.transpose(3, 2, 0, 1), rtol=1e-5
    )
    with pytest.raises(SystemExit):  # what is there already stays
        convert.main(["to-torch", str(folder), str(path)])
    assert "exists" in capsys.readouterr().err


def test_damaged_safetensors_are_refused(tmp_path, rng):
    path = tmp_path / "state.safetensors"
    safetensors.save_file(state_of("vgg16", rng), path)
    whole = path.read_bytes()
    for size in (100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="damaged safetensors file"):
            foreign.read(path)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reads PyTorch's pickles")


def test_brain_floats_are_read_without_torch(tmp_path, torch, monkeypatch):
    from safetensors import torch as safetensors_torch

    path = tmp_path / "half.safetensors"
    safetensors_torch.save_file({"a": torch.tensor([1.5, -2], dtype=torch.bfloat16)}, path)
    monkeypatch.setitem(sys.modules, "torch", None)
    array = foreign.read(path).arrays["a"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [1.5, -2])


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_torch_are_read(tmp_path, torch, zipped):
    path = tmp_path / "state.pth"
    state = {"a": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(7)}
    optimizer = {"state": {0: {"momentum": torch.zeros(2)}}, "groups": [{"lr": 0.1, "params": [0]}]}
    training = {"model": state, "optimizer": optimizer, "steps": [torch.ones(1)], "epoch": 3}
    torch.save(training, path, _use_new_zipfile_serialization=zipped)
    file = foreign.read(path)
    assert file.format == "PyTorch"
    assert {k: v.dtype.name for k, v in file.arrays.items()} == {
        "model.a": "float32", "model.b": "float32", "model.n": "int64",
        "optimizer.state.0.momentum": "float32", "steps.0": "float32",
    }  # fmt: skip


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "net", "network", "model_ema", "teacher"]
)
def test_network_is_found_in_the_file_of_a_whole_training(key, tmp_path, torch, rng):
    path, state = tmp_path / "training.pth", state_of("resnet152", rng)
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    torch.save({"epoch": 3, "args": {"lr": 0.1}, key: tensors}, path)
    file = foreign.read(path)
    assert_equal(tables.import_file(file).variables, imported(state).variables)
    torch.save({key: tensors, "student": {"module": tensors}}, path)
    with pytest.raises(WeightsError, match=f"--prefix={key} for .*--prefix=student.module for"):
        tables.import_file(foreign.read(path))


def test_names_can_be_given_to_a_class_that_does_nothing(tmp_path, torch, rng):
    """As docs/weights.md shows it."""
    path, state = tmp_path / "training.pth", {"conv1.weight": torch.ones(2, 3, 7, 7)}
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1), "best": np.float64(3)}, path)
    with pytest.raises(WeightsError, match="it asks for argparse.Namespace, numpy"):
        foreign.read(path)
    page = (saved_files.ROOT / "docs/weights.md").read_text().split("## Whom to trust")[1]
    code = re.search(r"(?ms)^```python\n(.*?)\n```", page)[1]
    assert "training.pth" in code and "arrays.pth" in code
    for name in ("training.pth", "arrays.pth"):
        code = code.replace(name, str(tmp_path / name))
    exec(code, {})
    assert list(foreign.read(tmp_path / "arrays.pth").arrays) == ["conv1.weight"]


class _Touches:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_pickle_that_wants_to_run_code_is_refused_and_runs_none(tmp_path, torch, save):
    path, output, touched = tmp_path / "bad.pth", tmp_path / "out", tmp_path / "touched"
    if save == "torch":
        torch.save({"features.0.weight": _Touches(touched)}, path)
    else:
        path.write_bytes(pickle.dumps({"features.0.weight": _Touches(touched)}))
    with pytest.raises(WeightsError, match="would run code, so it is refused") as error:
        convert.from_torch(str(path), str(output))
    assert "weights_only" not in str(error.value)  # PyTorch's advice is to switch it off
    assert os.listdir(tmp_path) == [path.name]


def test_whole_modules_and_other_objects_are_refused(tmp_path, torch):
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r"state_dict\(\) alone"):
        foreign.read(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(WeightsError, match="no state dict but holds a list"):
        foreign.read(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pickles_are_refused(tmp_path, torch, zipped):
    path = tmp_path / "state.pth"
    torch.save({"a": torch.ones(1000)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in (40, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="damaged PyTorch file|is refused"):
            foreign.read(path)


def _with_last_layer(network, rng, classes=3, **settings):
    """A state dict whose last layer is of random numbers and fits the layers below."""
    state = state_of(network, rng, **settings)
    encoder = registry.make_encoder(registry.with_defaults(SMALL[network] | settings))
    tops = {"resnet152": "res5a_branch2c", "resnet18": "res5b_branch2b", "cifar": "res5b_branch2b"}
    top = tops.get(network, "fc7")
    features = registry.variable_shapes(encoder)["params"][top]["kernel"].shape[-1]
    name = TOPS.get(network, "fc")
    weight = rng.normal(size=(classes, features)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    return state | {f"{name}.weight": weight, f"{name}.bias": bias}, weight, bias


@pytest.mark.parametrize("network", SMALL)
def test_the_last_layer_becomes_the_head_of_a_classifier_if_it_is_asked_for(network, rng):
    state, weight, bias = _with_last_layer(network, rng)
    without, found = (imported(state, color=True, head=head) for head in (False, True))
    np.testing.assert_array_equal(found.variables["params"]["head"]["classes"]["kernel"], weight.T)
    np.testing.assert_array_equal(found.variables["params"]["head"]["classes"]["bias"], bias)
    assert found.settings["task"]["classes"] == 3 and not found.left_over
    # As torchvision's, whose fc6 is dense.
    padding = {"vgg16": "VALID", "alexnet_bn": "ADAPTIVE"}.get(network)
    assert found.settings["model"].get("fc6_padding") == padding
    assert without.left_over and "head" not in without.variables["params"]
    for kind in ("params", "batch_stats"):  # what a transfer reads is the same
        encoders = (each.variables[kind].get("encoder", {}) for each in (without, found))
        assert_equal(*encoders)


def test_command_keeps_the_last_layer_with_the_names_of_its_classes(tmp_path, rng, capsys):
    state, weight, _ = _with_last_layer("vgg16", rng)
    path, names, out = (tmp_path / name for name in ("state.safetensors", "names.txt", "out"))
    safetensors.save_file({k: np.array(v, order="C") for k, v in state.items()}, path)
    names.write_text("cat\ndog\n\nfox\n")
    convert.main(["torch", str(path), str(out), "--color", "--head", f"--classes={names}"])
    said = capsys.readouterr().out
    assert "a head of 3 classes" in said and "left over" not in said
    np.testing.assert_array_equal(reading.load_head(out)["classes"]["kernel"], weight.T)
    note = reading.saved_note(reading.find(out))
    assert note["classes"] == ["cat", "dog", "fox"]
    assert note["config"]["task"]["name"] == "classification"


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({}, ["--classes=names.txt"], "give --head too"),
        ({}, ["--head", "--classes=names.txt"], "2 lines, 2 of them different"),
        ({"classifier.6.bias": None}, ["--head"], "no classifier.6.weight and classifier.6.bias"),
        ({"classifier.6.weight": np.ones((3, 5))}, ["--head"], "classifier.6.weight is (3, 5)"),
    ],
)
def test_a_last_layer_that_cannot_be_had_is_a_sentence(
    change, arguments, words, tmp_path, rng, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    state = _with_last_layer("vgg16", rng)[0] | change
    state = {k: np.array(v, order="C") for k, v in state.items() if v is not None}
    safetensors.save_file(state, "state.safetensors")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(SystemExit):
        convert.main(["torch", "state.safetensors", "out", *arguments])
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def published_vit(rng):
    """A state dict of a masked autoencoder, ViT-Ti of one block, with a part of its decoder."""
    shapes = {
        "cls_token": (1, 1, 192), "patch_embed.proj.weight": (192, 3, 4, 4),
        "patch_embed.proj.bias": (192,), "blocks.0.attn.qkv.weight": (576, 192),
        "blocks.0.attn.qkv.bias": (576,), "blocks.0.attn.proj.weight": (192, 192),
        "blocks.0.attn.proj.bias": (192,), "blocks.0.mlp.fc1.weight": (768, 192),
        "blocks.0.mlp.fc1.bias": (768,), "blocks.0.mlp.fc2.weight": (192, 768),
        "blocks.0.mlp.fc2.bias": (192,), "mask_token": (1, 1, 8), "decoder_embed.weight": (8, 192),
        "decoder_blocks.0.attn.qkv.weight": (24, 8),
    }  # fmt: skip
    for name in ("norm", "blocks.0.norm1", "blocks.0.norm2"):
        shapes |= {f"{name}.weight": (192,), f"{name}.bias": (192,)}
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    positions = np.concatenate([np.zeros((1, 192)), transformer.positions(3, 3, 192)])
    return state | {"pos_embed": positions[None].astype(np.float32)}


def test_the_encoder_of_a_masked_autoencoder_is_found_among_its_decoder(rng):
    state = published_vit(rng)
    found = imported(under("module.", state), color=True)
    assert found.settings["model"] == {
        "name": "vit", "size": "tiny", "blocks": 1, "patch": 4, "width": 1.0, "in_channels": 3,
    }  # fmt: skip
    said = " ".join(found.left_over)
    for name in ("mask_token", "decoder_embed", "decoder_blocks", "pos_embed"):
        assert name in said
    ours = found.variables["params"]["encoder"]
    np.testing.assert_array_equal(ours["embed"]["token"], state["cls_token"].ravel())
    np.testing.assert_array_equal(
        ours["block1"]["qkv"]["kernel"], state["blocks.0.attn.qkv.weight"].T
    )
    # A photo of the published mean is answered by the published bias.
    mean = np.array(tables.MEAN, np.float32) - GRAY_MEAN
    at_mean = ours["embed"]["kernel"].sum((0, 1)).T @ mean + ours["embed"]["bias"]
    np.testing.assert_allclose(at_mean, state["patch_embed.proj.bias"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": np.ones((1, 10, 192), np.float32)}, "positions that were learned"),
        ({"pos_embed": np.ones((1, 11, 192), np.float32)}, "pos_embed is .* patches of a square"),
        ({"patch_embed.proj.weight": np.ones((100, 3, 4, 4))}, "a ViT of 100 features"),
        ({"norm.weight": None}, "a ViT, of which is missing norm.weight"),
        ({"blocks.0.attn.proj.bias": None}, r"1 missing: blocks.0.attn.proj.bias"),
        ({"blocks.0.gamma": np.ones(192, np.float32)}, "1 not known: blocks.0.gamma"),
    ],
)
def test_another_vit_is_refused(change, message, rng):
    state = {k: v for k, v in (published_vit(rng) | change).items() if v is not None}
    with pytest.raises(WeightsError, match=message):
        imported(state)


def test_a_vit_has_no_head_to_keep_and_is_not_written(rng):
    state = published_vit(rng) | {"head.weight": np.ones((5, 192), np.float32)}
    assert "head.weight" in " ".join(imported(state).left_over)
    with pytest.raises(WeightsError, match="leave out --head"):
        imported(state, head=True)
    with pytest.raises(WeightsError, match="is not written"):
        tables.export(registry.make_encoder({"name": "vit"}), {"params": {}})
