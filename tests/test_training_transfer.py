"""Whole small transfer runs: their start, their trained layers, and their outputs."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import labelled
import numpy as np
from PIL import Image
import pytest
import saved
import tiny

import colorize_jax
from colorize_jax.data import decode
from colorize_jax.data.builtin import BuiltinPhotos
from colorize_jax.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    OutOfMemoryError,
)
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import (
    beginning,
    early_stopping,
    ending,
    evaluation,
    loop,
    nonfinite,
    start,
)
from colorize_jax.training.runner import Runner
from colorize_jax.training.step import TrainState


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The workdir of a colorization run of four steps."""
    workdir = tmp_path_factory.mktemp("pretrained")
    loop.train(tiny.config(steps=4, optimizer__rate=0.1), workdir)
    return workdir


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    root = tmp_path_factory.mktemp("devkit") / "VOC2012"
    labelled.write_devkit(root, np.random.default_rng(0), photos=8, size=(36, 50))
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    labelled.write_class_folders(root, np.random.default_rng(0), per_class=8)
    return root


@pytest.fixture(scope="module")
def segmented(pretrained, devkit, tmp_path_factory):
    """A segmentation run from the pretrained network: config, workdir, messages, scores."""
    workdir = tmp_path_factory.mktemp("segmented")
    config = tiny.segmentation(
        data__source=str(devkit), init_from=str(pretrained), steps=4, eval__export=True
    )
    said = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (beginning, ending, evaluation):
            patch.setattr(module, "say_once", said.append)
        scores = loop.train(config, workdir)
    return config, workdir, "\n".join(said), scores


def _params(workdir, step):
    return saved.state(workdir, step)["params"]


def test_a_run_says_what_was_loaded_what_is_new_and_what_is_left_over(segmented, pretrained):
    _, _, said, _ = segmented
    folder = pretrained / "checkpoints" / "4"
    layers = "encoder/conv1, encoder/conv2, encoder/conv3"
    assert f"loaded from {folder} (batch norm absorbed): {layers}" in said
    assert "new: head/classes, head/hidden" in said
    assert "left over in the checkpoint: head/chroma, head/hidden, head/hue" in said


def test_a_run_ends_with_a_table_and_results_that_can_be_repeated(segmented, pretrained, devkit):
    config, workdir, said, scores = segmented
    found = json.loads((workdir / "results.json").read_text())
    assert found["metric"] == {
        "name": "miou", "value": scores["eval/miou"], "higher_is_better": True
    }  # fmt: skip
    assert set(found["per_class"]["iou"]) == {"class 0", "class 1", "class 2"}
    assert found["init_from"] == str(pretrained / "checkpoints" / "4")
    assert found["seed"] == 0 and found["step"] == 4
    assert found["schedule"] == {"steps": 4, "drops": [2]}
    assert found["checkpoint"] == str(workdir / "checkpoints" / "4")
    assert found["data"]["source"] == str(devkit)
    assert (found["data"]["photos"], found["data"]["eval_photos"]) == (8, 4)
    assert found["seconds"] > 0 and len(found["config_hash"]) == 12
    assert re.search(rf"miou +{scores['eval/miou']:.4f}  <- the score", said)
    assert "class 2" in said and "miou_most_frequent" in said
    assert found["best"]["eval/miou"] >= scores["eval/miou"]


def test_a_run_leaves_overlays_and_predictions_of_the_photos_own_size(segmented):
    _, workdir, _, _ = segmented
    for name in ("4", "best", "worst"):
        picture = np.asarray(Image.open(workdir / "images" / f"{name}.png"))
        # Three photos of 50 x 36 pixels, each with three panels, four times as large.
        assert picture.shape[1] > 3 * 4 * 50 and picture.shape[0] > 3 * 4 * 36
    folder = workdir / "results/VOC2012/Segmentation/comp6_val_cls"
    files = sorted(folder.iterdir())
    assert [p.name for p in files] == [f"2008_{i:06}.png" for i in range(4)]
    mask = Image.open(files[0])
    assert mask.mode == "P" and mask.size == (50, 36) and np.asarray(mask).max() < 3


