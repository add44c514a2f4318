"""Caffe's files: tables equal layouts written by hand, and conversions are exact both ways."""

import pathlib

import caffe_files
import jax
import numpy as np
import pytest

from colorize_jax.color.spaces import GRAY_MEAN
from colorize_jax.errors import ColorizeError, ConfigError, WeightsError
from colorize_jax.models import registry
from colorize_jax.surgery.absorb import absorb_batch_norm
from colorize_jax.weights import caffe, foreign, hdf5, tables

GOLDEN = pathlib.Path(__file__).parent / "golden_tiny.caffemodel.h5"
SMALL = {
    "vgg16": lambda **more: caffe_files.vgg16(width=1 / 32, fc6=3, **more),
    "alexnet": lambda **more: caffe_files.alexnet(width=1 / 16, fc6=2, **more),
    "resnet152": lambda **more: caffe_files.resnet(blocks=(1, 1, 1, 1), width=1 / 16, **more),
}
MODELS = {
    "vgg16": {"width": 1 / 32, "fc6_kernel": 3},
    "alexnet": {"width": 1 / 16, "fc6_kernel": 2},
    "resnet152": {"width": 1 / 16, "depth": 14},
}


def _encoder(name, **settings):
    return registry.make_encoder(registry.with_defaults({"name": name} | MODELS[name] | settings))


def _random(shapes, rng):
    """Variables of these shapes in which all numbers differ."""
    return jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), shapes)


def _variables(encoder, rng):
    found = _random(registry.variable_shapes(encoder), rng)
    return {kind: {"encoder": tree} for kind, tree in found.items()}


def _import(layers, tmp_path, rng, dtype=np.float32, **how):
    path = caffe_files.write(tmp_path / "file.h5", layers, rng, dtype)
    return caffe.import_file(foreign.read(path), **how), caffe_files.read(path)


def _same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def _same_tree(found, wanted):
    _same(tables.flat(found), tables.flat(wanted))


def test_golden_file_flips_absorbs_and_reads_a_matrix_as_a_convolution(golden):
    shapes = {
        "params/encoder/conv1/kernel": (3, 3, 3, 4),
        "params/encoder/conv1/bias": (4,),
        "params/encoder/fc6/kernel": (2, 2, 4, 5),
        "params/encoder/fc6/bias": (5,),
        "batch_stats/encoder/batch_conv1/mean": (4,),
        "batch_stats/encoder/batch_conv1/var": (4,),
        "batch_stats/encoder/batch_conv1/count": (),
    }
    file = foreign.read(GOLDEN)
    ours, left_over = tables.to_ours(caffe.rows(shapes), file.arrays, shapes)
    assert not left_over
    encoder = ours["params"]["encoder"]
    np.testing.assert_array_equal(encoder["conv1"]["kernel"], golden["h5_conv1_hwio_rgb"])
    np.testing.assert_array_equal(encoder["fc6"]["kernel"], golden["h5_fc6_as_conv_hwio"])
    dense = encoder["fc6"]["kernel"].reshape(-1, 5)
    np.testing.assert_array_equal(dense, golden["h5_fc6_as_dense_nhwc"])
    absorbed = absorb_batch_norm(
        {"conv1": encoder["conv1"]}, ours["batch_stats"]["encoder"]
    )["conv1"]  # fmt: skip
    wanted = golden["h5_conv1_hwio_rgb_absorbed"], golden["h5_conv1_bias_absorbed"]
    np.testing.assert_allclose(absorbed["kernel"], wanted[0], rtol=1e-4)
    np.testing.assert_allclose(absorbed["bias"], wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_published_layout_is_recognized_and_fills_the_network(name, channels, tmp_path, rng):
    found, arrays = _import(SMALL[name](channels=channels), tmp_path, rng)
    model = registry.with_defaults(found.settings["model"])
    settings = {"in_channels": channels, "norm": "batch" if name == "resnet152" else "none"}
    assert registry.make_encoder(model) == _encoder(name, **settings)
    assert not found.left_over and not found.done
    first = "conv1_1" if name == "vgg16" else "conv1"
    kernel = found.variables["params"]["encoder"][first]["kernel"]
    # Red is their last channel and our first.
    np.testing.assert_array_equal(kernel[0, 1, 0], arrays[f"{first}/0"][:, -1, 0, 1])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_out_and_in_again_is_the_same_bit_for_bit(name, channels, tmp_path, rng):
    encoder = _encoder(name, in_channels=channels)
    variables = _variables(encoder, rng)
    hdf5.write(tmp_path / "file.h5", caffe.export(encoder, variables), {})
    found = caffe.import_file(foreign.read(tmp_path / "file.h5"))
    _same_tree(found.variables, variables)
    assert registry.make_encoder(registry.with_defaults(found.settings["model"])) == encoder


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dense", [True, False])
def test_in_and_out_again_is_the_same_bit_for_bit(name, dense, tmp_path, rng):
    layers = SMALL[name]() if name == "resnet152" else SMALL[name](norm=True, dense=dense)
    path = caffe_files.write(tmp_path / "file.h5", layers, rng)
    file = foreign.read(path)
    for blob in file.arrays:
        if blob.endswith("/2"):
            file.arrays[blob] = np.ones(1, np.float32)
    found = caffe.import_file(file)
    encoder = registry.make_encoder(registry.with_defaults(found.settings["model"]))
    _same(caffe.export(encoder, found.variables, dense=dense), file.arrays)


def test_statistics_are_divided_by_their_factor(tmp_path, rng):
    found, arrays = _import(SMALL["vgg16"](norm=True), tmp_path, rng)
    assert found.settings["model"]["norm"] == "batch"
    stats = found.variables["batch_stats"]["encoder"]["batch_conv3_2"]
    np.testing.assert_allclose(stats["mean"], arrays["batch_conv3_2/0"] / 50, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], arrays["batch_conv3_2/1"] / 50, rtol=1e-6)


