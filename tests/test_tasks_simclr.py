"""SimCLR: the loss over the batch of all devices, the changes of a view, and what is learned."""

import colorsys
import functools

import chex
import golden_pretexts
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
from scipy import ndimage
import small_encoder
import tiny

from colorize_jax.augment import crops, photometric
from colorize_jax.errors import ConfigError
from colorize_jax.models.encoder import Encoder
from colorize_jax.tasks import instances, simclr
from colorize_jax.tasks.registry import make_task
from colorize_jax.training import optimizers, sharding
from colorize_jax.training.step import init_state, train_step

PHOTOS = 8
DESCENT = optax.sgd(0.1)


def _task(axis_name=None, **settings):
    config = tiny.config(
        **{
            "task__name": "simclr",
            "task__dimensions": 16,
            "task__temperature": 0.5,
            "model__name": small_encoder.NAME,
            "model__dropout": 0.0,
            "model__in_channels": 3,
            "data__views": 2,
        }
        | settings
    )
    return make_task(config, axis_name=axis_name)


def _batch():
    batch = tiny.batch(np.random.default_rng(0), 2 * PHOTOS)
    views = batch["image"].reshape(PHOTOS, 2, *batch["image"].shape[1:])
    return {name: array[:PHOTOS] for name, array in batch.items()} | {"image": views}


class _Given(Encoder):
    """A stand-in network whose output is its input."""

    def __call__(self, image, train=False):
        return {"top": image}


_nt_xent = jax.jit(simclr.nt_xent)  # Five photos in all tests: it is compiled once.


