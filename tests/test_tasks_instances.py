"""Instance discrimination: formulas, a bank that follows its photos, and a loss that falls."""

import functools
import shutil

import chex
import flax.linen as nn
import golden_pretexts
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import small_encoder
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.models.encoder import Encoder
from colorize_jax.tasks import instances, losses
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Facts
from colorize_jax.training import saving, sharding
from colorize_jax.training.evaluation import evaluate
from colorize_jax.training.loop import train
from colorize_jax.training.step import init_state, train_step

PHOTOS = 12
DESCENT = optax.sgd(0.1)


def _config(**settings):
    return tiny.config(
        **{
            "task__name": "instances",
            "task__dimensions": 16,
            "task__negatives": 6,
            "model__name": small_encoder.NAME,
            "model__dropout": 0.0,
            "model__in_channels": 3,
        }
        | settings
    )


def _task(axis_name=None, **settings):
    return make_task(_config(**settings), Facts(PHOTOS), axis_name)


def _batch(photo=range(8), seed=0):
    batch = tiny.batch(np.random.default_rng(seed))
    return batch | {"photo": np.array(photo, np.int32)}


def _start(task, batch):
    start = jax.jit(lambda key: init_state(key, task, DESCENT, batch))
    return jax.device_get(start(jax.random.key(0)))


@functools.cache
def _trained():
    """(task, its step on one device); it is compiled once for all tests."""
    task = _task()
    return task, jax.jit(functools.partial(train_step, task=task, optimizer=DESCENT))


def _memory(state):
    return jax.device_get(state.collections["memory"])


class _Given(Encoder):
    """A stand-in network whose output is its input."""

    def __call__(self, image, train=False):
        return {"top": image}


class _Same(nn.Module):
    features: int

    def __call__(self, x):
        return x


@functools.cache
def _golden():
    return {name: jnp.asarray(x) for name, x in golden_pretexts.group("npid").items()}


def _golden_logits(tau, photo="index"):
    golden = _golden()
    bank, features = golden["bank"], golden["features"]
    rows = jnp.concatenate([golden[photo][:, None], golden["draws"]], 1)
    return jnp.einsum("bd,bnd->bn", features, bank[rows]) / tau


@pytest.mark.parametrize("kind", ["", "_twice"])
def test_golden_npid_bank(kind):
    golden = _golden()
    photo = golden[f"index{kind}"]
    found = instances.updated(golden["bank"], photo, golden["features"], np.ones(4, bool), 0.5)
    np.testing.assert_allclose(found, golden[f"bank_new{kind}"], rtol=1e-5, atol=1e-5)


