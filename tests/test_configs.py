"""Every recipe and variant builds the config that it describes."""

import importlib.util
import pathlib
import re

import numpy as np
import programs
import pytest

from colorize_jax import help
from colorize_jax.bench import regression_scale
from colorize_jax.config import check_numbers
from colorize_jax.errors import ConfigError
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Facts
from colorize_jax.training import optimizers, schedules

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = {
    "vgg16_col": ("", "long", "regression", "no_hypercolumn", "no_drop"),
    "alexnet_col": ("", "long"),
    "resnet152_col": ("", "short"),
    "quickstart": ("", "regression"),
    "voc2012_seg": (
        "",
        "random",
        "random,no_fov",
        "crossval",
        "alexnet",
        "random,resnet152",
        "random,zhang",
        "alexnet_bn",
        "random,resnet18",
    ),
    "voc2007_cls": ("", "random", "crossval", "random,alexnet", "resnet152", "resnet34"),
    "imagenet_subset_cls": (
        "",
        "random",
        "crossval",
        "alexnet",
        "random,resnet152",
        "zhang",
        "random,alexnet_bn",
    ),
    "downstream_cls": (),  # It has a test of its own, and so have the next ones.
    "efficient_cls": (),
    "imagenet_labels": (),
    "vit_cls": (),
}
# Variants of the same form as others, which take seconds to trace.
_LARGE = {("mae", "large"), ("mae", "huge"), ("mae", "raw")}


def get_config(name, variant=""):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def _others():
    """(recipe, variant) of all variants in docstrings that the table lacks."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        if path.stem not in RECIPES:
            about = help.about_file(path, "get_config")
            for variant in ("", *help.variants(about)):
                slow = (path.stem, variant) in _LARGE
                marks = pytest.mark.slow if slow else ()
                yield pytest.param(path.stem, variant, marks=marks)


_STATES = {}


def _state(config, task, photos):
    """The shapes of the run's state; variants with the same network are traced once."""
    optimizer = optimizers.make_optimizer(config, schedules.make_schedule(config, photos))
    key = programs.bare(config).to_json(), config.optimizer.to_json()
    if key not in _STATES:
        _STATES[key] = programs.abstract_state(task, optimizer, config)
    return _STATES[key]


@pytest.mark.parametrize(("name", "variant"), list(_others()))
def test_recipe_makes_a_state_with_an_encoder(name, variant):
    config = get_config(name, variant)
    check_numbers(config)
    task = make_task(config, Facts(photos=100))
    state = _state(config, task, photos=100_000)
    assert set(state.params["encoder"]) >= set(task.model.encoder.layers[:1])


@pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name in RECIPES for variant in RECIPES[name]]
)
def test_recipe_has_the_shapes_of_its_network(name, variant):
    config = get_config(name, variant)
    assert config.task.get("classes", 0) == 0  # 0 takes the number of the data.
    number = {"voc2012_seg": 21, "voc2007_cls": 20, "imagenet_subset_cls": 1000}.get(name, 0)
    if number:
        config.task.classes = number
    task = make_task(config)
    state = _state(config, task, photos=3_700_000)
    head = state.params["head"]
    if name == "vgg16_col":
        columns = 4096 if variant == "no_hypercolumn" else 12417
        assert head["hidden"]["kernel"].shape == (columns, 1024)
    network = variant.split(",")[-1]
    if name == "voc2012_seg":
        encoder = {
            "alexnet": 9569, "alexnet_bn": 9345, "resnet152": 11584, "resnet18": 1088, "zhang": 7297
        }.get(network, 12417)  # fmt: skip
        columns = encoder if "no_fov" in variant else encoder + 2048
        assert head["hidden"]["kernel"].shape == (columns, 1024)
        assert head["classes"]["kernel"].shape == (1024, number)
    if name.endswith("_cls"):
        top = {"resnet152": 2048, "resnet34": 512, "zhang": 512}.get(network, 4096)
        assert head["classes"]["kernel"].shape == (top, number)
        assert config.data.crop == (227 if network == "alexnet" else 224)
    if config.task.name == "colorization":
        outputs = {"ab"} if variant == "regression" else {"hue", "chroma"}
        assert set(head) - {"hidden"} == outputs
    assert bool(state.collections["batch_stats"]) == (config.model.norm == "batch")
    if config.task.name != "colorization":
        keeps = variant.startswith("random") or network in ("resnet152", "resnet34", "zhang")
        assert (config.model.norm == "batch") == keeps
        assert (config.init_from == "random") == variant.startswith("random")
    with pytest.raises(ConfigError, match="no variant 'nonsense'"):
        get_config(name, "nonsense")