def _embeddings(rng):
    vectors = rng.normal(size=(5, 2, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_golden_simclr_loss_and_gradient():
    golden = golden_pretexts.group("simclr")

    def mean(z, tau):
        views = instances.unit(z.reshape(2, 5, 8).swapaxes(0, 1))
        rows, _ = simclr.nt_xent(views, views, np.ones(5, bool), 0, tau)
        return rows.mean(), rows.T.ravel()

    both = jax.jit(jax.value_and_grad(mean, has_aux=True))
    for name, tau in (("tau01", 0.1), ("tau05", 0.5)):
        (loss, rows), gradient = both(golden["z"], tau)
        np.testing.assert_allclose(rows, golden[f"rows_{name}"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(loss, golden[f"loss_{name}"], rtol=1e-5)
        np.testing.assert_allclose(gradient, golden[f"grad_{name}"], rtol=1e-5, atol=1e-6)


def test_equal_embeddings_give_the_logarithm_of_the_number_of_others():
    same = np.broadcast_to(np.eye(8, dtype=np.float32)[0], (5, 2, 8))
    rows, found = _nt_xent(same, same, np.ones(5, bool), 0, 0.1)
    np.testing.assert_allclose(rows, np.log(9), rtol=1e-6)
    assert not np.any(found)  # A tie finds nothing.


def test_the_other_view_is_found_where_it_is_the_most_similar(rng):
    views = _embeddings(rng)
    views[:2, 1] = views[:2, 0]
    _, found = _nt_xent(views, views, np.ones(5, bool), 0, 0.1)
    similar = np.einsum("ivd,jwd->ivjw", views, views).reshape(10, 10)
    np.fill_diagonal(similar, -2)
    expected = similar.argmax(1) == np.arange(10) ^ 1
    np.testing.assert_array_equal(np.ravel(found), expected)
    assert expected.any() and not expected.all()


def test_nothing_is_compared_with_photos_that_are_not_valid(rng):
    views, valid = _embeddings(rng), np.array([True, False, True, True, False])
    rows, found = _nt_xent(views, views, valid, 0, 0.5)
    kept = views[valid].reshape(6, 8)
    logits = 2 * kept @ kept.T
    np.fill_diagonal(logits, -np.inf)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), np.arange(6) ^ 1]
    np.testing.assert_allclose(np.ravel(rows[valid]), expected, rtol=1e-5)
    alone = np.arange(5) == 2
    rows, _ = _nt_xent(views, views, alone, 0, 0.5)
    assert np.all(rows[2] == 0)


def test_a_device_compares_its_photos_with_those_of_all(rng):
    views, valid = _embeddings(rng), np.ones(5, bool)
    whole = _nt_xent(views, views, valid, 0, 0.5)
    part = _nt_xent(views[3:], views, valid, 3, 0.5)
    chex.assert_trees_all_close(part, tuple(x[3:] for x in whole), rtol=1e-6)


def test_loss_and_gradient_are_the_same_on_four_devices(rng):
    task = _task(task__projector_layers=1)
    # The encoder's batch norm is tested with it; the projector has its own.
    model = task.model.clone(encoder=_Given(), layer="top")
    views = rng.normal(size=(PHOTOS, 2, 2, 2, 8)).astype(np.float32)
    valid = np.arange(PHOTOS) != 3

    def mean(variables, views, valid):
        outputs, _ = model.apply(variables, views, valid, train=True, mutable=["batch_stats"])
        values, counts = task.loss(outputs, {"valid": valid})
        return values["loss"].sum() / counts.sum()

    variables = jax.tree.map(
        lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype),
        jax.eval_shape(model.init, jax.random.key(0), views, valid),
    )
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    one, four = (
        jax.jit(jax.value_and_grad(mean), in_shardings=(sharding.replicated(mesh), split, split))(
            variables, views, valid
        )
        for mesh in (sharding.make_mesh(jax.devices()[:1]), mesh)
        for split in (sharding.split(mesh),)
    )
    assert 2 < one[0] < 4  # About the logarithm of 13.
    chex.assert_trees_all_close(
        *(jax.device_get((loss, gradient["params"])) for loss, gradient in (four, one)),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


@pytest.mark.slow
def test_step_is_the_same_on_four_devices():
    task, batch, key = _task(), _batch(), jax.random.key(0)
    batch["valid"][3] = False
    start = jax.device_get(jax.jit(lambda key: init_state(key, task, DESCENT, batch))(key))
    expected = jax.jit(functools.partial(train_step, task=task, optimizer=DESCENT))(
        start, batch, key
    )
    mesh = sharding.make_mesh()
    mapped = jax.jit(
        jax.shard_map(
            functools.partial(train_step, task=_task(sharding.AXIS), optimizer=DESCENT),
            mesh=mesh, in_specs=(P(), P(sharding.AXIS), P()), out_specs=P(), check_vma=False,
        )
    )  # fmt: skip
    split = sharding.jit_step(task, DESCENT, mesh)
    for state, metrics in (
        mapped(start, batch, key),
        split(start, sharding.put_batch(batch, mesh), key),
    ):
        chex.assert_trees_all_close(metrics, expected[1], rtol=1e-5)
        for kind in ("params", "collections"):
            chex.assert_trees_all_close(
                getattr(state, kind), getattr(expected[0], kind), rtol=1e-5, atol=1e-6
            )


@pytest.mark.slow
def test_other_views_are_found_better_after_some_steps(rng):
    # Photos differ by their shade, which is therefore hardly changed.
    task, batch = _task(task__jitter=0.1, task__gray=0.0, task__blur=0.0), _batch()
    state = jax.jit(lambda key: init_state(key, task, DESCENT, batch))(jax.random.key(0))
    step = jax.jit(functools.partial(train_step, task=task, optimizer=DESCENT))
    shades = np.linspace(20, 230, PHOTOS)[:, None, None, None, None]
    batch["image"] = (shades + rng.integers(-20, 21, batch["image"].shape)).astype(np.uint8)
    evaluate = jax.jit(task.evaluator.on_batch)
    photos = batch | {"image": batch["image"][:, 0]}

    def scores(state):
        keys = jax.random.split(jax.random.key(1), PHOTOS)
        _, rows = evaluate(state.variables, None, keys, photos)
        return task.evaluator.summarize({}, jax.device_get(rows))["loss"]

    start, losses = state, []
    for _ in range(80):
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(metrics["loss"])
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    # Even without learning, new averages of batch norm change how well views are found.
    assert scores(state) < scores(state.replace(params=start.params))


def test_both_views_of_a_photo_are_changed_by_keys_of_their_own():
    task, batch = _task(task__blur=0.0), _batch()
    batch["image"][:, 1] = batch["image"][:, 0]
    (views, _), _ = jax.jit(task.prepare)(jax.random.split(jax.random.key(0), PHOTOS), batch)
    changed = np.abs(views[:, 0] - views[:, 1]).max((1, 2, 3))
    assert (changed > 0.05).sum() >= PHOTOS - 1 and np.abs(views).max() <= 1


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (2, 2), (3, 3)])
def test_projector_has_scales_and_only_kernels_decay(layers, count):
    model = _task(task__projector_layers=layers, task__projector_hidden=20).model
    images = jnp.zeros((2, 2, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, jnp.ones(2, bool))
    projector = shapes["params"]["projector"]
    assert sum(name.startswith("linear") for name in projector) == count
    assert projector[f"linear{layers}"]["kernel"].shape == (20 if layers > 1 else 4, 16)
    for i in range(1, layers + 1):
        hidden = i < layers
        assert set(projector[f"linear{i}"]) == {"kernel"}
        assert set(projector[f"scale_linear{i}"]) == ({"scale", "bias"} if hidden else {"scale"})
    decays = optimizers.kernels({"projector": projector})["projector"]
    assert [name for name in decays if any(decays[name].values())] == [
        f"linear{i}" for i in range(1, layers + 1)
    ]


def test_colors_are_changed_in_the_drawn_order(rng):
    rgb = rng.uniform(size=(4, 5, 3)).astype(np.float32)
    jitter = jax.jit(photometric.color_jitter)
    drawn = jax.jit(
        lambda order, amounts: (
            jnp.argsort(jax.random.uniform(order, (4,))),
            jax.random.uniform(amounts, (4,), minval=-1.0),
        )
    )
    orders = set()
    for seed in range(6):
        key = jax.random.key(seed)
        order, amounts = map(np.asarray, drawn(*jax.random.split(key)))
        orders.add(tuple(order))
        expected = rgb
        for which in order:
            expected = np.clip(_changed(expected, which, 1 + 0.8 * amounts, 0.2 * amounts[3]), 0, 1)
        np.testing.assert_allclose(jitter(key, rgb, 1.0), expected, atol=2e-5)
        np.testing.assert_allclose(jitter(key, rgb, 0.0), rgb, atol=1e-5)
    assert len(orders) > 3


def _changed(rgb, which, factors, turn):
    """Brightness, contrast, saturation or hue, the last two by Python's own conversion."""
    if which == 0:
        return rgb * factors[0]
    if which == 1:
        mean = rgb.mean((0, 1))
        return mean + factors[1] * (rgb - mean)
    out = np.empty_like(rgb)
    for place in np.ndindex(rgb.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb[place].tolist())
        if which == 2:
            saturation = min(saturation * factors[2], 1)
        else:
            hue = (hue + turn) % 1
        out[place] = colorsys.hsv_to_rgb(hue, saturation, value)
    return out


def test_blur_is_a_gaussian_that_is_cut_off(rng):
    rgb = rng.uniform(size=(20, 20, 3)).astype(np.float32)
    blurred = jax.jit(lambda sigma: photometric.blurred(rgb, sigma, 3))
    for sigma in (0.1, 1.3):
        expected = ndimage.gaussian_filter(rgb, sigma, mode="constant", radius=3, axes=(0, 1))
        np.testing.assert_allclose(blurred(sigma), expected, atol=1e-6)


def test_blur_is_as_wide_as_a_tenth_of_the_crop():
    point = np.zeros((40, 40, 3), np.float32)
    point[20, 20] = 1
    soft = jax.jit(lambda key: simclr.augmented(key, point, 0.0, 0.0, 0.0, 1.0))(jax.random.key(0))
    assert (np.asarray(soft)[20, :, 0] > 0).sum() == 5


def test_a_view_may_stay_as_it_is_or_be_gray(rng):
    rgb = rng.uniform(size=(20, 20, 3)).astype(np.float32)
    augmented = jax.jit(lambda *shares: simclr.augmented(jax.random.key(0), rgb, 1.0, *shares, 0.0))
    np.testing.assert_array_equal(augmented(0.0, 0.0), rgb)
    gray = np.asarray(augmented(1.0, 1.0))
    assert (gray == gray[..., :1]).all() and gray.std() > 0.02


def test_crops_of_held_out_photos_have_the_areas_and_ratios_of_training():
    side = 20
    down, right = (np.indices((side, side)) + 0.5) / side
    rgb = np.stack([down, right, np.ones_like(down)], -1).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 100)
    cut = jax.jit(jax.vmap(crops.resized_crop, (0, None, None, None, None)))
    part = np.asarray(cut(keys, rgb, np.array([0.2, 0.6]), np.array([0.75, 4 / 3]), True))
    np.testing.assert_allclose(part[..., 2], 1, atol=1e-5)  # Nothing from beyond the border.
    # The ramps' slopes tell the height and the width of the part; the border pixels are flat.
    height = (part[:, 15, 10, 0] - part[:, 5, 10, 0]) * side / 10
    width = (part[:, 10, 15, 1] - part[:, 10, 5, 1]) * side / 10
    assert 30 < (width < 0).sum() < 70  # Mirrored.
    area, ratio = height * np.abs(width), np.abs(width) / height
    assert 0.19 < area.min() < 0.25 and 0.55 < area.max() < 0.61
    assert 0.74 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.34
    whole = cut(keys, rgb, np.ones(2), np.ones(2), False)
    np.testing.assert_allclose(whole, np.broadcast_to(rgb, whole.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task__layer": "fc9"}, "layer='fc9'"),
        ({"task__temperature": 0.0}, "temperature=0.0.*0.01"),
        ({"task__jitter": 1.5}, "jitter=1.5.*1.25"),
        ({"task__blur": -0.5}, "blur=-0.5"),
        ({"task__projector_layers": 0}, "projector_layers=0"),
        ({"data__batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"data__views": 1}, "add --config.data.views=2"),
        ({"microbatches": 2}, "compares all photos"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        _task(**settings)
