"""The commands of docs/recipes.md are complete, and build the networks that their rows name."""

import functools
import importlib.util
import json
import math
import pathlib
import re
import subprocess
from unittest import mock
import warnings

from absl import flags
import jax
from ml_collections import config_flags
import optax
import pytest
import saved

from colorize_jax import convert
from colorize_jax.config.settings import check_numbers
from colorize_jax.data import pipeline
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.tasks.task import batch_shapes, make_task
from colorize_jax.training import same_run, schedules
from colorize_jax.training.step import abstract_state

PAGE = saved.ROOT / "docs" / "recipes.md"
PHOTOS = 3_700_000  # that the page counts the steps of pretraining by

# What the paper has in the rows of each section, from the top to the bottom.
# fmt: off
PAPER = {
    "Table 1": ["86.9", "69.5", "46.2", "23.5", "65.9", "38.4", "77.2", "56.0", "77.3", "60.0"],
    "Table 2": ["48.0", "52.7", "52.9"],
    "Table 3": [
        "32.8", "50.7", "35.1", "52.9",
        "23.5", "36.2", "24.6", "40.8",
        "9.9", "52.3", "10.5", "53.9",
        "43.2", "59.0", "8.6", "23.3",
        "39.1", "48.2", "6.7", "17.4",
        "42.5", "63.1", "8.1", "29.6",
    ],
    "Table 5": ["66.5", "69.5", "56.0", "55.9"],
    "Table 6": [
        "3.6", "36.5", "60.8",
        "–", "42.6", "63.1",
        "–", "53.6", "64.2",
        "35.1", "56.0", "66.5",
    ],
    "Figure 4": ["35.1", "about 41", "–", "–", "52.9", "49.1", "56.0"],
}
# fmt: on
# Start: (epochs, steps of the drops, columns that the head reads, its outputs).
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
# ImageNet's classifier, as it is imported and after some epochs on gray.
COLOR_CLASSIFIER, GRAY_CLASSIFIER = "imagenet_vgg16", "imagenet_vgg16_gray"
# Parameters of each network that reads gray, with the shape of one that lies high up in it.
NETWORKS = {
    "vgg16": (134_259_392, "fc7", (1, 1, 4096, 4096)),
    "alexnet": (56_844_992, "fc7", (1, 1, 4096, 4096)),
    "resnet152": (60_192_808 - 2049 * 1000 - 2 * 49 * 64, "res5c_branch2b", (3, 3, 512, 512)),
}
# Transfer: (start, columns that the head reads, channels of the input, lowest layer that learns).
TRUNK, FOV, TOP = 12417, 12417 + 2048, 4096
SEGMENTATION = {
    "seg_long": ("vgg16_long", FOV, 1, "conv1_1"),
    "seg_regression": ("vgg16_regression", FOV, 1, "conv1_1"),
    "seg_no_hypercolumn": ("vgg16_no_hypercolumn", FOV, 1, "conv1_1"),
    "seg": ("vgg16", FOV, 1, "conv1_1"),
    "seg_no_fov": ("vgg16", TRUNK, 1, "conv1_1"),
    "seg_no_fov_random": ("random", TRUNK, 1, "conv1_1"),
    "seg_random": ("random", FOV, 1, "conv1_1"),
    "seg_color": ("vgg16_long", TRUNK + 2 + 2048, 3, "conv1_1"),
    "seg_head": ("vgg16_long", FOV, 1, None),
    "seg_head_random": ("random", FOV, 1, None),
    "seg_fc": ("vgg16_long", FOV, 1, "fc6"),
    "seg_fc_random": ("random", FOV, 1, "fc6"),
    "seg_conv4": ("vgg16_long", FOV, 1, "conv4_1"),
    "seg_conv4_random": ("random", FOV, 1, "conv4_1"),
    "seg_92500": ("vgg16/checkpoints/92500", FOV, 1, "conv1_1"),
    "seg_462500": ("vgg16/checkpoints/462500", FOV, 1, "conv1_1"),
    "seg_925000": ("vgg16/checkpoints/925000", FOV, 1, "conv1_1"),
    "seg_no_drop": ("vgg16_no_drop", FOV, 1, "conv1_1"),
    "seg_imagenet": (GRAY_CLASSIFIER, FOV, 1, "conv1_1"),
    "seg_imagenet_color": (COLOR_CLASSIFIER, TRUNK + 2 + 2048, 3, "conv1_1"),
    "seg_imagenet_head": (GRAY_CLASSIFIER, FOV, 1, None),
    "seg_imagenet_fc": (GRAY_CLASSIFIER, FOV, 1, "fc6"),
    "seg_imagenet_conv4": (GRAY_CLASSIFIER, FOV, 1, "conv4_1"),
}
# Of the other networks: (start, columns that the head reads). All layers learn, and read gray.
for _name, _trunk, _start in (
    ("alexnet", 9569, "alexnet"),
    ("resnet152", 11584, "resnet152_short"),
):
    SEGMENTATION |= {
        f"{_name}_seg_no_fov": (_start, _trunk, 1, "conv1"),
        f"{_name}_seg_no_fov_random": ("random", _trunk, 1, "conv1"),
        f"{_name}_seg": (_start, _trunk + 2048, 1, "conv1"),
        f"{_name}_seg_random": ("random", _trunk + 2048, 1, "conv1"),
    }
