"""The convert command: outputs, messages, and bad input that leaves the output unchanged."""

import json
import os
import re
import shutil
import subprocess
import sys

import caffe_files
import h5py
import jax
import labelled
import numpy as np
import pytest
import saved
import tiny

import colorize_jax
from colorize_jax import convert
from colorize_jax.checkpoints import reading, writing
from colorize_jax.errors import CheckpointError, SaveError
from colorize_jax.models import registry
from colorize_jax.training import evaluation, same_run, start

VGG = caffe_files.vgg16(width=1 / 32, fc6=1, norm=True)
COLORIZER = caffe_files.colorizer(width=1 / 32, fc6=1, hidden=8, bins=8)


@pytest.fixture
def vgg(tmp_path, rng):
    return caffe_files.write(tmp_path / "vgg16.caffemodel.h5", VGG, rng)


def _refused(capsys, *arguments):
    """The message with which the command ends."""
    with pytest.raises(SystemExit) as found:
        convert.main([str(argument) for argument in arguments])
    assert found.value.code not in (0, None)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


def _run(*arguments):
    convert.main([str(argument) for argument in arguments])


def test_a_caffe_file_becomes_a_checkpoint_to_load_and_to_start_from(vgg, tmp_path, capsys):
    _run("caffe", vgg, tmp_path / "out")
    assert "VGG-16, 1 channel, batch norm, width 0.03125" in capsys.readouterr().out
    encoder, variables = colorize_jax.load_encoder(tmp_path / "out")
    wanted = caffe_files.read(vgg)["conv5_1/0"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(variables["params"]["conv5_1"]["kernel"], wanted)
    for init_from in (tmp_path / "out", tmp_path / "out/checkpoints/0"):
        config = tiny.vgg(init_from=str(init_from))
        folder = start.find(config)
        start.check(config, registry.make_encoder(config.model), folder)
    found = start.load_start(config, encoder, folder, None)
    assert not found.left_over
    note = reading.saved_note(tmp_path / "out/checkpoints/0")
    assert note["origin"]["file"] == vgg.name and len(note["origin"]["sha256"]) == 64
    assert note["config"]["model"].keys() == tiny.vgg().model.to_dict().keys()
    assert not list(tmp_path.glob(".*"))  # The temporary file is gone.


def test_a_run_does_not_resume_from_converted_weights(vgg, tmp_path):
    _run("caffe", vgg, tmp_path / "out")
    with pytest.raises(CheckpointError, match="--config.init_from="):
        same_run.check_config(tmp_path / "out", tiny.vgg())
    same_run.check_config(tmp_path / "new", tiny.vgg())


def test_an_empty_folder_may_be_the_output(vgg, tmp_path):
    (tmp_path / "out").mkdir()
    _run("caffe", vgg, tmp_path / "out")
    colorize_jax.load_encoder(tmp_path / "out")


@pytest.mark.parametrize("fc", ["dense", "conv"])
def test_out_and_in_again_is_the_same_checkpoint(fc, vgg, tmp_path):
    _run("caffe", vgg, tmp_path / "out")
    _run("to-caffe", tmp_path / "out", tmp_path / "again.h5", f"--fc={fc}")
    axes = {"dense": 2, "conv": 4}[fc]
    assert caffe_files.read(tmp_path / "again.h5")["fc6/0"].ndim == axes
    _run("caffe", tmp_path / "again.h5", tmp_path / "again")
    first, again = (colorize_jax.load_encoder(tmp_path / x) for x in ("out", "again"))
    assert first[0] == again[0]
    jax.tree.map(np.testing.assert_array_equal, first[1], again[1])


@pytest.mark.slow
def test_a_colorizer_is_evaluated_as_a_network_of_the_recipe(tmp_path, rng, capsys):
    path = caffe_files.write(tmp_path / "colorizer.h5", COLORIZER, rng)
    _run("caffe", path, tmp_path / "out")
    assert "left over in the file: fc7_full/0, prediction_h_full/0" in capsys.readouterr().out
    config = tiny.vgg(model__norm="none", model__alignment="center")
    scores = evaluation.evaluate(config, tmp_path / "out", tmp_path / "scores")
    assert np.isfinite(scores["eval/loss"])
    _run("to-caffe", tmp_path / "out", tmp_path / "again.h5", "--head")
    _run("caffe", tmp_path / "again.h5", tmp_path / "again")
    first, again = (reading.load_head(tmp_path / x) for x in ("out", "again"))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    model = [
        reading.saved_note(tmp_path / x / "checkpoints/0")["config"]["model"]
        for x in ("out", "again")
    ]
    assert model[0] == model[1] and model[0]["alignment"] == "center"


def test_a_head_that_is_not_there_cannot_be_written(vgg, tmp_path, capsys):
    _run("caffe", vgg, tmp_path / "out")
    assert "no head" in _refused(
        capsys, "to-caffe", tmp_path / "out", tmp_path / "again.h5", "--head"
    )
    assert not (tmp_path / "again.h5").exists()


def test_unseen_settings_of_a_file_can_be_given(tmp_path, rng, capsys):
    layers = caffe_files.alexnet(width=1 / 16, fc6=2)
    path = caffe_files.write(tmp_path / "alexnet.h5", layers, rng)
    _run(
        "caffe",
        path,
        tmp_path / "out",
        "--config.model.lrn=False",
        "--config.model.fc6_padding=VALID",
    )
    encoder = reading.saved_encoder(tmp_path / "out")
    assert (encoder.lrn, encoder.fc6_padding) == (False, "VALID")
    said = _refused(capsys, "caffe", path, tmp_path / "other", "--config.model.norm=none")
    assert "model.norm follows from the file" in said and "lrn" in said
    said = _refused(capsys, "caffe", path, tmp_path / "other", "--config.model.width=wide")
    assert "model.width is 'wide', not a float" in said
    said = _refused(capsys, "caffe", path, tmp_path / "other", "--config.data.crop=3")
    assert "give --config.model.NAME=VALUE" in said
    with pytest.raises(SystemExit):
        convert.main(["inspect", str(path), "--config.model.lrn=False"])
    assert "only caffe takes settings" in capsys.readouterr().err


def test_inspect_tells_a_file_and_a_checkpoint(vgg, tmp_path, capsys):
    _run("inspect", vgg)
    said = capsys.readouterr().out
    assert "HDF5 of Caffe's VGG-16, 1 channel, batch norm, width 0.03125, fc6 1x1" in said
    assert "conv2_1/0" in said and "4 x 2 x 3 x 3" in said and "float32" in said
    numbers = sum(array.size for array in caffe_files.read(vgg).values())
    assert f"{numbers:,} numbers in 75 arrays" in said
    _run("caffe", vgg, tmp_path / "out")
    capsys.readouterr()
    _run("inspect", tmp_path / "out")
    said = capsys.readouterr().out
    assert "name=vgg16" in said and f"from file: {vgg.name}" in said
    assert "params/encoder/conv2_1/kernel" in said and "3 x 3 x 2 x 4" in said


def test_inspect_names_what_an_unknown_file_lacks(tmp_path, capsys):
    with h5py.File(tmp_path / "keras.h5", "w") as file:
        file["model_weights/dense/kernel"] = np.zeros((2, 3))
    _run("inspect", tmp_path / "keras.h5")
    said = capsys.readouterr().out
    assert "unknown network" in said and "VGG-16 needs conv1_1" in said
    assert "model_weights/dense/kernel" in said


def _text(path):
    path.write_text("404: Not Found")


def _truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def _empty(path):
    path.write_bytes(b"")


def _unknown(path):
    with h5py.File(path, "w") as file:
        file["data/ip1/0"] = np.zeros((2, 2), np.float32)


def _wrong_shape(path):
    with h5py.File(path, "a") as file:
        del file["data/conv3_2/0"]
        file["data/conv3_2/0"] = np.zeros((8, 8, 3, 2), np.float32)


def _nan(path):
    with h5py.File(path, "a") as file:
        file["data/conv4_1/1"][2] = np.nan


def _link(path):
    with h5py.File(path, "a") as file:
        file["data/conv9/0"] = h5py.ExternalLink("/etc/passwd", "/0")


def _gone(path):
    path.unlink()


BAD = {
    _text: "is no file of weights; known are HDF5",
    _truncated: "is a damaged HDF5 file",
    _empty: "is no file of weights",
    _unknown: "found ip1; VGG-16 needs conv1_1",
    _wrong_shape: "conv3_2/0 is (8, 8, 3, 2), not (8, 8, 3, 3)",
    _nan: "1 not finite: conv4_1/1",
    _link: "has a link at conv9/0",
    _gone: "is no file",
}


@pytest.mark.parametrize("damage", BAD)
@pytest.mark.parametrize("there", [True, False])
def test_bad_files_are_named_and_leave_the_output_alone(damage, there, vgg, tmp_path, capsys):
    damage(vgg)
    out = tmp_path / "out"
    if there:
        out.mkdir()
    before = sorted(tmp_path.iterdir())
    assert BAD[damage] in _refused(capsys, "caffe", vgg, out)
    assert sorted(tmp_path.iterdir()) == before and (not there or not list(out.iterdir()))


def test_a_binary_caffemodel_is_recognized_and_refused(tmp_path, capsys):
    path = tmp_path / "vgg16.caffemodel"
    path.write_bytes(b"\x0a\x10VGG_ILSVRC_16_layers")
    assert "snapshot_format: HDF5" in _refused(capsys, "caffe", path, tmp_path / "out")


def test_an_output_that_exists_is_left_alone(vgg, tmp_path, capsys):
    out, kept = tmp_path / "out", tmp_path / "out/kept.txt"
    out.mkdir()
    kept.write_text("mine")
    assert "exists and is not empty" in _refused(capsys, "caffe", vgg, out)
    assert [kept] == list(out.iterdir()) and kept.read_text() == "mine"
    assert "exists and is no folder" in _refused(capsys, "caffe", vgg, kept)
    _run("caffe", vgg, tmp_path / "good")
    assert "exists" in _refused(capsys, "to-caffe", tmp_path / "good", vgg)
    assert "is no folder" in _refused(
        capsys, "to-caffe", tmp_path / "good", tmp_path / "nowhere/file.h5"
    )


def test_a_disk_that_is_full_leaves_nothing(vgg, tmp_path, monkeypatch, capsys):
    _run("caffe", vgg, tmp_path / "good")
    before = sorted(tmp_path.iterdir())
    with saved.no_file_longer_than(20_000):
        said = _refused(capsys, "to-caffe", tmp_path / "good", tmp_path / "new.h5")
        assert "new.h5 could not be written: File too large" in said
        said = _refused(capsys, "caffe", vgg, tmp_path / "out")
        assert "out could not be written" in said
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = _refused(capsys, "caffe", vgg, tmp_path / "out")
    assert "out could not be written: it takes 0 MiB, and 0 MiB are free there" in said
    assert sorted(tmp_path.iterdir()) == before


def test_save_encoder_refuses_what_is_there_and_says_when_it_fails(tmp_path):
    variables = {"params": {"encoder": {"a": {"kernel": np.ones(2, np.float32)}}}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").touch()
    with pytest.raises(CheckpointError, match="not empty"):
        writing.save_encoder(tmp_path / "out", variables, {}, {})
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="could not be written"):
        writing.save_encoder(tmp_path / "file/out", variables, {}, {})


def test_what_is_written_has_the_permissions_that_the_umask_gives(vgg, tmp_path):
    before = os.umask(0o027)
    try:
        _run("caffe", vgg, tmp_path / "out")
        _run("to-torch", tmp_path / "out", tmp_path / "vgg16.safetensors")
        _run("to-caffe", tmp_path / "out", tmp_path / "vgg16.h5")
    finally:
        os.umask(before)
    for path in (tmp_path / "out", *tmp_path.glob("out/**/*"), *tmp_path.glob("vgg16.[sh]*")):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def test_a_checkpoint_that_is_none_is_named(tmp_path, capsys):
    assert "no checkpoint in" in _refused(capsys, "to-caffe", tmp_path, tmp_path / "x.h5")
    assert "no checkpoint in" in _refused(capsys, "inspect", tmp_path)
    assert "is no file" in _refused(capsys, "inspect", tmp_path / "nothing")


def test_as_a_program_it_ends_without_a_traceback(tmp_path):
    (tmp_path / "file.h5").write_text("nothing")
    command = [sys.executable, "-m", "colorize_jax.convert", "caffe", "file.h5", "out"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "file.h5 is no file of weights" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "parameters"),
    [
        (caffe_files.vgg16(), 134_259_392),
        (caffe_files.vgg16(norm=True, dense=False), 134_259_392),
        (caffe_files.alexnet(norm=True), None),
        (caffe_files.resnet(), None),
        (caffe_files.colorizer(), None),
    ],
    ids=["vgg16", "vgg16_norm", "alexnet", "resnet152", "colorizer"],
)
def test_full_size_files_of_the_published_layout_come_and_go(layers, parameters, tmp_path, rng):
    path = caffe_files.write(tmp_path / "file.h5", layers, rng)
    head = ["--head"] if "h_fc1" in layers else []
    _run("caffe", path, tmp_path / "out")
    encoder, variables = colorize_jax.load_encoder(tmp_path / "out")
    assert encoder.width == 1 and getattr(encoder, "depth", 152) == 152
    if parameters is not None:
        assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters
    path.unlink()
    _run("to-caffe", tmp_path / "out", tmp_path / "again.h5", *head)
    _run("caffe", tmp_path / "again.h5", tmp_path / "again")
    (tmp_path / "again.h5").unlink()
    _, again = colorize_jax.load_encoder(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, variables, again)