def test_evaluating_a_run_again_gives_its_scores(segmented, tmp_path):
    config, workdir, _, scores = segmented
    again = evaluation.evaluate(config, str(workdir), tmp_path)
    assert again == scores
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["checkpoint"] == str(workdir / "checkpoints" / "4")
    assert (tmp_path / "images" / "worst.png").exists()
    assert found["init_from"].endswith("checkpoints/4") and found["data"]["unreadable"] == 0
    for name, value in {"model.width": 0.0625, "model.norm": "batch"}.items():
        other = tiny.segmentation(data__source=config.data.source)
        other.update_from_flattened_dict({name: value})
        with pytest.raises(CheckpointError, match=rf"another network[^$]*{name}"):
            evaluation.evaluate(other, str(workdir), tmp_path, stated={name})


@pytest.mark.slow
def test_a_run_goes_on_without_what_it_started_from(pretrained, devkit, tmp_path):
    shutil.copytree(pretrained, tmp_path / "pretrained")
    config = tiny.segmentation(
        data__source=str(devkit), init_from=str(tmp_path / "pretrained"), steps=3
    )
    loop.train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "pretrained")
    (tmp_path / "run" / "results.json").unlink()
    loop.train(config, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["init_from"] == str(tmp_path / "pretrained" / "checkpoints" / "4")


@pytest.mark.slow
def test_a_schedule_that_was_written_anew_is_noticed(devkit, tmp_path):
    found = early_stopping.ScheduleResult(2, (1,), photos=8, full_photos=8, batch_size=8)
    early_stopping.write_schedule(tmp_path / "schedule.json", found)
    config = tiny.segmentation(
        data__source=str(devkit), init_from="random", schedule_from=str(tmp_path)
    )
    loop.train(config, tmp_path / "run")
    (tmp_path / "schedule.json").rename(tmp_path / "moved.json")
    config.schedule_from = str(tmp_path / "moved.json")
    loop.train(config, tmp_path / "run")  # It is the same schedule at another path.
    other = dataclasses.replace(found, steps=5)
    early_stopping.write_schedule(tmp_path / "moved.json", other)
    with pytest.raises(CheckpointError, match=r"steps and drops \[2, 1\], .* \[5, 1\]"):
        loop.train(config, tmp_path / "run")


def test_too_little_memory_for_an_evaluation_is_explained(segmented, monkeypatch, tmp_path):
    config, workdir, _, _ = segmented

    def evaluate(self, variables, statistics, batches, pictures=0):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    monkeypatch.setattr(Runner, "evaluate", evaluate)
    with pytest.raises(OutOfMemoryError, match="8 photos at a time.*longest_side"):
        evaluation.evaluate(config, str(workdir), tmp_path)


@pytest.mark.slow
def test_photos_that_cannot_be_evaluated_are_said(tmp_path, capfd):
    root = tmp_path / "VOC2012"
    listed = labelled.write_devkit(root, np.random.default_rng(1), photos=6, size=(36, 40))
    mask = root / "SegmentationClass" / f"{listed['val'][0]}.png"
    Image.fromarray(np.full((36, 40), 77, np.uint8)).save(mask)
    config = tiny.segmentation(data__source=str(root), init_from="random", steps=1)
    loop.train(config, tmp_path / "run")
    assert "1 of the photos to evaluate on could not be read" in capfd.readouterr().err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["data"]["unreadable"] == 1 and found["data"]["eval_photos"] == 2
    bad = (tmp_path / "run" / "bad_records.jsonl").read_text()
    assert "its mask has the value 77" in bad


def test_only_the_layers_that_are_named_are_trained(pretrained, devkit, tmp_path):
    config = tiny.segmentation(
        data__source=str(devkit), init_from=str(pretrained), finetune="conv2", steps=2,
        optimizer__weight_decay=0.1, optimizer__rate=0.1, eval__pictures=0,
    )  # fmt: skip
    loop.train(config, tmp_path)
    after = _params(tmp_path, 2)
    _, before = _started(config)
    changed = {
        name
        for name, layer in after["encoder"].items()
        if not np.array_equal(layer["kernel"], before[name]["kernel"])
    }
    assert changed == {"conv2"}


def _started(config):
    """The start of a run: the description and the encoder's parameters."""
    task = make_task(config)
    found = start.load_start(config, task.model.encoder, start.find(config), lambda count: [])
    return found, found.variables["params"]


@pytest.mark.slow  # A ResNet keeps still in test_training_networks.
def test_frozen_batch_norm_keeps_still(pretrained, devkit, tmp_path):
    config = tiny.segmentation(
        data__source=str(devkit), init_from=str(pretrained), finetune="conv3", steps=2,
        model__norm="batch",
    )  # fmt: skip
    loop.train(config, tmp_path)
    before = saved.state(pretrained, 4)["batch_stats"]["encoder"]
    after = saved.state(tmp_path, 2)["batch_stats"]["encoder"]
    changed = {n for n in before if not np.array_equal(before[n]["mean"], after[n]["mean"])}
    assert changed == {"batch_conv3"}
    # Trained layers follow the new photos at once; frozen layers keep their count.
    assert after["batch_conv3"]["count"] == 2 and after["batch_conv2"]["count"] == 4


def _photo():
    image = decode.decode(BuiltinPhotos(held_out=False)[2].image)[:96, :128]
    return jnp.asarray(image[None])


def test_a_start_computes_what_was_pretrained(pretrained, devkit):
    """Activations stay the same on a real photo, without batch norm, and in color for gray."""
    gray = colorize_jax.network_input(_photo())
    encoder, variables = colorize_jax.load_encoder(pretrained)
    before = encoder.apply(variables, gray)
    for channels in (1, 3):
        config = tiny.segmentation(
            data__source=str(devkit), init_from=str(pretrained), model__in_channels=channels
        )
        found, params = _started(config)
        ours = make_task(config).model.encoder
        after = ours.apply({"params": params}, jnp.repeat(gray, channels, -1))
        for name in encoder.layers:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-4)
        assert ("conv1 reads color" in found.done) == (channels == 3)