def test_a_factor_of_zero_is_statistics_that_never_began(tmp_path, rng):
    file = foreign.read(
        caffe_files.write(tmp_path / "file.h5", SMALL["vgg16"](norm=True), rng)
    )  # fmt: skip
    file.arrays["batch_conv1_1/2"] = np.zeros(1, np.float32)
    stats = caffe.import_file(file).variables["batch_stats"]["encoder"]["batch_conv1_1"]
    for name, value in {"mean": 0, "var": 1, "count": 0}.items():
        np.testing.assert_array_equal(stats[name], value)


def test_missing_scales_are_one_and_zero(tmp_path, rng):
    found, _ = _import(SMALL["resnet152"](scale=False), tmp_path, rng)
    scale = found.variables["params"]["encoder"]["scale2a_branch2c"]
    np.testing.assert_array_equal(scale["scale"], 1)
    np.testing.assert_array_equal(scale["bias"], 0)
    assert "bias" not in found.variables["params"]["encoder"]["res2a_branch2c"]
    assert "scale2a_branch1" in found.done[0]


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_old_files_of_other_floats_and_four_axes_are_read(dtype, tmp_path, rng):
    layers = SMALL["vgg16"]()
    layers["fc6"] = [(1, 1, *layers["fc6"][0]), (1, 1, 1, *layers["fc6"][1])]
    found, arrays = _import(layers, tmp_path, rng, dtype)
    fc6 = found.variables["params"]["encoder"]["fc6"]
    assert fc6["kernel"].dtype == np.float32 and fc6["kernel"].shape == (3, 3, 16, 128)
    wanted = arrays["fc6/0"].astype(np.float32).reshape(128, 16, 3, 3)
    np.testing.assert_array_equal(fc6["kernel"], wanted.transpose(2, 3, 1, 0))


def test_the_classifier_is_left_over(tmp_path, rng):
    found, _ = _import(SMALL["vgg16"]() | {"fc8": [(7, 128), (7,)]}, tmp_path, rng)
    assert found.left_over == ["fc8/0", "fc8/1"]


def test_diff_attributes_and_empty_groups_are_passed_over(tmp_path, rng):
    import h5py

    path = caffe_files.write(tmp_path / "file.h5", SMALL["alexnet"](), rng)
    with h5py.File(path, "a") as file:
        file.create_group("diff/conv1").create_dataset("0", data=np.ones(3))
        file.attrs["CLASS"] = file["data/conv1/0"].attrs["TITLE"] = "deepdish"
    assert not caffe.import_file(foreign.read(path)).left_over


def test_the_groups_of_alexnet_read_half_of_the_channels(tmp_path, rng):
    found, arrays = _import(SMALL["alexnet"](), tmp_path, rng)
    kernel = found.variables["params"]["encoder"]["conv2"]["kernel"]
    assert kernel.shape == (5, 5, 3, 16)
    np.testing.assert_array_equal(kernel[1, 2, :, 9], arrays["conv2/0"][9, :, 1, 2])
    assert registry.with_defaults(found.settings["model"])["lrn"]


