"""Context encoder: what is hidden never reaches the encoder, and the ring around it counts more."""

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from colorize_jax.augment import masking
from colorize_jax.errors import ConfigError
from colorize_jax.models.decoder import Links
from colorize_jax.tasks import context_encoder


def test_golden_inpaint_masks_and_weights():
    golden = golden_pretexts.group("inpaint")
    np.testing.assert_array_equal(masking.center(128, 64, 4), golden["hidden128"])
    np.testing.assert_array_equal(masking.border_weights(64, 4, 10.0), golden["weight64"])
    np.testing.assert_array_equal(masking.center(32, 16, 2), golden["toy_hidden"])
    np.testing.assert_array_equal(masking.border_weights(16, 2, 10.0), golden["toy_weight"])
    fill = jnp.asarray(golden["fill"], jnp.float32)
    found = masking.filled(golden["toy_images"], masking.center(32, 16, 2), fill)
    np.testing.assert_allclose(found, golden["toy_inputs"], rtol=1e-5, atol=1e-6)


def test_golden_inpaint_loss_and_gradient():
    golden = golden_pretexts.group("inpaint")
    predicted, truth = (jnp.asarray(golden[f"{name}64"]) / 127 for name in ("pred", "true"))
    for weight, name in (
        (masking.border_weights(64, 4, 10.0), "l2_64"),
        (jnp.ones((64, 64)), "l2_64_unweighted"),
    ):
        found = context_encoder.squared_error(predicted, truth, weight).mean()
        np.testing.assert_allclose(found, golden[name], rtol=1e-5, atol=1e-6)
    truth = golden["toy_images"][:, 8:24, 8:24]
    weight = masking.border_weights(16, 2, 10.0)

    def loss(predicted):
        return context_encoder.squared_error(predicted, truth, weight)

    predicted = jnp.asarray(golden["toy_pred"])
    np.testing.assert_allclose(loss(predicted), golden["toy_l2_each"], rtol=1e-5, atol=1e-6)
    value, gradient = jax.value_and_grad(lambda x: loss(x).mean())(predicted)
    np.testing.assert_allclose(value, golden["toy_l2"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, golden["toy_l2_grad"], rtol=1e-5, atol=1e-8)


def test_regions_hide_a_quarter_and_differ():
    regions = jax.jit(jax.vmap(lambda key: masking.regions(key, 64, 0.25)))
    found = np.asarray(regions(jax.random.split(jax.random.key(0), 50)))
    assert found.dtype == bool
    shares = found.mean((1, 2))
    assert np.abs(shares - 0.25).max() < 0.01
    assert len({x.tobytes() for x in found}) == 50
    assert found.mean(0).min() > 0.02 and found.mean(0).max() < 0.5  # no place is preferred
    # They are regions, and not single pixels.
    assert (found[:, 1:] == found[:, :-1]).mean() > 0.9


def _made(**settings):
    config, task = toys.make("context_encoder", **settings)
    batch = toys.batch(config, task, np.random.default_rng(0))
    return config, task, batch, jax.random.split(jax.random.key(0), len(batch["image"]))


@pytest.mark.parametrize("region", ["center", "random"])
def test_hidden_pixels_never_reach_the_encoder(region):
    _, task, batch, keys = _made(task__region=region)
    prepare = jax.jit(task.prepare)
    (seen, _), targets = prepare(keys, batch)
    other = batch | {"image": 255 - batch["image"]}
    changed = np.asarray(prepare(keys, other)[0][0] != seen).any(-1)
    hidden = ~changed
    share = {"center": (14 / 32) ** 2, "random": 0.25}[region]
    assert hidden.mean() == pytest.approx(share, abs=0.01)
    only_hidden = batch["image"].copy()
    only_hidden[hidden] = 7
    (again, _), _ = prepare(keys, batch | {"image": only_hidden})
    np.testing.assert_array_equal(again, seen)
    side = {"center": 16, "random": 32}[region]
    assert targets["truth"].shape == (8, side, side, 3)


@pytest.mark.parametrize("region", ["center", "random"])
def test_a_perfect_answer_costs_nothing_and_the_mean_its_variance(region):
    _, task, batch, keys = _made(task__region=region, task__overlap=0)
    _, targets = jax.jit(task.prepare)(keys, batch)
    values, counts = task.loss({"predicted": targets["truth"]}, targets)
    assert float(values["loss"].sum()) == 0 and (np.asarray(counts) == 1).all()
    # Hidden and visible pixels of one value: the mean of the visible ones is the answer.
    flat = batch | {"image": np.full_like(batch["image"], 90)}
    _, targets = jax.jit(task.prepare)(keys, flat)
    values, _ = task.loss({"predicted": targets["truth"] + 0.5}, targets)
    np.testing.assert_allclose(values["loss_mean_color"], 0, atol=1e-10)
    np.testing.assert_allclose(values["loss"], 0.25, rtol=1e-5)


def test_a_channel_is_linked_with_itself_alone(rng):
    x = jnp.asarray(rng.normal(size=(1, 3, 3, 4)), jnp.float32)
    links = Links()
    variables = links.init(jax.random.key(0), x)
    variables["params"]["mix"]["kernel"] = jnp.eye(4)[None, None]
    variables["params"]["mix"]["bias"] = jnp.full(4, 100.0)  # where ReLU is linear
    changed = links.apply(variables, x.at[..., 2].add(1.0)) - links.apply(variables, x)
    moved = np.abs(changed).max((0, 1, 2))
    assert moved[2] > 0 and (moved[[0, 1, 3]] == 0).all()
    assert variables["params"]["kernel"].shape == (4, 9, 9)


def test_one_gradient_trains_both_sides():
    """The network is told to be taken for real, the discriminator to tell: each by its own loss."""
    _, task, batch, keys = _made(task__adversarial=0.5)
    inputs, targets = jax.jit(task.prepare)(keys, batch)
    variables = jax.jit(lambda: task.model.init(jax.random.key(0), *inputs))()

    def part(name):
        def value(params):
            outputs = task.model.apply(variables | {"params": params}, *inputs)
            return task.loss(outputs, targets)[0][name].sum()

        return jax.grad(value)(variables["params"])

    found = jax.device_get(jax.jit(lambda: [part("loss_taken"), part("loss_discriminator")])())
    taken, told = (
        {
            group: sum(float(np.abs(x).sum()) for x in jax.tree.leaves(tree))
            for group, tree in gradient.items()
        }
        for gradient in found
    )
    assert taken["discriminator"] == 0 and taken["decoder"] > 0 and taken["encoder"] > 0
    assert told["discriminator"] > 0 and told["decoder"] == told["encoder"] == 0


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"task__region": "left"}, "task.region"),
        ({"task__hole": 40}, "task.hole"),
        ({"task__overlap": 8}, "task.overlap"),
        ({"task__share": 0.0}, "task.share"),
        ({"task__fill": (1, 2, 300)}, "task.fill"),
        ({"task__adversarial": 2.0}, "task.adversarial"),
        ({"task__layer": "conv9"}, "conv9"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("context_encoder", **settings)
