"""The study of the paper: its numbers, and every run's network and settings."""

import dataclasses
import math
import pathlib
import re
import shlex
from unittest import mock

import jax
import optax
import programs
import pytest

from colorize_jax import command_line, convert, evaluate
from colorize_jax.config.recipe import load_config, load_file
from colorize_jax.data import pipeline
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.studies import plan
from colorize_jax.studies.plan import Run
from colorize_jax.studies.workplace import Workplace
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import same_run, schedules

STUDY = load_file("paper", "get_study").get_study()
PLACE = Workplace(STUDY, pathlib.Path("/study"), "/data")
STEPS = {step.name: step for step in STUDY.steps}
PHOTOS = 3_700_000  # The steps of pretraining assume this number of photos.

# The paper's numbers in the rows of each table, from top to bottom.
# fmt: off
PAPER = {
    "Table 1: cl": ["86.9", "86.9", "46.2", "65.9", "65.9", "77.2", "77.2", "77.3", "77.3"],
    "Table 1: se": ["69.5", "23.5", "38.4", "56.0", "60.0", "60.0"],
    "Table 2: wh": ["48.0", "52.7", "52.9"],
    "Table 3: se": [
        "32.8", "50.7", "35.1", "52.9",
        "23.5", "36.2", "24.6", "40.8",
        "9.9", "52.3", "10.5", "53.9",
    ],
    "Table 3: a ": [
        "43.2", "59.0", "8.6", "23.3",
        "39.1", "48.2", "6.7", "17.4",
        "42.5", "63.1", "8.1", "29.6",
    ],
    "Table 4: ho": [
        "35.1", "66.5", "62.0", "57.1", "44.4", "61.8", "59.4", "60.0", "46.1",
        "57.3", "59.4", "42.6", "53.5",
    ],
    "Table 5: gr": ["66.5", "69.5", "56.0", "55.9"],
    "Table 6: wh": [
        "3.6", "36.5", "60.8",
        "", "42.6", "63.1",
        "", "53.6", "64.2",
        "35.1", "56.0", "66.5",
    ],
    "Figure 4: m": ["35.1", "about 41", "", "", "52.9", "49.1", "56.0"],
}
# fmt: on
# {start: (epochs, steps of the drops, columns that the head reads, its outputs)}.
DROPS, LONG_DROPS = (925_000, 1_156_250, 1_271_875), (3_083_333, 3_854_167, 4_239_583)
PRETRAINED = {
    "vgg16": (3, DROPS, 12417, {"hue", "chroma"}),
    "vgg16_long": (10, LONG_DROPS, 12417, {"hue", "chroma"}),
    "vgg16_regression": (3, DROPS, 12417, {"ab"}),
    "vgg16_no_hypercolumn": (3, DROPS, 4096, {"hue", "chroma"}),
    "vgg16_no_drop": (3, (), 12417, {"hue", "chroma"}),
    "alexnet": (3, DROPS, 9569, {"hue", "chroma"}),
    "alexnet_long": (10, LONG_DROPS, 9569, {"hue", "chroma"}),
    "resnet152": (35, (10_791_667, 13_489_583, 14_838_542), 2048, {"hue", "chroma"}),
    "resnet152_short": (3, DROPS, 2048, {"hue", "chroma"}),
}
# {start: (config.data.relabel, photos a class, epochs)} of Table 4's classifiers.
LABELS = {
    "c1000": ("", 0, 20),
    "c1000_100k": ("", 100, 250),
    "c1000_10k": ("", 10, 250),
    "e10": ("noise:0.1", 0, 20),
    "e50": ("noise:0.5", 0, 20),
    "h16": ("wordnet:16", 0, 20),
    "h2": ("wordnet:2", 0, 20),
    "r50": ("random:50", 0, 20),
    "r50_double": ("random:50", 0, 40),
    "r16": ("random:16", 0, 20),
    "r16_double": ("random:16", 0, 40),
}
# ImageNet's classifier, as imported, and after some epochs on gray photos.
COLOR_CLASSIFIER, GRAY_CLASSIFIER = "/data/imagenet_vgg16", "imagenet_vgg16_gray"
# Parameters of each network that reads gray, with the shape of one that lies high up in it; what
# its whole hypercolumn has, and its top; and the crop of a classifier. (ResNet-152: as many as
# torchvision counts, without the last layer and two channels of the first.)
NETWORKS = {
    "vgg16": (134_259_392, "fc7", (1, 1, 4096, 4096), 12417, 4096, 224),
    "alexnet": (56_844_992, "fc7", (1, 1, 4096, 4096), 9569, 4096, 227),
    "resnet152": (58_137_536, "res5c_branch2b", (3, 3, 512, 512), 11584, 2048, 224),
}
# {start: its transfers}. Transfers that end in _random have no start.
STARTS = {
    "vgg16": "seg seg_no_fov imnt100k imnt10k",
    "vgg16@92500": "seg_92500",
    "vgg16@462500": "seg_462500",
    "vgg16@925000": "seg_925000",
    "vgg16_long": "seg_long seg_color seg_head seg_fc seg_conv4 cls_long cls_long_release",
    "vgg16_regression": "seg_regression",
    "vgg16_no_hypercolumn": "seg_no_hypercolumn",
    "vgg16_no_drop": "seg_no_drop",
    COLOR_CLASSIFIER: "seg_imagenet_color",
    GRAY_CLASSIFIER: "seg_imagenet seg_imagenet_head seg_imagenet_fc seg_imagenet_conv4 "
    "cls_imagenet cls_imagenet_release",
    "alexnet": "alexnet_seg alexnet_seg_no_fov alexnet_imnt100k alexnet_imnt10k",
    "alexnet_long": "alexnet_seg_no_fov_long alexnet_cls_long alexnet_cls_long_release",
    "resnet152": "resnet152_seg_long resnet152_seg_long_release resnet152_cls_long "
    "resnet152_cls_long_release",
    "resnet152_short": "resnet152_seg resnet152_seg_no_fov resnet152_imnt100k resnet152_imnt10k",
    **{name: f"seg_{name}" for name in LABELS},
    "random": "seg_random seg_no_fov_random seg_head_random seg_fc_random seg_conv4_random "
    "imnt100k_random imnt10k_random alexnet_cls_random "
    "alexnet_seg_random alexnet_seg_no_fov_random alexnet_imnt100k_random alexnet_imnt10k_random "
    "resnet152_seg_random resnet152_seg_no_fov_random resnet152_imnt100k_random "
    "resnet152_imnt10k_random",
}
TRANSFERS = {name: start for start, names in STARTS.items() for name in names.split()}
# {part of a transfer's name: the lowest layer that is trained}.
LOWEST = {"head": None, "fc": "fc6", "conv4": "conv4_1"}
# Only these settings may differ between the search and the run on the whole split.
SEARCHED = {
    "steps", "schedule_from", "schedule.factor", "schedule.epochs", "early_stopping.mode",
    "early_stopping.window", "optimizer.rate", "model.norm",
}  # fmt: skip