SEGMENTATION |= {
    "alexnet_seg_no_fov_long": ("alexnet_long", 9569, 1, "conv1"),
    "resnet152_seg_long": ("resnet152", 11584 + 2048, 1, "conv1"),
    "resnet152_seg_long_release": ("resnet152", 11584 + 2048, 1, "conv1"),
}
# Transfer: (start, classes, photos of each).
CLASSIFICATION = {
    "cls_long": ("vgg16_long", 20, 0),
    "cls_long_release": ("vgg16_long", 20, 0),
    "cls_imagenet": (GRAY_CLASSIFIER, 20, 0),
    "cls_imagenet_release": (GRAY_CLASSIFIER, 20, 0),
    "imnt100k": ("vgg16", 1000, 100),
    "imnt100k_random": ("random", 1000, 100),
    "imnt10k": ("vgg16", 1000, 10),
    "imnt10k_random": ("random", 1000, 10),
    "alexnet_cls_random": ("random", 20, 0),
    "alexnet_cls_long": ("alexnet_long", 20, 0),
    "alexnet_cls_long_release": ("alexnet_long", 20, 0),
    "alexnet_imnt100k": ("alexnet", 1000, 100),
    "alexnet_imnt100k_random": ("random", 1000, 100),
    "alexnet_imnt10k": ("alexnet", 1000, 10),
    "alexnet_imnt10k_random": ("random", 1000, 10),
    "resnet152_cls_long": ("resnet152", 20, 0),
    "resnet152_cls_long_release": ("resnet152", 20, 0),
    "resnet152_imnt100k": ("resnet152_short", 1000, 100),
    "resnet152_imnt100k_random": ("random", 1000, 100),
    "resnet152_imnt10k": ("resnet152_short", 1000, 10),
    "resnet152_imnt10k_random": ("random", 1000, 10),
}
TRANSFERS = [*SEGMENTATION, *CLASSIFICATION]
RELEASE = "_release"  # these have a schedule of their own, and no search
# The search, and the run on the whole split, may differ by these alone.
SEARCHED = (
    "steps", "schedule_from", "schedule.factor", "schedule.epochs", "early_stopping.mode",
    "early_stopping.window", "optimizer.rate", "model.norm",
)  # fmt: skip


@pytest.fixture(scope="module")
def page():
    return _Page(PAGE.read_text())


class _Page:
    """The configs of all commands on the page, what it imports, and the rows of its tables."""

    def __init__(self, text):
        self.runs, self.searches, self.evaluations, self.imports = {}, {}, {}, {}
        for words in _commands(text):
            if words[:2] == ["-m", "colorize_jax.main"]:
                config, workdir = _parse(words[2:], "workdir")
                assert workdir not in self.runs, f"{workdir} twice"
                self.runs[workdir] = config
            elif words[:2] == ["-m", "colorize_jax.evaluate"]:
                config, output, checkpoint = _parse(words[2:], "output", "checkpoint")
                assert output not in self.evaluations, f"{output} twice"
                self.evaluations[output] = checkpoint, config
            elif words[:2] == ["-m", "colorize_jax.convert"]:
                with mock.patch.object(convert, "from_caffe") as found:
                    convert.main(words[2:])
                self.imports[found.call_args.kwargs["output"]] = found.call_args.kwargs
            else:
                assert words[0] == "launch/sweep.py"
                arguments = _sweep().parse(words[1:])
                workdir = pathlib.Path(arguments.workdir)
                for run in _sweep().load_runs(arguments.config, workdir):
                    of_run = [f"--config={arguments.config}", *arguments.more, *run.flags]
                    (self.searches[str(run.workdir)],) = _parse(of_run)
        self.rows = {}  # {section: [(start, transfers, paper, ours)]}
        for section in re.split(r"(?m)^## ", text)[1:]:
            cells = [line.strip("| ").split(" | ") for line in section.splitlines()
                     if line.startswith("|") and line.count("|") == 6]  # fmt: skip
            rows = [row[1:] for row in cells if row[0] != "row" and "---" not in row[0]]
            if rows:
                self.rows[section.splitlines()[0]] = rows