@pytest.mark.parametrize(
    ("variant", "relabel", "per_class", "epochs"),
    [
        ("", "", 0, 20), ("100k", "", 100, 250), ("10k", "", 10, 250), ("e10", "noise:0.1", 0, 20),
        ("e50", "noise:0.5", 0, 20), ("h16", "wordnet:16", 0, 20), ("h2", "wordnet:2", 0, 20),
        ("r50", "random:50", 0, 20), ("double,r16", "random:16", 0, 40),
    ],
)  # fmt: skip
def test_label_variants_are_those_of_the_paper(variant, relabel, per_class, epochs):
    """test_paper.py looks at the network."""
    config = get_config("imagenet_labels", variant)
    check_numbers(config)
    data = config.data
    assert (data.relabel, data.per_class, config.schedule.epochs) == (relabel, per_class, epochs)
    assert (config.init_from, config.model.norm, config.model.in_channels) == ("random", "batch", 1)
    assert (data.labels, data.split, data.eval_split) == ("folders", "train", "val")
    with pytest.raises(ConfigError, match="two kinds of labels: e10 and h2"):
        get_config("imagenet_labels", "h2,e10")


def test_a_vit_is_transferred_by_the_recipes_of_all_networks():
    config = get_config("imagenet_subset_cls", "vit")
    assert config.data.crop == 224 and "fc6_padding" not in config.model
    config = get_config("voc2012_seg", "vit")
    config.task.classes = 21
    task = make_task(config)
    head = _state(config, task, photos=10_000).params["head"]
    # Three blocks and the top, and the two for the field of view.
    assert head["hidden"]["kernel"].shape == (4 * 768 + 2048, 1024)


def test_recipe_of_masked_autoencoders_is_the_published_training():
    config = get_config("mae")
    assert (config.task.hidden, config.task.normalized, config.task.decoder) == (0.75, True, 512)
    assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.95)
    assert config.optimizer.weight_decay == 0.05
    assert optimizers.initial_rate(config) == pytest.approx(1.5e-4 * 4096 / 256)
    assert config.schedule.warmup * config.schedule.epochs == pytest.approx(40)
    for variant in ("random", "large", "huge", "small"):
        fine = get_config("vit_cls", variant)
        check_numbers(fine)
        fine.task.classes = 10
        assert make_task(fine).model.encoder.patch == fine.model.patch
    fine = get_config("vit_cls")
    assert (fine.optimizer.layer_decay, fine.model.drop_path) == (0.65, 0.1)
    assert (fine.task.mixup, fine.task.cutmix, fine.task.smoothing) == (0.8, 1.0, 0.1)


def test_paper_recipe_is_that_of_the_paper():
    config = get_config("vgg16_col")
    assert (config.data.crop, tuple(config.data.scale)) == (352, (352, 600))
    assert (config.task.points, config.task.edge_buffer) == (128, 96)
    assert (config.task.window, config.task.bins) == (7, 32)
    assert (config.data.batch_size, config.optimizer.rate) == (8, 1e-3)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 5e-4)
    drops = np.array(config.schedule.drops) * config.schedule.epochs
    np.testing.assert_allclose(drops, (2.0, 2.5, 2.75))
    long = get_config("vgg16_col", "long")
    assert long.schedule.epochs == 10 and long.schedule.drops == config.schedule.drops
    assert get_config("vgg16_col", "no_drop").schedule.drops == ()


def test_recipe_of_zhang_is_the_released_solver():
    config = get_config("zhang_col")
    assert (config.data.crop, config.data.batch_size, config.steps) == (176, 40, 500_000)
    assert (config.optimizer.name, config.optimizer.rate) == ("adam", 3e-5)
    assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.99)
    assert config.optimizer.weight_decay == 1e-3
    assert [drop * config.steps for drop in config.schedule.drops] == [225_000, 450_000]
    assert get_config("zhang_col", "small,l2").task.loss == "regression"


def test_recipe_of_rotation_is_the_released_training():
    config = get_config("rotation")
    assert (config.model.name, config.model.fc6_padding) == ("alexnet_bn", "VALID")
    assert (config.model.dropout, config.model.conv1_stride) == (0, 4)
    assert (config.data.crop, config.data.batch_size, config.optimizer.rate) == (224, 192, 0.01)
    assert [drop * config.schedule.epochs for drop in config.schedule.drops] == [15, 30, 45]


