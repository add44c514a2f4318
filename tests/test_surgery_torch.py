"""torchvision's state dicts: there and back, and what is refused."""

import os
import pickle
import sys

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

import colorize_jax
from colorize_jax import convert, inspection
from colorize_jax.errors import WeightsError
from colorize_jax.models import registry
from colorize_jax.surgery import foreign
from colorize_jax.surgery import torch as tables
from colorize_jax.surgery.tables import flat, shapes_of
from colorize_jax.training import checkpoint

SMALL = {
    "vgg16": {"name": "vgg16", "width": 1 / 32, "fc6_kernel": 1, "norm": "none"},
    "resnet152": {"name": "resnet152", "width": 1 / 32, "depth": 14, "variant": "torch"},
}


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
    top = "classifier.6" if network == "vgg16" else "fc"
    return state | {f"{top}.weight": np.ones((5, 3), np.float32)}


def imported(state, path="state.safetensors", **settings):
    return tables.import_file(foreign.File(path, "safetensors", state, {}), **settings)


def saved(tmp_path, settings, rng):
    """A checkpoint with random weights: (its folder, encoder, variables)."""
    encoder, variables = variables_of(settings, rng)
    nested = {kind: {"encoder": tree} for kind, tree in variables.items()}
    folder = tmp_path / "checkpoint"
    checkpoint.save_encoder(folder, nested, {"model": settings}, {})
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
    del state["classifier.6.weight" if network == "vgg16" else "fc.weight"]
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


def test_prefix_of_data_parallel_and_short_floats_are_read(rng):
    state = {f"module.{k}": v for k, v in state_of("vgg16", rng).items()}
    state["module.features.0.bias"] = state["module.features.0.bias"].astype(np.float16)
    found = imported(state)
    assert found.variables["params"]["encoder"]["conv1_1"]["bias"].dtype == np.float32
    assert found.left_over == ["classifier.6.weight"]


def test_files_without_counters_count_as_trained(rng):
    state = state_of("resnet152", rng)
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    stats = imported(state).variables["batch_stats"]["encoder"]
    assert {float(stats[name]["count"]) for name in stats} == {1000.0}


def _torchvision_alexnet(state):
    shapes = {"features": {0: 3, 3: 64, 6: 192, 8: 384, 10: 256}, "classifier": {1: 9216, 4: 4096}}
    return {
        f"{group}.{i}.{kind}": np.ones((4, inputs, 3, 3) if group == "features" else (4, inputs))
        for group, layers in shapes.items()
        for i, inputs in layers.items()
        for kind in ("weight", "bias")
    }


def _renamed(state):
    return {f"blocks.{name}": array for name, array in state.items()}


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
        (_torchvision_alexnet, "torchvision's alexnet, which is another network"),
        (_renamed, "no network known here: found blocks.classifier.0.bias"),
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
    ],
    ids=["alexnet", "caffe", "gray of color"],
)
def test_what_torchvision_does_not_have_is_not_written(settings, gray, words, rng):
    encoder, variables = variables_of(settings, rng)
    with pytest.raises(WeightsError, match=words):
        tables.export(encoder, variables, gray=gray)


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
    note = checkpoint.saved_note(checkpoint.find(output))
    assert note["origin"]["file"] == path.name and len(note["origin"]["sha256"]) == 64
    assert any("torchvision's ResNet-14" in line for line in inspection.describe(path))


def test_command_absorbs_batch_norm_and_says_what_the_file_reads(tmp_path, rng, capsys):
    settings = SMALL["vgg16"] | {"norm": "batch"}
    folder, encoder, variables = saved(tmp_path, settings, rng)
    path = tmp_path / "vgg16.safetensors"
    convert.main(["to-torch", str(folder), str(path)])
    said = capsys.readouterr().out
    assert "torchvision's vgg16 without classifier.6" in said and "mean=[0.448827, " in said
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


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": x, "epoch": 3}])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_of_torch_are_read(tmp_path, torch, wrap, zipped):
    path = tmp_path / "state.pth"
    state = {"a": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(7)}
    torch.save(wrap(state), path, _use_new_zipfile_serialization=zipped)
    file = foreign.read(path)
    assert file.format == "PyTorch"
    assert {k: v.dtype.name for k, v in file.arrays.items()} == {
        "a": "float32", "b": "float32", "n": "int64",
    }  # fmt: skip


class _Touches:
    """Leaves a file where it is unpickled."""

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


def test_pickles_need_torch(tmp_path, monkeypatch):
    path = tmp_path / "state.pth"
    path.write_bytes(pickle.dumps({}))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match=r"pip install 'colorize_jax\[torch\]'"):
        foreign.read(path)
