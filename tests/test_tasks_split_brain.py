"""Split-brain: two halves that never see what they predict, their targets and losses, transfer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color
import tiny
import toys

from colorize_jax.color import gamut, spaces
from colorize_jax.errors import ConfigError, WeightsError
from colorize_jax.models import layers, registry
from colorize_jax.models.alexnet import AlexNet
from colorize_jax.models.alexnet_bn import AlexNetBn
from colorize_jax.models.vgg16 import Vgg16
from colorize_jax.tasks.registry import make_task
from colorize_jax.weights import caffe, torch

KEYS = jax.random.split(jax.random.key(0), 8)
NARROW = {"width": 1 / 32, "fc6_kernel": 1, "in_channels": 3, "split": True, "dropout": 0.0}


@functools.cache
def _made(**settings):
    """Task, a batch of photos of some color of which one is gray, inputs, targets, variables."""
    _, task = toys.make("split_brain", **settings)
    batch = tiny.batch(np.random.default_rng(0))
    batch["image"] = batch["image"] // np.array([1, 2, 3], np.uint8)
    batch["image"][2] = 90

    @jax.jit
    def start(batch):
        inputs, targets = task.prepare(KEYS, batch)
        return inputs, targets, task.model.init(jax.random.key(0), *inputs)

    return task, batch, *start(batch)


@pytest.mark.parametrize(
    "encoder",
    [
        AlexNet(**NARROW, lrn=True),
        pytest.param(AlexNetBn(**NARROW), marks=pytest.mark.slow),
        pytest.param(Vgg16(**NARROW), marks=pytest.mark.slow),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_no_layer_of_a_half_depends_on_what_the_other_half_sees(encoder, rng):
    """Also in training, where batch norm looks at the whole batch."""
    lab = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    shapes = registry.variable_shapes(encoder)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    @jax.jit
    def maps(lab):
        return encoder.apply(variables, lab, True, mutable=["batch_stats"])[0]

    before = maps(lab)
    other_l, other_ab = (maps(lab + np.array(x, np.float32)) for x in ([5, 0, 0], [0, 3, -2]))
    for name in encoder.layers:
        of_l, of_ab = jnp.split(before[name], 2, -1)
        for changed, still, moved in ((other_ab, 0, 1), (other_l, 1, 0)):
            parts = jnp.split(changed[name], 2, -1)
            np.testing.assert_array_equal(parts[still], (of_l, of_ab)[still], err_msg=name)
            assert not np.array_equal(parts[moved], (of_l, of_ab)[moved]), name


def test_no_gradient_reaches_a_half_from_its_own_target():
    task, _, (lab,), targets, variables = _made()

    @jax.jit
    def slopes(lab):
        def of(name):
            def total(lab):
                return task.loss(task.model.apply(variables, lab), targets)[0][name].sum()

            return jax.grad(total)(lab)

        return of("loss_ab"), of("loss_lightness")

    of_ab, of_lightness = slopes(lab)
    assert not of_ab[..., 1:].any() and of_ab[..., 0].any()
    assert not of_lightness[..., 0].any() and of_lightness[..., 1:].any()


def test_the_whole_network_has_the_usual_width_and_half_of_the_weights_between_layers():
    ours, usual = (
        registry.variable_shapes(AlexNet(in_channels=3, split=split))["params"]
        for split in (True, False)
    )
    assert ours.keys() == usual.keys()
    for name, layer in ours.items():
        height, width, inputs, outputs = layer["kernel"].shape
        whole = usual[name]["kernel"].shape
        assert (height, width, outputs) == (*whole[:2], whole[3]), name
        grouped = name in ("conv2", "conv4", "conv5")  # in AlexNet anyway
        wanted = {"conv1": 2}.get(name, whole[2] // (1 if grouped else 2))
        assert inputs == wanted, name


def test_the_input_is_lab_and_the_first_half_has_a_channel_of_zeros():
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    wanted = (color.rgb2lab(photo) - [50, 0, 0]) / 100
    found = AlexNet(in_channels=3, split=True).network_input(photo)
    np.testing.assert_allclose(found[0], wanted, atol=1e-4)
    np.testing.assert_allclose(layers.in_halves(found)[0, ..., 1], 0)
    np.testing.assert_allclose(layers.in_halves(found)[0, ..., 2:], wanted[..., 1:], atol=1e-4)


def test_targets_are_those_of_the_pixel_in_the_middle_of_each_cell():
    """The small encoder's top has a stride of 4."""
    _, batch, _, targets, _ = _made()
    lab = np.asarray(spaces.lab(spaces.from_uint8(batch["image"][:, 2::4, 2::4])))
    wanted = gamut.encode(lab[..., 1:]).reshape(8, 64, gamut.BINS)
    np.testing.assert_allclose(targets["ab"], wanted, atol=1e-4)
    np.testing.assert_array_equal(targets["lightness"], np.floor(lab[..., 0]).reshape(8, 64))
    assert targets["has_color"].tolist() == [True, True, False, True, True, True, True, True]


