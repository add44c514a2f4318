"""The AlexNets, ResNet and Zhang's network in real steps: pretraining, saving, fine-tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import colorize_jax
from colorize_jax import extract
from colorize_jax.checkpoints import reading
from colorize_jax.data import sources
from colorize_jax.errors import ConfigError
from colorize_jax.features import feature_files
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import optimizers, same_run, saving, schedules, sharding, start
from colorize_jax.training.step import init_state, init_variables

NETWORKS = {
    "alexnet": {"model__name": "alexnet", "model__width": 1 / 32, "model__fc6_kernel": 2},
    "alexnet_bn": {
        "model__name": "alexnet_bn",
        "model__width": 1 / 32,
        "model__fc6_kernel": 2,
        "model__conv1_stride": 2,  # 4 in the transfer
    },
    "resnet152": {
        "model__name": "resnet152",
        "model__width": 1 / 16,
        "model__depth": 14,
        "model__fc6_kernel": 0,
    },
    "zhang": {"model__name": "zhang", "model__width": 1 / 64},
}
# Of networks that keep their batch norm: what a transfer trains, and as the layers that are.
PARTS = {
    "resnet152": ("res4a..res5a", {"res4a", "res5a"}),
    "zhang": ("conv7_2..conv7_3", {"conv7_2", "conv7_3"}),
}  # fmt: skip


# The compiler takes seconds for each of them. The ResNet has what the small network of other tests
# of runs has not; the others take these steps with -m slow, and AlexNet one of classification.
TRAINED = [
    name if name == "resnet152" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS
]


def _one_device():
    return sharding.make_mesh(jax.devices()[:1])


def _step(config, batch, place=lambda state, encoder: state):
    """The task, its states before and after a step, and the step's scalars."""
    task, mesh = make_task(config), _one_device()
    schedule = schedules.make_schedule(config, photos=100)
    optimizer = optimizers.make_optimizer(config, schedule, task.frozen)
    state = jax.jit(lambda key: init_state(key, task, optimizer, batch))(jax.random.key(0))
    before = jax.device_get(place(state, task.model.encoder))
    step = sharding.jit_step(task, optimizer, mesh)
    after, metrics = step(before, sharding.put_batch(batch, mesh), jax.random.key(1))
    return task, before, jax.device_get(after), jax.device_get(metrics)


@functools.cache
def _pretrained(name):
    config = tiny.config(**NETWORKS[name])
    # Deep networks compile slowly, so their head is pretrained on the top only.
    config.model.hypercolumn = name == "alexnet"
    return config, *_step(config, tiny.batch(np.random.default_rng(0)))


def _save(name, folder):
    config, _, _, state, _ = _pretrained(name)
    note = {"config": same_run.plain(config)}
    saving.write(folder / reading.FOLDER / "1", state, note)
    return state


def _changed(before, after):
    """The groups of parameters that have changed."""
    return {
        name for name in before
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, before[name], after[name])))
    }  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_pretraining(name):
    _, _, before, after, metrics = _pretrained(name)
    assert np.isfinite(metrics["loss"]) and metrics["nonfinite"] == 0
    assert _changed(
        before.collections["batch_stats"]["encoder"], after.collections["batch_stats"]["encoder"]
    ) == set(before.collections["batch_stats"]["encoder"])
    assert _changed(before.params["encoder"], after.params["encoder"]) == set(
        before.params["encoder"]
    )
    columns = {"alexnet": 301, "alexnet_bn": 128, "resnet152": 128, "zhang": 8}[name]
    assert before.params["head"]["hidden"]["kernel"].shape == (columns, 8)