@pytest.mark.slow
def test_a_start_is_rebalanced_on_photos(segmented, devkit, tmp_path):
    config = tiny.segmentation(
        data__source=str(devkit), init_from=str(segmented[1]), rebalance_photos=6, steps=2
    )
    task = make_task(config)
    photos = [_photo()]
    found = start.load_start(config, task.model.encoder, start.find(config), lambda count: photos)
    maps = task.model.encoder.apply(found.variables, colorize_jax.network_input(photos[0]))
    for name in task.model.encoder.layers:
        np.testing.assert_allclose(np.std(maps[name]), 1, rtol=1e-3)
    assert "rebalanced on 6 photos" in found.done[0]
    assert np.isfinite(loop.train(config, tmp_path / "run")["eval/miou"])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"init_from": ""}, ConfigError, "init_from is empty"),
        ({"init_from": "/nowhere"}, CheckpointError, "no checkpoint in /nowhere"),
        ({"init_from": "EMPTY"}, CheckpointError, "7 is not used: it has no manifest.json"),
        ({"model__width": 0.0625}, CheckpointError, "width is 0.0625 here and 0.03125 there"),
        ({"rebalance_photos": 4, "model__norm": "batch"}, ConfigError, "rebalance_photos"),
        ({"rebalance_photos": 4, "init_from": "random"}, ConfigError, "rebalance_photos"),
        ({"finetune": "conv7"}, ConfigError, "'conv7'"),
        ({"early_stopping__mode": "on"}, ConfigError, "'search', 'crossval'"),
        ({"schedule_from": "/nowhere"}, ConfigError, "there is no /nowhere"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_anything_is_written(
    pretrained, devkit, tmp_path, settings, error, message
):
    config = tiny.segmentation(
        **{"data__source": str(devkit), "init_from": str(pretrained)} | settings
    )
    if config.init_from == "EMPTY":
        config.init_from = str(tmp_path / "7")
        (tmp_path / "7").mkdir()
    with pytest.raises(error, match=message):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_without_batch_norm_gets_none(segmented, devkit, tmp_path):
    config = tiny.segmentation(
        data__source=str(devkit), init_from=str(segmented[1]), model__norm="batch"
    )
    with pytest.raises(ConfigError, match="set config.model.norm='none'"):
        loop.train(config, tmp_path / "run", stated={"model.norm"})


def test_classification_is_learned_and_scored_by_every_view(folders, tmp_path):
    config = tiny.classification(
        "softmax", data__source=str(folders), model__norm="batch", steps=40, eval__every=40,
        optimizer__rate=0.05, checkpoint__every=40, eval__norm_batches=8,
    )  # fmt: skip
    scores = loop.train(config, tmp_path)
    assert scores["eval/top1"] > 0.6  # There are three classes.
    assert scores["eval/top5"] == 1 and len([s for s in scores if s.startswith("eval/top1/")]) == 3
    for view in ("ten", "whole"):
        config.eval.view, config.eval.shortest = view, 36 if view == "ten" else 0
        found = evaluation.evaluate(config, str(tmp_path), tmp_path / view)
        assert found["eval/loss"] != scores["eval/loss"]
        # Whole photos are mostly border here, unlike training crops.
        assert found["eval/top1"] > (0.3 if view == "whole" else 0.6)


@pytest.mark.slow
def test_several_classes_a_photo_are_scored_by_average_precision(devkit, tmp_path):
    config = tiny.classification(
        "sigmoid", data__source=str(devkit), data__scaling="factor", task__classes=2,
        eval__view="random10", steps=2, optimizer__clip=10.0,
    )  # fmt: skip
    scores = loop.train(config, tmp_path)
    assert 0 < scores["eval/map"] <= 1 and "eval/ap/aeroplane" in scores
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["metric"]["name"] == "map"
    assert set(found["per_class"]) == {"ap", "ap_voc11", "ap_trapezoid"}


def test_masks_are_exported_by_segmentation_alone(folders, tmp_path):
    config = tiny.classification("softmax", data__source=str(folders), eval__export=True)
    with pytest.raises(ConfigError, match="predicts no masks"):
        loop.train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_step_of_a_transfer_can_be_replayed(devkit, tmp_path):
    """A run with names of classes, frozen layers, and early stopping's state in the optimizer."""
    config = tiny.segmentation(
        data__source=str(devkit), init_from="random", optimizer__rate=1e30, finetune="conv3",
        eval__classes=("class 0", "class 1"), early_stopping__mode="search", data__eval_split="",
        data__batch_size=4,
    )  # fmt: skip
    with pytest.raises(NonFiniteError) as found:
        loop.train(config, tmp_path / "run")
    config.replay = re.search(r"config.replay=(\S+)", str(found.value))[1]
    config.early_stopping.mode, config.data.eval_split = "crossval", "val"
    result = nonfinite.replay(config, tmp_path / "replay")
    assert result["gradients"]["encoder/conv1/kernel"] == 0


def test_the_names_of_all_layers_are_printed_on_request(tmp_path):
    config = tiny.vgg()
    layers = make_task(config).model.encoder.layers
    found = start.Start(tmp_path, {}, layers, [], ())
    state = TrainState(
        step=0, opt_state=(), nonfinite=0, collections={}, params={"head": {"hidden": {}}}
    )
    short = start.describe(config, found, state)
    assert f"loaded from {tmp_path}: 15 layers, encoder/conv1_1 to encoder/fc7" in short
    config.log.names = True
    assert "conv3_2" in start.describe(config, found, state) and "conv3_2" not in short