def test_losses_are_summed_over_cells_and_a_gray_photo_has_none():
    task, batch, inputs, targets, variables = _made()

    @jax.jit
    def losses(variables):
        outputs = task.model.apply(variables, *inputs)
        return outputs, task.loss(outputs, targets)

    outputs, (values, counts) = losses(variables)
    assert outputs["ab"].shape == (8, 8, 8, 313) and outputs["lightness"].shape == (8, 8, 8, 100)
    ab, lightness = (np.asarray(jax.nn.log_softmax(outputs[k])) for k in ("ab", "lightness"))
    of_ab = -(np.asarray(targets["ab"]) * ab.reshape(8, 64, -1)).sum((1, 2))
    one_hot = np.eye(100)[np.asarray(targets["lightness"])]
    of_lightness = -(one_hot * lightness.reshape(8, 64, -1)).sum((1, 2))
    colored = np.asarray(targets["has_color"])
    np.testing.assert_allclose(values["loss_ab"], of_ab * colored, rtol=1e-4)
    np.testing.assert_allclose(values["loss_lightness"], of_lightness * colored, rtol=1e-4)
    np.testing.assert_allclose(values["loss"], (of_ab + of_lightness) * colored, rtol=1e-4)
    assert counts.tolist() == [64.0] * 8
    known = np.log(313) + np.log(100)  # of a network that knows nothing
    assert float(values["loss"].sum() / 64 / 7) == pytest.approx(known, rel=0.05)


@pytest.mark.parametrize("loss", ["bins", pytest.param("regression", marks=pytest.mark.slow)])
def test_both_losses_stand_beside_those_of_a_constant(loss):
    task, batch, _, targets, variables = _made(task__loss=loss)
    evaluator = task.evaluator

    @jax.jit
    def scores(variables, batch):
        statistics = evaluator.statistics(KEYS, batch)
        found = evaluator.on_batch(variables, statistics, KEYS, batch)
        return statistics, found, evaluator.pictures(variables, batch)

    statistics, found, panels = jax.device_get(scores(variables, batch))
    summary = evaluator.summarize(*found)
    parts = [summary[f"{name}_constant"] for name in ("loss_ab", "loss_lightness")]
    assert summary["loss_constant"] == pytest.approx(sum(parts), rel=1e-5)
    colored = np.asarray(targets["has_color"])
    if loss == "bins":
        share = statistics["lightness"] / statistics["lightness"].sum()
        entropy = -(share * np.log(np.maximum(share, 1e-9))).sum() * colored.mean()
        assert parts[1] == pytest.approx(entropy, rel=0.02)
    else:
        lightness = np.asarray(targets["lightness"])[colored]
        spread = 0.5 * np.square(lightness - lightness.mean()).mean() * colored.mean()
        assert parts[1] == pytest.approx(spread, rel=1e-3)
    assert evaluator.panels == ("gray", "predicted", "truth", "a and b", "predicted lightness")
    assert panels.shape == (8, 5, 32, 32, 3)
    np.testing.assert_array_equal(panels[:, 2], batch["image"])
    assert np.ptp(panels[:, 4].astype(int), axis=-1).max() <= 1  # It has no color.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__split": False}, "config.model.split=True"),
        ({"model__in_channels": 1}, "config.model.in_channels=3"),
        ({"task__loss": "l2"}, "loss is 'l2'; known: 'bins'"),
        ({"task__neighbors": 0}, "neighbors=0"),
        ({"task__lightness_bins": 1}, "lightness_bins=1"),
        ({"data__crop": 30}, "crop=30 must be a multiple of 4"),
    ],
)
def test_what_cannot_be_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        toys.make("split_brain", **settings)


def test_networks_of_other_programs_have_no_halves():
    with pytest.raises(WeightsError, match="model.split"):
        caffe.export(AlexNet(**NARROW), {"params": {"encoder": {}}})
    with pytest.raises(WeightsError, match="model.split"):
        torch.table(AlexNetBn(**NARROW, norm="none"), channels=3)


def test_a_transfer_reads_color_and_has_both_halves():
    config = tiny.classification(
        "softmax", model__name="alexnet", model__split=True, model__in_channels=3,
        model__fc6_kernel=1, data__labels="folders",
    )  # fmt: skip
    task = make_task(config)
    assert task.model.encoder.split and "split" in task.model.encoder.architecture
    (lab,), _ = task.prepare(None, tiny.batch(np.random.default_rng(0)) | {"labels": np.zeros(8)})
    assert lab.shape == (8, 32, 32, 3)