def _config(run):
    changes = [word.removeprefix("--config.") for word in PLACE.command(run)[2:]]
    return load_config(run.recipe, changes)


def _frozen(config):
    """The frozen layers are right, and the checks before a run pass, without photos."""
    pipeline.check(config)
    return make_task(_with_classes(config)).frozen


def _with_classes(config):
    config = config.copy_and_resolve_references()
    if config.data.labels:
        config.task.classes = 21 if config.data.labels == "masks" else 20
    return config


_SHAPES = {}


def _shapes(config):
    """The shapes of the run's (parameters, batch statistics); each network is traced once."""
    config = _with_classes(config)
    model, task = config.model.to_json(), config.task
    key = model, task.name, task.get("loss") == "regression"
    if key not in _SHAPES:
        task = make_task(config)
        state = programs.abstract_state(task, optax.identity(), config)
        _SHAPES[key] = state.params, state.collections["batch_stats"]
    return _SHAPES[key]


def _check_encoder(config, channels=1):
    """The network's size, and the shapes of its lowest layer and of a high one."""
    params, _ = _shapes(config)
    size, layer, shape, *_ = NETWORKS[config.model.name]
    first = params["encoder"].get("conv1_1") or params["encoder"]["conv1"]
    assert first["kernel"].shape[2] == channels
    size += (channels - 1) * math.prod(first["kernel"].shape) // channels
    assert sum(x.size for x in jax.tree.leaves(params["encoder"])) == size
    assert params["encoder"][layer]["kernel"].shape == shape