@pytest.mark.parametrize("names", ["released", "training"])
def test_a_colorizer_brings_its_head(names, tmp_path, rng):
    layers = caffe_files.colorizer(width=1 / 32, fc6=3, hidden=8, bins=4)
    if names == "training":
        layers = {k: v for k, v in layers.items() if not k.endswith("_full")}
        old, new = caffe.HEADS["released"].layers, caffe.HEADS["training"].layers
        for layer in new:
            weights, bias = layers.pop(old[layer])
            layers[new[layer]] = [weights[:2], bias]
    found, arrays = _import(layers, tmp_path, rng, mean=[GRAY_MEAN])
    theirs = caffe.HEADS[names].layers
    head = found.variables["params"]["head"]
    assert head["hidden"]["kernel"].shape == (1 + 12416 // 32, 8)
    for layer, name in theirs.items():
        weights = arrays[f"{name}/0"].reshape(arrays[f"{name}/0"].shape[:2])
        np.testing.assert_array_equal(head[layer]["kernel"], weights.T)
    model = found.settings["model"]
    assert found.settings["task"] == {"bins": 4}
    assert (model["hidden"], model["hypercolumn"], model["norm"]) == (8, True, "none")
    assert model["alignment"] == {"released": "center", "training": "corner"}[names]
    fixed = [name for name in arrays if "_full/" in name]
    assert sorted(found.left_over) == sorted(fixed)


def test_a_head_goes_out_and_in_again_bit_for_bit(tmp_path, rng):
    encoder = _encoder("vgg16", norm="none")
    variables = _variables(encoder, rng)
    columns = 1 + 12416 // 32
    variables["params"]["head"] = {
        layer: {"kernel": rng.normal(size=shape).astype(np.float32),
                "bias": rng.normal(size=shape[1]).astype(np.float32)}
        for layer, shape in {"hidden": (columns, 8), "hue": (8, 4), "chroma": (8, 4)}.items()
    }  # fmt: skip
    arrays = caffe.export(encoder, variables)
    assert arrays["colorize_fc1/0"].shape == (8, columns)
    hdf5.write(tmp_path / "file.h5", arrays, {})
    found = caffe.import_file(foreign.read(tmp_path / "file.h5"))
    _same_tree(found.variables, variables | {"batch_stats": {}})


@pytest.mark.parametrize("name", SMALL)
def test_another_scale_and_mean_of_the_input_go_into_the_first_layer(name, tmp_path, rng):
    pixels, mean = 255.0, [123.68, 116.779, 103.939]
    layers = SMALL[name](channels=3)
    plain, _ = _import(layers, tmp_path, np.random.default_rng(1))
    refit, _ = _import(layers, tmp_path, np.random.default_rng(1), pixels=pixels, mean=mean)
    assert "outermost" in refit.done[0]
    rgb = rng.uniform(0, 1, (1, 33, 33, 3)).astype(np.float32)
    model = registry.with_defaults(plain.settings["model"])
    encoder = registry.make_encoder(model)
    first = encoder.layers[0]

    @jax.jit  # Layers that are not asked for are not computed.
    def activation(variables, image):
        return encoder.apply(variables, image)[first]

    def first_layer(found, image):
        variables = {k: v["encoder"] for k, v in found.variables.items() if v}
        return np.asarray(activation(variables, image))

    theirs = first_layer(plain, pixels * rgb - np.array(mean, np.float32))
    ours = first_layer(refit, rgb - GRAY_MEAN)
    inside = (slice(None), slice(2, -2), slice(2, -2))
    assert np.abs(theirs[inside]).max() > 1
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=1e-4, atol=1e-3)


def test_the_released_colorizer_saw_raw_gray_and_its_head_reads_it(tmp_path, rng):
    layers = caffe_files.colorizer(width=1 / 32, fc6=3, hidden=8, bins=4)
    raw, _ = _import(layers, tmp_path, np.random.default_rng(1), mean=[GRAY_MEAN])
    found, _ = _import(layers, tmp_path, np.random.default_rng(1))
    before, after = (x.variables["params"]["head"]["hidden"] for x in (raw, found))
    columns = rng.normal(size=before["kernel"].shape[0]).astype(np.float32)
    lifted = columns.copy()
    lifted[0] += GRAY_MEAN  # The first number of a column is the input itself.
    np.testing.assert_allclose(
        columns @ after["kernel"] + after["bias"],
        lifted @ before["kernel"] + before["bias"],
        rtol=1e-5,
        atol=1e-6,
    )
    bias = [x.variables["params"]["encoder"]["conv1_1"] for x in (raw, found)]
    lift = GRAY_MEAN * bias[0]["kernel"].sum((0, 1, 2))
    np.testing.assert_allclose(bias[1]["bias"] - bias[0]["bias"], lift, rtol=1e-5)