def _commands(text):
    """The words behind `python` of every command, as bash has them; it can run nothing else."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", text)
    stub = "set -eu; PATH=; python() { printf '%s\\0' \"$@\" $'\\n'; }\n"
    done = subprocess.run(
        ["/bin/bash", "-c", stub + "\n".join(blocks)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [command.split("\0")[:-1] for command in done.stdout.split("\n\0")[:-1]]


def _parse(words, *names):
    """The config that a command builds, and its other flags, all of them known and given."""
    values, words = flags.FlagValues(), ["command", *words]
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    others = [flags.DEFINE_string(name, None, "", flag_values=values) for name in names]
    with warnings.catch_warnings(action="ignore"):  # how ml_collections loads the file is old
        assert values(words) == ["command"]
    found = [config.value, *(flag.value for flag in others)]
    assert None not in found, words
    return found


@functools.cache
def _sweep():
    spec = importlib.util.spec_from_file_location("sweep", saved.ROOT / "launch" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check(config):
    """That a run would begin, as far as that can be told without photos; its frozen groups."""
    check_numbers(config)
    pipeline.check(config)
    return make_task(_of_data(config)).frozen


def _network(name):
    """Of a start or a transfer, by its name."""
    return next((network for network in NETWORKS if name.startswith(network)), "vgg16")


def _check_network(config, params, channels):
    size, layer, shape = NETWORKS[config.model.name]
    first = params["encoder"].get("conv1_1") or params["encoder"]["conv1"]
    assert first["kernel"].shape[2] == channels
    size += (channels - 1) * math.prod(first["kernel"].shape) // channels
    assert sum(x.size for x in jax.tree.leaves(params["encoder"])) == size
    assert params["encoder"][layer]["kernel"].shape == shape


_SHAPES = {}


def _of_data(config):
    """The config with the number of classes that its data has."""
    config = config.copy_and_resolve_references()
    number = {"": 0, "masks": 21, "lists": 20, "folders": 1000}[config.data.labels]
    config.task.classes = config.task.classes or number
    return config


def _shapes(config):
    """(parameters, batch statistics) of the run's network; each network is traced once."""
    key = json.dumps([same_run.plain(config)[name] for name in ("model", "task", "data")])
    if key not in _SHAPES:
        task = make_task(_of_data(config))
        state = abstract_state(task, optax.identity(), batch_shapes(task, config))
        _SHAPES[key] = state.params, state.batch_stats
    return _SHAPES[key]


def _all_of(page, name):
    """Search, run and evaluation: the configs that belong to one transfer."""
    rates = [config for workdir, config in page.searches.items()
             if workdir.startswith(f"/ckpt/{name}/rates/")]  # fmt: skip
    again = [config for checkpoint, config in page.evaluations.values()
             if checkpoint == f"/ckpt/{name}"]  # fmt: skip
    return rates, page.runs[f"/ckpt/{name}"], again


def test_every_cell_of_the_paper_has_its_row_and_none_claims_to_be_run(page):
    assert {section: [row[2] for row in rows] for section, rows in page.rows.items()} == PAPER
    assert {row[3] for rows in page.rows.values() for row in rows} == {"not run"}