def test_every_number_of_the_paper_has_its_row():
    plan.check(STUDY)
    found = {table.title[:11]: [row.paper for row in table.rows] for table in STUDY.sections}
    assert found == PAPER
    named = {name for table in STUDY.sections for row in table.rows for name in row.runs}
    assert named == set(TRANSFERS)
    wanted = {*PRETRAINED, *LABELS, GRAY_CLASSIFIER, *TRANSFERS}
    assert {step.name for step in STUDY.steps if isinstance(step, Run)} == wanted


def test_commands_of_the_text_are_complete():
    """The import names the public classifier; evaluations name runs and settings that exist."""
    text = STUDY.text.replace("\\\n", " ").replace("$DATA", "/data").replace("$STUDY", "/study")
    convert_words, evaluate_words = (
        shlex.split(re.search(rf"^python -m colorize_jax.{command} (.*)", text, re.M)[1])
        for command in ("convert", "evaluate")
    )
    with mock.patch.object(convert, "from_caffe") as imported:
        convert.main(convert_words)
    assert imported.call_args.kwargs["output"] == COLOR_CLASSIFIER
    # Caffe's preprocessing for this network, in our order of channels.
    assert imported.call_args.kwargs["pixels"] == 255
    assert imported.call_args.kwargs["mean"] == [123.68, 116.779, 103.939]
    asked = command_line.parse(evaluate.parser(), evaluate_words)
    source = STEPS[asked.checkpoint.removeprefix("/study/")].settings["data.source"]
    assert source == asked.config.data.source.replace("/data", "$DATA")
    for name in re.findall(r"--only='?(\w+)", text):
        assert name in STEPS


@pytest.mark.parametrize("name", [step.name for step in STUDY.steps if isinstance(step, Run)])
def test_config(name):
    run = STEPS[name]
    if name in TRANSFERS:
        _check_transfer(run)
    else:
        _check_pretraining(run, _config(run))