def test_a_note_in_a_file_of_ours_tells_what_weights_do_not_show(tmp_path, rng):
    encoder = _encoder("alexnet", lrn=False, fc6_padding="VALID")
    model = registry.with_defaults({"lrn": False, "fc6_padding": "VALID", "width": 1 / 16})
    arrays = caffe.export(encoder, _variables(encoder, rng))
    hdf5.write(tmp_path / "file.h5", arrays, caffe.note(model))
    found = caffe.import_file(foreign.read(tmp_path / "file.h5"))
    assert registry.make_encoder(registry.with_defaults(found.settings["model"])) == encoder


@pytest.mark.parametrize(
    "text",
    ["{", "3", '{"width": "wide"}', '{"lrn": 2}', "[" * 10_000]
    + [f'{{"width": {width}}}' for width in ("1e300", "NaN", "0.5", "-1.0")],
)
def test_a_damaged_note_is_an_error(text, tmp_path, rng):
    arrays = caffe_files.read(caffe_files.write(tmp_path / "a.h5", SMALL["alexnet"](), rng))
    hdf5.write(tmp_path / "file.h5", arrays, {"model": text})
    with pytest.raises(WeightsError, match="file.h5: the note "):
        caffe.import_file(foreign.read(tmp_path / "file.h5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("conv3_2/0"), "missing: conv3_2/0 "),
        (lambda a: a.pop("fc6/0"), "missing: fc6/0 "),
        (lambda a: a.update({"conv6/0": a["fc7/1"]}), "not known: conv6/0"),
        (lambda a: a.update({"batch_fc7/0": a["fc7/1"]}), "missing: batch_conv1_1/0 "),
        (lambda a: a.update({"conv2_1/0": a["conv2_1/0"][:, :, :2]}), r"is \(4, 2, 2, 3\), not"),
        (lambda a: a["fc7/1"].__setitem__(0, np.nan), "not finite: fc7/1"),
        (lambda a: a.update({"conv1/0": a["fc7/1"], "conv2/0": a["fc7/1"]}), "AlexNet needs conv1"),
        (lambda a: a.pop("conv1_1/0"), "missing: conv1_1/0 "),
        (lambda a: a.update({"conv1_1/0": np.ones((2, 4, 3, 3))}), "reads 4 channels"),
        (lambda a: a.update({"conv1_1/0": np.ones(3)}), r"is \(3,\), which is no convolution"),
        (lambda a: a.update({"fc7/0": np.ones((0, 4))}), "sizes of no VGG-16"),
        (lambda a: a.update({"h_fc1/0": a["fc7/1"]}), "missing: h_fc1/1"),
        (dict.clear, "none of the networks: found nothing; VGG-16 needs conv1_1"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(change, message, tmp_path, rng):
    file = foreign.read(caffe_files.write(tmp_path / "file.h5", SMALL["vgg16"](), rng))
    change(file.arrays)
    with pytest.raises(WeightsError, match=f"file.h5.*{message}"):
        caffe.import_file(file)


def test_a_mean_of_three_channels_needs_three_channels(tmp_path, rng):
    with pytest.raises(ConfigError, match="3 numbers"):
        _import(SMALL["vgg16"](), tmp_path, rng, mean=[1.0, 2.0, 3.0])


def test_what_caffe_has_not_is_not_written(rng):
    torch = _encoder("resnet152", variant="torch")
    with pytest.raises(WeightsError, match="another function"):
        caffe.export(torch, _variables(torch, rng))
    for settings, words in (
        ({"name": "alexnet_bn", "fc6_kernel": 1}, "alexnet_bn is no network of Caffe"),
        ({"name": "resnet18"}, "resnet18 is no network of Caffe"),
        ({"name": "resnet14", "stem": "cifar"}, "has another first layer and no pool1"),
        ({"name": "resnet14", "norm": "layer"}, "layer norm, and Caffe has none"),
    ):
        other = registry.make_encoder(registry.with_defaults({"width": 1 / 32} | settings))
        with pytest.raises(WeightsError, match=words):
            caffe.export(other, _variables(other, rng))
    encoder = _encoder("vgg16")
    variables = _variables(encoder, rng)
    variables["params"]["head"] = {"classes": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}}
    with pytest.raises(ColorizeError, match="hidden, hue, chroma"):
        caffe.export(encoder, variables)