def test_recipe_of_simclr_is_the_released_training():
    config = get_config("simclr")
    assert (config.model.name, config.model.norm_decay) == ("resnet50", 0.9)
    assert (config.task.temperature, config.task.jitter, config.task.blur) == (0.1, 1, 0.5)
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("lars", 1e-6)
    assert optimizers.initial_rate(config) == pytest.approx(4.8)
    schedule = schedules.make_schedule(config, photos=1_281_167)
    assert (schedule.steps, schedule.warmup, schedule.end) == (31_278, 3_128, 0)
    long = schedules.make_schedule(get_config("simclr", "long"), photos=1_281_167)
    assert (long.steps, long.warmup) == (312_785, 3_128)
    cifar = get_config("simclr", "cifar")
    assert (cifar.model.name, cifar.model.stem, cifar.data.crop) == ("resnet18", "cifar", 32)
    assert (cifar.task.temperature, cifar.task.jitter, cifar.task.blur) == (0.5, 0.5, 0)
    assert optimizers.initial_rate(cifar) == 2 and cifar.data.batch_size == 512


def test_transfer_recipes_are_those_of_the_release():
    config = get_config("voc2012_seg")
    assert (config.data.batch_size, config.data.crop, config.task.edge_buffer) == (10, 448, 32)
    schedule = schedules.make_schedule(config, photos=10_582)
    assert (schedule.steps, schedule.drops) == (40_000, (22_500, 30_000))
    settings = config.optimizer
    assert (settings.rate, settings.weight_decay, settings.bias_rate) == (1e-3, 5e-4, 1.0)
    config = get_config("voc2007_cls")
    schedule = schedules.make_schedule(config, photos=5_011)
    assert schedule.steps == 80_000 and schedule.factor == 0.5
    assert schedule.drops == tuple(range(10_000, 80_000, 10_000))
    settings = config.optimizer
    assert (settings.rate, settings.weight_decay, settings.clip) == (1e-3, 1e-6, 10.0)
    assert (config.model.fc6_padding, config.data.crop, config.data.batch_size) == (
        "VALID",
        224,
        16,
    )


def test_recipe_of_a_resnet_is_that_of_the_paper():
    config = get_config("resnet152_col")
    assert (config.data.crop, tuple(config.data.scale)) == (224, (256, 480))
    assert config.schedule.epochs == 35 and not config.model.hypercolumn
    np.testing.assert_allclose(np.array(config.schedule.drops) * 3, (2.0, 2.5, 2.75))
    # The released schedule of segmentation was found for this network.
    config = get_config("voc2012_seg", "resnet152")
    schedule = schedules.make_schedule(config, photos=10_582)
    assert (schedule.steps, schedule.drops) == (40_000, (22_500, 30_000))


def test_downstream_tests_choose_nothing_on_test_photos():
    config = get_config("downstream_cls", "svhn,alexnet")
    assert (config.data.split, config.data.eval_split) == ("train", "test")
    assert config.early_stopping.mode == "off" and config.model.norm == "batch"
    for variant, classes, crop in (("", 10, 64), ("flowers,alexnet", 102, 227)):
        built = get_config("downstream_cls", variant)
        check_numbers(built)
        assert (built.task.classes, built.data.crop) == (classes, crop)
        assert make_task(built).model.encoder.norm == "batch"
    schedule = schedules.make_schedule(config, photos=73_257)
    assert schedule.steps == round(50 * 73_257 / 512)
    assert len(schedule.drops) == 49 and schedule.factor == 0.98
    for variant, split in (("select", ""), ("flowers,select", "val")):
        assert get_config("downstream_cls", variant).data.eval_split == split
    with pytest.raises(ConfigError, match="two data sets"):
        get_config("downstream_cls", "svhn,flowers")


def test_a_share_of_the_labels_trains_all_layers_or_the_classifier():
    for variant, finetune, decay in (("", "all", 1e-4), ("linear,random,resnet50", "head", 0)):
        config = get_config("efficient_cls", variant)
        assert (config.finetune, config.optimizer.weight_decay) == (finetune, decay)
        config.data.label_share, config.task.classes = 0.01, 1000
        check_numbers(config)
        task = make_task(config)
        assert bool(task.frozen) == (finetune == "head")


def test_a_transfer_has_one_network():
    with pytest.raises(ConfigError, match="two networks: alexnet and resnet152"):
        get_config("voc2012_seg", "resnet152,alexnet")


def test_unknown_field_in_a_recipe_fails_by_name():
    config = get_config("vgg16_col")
    with pytest.raises(AttributeError, match='Did you mean "rate"'):
        config.optimizer.rat = 1.0


@pytest.mark.slow
def test_regression_scale_is_what_is_measured():
    config = get_config("quickstart", "regression")
    config.model.width = 0.0625
    measured = regression_scale.measure(config, batches=25)
    assert abs(measured / config.task.regression_scale - 1) < 0.2


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(r"(?m)^pip install .* && pytest$", readme)) == 1