def test_the_commands_are_those_that_the_tables_name(page):
    named = set()
    for start, transfers, *_ in (row for rows in page.rows.values() for row in rows):
        for name in re.findall(r"`(\w+)`", transfers):
            named.add(name)
            begun = page.runs[f"/ckpt/{name}"].init_from.removeprefix("/ckpt/")
            assert start.strip("`") == begun
    assert named == set(TRANSFERS)
    begun = (*PRETRAINED, GRAY_CLASSIFIER, *TRANSFERS)
    assert set(page.runs) == {f"/ckpt/{name}" for name in begun}
    assert {checkpoint for checkpoint, _ in page.evaluations.values()} == {
        f"/ckpt/{name}" for name in TRANSFERS
    }


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretraining(page, name):
    config = page.runs[f"/ckpt/{name}"]
    epochs, drops, columns, outputs = PRETRAINED[name]
    params, batch_stats = _shapes(config)
    schedule = schedules.make_schedule(config, PHOTOS)
    _check_network(config, params, channels=1)
    if _network(name) == "resnet152":
        assert config.data.crop == 224 and config.data.scale == (256, 480)
    assert params["head"]["hidden"]["kernel"].shape == (columns, 1024)
    assert set(params["head"]) == {"hidden", *outputs}
    assert batch_stats and not _check(config) and config.init_from == "random"
    assert (schedule.steps, schedule.drops) == (epochs * PHOTOS // 8, drops)


def test_the_classifier_is_the_public_one_and_sees_gray_for_four_more_epochs(page):
    (imported,) = page.imports.values()
    assert imported["output"] == f"/ckpt/{COLOR_CLASSIFIER}"
    # Caffe's own preprocessing of this network, in our order of the channels.
    assert (imported["pixels"], imported["mean"]) == (255, [123.68, 116.779, 103.939])
    config = page.runs[f"/ckpt/{GRAY_CLASSIFIER}"]
    params, batch_stats = _shapes(config)
    _check_network(config, params, channels=1)
    assert not batch_stats and not _check(config)
    assert params["head"]["classes"]["kernel"].shape == (TOP, 1000)
    assert (config.data.split, config.data.per_class, config.early_stopping.mode) == (
        "train", 0, "off",
    )  # fmt: skip
    schedule = schedules.make_schedule(config, 1_281_167)
    assert schedule.steps == 4 * 1_281_167 // 128


def test_the_classifier_is_rebalanced_by_the_runs_that_start_from_the_file(page):
    for config in (*page.runs.values(), *page.searches.values()):
        from_file = config.init_from == f"/ckpt/{COLOR_CLASSIFIER}"
        assert config.rebalance_photos == (100 if from_file else 0)


def test_every_start_is_made_on_the_page_or_a_checkpoint_that_a_pretraining_keeps(page):
    kept = {
        name: schedules.make_schedule(page.runs[f"/ckpt/{name}"], PHOTOS).snapshots
        for name in PRETRAINED
    }
    starts = {config.init_from for config in (*page.runs.values(), *page.searches.values())}
    for start in starts - {"random"}:
        workdir, _, step = start.removeprefix("/ckpt/").partition("/checkpoints/")
        assert f"/ckpt/{workdir}" in page.runs | page.imports
        assert not step or int(step) in kept[workdir]
    assert kept["vgg16"] == (92_500, 462_500, 925_000, 1_387_500)


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfer(page, name):
    rates, config, again = _all_of(page, name)
    params, batch_stats = _shapes(config)
    head, network = params["head"], _network(name)
    assert config.model.name == network
    if name in SEGMENTATION:
        start, columns, channels, lowest = SEGMENTATION[name]
        assert head["hidden"]["kernel"].shape == (columns, 1024)
        assert head["classes"]["kernel"].shape == (1024, 21)
        assert ("fov" in params) == ("no_fov" not in name)
        assert (config.data.split, config.data.eval_split) == ("train_aug", "val")
    else:
        start, classes, per_class = CLASSIFICATION[name]
        channels, lowest = 1, "conv1_1"
        top, crop = {"alexnet": (TOP, 227), "resnet152": (2048, 224)}.get(network, (TOP, 224))
        assert head["classes"]["kernel"].shape == (top, classes) and config.data.crop == crop
        assert config.data.per_class == per_class
        split = ("trainval", "test") if classes == 20 else ("train", "val")
        assert (config.data.split, config.data.eval_split) == split
    layers = Vgg16.layers
    frozen = layers[: layers.index(lowest) if lowest else len(layers)] if network == "vgg16" else ()
    _check_network(config, params, channels)
    assert bool(batch_stats) == (name.endswith("_random") or network == "resnet152")
    for other in (*rates, config):
        assert other.init_from.removeprefix("/ckpt/") == start
        assert _check(other) == frozen
    for other in (*rates, *again):
        assert _shapes(other)[0] == params
    for other in again:
        _check(other)


@pytest.mark.parametrize("name", TRANSFERS)
def test_rate_and_schedule_are_found_on_a_part_of_the_training_split(page, name):
    rates, config, again = _all_of(page, name)
    assert config.early_stopping.mode == "off"
    assert len(again) == (3 if "cls" in name else 1)
    for other in again:
        assert (other.early_stopping.mode, other.eval.photos) == ("off", 0)
    if name.endswith(RELEASE):
        assert not rates and not config.schedule_from
        return
    assert len({search.optimizer.rate for search in rates}) == 3
    # A random start is searched through with batch norm and without it; a ResNet keeps its own.
    norms = {"batch", "none"} if name.endswith("_random") else {"none"}
    norms = {"batch"} if _network(name) == "resnet152" else norms
    assert {search.model.norm for search in rates} == norms and len(rates) == 3 * len(norms)
    for search in rates:
        assert search.early_stopping.mode == "search"
        flat = same_run.flat(same_run.plain(search))
        ours = same_run.flat(same_run.plain(config))
        assert {key for key in flat if flat[key] != ours[key]} <= set(SEARCHED)
    assert config.schedule_from.startswith(f"/ckpt/{name}/rates/")
    found = page.searches[config.schedule_from]
    assert (found.optimizer.rate, found.model.norm) == (config.optimizer.rate, config.model.norm)
