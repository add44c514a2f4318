"""CPC: the loss against known values, and codes that are predicted from one side only."""

import functools

import chex
import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from colorize_jax.augment import tiles
from colorize_jax.errors import ConfigError
from colorize_jax.models import context_network
from colorize_jax.tasks import cpc
from colorize_jax.training.step import row_keys

DIRECTIONS = tuple(context_network.DIRECTIONS)


@functools.cache
def _golden():
    """The group, with predictions and targets in rows: [12, 8]."""
    golden = golden_pretexts.group("cpc")
    flat = ("predictions", "targets", "grad_predictions", "grad_targets")
    return golden | {name: golden[name].reshape(12, 8) for name in flat}


OWN, VALID = np.arange(12), np.ones(12, bool)
_info_nce = jax.jit(cpc.info_nce)


def test_golden_cpc_rows_and_accuracy():
    golden = _golden()
    rows, hits = _info_nce(golden["predictions"], golden["targets"], OWN, VALID)
    np.testing.assert_allclose(rows, golden["rows"].ravel(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(rows), golden["loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(hits), golden["accuracy"], rtol=1e-5, atol=1e-6)


def test_golden_cpc_gradients():
    golden = _golden()

    def loss(predictions, targets):
        return cpc.info_nce(predictions, targets, OWN, VALID)[0].mean()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(golden["predictions"], golden["targets"])
    for found, name in zip(gradients, ("predictions", "targets"), strict=True):
        np.testing.assert_allclose(found, golden[f"grad_{name}"], rtol=1e-5, atol=1e-6)


def test_information_is_at_most_the_logarithm_of_the_number(rng):
    """A perfect answer among N costs nothing, so the bound is ln N; a guess costs ln N."""
    most, random = np.log(12), rng.normal(size=(3, 12, 8)).astype(np.float32)
    codes = np.float32(100 * np.array(list(np.ndindex(2, 2, 3)))) @ np.eye(3, 8, dtype=np.float32)
    codes[:, 3] = np.square(codes).sum(1)  # The nearest code has the largest product.
    asks = codes.copy()
    asks[:, 3] = -0.5
    for predictions, targets, expected in (
        (asks, codes, most), (0 * asks, codes, 0), *((x, random[0], None) for x in random[1:]),
    ):  # fmt: skip
        rows, _ = _info_nce(predictions, targets, OWN, VALID)
        information = most - float(np.mean(rows))
        assert information <= most + 1e-5 and (np.asarray(rows) >= 0).all()
        assert expected is None or information == pytest.approx(expected, abs=1e-5)


def test_the_order_of_candidates_changes_nothing_and_invalid_ones_are_none(rng):
    golden, order = _golden(), rng.permutation(12)
    predictions, targets = golden["predictions"], golden["targets"]
    expected = _info_nce(predictions, targets, OWN, VALID)
    found = _info_nce(predictions, targets[order], np.argsort(order), VALID)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    some = np.arange(12) < 7
    other = np.where(some[:, None], targets, 50.0).astype(np.float32)
    one, two = (np.asarray(_info_nce(predictions, x, OWN, some)[0]) for x in (targets, other))
    np.testing.assert_array_equal(one[:7], two[:7])
    assert (one[:7] < np.asarray(expected[0])[:7]).all()


def test_equal_logits_are_no_answer():
    same = np.ones((12, 8), np.float32)
    assert not np.any(_info_nce(same, same, OWN, VALID)[1])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_places_are_those_beyond_in_each_direction(direction):
    (found,) = context_network.predicted_places(4, [direction], (2, 3))
    turned = np.rot90(np.arange(16).reshape(4, 4), context_network.DIRECTIONS[direction])
    np.testing.assert_array_equal(found, [*turned[2:].ravel(), *turned[3:].ravel()])
    first = {"down": 8, "up": 7, "right": 14, "left": 1}[direction]
    assert found[0] == first  # The first row of the turned grid points to the other side.


@functools.cache
def _head():
    """(Parameters of a head for a grid of 4 x 4, its compiled predictions of [9, 4, 4, 6])."""
    head = context_network.PredictiveHead(5, DIRECTIONS, (2, 3), hidden=12, blocks=2)
    shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((9, 4, 4, 6)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes)
    return params, jax.jit(lambda params, codes: head.apply(params, codes)["predictions"])


def test_a_prediction_sees_nothing_at_its_place_nor_between(rng):
    """Codes in the predicted line, beyond it and next to it change nothing; those before do."""
    params, predictions = _head()
    codes = np.stack([rng.normal(size=(4, 4, 6)).astype(np.float32)] * 9)
    for line in range(4):
        codes[line, line] += rng.normal(size=(4, 6))
        codes[4 + line, :, line] += rng.normal(size=(4, 6))
    found = np.asarray(predictions(params, codes))
    changed = (found[:8] != found[8]).any(-1)  # [changed line, direction, prediction]
    places = context_network.predicted_places(4, DIRECTIONS, (2, 3))
    distances = np.repeat((2, 3), (2 * 4, 1 * 4))
    for i, direction in enumerate(DIRECTIONS):
        axis, sign = {"down": (0, 1), "up": (0, -1), "right": (1, 1), "left": (1, -1)}[direction]
        line = np.stack(np.divmod(places[i], 4))[axis]
        for other in range(4):
            seen = sign * other <= sign * line - distances
            assert not changed[4 * axis + other, i, ~seen].any(), (direction, other)
            last = sign * other == sign * line - distances
            assert 2 * changed[4 * axis + other, i, last].sum() >= last.sum()


def test_each_direction_has_a_network_of_its_own(rng):
    params, predictions = _head()
    codes = rng.normal(size=(9, 4, 4, 6)).astype(np.float32)
    # Down in the photo is left in the turned photo.
    turned = np.rot90(codes, -1, (1, 2))
    down, left = (DIRECTIONS.index(name) for name in ("down", "left"))
    one, two = predictions(params, codes)[:, down], predictions(params, turned)[:, left]
    assert np.abs(one - two).max() > 1e-3
    same = {
        name: jax.tree.map(lambda x: np.stack([x[0]] * 4), tree) if name != "targets" else tree
        for name, tree in jax.device_get(params)["params"].items()
    }
    one, two = (predictions({"params": same}, x) for x in (codes, turned))
    np.testing.assert_allclose(one[:, down], two[:, left], rtol=1e-5, atol=1e-6)


@functools.cache
def _photos():
    """(Random photos, the corners of a grid of 7 x 7 in each, their compiled patches)."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    corners = tiles.grid(7) * 4

    @jax.jit
    def cut(one_color, mirrored):
        found = functools.partial(
            cpc.patches, corners=corners, patch=8, jitter=2, one_color=one_color, mirrored=mirrored
        )
        return jax.vmap(found)(row_keys(jax.random.key(0), jnp.arange(8)), images)

    return images / 255, np.asarray(corners), cut


def test_patches_show_their_places_moved_by_less_than_the_jitter():
    images, corners, cut = _photos()
    found, moves = np.asarray(cut(0.0, 0.0)), []
    for photo, place in np.ndindex(8, 49):
        y, x = corners[place]
        windows = np.lib.stride_tricks.sliding_window_view(
            images[photo, y : y + 8, x : x + 8], (6, 6), (0, 1)
        )
        same = np.abs(np.moveaxis(windows, 2, -1) - found[photo, place]).max((2, 3, 4)) < 1e-5
        moves.extend(np.argwhere(same).tolist())
    assert len(moves) == 8 * 49 and len(np.unique(moves, axis=0)) == 9
    np.testing.assert_array_equal(corners[[0, 10, 48]], [(0, 0), (4, 12), (24, 24)])


def test_patches_are_mirrored_and_lose_colors_each_by_itself():
    _, _, cut = _photos()
    plain, mirrored, one = (
        np.asarray(cut(*shares)) for shares in ((0.0, 0.0), (0.0, 0.5), (0.5, 0.0))
    )
    stayed, turned = ((mirrored == x).all((-3, -2, -1)) for x in (plain, plain[:, :, :, ::-1]))
    assert (stayed != turned).all() and 0.4 < turned.mean() < 0.6
    stayed = (one == plain).all((-3, -2, -1))
    kept = (one == plain).all((-3, -2)) & (one == one[..., :1]).all((-3, -2))
    assert (stayed | kept.any(-1)).all() and 0.4 < stayed.mean() < 0.6
    assert (kept[~stayed].mean(0) > 0.2).all()  # Each channel is kept at times.


@pytest.mark.slow
def test_a_code_does_not_depend_on_other_patches(rng):
    """In training too, which is why there is layer norm."""
    config, task = toys.make(
        "cpc", model__name="vgg16", model__norm="layer", model__width=0.03125,
        task__layer="conv2_2",
    )  # fmt: skip
    batch = toys.batch(config, task, rng)
    (inputs,), _ = task.prepare(row_keys(jax.random.key(0), jnp.arange(8)), batch)
    assert inputs.shape == (8, 49, 8, 8, 3)
    variables = jax.jit(task.model.init)(jax.random.key(0), inputs)
    assert set(variables) == {"params"}

    @jax.jit
    def codes(inputs):
        rngs = {"dropout": jax.random.key(1)}
        return task.model.apply(variables, inputs, train=True, method="codes", rngs=rngs)

    changed = np.asarray(inputs).copy()
    changed[3, 10] += 1
    difference = np.abs(codes(inputs) - codes(changed)).max(-1).reshape(8, 49)
    assert difference[3, 10] > 0
    assert (np.delete(difference.ravel(), 3 * 49 + 10) < 1e-6).all()


def test_the_loss_is_the_mean_of_the_directions_and_sees_valid_photos_only(rng):
    _, task = toys.make("cpc")
    loss = jax.jit(task.loss)
    targets = rng.normal(size=(8, 49, 16)).astype(np.float32)
    outputs = {
        "targets": targets / np.linalg.norm(targets, axis=-1, keepdims=True),
        "predictions": 0.1 * rng.normal(size=(8, 4, 105, 16)).astype(np.float32),
    }
    valid = np.arange(8) < 5
    values, counts = loss(outputs, {"valid": valid})
    # 5, 4, 3, 2 and 1 rows of 7 patches lie 2, 3, ... beyond the last one that is seen.
    np.testing.assert_array_equal(counts, valid * 4 * 7 * (5 + 4 + 3 + 2 + 1))
    means = {name: float(value.sum() / counts.sum()) for name, value in values.items()}
    candidates = 5 * 49
    assert means["loss"] == pytest.approx(np.log(candidates), abs=0.1)
    assert means["loss"] == pytest.approx(np.mean([means[name] for name in DIRECTIONS]), rel=1e-5)
    assert means["information"] == pytest.approx(np.log(candidates) - means["loss"], abs=1e-4)
    assert all((value[5:] == 0).all() for value in values.values())
    other = {name: np.concatenate([x[:5], 9 * x[5:]]) for name, x in outputs.items()}
    chex.assert_trees_all_equal(loss(other, {"valid": valid})[0], values)
    # The right answers are those of `predicted_places`.
    places = context_network.predicted_places(7, DIRECTIONS, (2, 3, 4, 5, 6))
    right = outputs | {"predictions": 99 * outputs["targets"][:, places]}
    assert (loss(right, {"valid": valid})[0]["accuracy"] == counts).all()


def test_pictures_show_the_most_likely_patches(rng, monkeypatch):
    """Right predictions give the photo again; those of another photo give its lower rows."""
    targets = rng.normal(size=(2, 49, 64)).astype(np.float32)
    places = context_network.predicted_places(7, DIRECTIONS, (2, 3, 4, 5, 6))

    class Answers:
        def apply(self, variables, patches):
            predicted = jnp.roll(targets, variables["other"], 0)[:, places]
            return {"targets": targets, "predictions": predicted}

    monkeypatch.setattr(cpc, "PatchNetwork", lambda *settings: Answers())
    _, task = toys.make("cpc")
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    batch = {"image": images, "photo": np.arange(2), "valid": np.ones(2, bool)}
    pictures = jax.jit(task.evaluator.pictures)
    right, wrong = (np.asarray(pictures({"other": other}, batch)) for other in (0, 1))
    assert right.shape == (2, len(task.evaluator.panels), 32, 32, 3)
    np.testing.assert_array_equal(right[:, 0], images)
    np.testing.assert_array_equal(right[:, 2], images)
    np.testing.assert_array_equal(wrong[:, 2, :8], images[:, :8])
    np.testing.assert_array_equal(wrong[:, 2, 8:], images[::-1, 8:])
    np.testing.assert_array_equal(right[:, 1], wrong[:, 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task__stride": 5}, "task.stride=5 .*multiple"),
        ({"task__patch": 40}, "task.patch=40"),
        ({"task__nearest": 1}, "without overlap is 2"),
        ({"task__farthest": 9}, "farthest=9.* 7 rows"),
        ({"task__directions": ("down", "north")}, "north.*down, right, up, left"),
        ({"task__directions": ()}, "directions"),
        ({"task__directions": ("up", "up")}, "once"),
        ({"task__one_color": 1.5}, "one_color=1.5"),
        ({"task__jitter": 8}, "jitter=8"),
        ({"task__layer": "conv9"}, "conv9"),
        ({"microbatches": 2}, "microbatches=2"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        toys.make("cpc", **settings)


def test_a_patch_that_a_network_cannot_see_is_refused():
    with pytest.raises(ConfigError, match="task.patch=8 is too small"):
        toys.make("cpc", model__name="vgg16", model__fc6_kernel=3, model__fc6_padding="VALID")