def test_golden_npid_noise_contrastive_rows():
    golden = _golden()
    rows = instances.noise_contrastive(_golden_logits(0.07), golden["z"], PHOTOS)
    np.testing.assert_allclose(rows, golden["nce_rows"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows.mean(), golden["nce_loss"], rtol=1e-5)


@pytest.mark.parametrize(("name", "tau"), [("tau007", 0.07), ("tau01", 0.1)])
def test_golden_npid_normalizer_and_softmax(name, tau):
    golden, logits = _golden(), _golden_logits(tau)
    z = instances.estimated_z(logits, np.ones(4, bool), PHOTOS)
    np.testing.assert_allclose(z, golden[f"z_estimate_{name}"], rtol=1e-5)
    rows = instances.noise_contrastive(logits, z, PHOTOS)
    np.testing.assert_allclose(rows, golden[f"nce_rows_estimated_{name}"], rtol=1e-5, atol=1e-5)
    rows, _ = losses.cross_entropy(golden["features"] @ golden["bank"].T / tau, golden["index"])
    np.testing.assert_allclose(rows, golden[f"softmax_rows_{name}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rows.mean(), golden[f"softmax_loss_{name}"], rtol=1e-5)


@pytest.mark.parametrize("loss", ["nce", "softmax"])
def test_the_network_computes_what_the_golden_npid_rows_say(loss):
    golden = _golden()
    task = _task(task__loss=loss, task__dimensions=8, task__jitter=0.0)
    network = task.model.clone(encoder=_Given(), projector=_Same(8), layer="top")
    images = golden["features"][:, None, None]
    rows = jnp.concatenate([golden["index"][:, None], golden["draws"]], 1)
    memory = {"bank": golden["bank"], "z": golden["z"]}
    outputs, after = network.apply(
        {"memory": memory}, images, golden["index"], np.ones(4, bool),
        rows if loss == "nce" else None, train=True, mutable=["memory"],
    )  # fmt: skip
    values, counts = task.loss(outputs, {"photo": golden["index"], "valid": np.ones(4, bool)})
    expected = golden["nce_rows"] if loss == "nce" else golden["softmax_rows_tau007"]
    np.testing.assert_allclose(values["loss"], expected, rtol=1e-5, atol=1e-5)
    assert (counts == 1).all()
    bank = after["memory"]["bank"]
    np.testing.assert_allclose(bank, golden["bank_new"], rtol=1e-5, atol=1e-5)
    assert after["memory"]["z"] == memory["z"]  # It was estimated before.


def test_first_loss_is_that_of_a_guess():
    rows = instances.noise_contrastive(jnp.zeros((2, 4097)), jnp.float32(1000.0), 1000)
    np.testing.assert_allclose(rows, np.log(4097) + 4096 * np.log1p(1 / 4096), rtol=1e-5)


def test_rows_of_the_bank_follow_their_photos_and_the_normalizer_stays():
    (task, step), batch = _trained(), _batch(range(2, 10))
    start = _start(task, batch)
    first, _ = step(start, batch, jax.random.key(0))
    before, after = _memory(start), _memory(first)
    assert before["z"] == 0 < after["z"]
    changed = (before["bank"] != after["bank"]).any(1)
    np.testing.assert_array_equal(changed, (np.arange(PHOTOS) >= 2) & (np.arange(PHOTOS) < 10))
    np.testing.assert_allclose(np.linalg.norm(after["bank"], axis=1), 1, rtol=1e-5)
    second, _ = step(first, batch, jax.random.key(0))
    assert _memory(second)["z"] == after["z"]
    assert (_memory(second)["bank"] != after["bank"]).any()


def test_rows_that_are_not_valid_change_nothing():
    (task, step), batch = _trained(), _batch([0, 1, 2, 3, 4, 5, 3, 0])
    batch["valid"][6:] = False
    start = _start(task, batch)
    other = batch | {"photo": np.array([0, 1, 2, 3, 4, 5, 11, 10], np.int32)}
    one, two = (step(start, x, jax.random.key(0)) for x in (batch, other))
    chex.assert_trees_all_equal(one, two)
    assert (_memory(one[0])["bank"][6:] == _memory(start)["bank"][6:]).all()
    batch["valid"][:] = False
    nothing, metrics = step(start, batch, jax.random.key(0))
    chex.assert_trees_all_equal(_memory(nothing), _memory(start))
    assert metrics["loss"] == 0 and not metrics["nonfinite"]


def test_step_after_a_checkpoint_is_the_same_to_the_bit(tmp_path):
    (task, step), batch = _trained(), _batch([5, 4, 5, 3, 2, 1, 0, 5])
    state, _ = step(_start(task, batch), batch, jax.random.key(0))
    saving.write(tmp_path / "1", state, {"step": 1})
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    found = saving.read(tmp_path / "1", jax.eval_shape(lambda: state), here)
    chex.assert_trees_all_equal(found, state)
    straight, restored = (step(x, batch, jax.random.key(0)) for x in (state, found))
    chex.assert_trees_all_equal(straight, restored)


def test_four_devices_hold_a_quarter_of_the_bank_each_and_leave_that_of_one(tmp_path):
    # Photo 7 is on three devices.
    (task, step), batch = _trained(), _batch([7, 1, 2, 7, 4, 5, 6, 7])
    start = _start(task, batch)
    expected = step(start, batch, jax.random.key(0))
    mesh = sharding.make_mesh()
    assert mesh.size == 4
    places = sharding.of_state(task, start, mesh)
    split = sharding.jit_step(task, DESCENT, mesh, 1, places)
    mapped = jax.jit(
        jax.shard_map(
            functools.partial(train_step, task=_task(sharding.AXIS), optimizer=DESCENT),
            mesh=mesh, in_specs=(P(), P(sharding.AXIS), P()), out_specs=P(), check_vma=False,
        )
    )  # fmt: skip
    placed = jax.device_put(start, places), sharding.put_batch(batch, mesh), jax.random.key(0)
    split = split.lower(*placed).compile()
    assert f"f32[{PHOTOS},16]" not in split.as_text()  # No device has the whole bank at any time.
    both = mapped(start, batch, jax.random.key(0)), split(*placed)
    for other in both:
        chex.assert_trees_all_close(_memory(other[0]), _memory(expected[0]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other[1]["loss"], expected[1]["loss"], rtol=1e-5)
    state = both[1][0]
    bank = state.collections["memory"]["bank"]
    assert {part.data.shape for part in bank.addressable_shards} == {(PHOTOS, 4)}

    # Another number of devices goes on from the same numbers.
    saving.write(tmp_path / "1", state, {"step": 1})
    shapes = jax.eval_shape(lambda: state)
    for devices, columns in ((1, 16), (2, 8), (3, 16)):  # Three do not divide 16.
        fewer = sharding.make_mesh(jax.devices()[:devices])
        found = saving.read(tmp_path / "1", shapes, sharding.of_state(task, shapes, fewer))
        chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(state))
        bank = found.collections["memory"]["bank"]
        assert {part.data.shape for part in bank.addressable_shards} == {(PHOTOS, columns)}


def test_photos_are_found_better_after_some_steps(rng):
    (task, step), batch = _trained(), _batch()
    shades = np.linspace(20, 230, 8)[:, None, None, None]
    batch["image"] = (shades + rng.integers(-20, 21, batch["image"].shape)).astype(np.uint8)
    evaluate = jax.jit(task.evaluator.on_batch)

    def scores(state):
        sums, rows = evaluate(state.variables, None, None, batch)
        return task.evaluator.summarize(sums, jax.device_get(rows))

    start = state = _start(task, batch)
    for _ in range(40):
        state, _ = step(state, batch, jax.random.key(0))
    # Even without learning, new averages of batch norm change how well photos are found.
    untrained = scores(state.replace(params=start.params))
    assert scores(state)["loss"] < untrained["loss"] - 0.2


def test_negatives_are_drawn_by_the_keys_of_the_rows():
    task, batch = _task(task__negatives=200), _batch()
    prepare = jax.jit(task.prepare)
    keys = jax.random.split(jax.random.key(0), 8)
    (_, photo, _, rows), _ = prepare(keys, batch)
    assert (rows[:, 0] == photo).all() and set(np.unique(rows[:, 1:])) == set(range(PHOTOS))
    (_, _, _, again), _ = prepare(keys[::-1], batch)
    np.testing.assert_array_equal(again[::-1, 1:], rows[:, 1:])
    assert (rows[0, 1:] != rows[1, 1:]).any()


def test_told_apart_is_a_softmax_over_all_photos(rng):
    features = np.asarray(instances.unit(rng.normal(size=(1030, 4)).astype(np.float32)))
    other = np.roll(features, 1, 0)  # No second view belongs to its photo.
    found = instances.told_apart(features, other, 0.1)
    logits = jnp.asarray(features @ other.T / 0.1)
    expected = losses.cross_entropy(logits, jnp.arange(1030), void=-1)[0].mean().item()
    assert found["loss"] == pytest.approx(expected, rel=1e-5) and found["accuracy"] < 0.01
    assert instances.told_apart(features, features, 0.1)["accuracy"] == 1
    same = np.ones((8, 1), np.float32)
    assert instances.told_apart(same, same, 0.1) == {
        "loss": pytest.approx(np.log(8), rel=1e-6),
        "accuracy": 0,
    }


def test_jitter_changes_colors_within_their_range(rng):
    rgb = jnp.asarray(rng.uniform(size=(6, 6, 3)), jnp.float32)
    key = jax.random.key(3)
    np.testing.assert_allclose(instances.jittered(key, rgb, 0.0, 0.0), rgb, atol=1e-5)
    gray = np.asarray(instances.jittered(key, rgb, 0.4, 1.0))
    np.testing.assert_allclose(gray, np.broadcast_to(gray[..., :1], gray.shape), atol=1e-6)
    one, two = (np.asarray(instances.jittered(jax.random.key(k), rgb, 1.0, 0.0)) for k in (1, 2))
    assert np.abs(one - two).max() > 0.1 and min(one.min(), two.min()) >= 0
    assert max(one.max(), two.max()) <= 1


def test_other_view_is_the_middle_mirrored_and_gray():
    image = np.zeros((1, 20, 20, 3), np.uint8)
    image[:, :, 12:] = (255, 0, 0)
    first, second = instances.two_views(image)
    np.testing.assert_allclose(first, image / 255, atol=1e-6)
    np.testing.assert_allclose(second[..., 0], second[..., 1])
    np.testing.assert_allclose(second[0, 10, [0, -1], 0], [1 / 3, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task__layer": "fc9"}, "layer='fc9'.* conv1, conv2"),
        ({"task__loss": "hinge"}, "loss is 'hinge'.*'nce' and 'softmax'"),
        ({"task__negatives": 0}, "negatives=0"),
        ({"task__temperature": 0.001}, "temperature=0.001.*0.02"),
        ({"task__momentum": 1.5}, "momentum=1.5"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        _task(**settings)


@pytest.mark.slow
def test_is_evaluated_on_other_photos_when_those_of_its_bank_are_gone(tmp_path, rng):
    tiny.write_photos(tmp_path / "photos", 12, rng)
    tiny.write_photos(tmp_path / "others", 20, rng)
    config = _config(steps=1, data__source=str(tmp_path / "photos"), data__holdout=0.3)
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "photos")
    config.data.source = str(tmp_path / "others")
    scores = evaluate(config, str(tmp_path / "run"), tmp_path / "evaluation")
    assert 0 <= scores["eval/accuracy"] <= 1