def _check_pretraining(run, config):
    params, batch_stats = _shapes(config)
    _check_encoder(config)
    assert not _frozen(config) and config.early_stopping.mode == "off"
    if run.name == GRAY_CLASSIFIER:
        assert params["head"]["classes"]["kernel"].shape[0] == 4096 and not batch_stats
        assert (config.data.split, config.data.labels, config.data.per_class) == (
            "train", "folders", 0,
        )  # fmt: skip
        assert (config.init_from, config.rebalance_photos) == (COLOR_CLASSIFIER, 100)
        assert schedules.make_schedule(config, 1_281_167).steps == 4 * 1_281_167 // 128
        return
    if run.name in LABELS:
        relabel, per_class, epochs = LABELS[run.name]
        data = config.data
        assert (data.relabel, data.per_class, data.labels) == (relabel, per_class, "folders")
        assert (config.init_from, config.model.in_channels, config.seed) == ("random", 1, 0)
        assert params["head"]["classes"]["kernel"].shape[0] == 4096 and batch_stats
        photos = 1000 * per_class or 1_281_167
        assert schedules.make_schedule(config, photos).steps == round(epochs * photos / 128)
        return
    epochs, drops, columns, outputs = PRETRAINED[run.name]
    schedule = schedules.make_schedule(config, PHOTOS)
    assert (schedule.steps, schedule.drops) == (epochs * PHOTOS // 8, drops)
    if run.name == "vgg16":
        assert schedule.snapshots == (92_500, 462_500, 925_000, 1_387_500)
    if "resnet" in run.name:
        assert config.data.crop == 224 and config.data.scale == (256, 480)
    assert params["head"]["hidden"]["kernel"].shape == (columns, 1024)
    assert set(params["head"]) == {"hidden", *outputs}
    assert batch_stats and config.init_from == "random" and config.rebalance_photos == 0
    # A branch equals the other run until its first drop, which is at the step of the branch.
    assert run.branch == ("vgg16@925000" if run.name == "vgg16_no_drop" else "")


def _check_transfer(run):
    name, start = run.name, TRANSFERS[run.name]
    network = next((network for network in NETWORKS if name.startswith(network)), "vgg16")
    if name.endswith("_release"):
        assert not run.search
        configs = {"": _config(run)}
    else:
        search = STEPS[run.search]
        configs = {}
        for one, candidate in zip(search.runs(), search.candidates, strict=True):
            settings = run.settings | candidate | {"schedule_from": f"$STUDY/{one.name}"}
            configs[one.name] = _config(dataclasses.replace(run, settings=settings, search=""))
            _check_search(_config(one), configs[one.name])
        # The search for a random start tries batch norm and none; a ResNet keeps its batch norm.
        norms = {"batch", "none"} if start == "random" else {"none"}
        norms = {"batch"} if network == "resnet152" else norms
        tried = [(config.model.norm, config.optimizer.rate) for config in configs.values()]
        assert {norm for norm, _ in tried} == norms
        assert len(set(tried)) == len(tried) == 3 * len(norms)
    for config in configs.values():
        assert config.model.name == network and config.early_stopping.mode == "off"
        begun = config.init_from.removeprefix("/study/").replace("/checkpoints/", "@")
        assert begun == start
        assert config.rebalance_photos == (100 if start == COLOR_CLASSIFIER else 0)
        _check_encoder(config, channels=3 if "color" in name else 1)
        (_check_segmentation if "seg" in name else _check_classification)(name, config)
        normed = start == "random" and config.model.norm == "batch" or network == "resnet152"
        assert bool(_shapes(config)[1]) == normed
        lowest = next((LOWEST[part] for part in LOWEST if f"_{part}" in name), "conv1_1")
        frozen = Vgg16.layers[: Vgg16.layers.index(lowest) if lowest else len(Vgg16.layers)]
        assert _frozen(config) == (frozen if network == "vgg16" else ())


def _check_search(config, ours):
    """The search is the same run on a part of the training split."""
    assert config.early_stopping.mode == "search"
    assert _shapes(config)[0] == _shapes(ours)[0] and _frozen(config) == _frozen(ours)
    flat, ours = (same_run.flat(same_run.plain(one)) for one in (config, ours))
    assert {key for key in flat if flat[key] != ours[key]} <= SEARCHED
    assert (flat["optimizer.rate"], flat["model.norm"]) == (
        ours["optimizer.rate"], ours["model.norm"],
    )  # fmt: skip


def _check_segmentation(name, config):
    params, _ = _shapes(config)
    *_, columns, _, _ = NETWORKS[config.model.name]
    columns += 0 if "no_fov" in name else 2048
    # The input itself is a part of the hypercolumn.
    columns += 2 if config.model.in_channels == 3 else 0
    assert params["head"]["hidden"]["kernel"].shape == (columns, 1024)
    assert params["head"]["classes"]["kernel"].shape == (1024, 21)
    assert ("fov" in params) == ("no_fov" not in name)
    data = config.data
    assert (data.labels, data.split, data.eval_split) == ("masks", "train_aug", "val")


def _check_classification(name, config):
    *_, top, crop = NETWORKS[config.model.name]
    assert _shapes(config)[0]["head"]["classes"]["kernel"].shape[0] == top
    data = config.data
    assert data.crop == crop
    if "cls" in name:
        assert (data.labels, data.split, data.eval_split) == ("lists", "trainval", "test")
        assert (config.eval.view, data.per_class) == ("random10", 0)
    else:
        assert (data.labels, data.split, data.eval_split) == ("folders", "train", "val")
        assert data.per_class == int(re.search(r"imnt(\d+)k", name)[1])