def test_scale_and_bias_of_batch_norm_neither_decay_nor_learn_twice_as_fast():
    params = {
        "conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
        "scale_conv": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    }
    optimizer = optimizers.caffe_sgd(
        optimizers.optax.scale(1.0), momentum=0.0, weight_decay=0.5, bias_rate=2.0
    )
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    steps = jax.tree.map(lambda u: -float(u[0]), updates)
    assert steps == {
        "conv": {"kernel": 1.5, "bias": 2.0}, "scale_conv": {"scale": 1.0, "bias": 1.0}
    }  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_transfer_starts_from_the_pretrained_encoder(name, tmp_path):
    """Segmentation with FoV blocks; a network that keeps batch norm is partly frozen."""
    saved = _save(name, tmp_path)
    keeps = name in PARTS
    settings = NETWORKS[name] | ({"model__conv1_stride": 4} if name == "alexnet_bn" else {})
    config = tiny.segmentation(
        **settings, init_from=str(tmp_path), model__fov=True, data__crop=64,
        model__norm="batch" if keeps else "none", finetune=PARTS[name][0] if keeps else "all",
    )  # fmt: skip
    folder = start.find(config)
    start.check(config, make_task(config).model.encoder, folder)
    batch = tiny.batch(np.random.default_rng(1), crop=64)
    batch["mask"] = np.random.default_rng(2).integers(0, 3, (8, 64, 64), np.uint8)
    found = []

    def place(state, encoder):
        found.append(start.load_start(config, encoder, folder, lambda count: []))
        return start.place(state, found[0], sharding.replicated(_one_device()))

    task, before, after, metrics = _step(config, batch, place)
    assert np.isfinite(metrics["loss"]) and metrics["nonfinite"] == 0
    encoder = task.model.encoder
    assert found[0].done == ([] if keeps else ["batch norm absorbed"])
    scales = {f"scale_{layer}" for layer in encoder.layers} if not keeps else set()
    assert set(before.params["encoder"]) == set(saved.params["encoder"]) - scales
    trained = {
        group for group in before.params["encoder"]
        if not keeps or encoder.layer_of(group) in PARTS[name][1]
    }  # fmt: skip
    assert _changed(before.params["encoder"], after.params["encoder"]) == trained
    if keeps:
        stats, first = (
            after.collections["batch_stats"]["encoder"],
            saved.collections["batch_stats"]["encoder"],
        )
        moved = {group for group in first if encoder.layer_of(group) in PARTS[name][1]}
        assert _changed(before.collections["batch_stats"]["encoder"], stats) == moved
        # Trained layers follow the new photos at once; frozen layers keep their count.
        assert {stats[group]["count"].item() for group in moved} == {1.0}
        assert all(before.collections["batch_stats"]["encoder"][g]["count"] == 0 for g in moved)
        assert _changed(first, stats) == moved
    else:
        assert not before.collections["batch_stats"]
    shown = start.describe(config, found[0], before)
    ends = f"encoder/{encoder.layers[0]} to encoder/{encoder.top}"
    assert f"{len(encoder.layers)} layers, {ends}" in shown


def test_a_step_of_classification_without_padding():
    """AlexNet on the smallest crop that it accepts."""
    config = tiny.classification("softmax", **NETWORKS["alexnet"], model__norm="none")
    config.model.fc6_padding, config.data.crop = "VALID", 98
    with pytest.raises(ConfigError, match="crop=98 is too small for alexnet.*at least 99"):
        make_task(config)
    config.data.crop = 99
    batch = tiny.batch(np.random.default_rng(0), crop=99)
    batch["labels"] = np.arange(8, dtype=np.int32) % 3
    _, before, after, metrics = _step(config, batch)
    assert metrics["loss"] == pytest.approx(np.log(3), rel=1.0)
    assert _changed(before.params["encoder"], after.params["encoder"]) == set(
        before.params["encoder"]
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_photos_are_classified_by_the_cells_that_lie_over_them(name):
    config = tiny.classification("softmax", **NETWORKS[name], model__norm="batch")
    config.data.crop = 160
    if name.startswith("alexnet"):
        config.model.fc6_padding = "VALID"
    task = make_task(config)
    batch = {
        "image": np.zeros((2, 192, 160, 3), np.uint8), "labels": np.zeros(2, np.int32),
        "valid": np.ones(2, bool), "size": np.full((2, 2), 100, np.int32),
    }  # fmt: skip
    variables = jax.eval_shape(lambda: init_variables(jax.random.key(0), task, batch))
    sums, _ = jax.eval_shape(task.evaluator.on_batch, variables, {}, None, batch)
    assert sums["top1"].shape == ()


def test_any_block_of_a_resnet_can_be_extracted(tmp_path):
    """Layers are named by activations, also outside the hypercolumn."""
    saved = _save("resnet152", tmp_path)
    encoder, variables = colorize_jax.load_encoder(tmp_path)
    assert encoder.depth == 14 and encoder.variant == "caffe"
    jax.tree.map(np.testing.assert_array_equal, variables["params"], saved.params["encoder"])
    photos, output = sources.open_all("builtin:photos"), str(tmp_path / "features")
    wanted = extract.Extraction(layers=("conv1", "res4a", "res5a"), shortest=32, crop=32)
    extract.extract(str(tmp_path), photos, output, wanted, threads=1)
    found = feature_files.Features(output)
    assert set(found.layers) == {"conv1", "res4a", "res5a"}
    with pytest.raises(ConfigError, match="no layer 'fc7'; it has gray, conv1, res2a, res3a"):
        extract.extract(str(tmp_path), photos, output, extract.Extraction(layers=("fc7",)))
