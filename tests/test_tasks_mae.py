"""Masked autoencoder: three quarters are hidden exactly, and reach the encoder in no way."""

import functools

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from colorize_jax.augment import masking
from colorize_jax.errors import ConfigError
from colorize_jax.tasks import mae

GOLDEN = golden_pretexts.group("mae")


def test_golden_mae_patches_and_targets():
    patches = masking.patches(jnp.asarray(GOLDEN["images"]), 4)
    np.testing.assert_array_equal(patches, GOLDEN["patches"])
    np.testing.assert_array_equal(masking.joined(patches, 16, 16, 4), GOLDEN["images"])
    found, mean, deviation = mae.normalized(patches)
    np.testing.assert_allclose(found, GOLDEN["target"], rtol=1e-5, atol=3e-4)
    np.testing.assert_allclose(found * deviation + mean, patches, rtol=1e-5, atol=1e-5)


def test_golden_mae_masks():
    kept = masking.number_kept(16, 0.75)
    keep, restore, hidden = masking.shuffled(jnp.asarray(GOLDEN["noise"]), kept)
    np.testing.assert_array_equal(keep, GOLDEN["ids_keep"])
    np.testing.assert_array_equal(restore, GOLDEN["ids_restore"])
    np.testing.assert_array_equal(hidden, GOLDEN["mask"])
    tokens = jnp.take_along_axis(jnp.asarray(GOLDEN["tokens"]), keep[..., None], 1)
    np.testing.assert_array_equal(tokens, GOLDEN["tokens_kept"])
    mask = jnp.asarray(GOLDEN["mask_token"]).reshape(-1)
    np.testing.assert_array_equal(mae.put_back(tokens, restore, mask), GOLDEN["tokens_restored"])
    found = [masking.number_kept(196, float(ratio)) for ratio in GOLDEN["ratios"]]
    assert found == GOLDEN["kept_of_196"].tolist()


def test_golden_mae_loss():
    for truth, name in (("target", "loss_normal"), ("patches", "loss_raw")):
        of = [jnp.asarray(GOLDEN[each]) for each in ("pred", truth)]
        error, count = mae.hidden_error(*of, jnp.asarray(GOLDEN["mask"]) > 0)
        np.testing.assert_allclose(error.sum() / count.sum(), GOLDEN[name], rtol=1e-5, atol=1e-6)


@functools.cache
def _made():
    config, task = toys.make("mae", model__blocks=1)
    return config, task, toys.batch(config, task, np.random.default_rng(0))


def _keys(seed=0):
    return jax.random.split(jax.random.key(seed), toys.PHOTOS)


def test_three_quarters_of_every_photo_are_hidden_by_chance():
    _, task, batch = _made()
    prepare = jax.jit(task.prepare)
    (_, keep, restore), targets = prepare(_keys(), batch)
    assert keep.shape == (toys.PHOTOS, 4)
    hidden = np.asarray(targets["hidden"])
    assert (hidden.sum(1) == 12).all() and len({row.tobytes() for row in hidden}) > 5
    np.testing.assert_array_equal(np.take_along_axis(np.asarray(restore), keep, 1)[0], range(4))
    assert not np.take_along_axis(hidden, np.asarray(keep), 1).any()
    np.testing.assert_array_equal(prepare(_keys(), batch)[1]["hidden"], hidden)
    assert (np.asarray(prepare(_keys(1), batch)[1]["hidden"]) != hidden).any()


def test_hidden_pixels_change_no_answer_and_visible_ones_no_loss():
    config, task, batch = _made()
    inputs, targets = jax.jit(task.prepare)(_keys(), batch)
    shapes = jax.eval_shape(task.model.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda v: rng.normal(0, 0.1, v.shape).astype(np.float32), shapes)
    side = config.model.patch

    def filled(places):
        """The photos, in which these patches have another content."""
        cells = masking.patches(jnp.asarray(batch["image"]), side)
        cells = jnp.where(places[..., None], 255 - cells, cells)
        return batch | {"image": masking.joined(cells, 32, 32, side)}

    @jax.jit
    def answer(image):
        images = task.model.encoder.network_input(image)
        return task.model.apply(variables, images, *inputs[1:])

    found = answer(batch["image"])
    np.testing.assert_array_equal(answer(filled(targets["hidden"])["image"]), found)
    assert (answer(filled(~targets["hidden"])["image"]) != found).any()
    hidden = targets["hidden"][..., None]
    for answers in (targets["truth"], jnp.where(hidden, targets["truth"], 7.0)):
        values, counts = task.loss(answers, targets)
        assert float(values["loss"].sum()) == 0 and (np.asarray(counts) == 12).all()
    values, _ = task.loss(jnp.where(hidden, targets["truth"] + 0.5, 7.0), targets)
    np.testing.assert_allclose(values["loss"], 12 * 0.25, rtol=1e-5)


def test_pictures_show_the_photo_where_it_is_visible(monkeypatch):
    """And a perfect answer gives the photo back, though brightness is not predicted."""
    _, task, batch = _made()
    monkeypatch.setattr(
        type(task.model), "apply", lambda self, variables, *inputs: variables["answer"]
    )
    truth = masking.patches(jnp.asarray(batch["image"], jnp.float32) / 255, 8)
    pictures = jax.jit(task.evaluator.pictures)
    shown = np.asarray(pictures({"answer": mae.normalized(truth)[0]}, batch))
    assert shown.shape[1] == len(task.evaluator.panels) == 5
    np.testing.assert_array_equal(shown[:, [0, 2, 4]], np.stack([batch["image"]] * 3, 1))
    given = np.asarray(masking.patches(jnp.asarray(shown[:, [1, 3]]), 8))
    gray = (given == 128).all(-1)
    np.testing.assert_array_equal(gray.sum(-1), [[8, 12]] * toys.PHOTOS)
    real = np.asarray(masking.patches(jnp.asarray(batch["image"]), 8))[:, None]
    assert ((given == real).all(-1) | gray).all()


def test_gray_is_predicted_if_gray_is_read():
    _, task = toys.make("mae", model__in_channels=1, task__normalized=False)
    batch = _made()[2]
    (image, *_), targets = jax.eval_shape(task.prepare, _keys(), batch)
    assert image.shape[-1] == 1 and targets["truth"].shape == (toys.PHOTOS, 16, 64)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task__hidden": 1.0}, "task.hidden"),
        ({"task__hidden": 0.0}, "task.hidden"),
        ({"task__pictures": (0.5, 0.99)}, "task.pictures=0.99 of 16 patches"),
        ({"task__decoder": 30}, "task.decoder=30 must be a multiple of 4"),
        ({"task__decoder_heads": 5}, "task.decoder_heads=5"),
        ({"task__decoder_heads": 0}, "task.decoder_heads=0 must be positive"),
        ({"data__crop": 36}, "data.crop=36 must be a multiple of config.model.patch=8"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("mae", **settings)


def test_a_network_that_cannot_leave_out_patches_is_refused():
    config, _, _ = _made()
    with pytest.raises(ConfigError, match="set config.model.name='vit'"):
        mae.make_task(config, toys.make("rotation")[1].model.encoder, None)