@pytest.mark.slow
def test_example_of_the_readme_runs_as_written(tmp_path, rng):
    section = (saved.ROOT / "README.md").read_text().split("## Start from the authors' file")[1]
    example = re.search(r"(?ms)^```sh\n(.*?)\n```", section)[1]
    path = caffe_files.write(tmp_path / "vgg16.caffemodel.h5", caffe_files.vgg16(), rng)
    _keep_the_size_of_activations(path)
    devkit = tmp_path / "data/VOCdevkit/VOC2012"
    labelled.write_devkit(devkit, rng, photos=10)
    shutil.copytree(devkit / "SegmentationClass", tmp_path / "data/benchmark_RELEASE/dataset")
    (tmp_path / "configs").symlink_to(saved.ROOT / "configs")
    for folder in ("/ckpt/", "/data/"):
        assert folder in example
        example = example.replace(folder, f"{tmp_path}{folder}")
    example += " --config.steps=2 --config.data.crop=64 --config.data.batch_size=2"
    # A user runs it without these flags.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(saved.ROOT), *sys.path])
    script = f'set -eu; python() {{ {sys.executable} "$@"; }}\n{example}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "ckpt/larsson_vgg16_seg/results.json").read_text())
    assert found["init_from"] == str(tmp_path / "ckpt/larsson_vgg16/checkpoints/0")
    assert (found["network"], found["step"]) == ("vgg16, width 1.0", 2)
    assert np.isfinite(found["eval/miou"]) and np.isfinite(found["eval/loss"])
    shutil.rmtree(tmp_path / "ckpt")  # It takes 3 GB.
    path.unlink()


def _keep_the_size_of_activations(path):
    """Activations like those of trained weights; with `caffe_files` alone they would grow."""
    with h5py.File(path, "a") as file:
        for layer in file["data"].values():
            if "0" in layer:
                kernel = layer["0"][()]
                wanted = np.sqrt(2 / np.prod(kernel.shape[1:]))
                layer["0"][...] = kernel * np.float32(wanted / kernel.std())
