"""Counting: one hinge for each pair, another photo as partner, and the photo's quarters."""

import golden_pretexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from colorize_jax.errors import ConfigError
from colorize_jax.tasks import counting


def test_golden_count_loss_and_gradient():
    golden = golden_pretexts.group("count")
    inputs = tuple(jnp.asarray(golden[name]) for name in ("whole", "tiles", "other"))
    found = counting.count_losses(*inputs, 10.0)
    np.testing.assert_allclose(found["loss"], golden["loss"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["loss_other"] > 0, golden["active"])

    def mean(*inputs):
        return counting.count_losses(*inputs, 10.0)["loss"].mean()

    value, gradients = jax.value_and_grad(mean, (0, 1, 2))(*inputs)
    np.testing.assert_allclose(value, golden["mean_loss"], rtol=1e-5, atol=1e-6)
    for name, gradient in zip(("whole", "tiles", "other"), gradients, strict=True):
        np.testing.assert_allclose(gradient, golden[f"grad_{name}"], rtol=1e-5, atol=1e-6)


def test_counting_nothing_costs_the_margin(rng):
    zeros = jnp.zeros((4, 6))
    found = counting.count_losses(zeros, jnp.zeros((4, 4, 6)), zeros, 10.0)
    np.testing.assert_array_equal(found["loss"], 10.0)


def test_the_order_of_the_quarters_does_not_matter(rng):
    quarters = jnp.asarray(rng.uniform(size=(3, 4, 5)), jnp.float32)
    whole, other = (jnp.asarray(rng.uniform(size=(3, 5)), jnp.float32) for _ in range(2))
    one, two = (
        counting.count_losses(whole, q, other, 1.0)["loss"] for q in (quarters, quarters[:, ::-1])
    )
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_quarters_cover_the_photo_once(rng):
    image = rng.uniform(size=(8, 8, 3)).astype(np.float32)
    quarters = np.asarray(counting.quartered(image))
    rows = [np.concatenate(pair, 1) for pair in (quarters[:2], quarters[2:])]
    np.testing.assert_array_equal(np.concatenate(rows), image)


def test_every_way_of_shrinking_is_drawn_and_keeps_the_brightness(rng):
    image = jnp.asarray(rng.uniform(size=(16, 16, 3)), jnp.float32)
    shrink = jax.jit(counting.shrunk)
    found = [np.asarray(shrink(key, image)) for key in jax.random.split(jax.random.key(0), 24)]
    assert len({x.tobytes() for x in found}) == 4
    for x in found:
        assert x.shape == (8, 8, 3) and x.mean() == pytest.approx(float(image.mean()), abs=0.02)


def test_a_partner_is_the_next_photo_that_counts():
    valid = np.array([True, False, True, True, False])
    np.testing.assert_array_equal(np.asarray(counting.partners(valid))[valid], [2, 3, 0])
    alone = np.array([False, True, False])
    assert counting.partners(alone)[1] == 1


def test_a_photo_alone_is_not_compared_with_itself(rng):
    config, task = toys.make("counting")
    batch = toys.batch(config, task, rng) | {"valid": np.arange(8) == 3}
    keys = jax.random.split(jax.random.key(0), 8)
    (inputs,), targets = jax.jit(task.prepare)(keys, batch)
    assert inputs.shape == (8, 5, 16, 16, 1)
    counts = jnp.zeros((8, 5, 6))
    values, _ = task.loss(counts, targets)
    assert float(values["loss"].sum()) == 0.0  # Its own counts would cost the margin.


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"data__batch_size": 1}, "batch_size"),
        ({"data__batch_size": 8, "microbatches": 8}, "microbatches"),
        ({"task__margin": 0.0}, "task.margin"),
        ({"task__gray": 2.0}, "task.gray"),
        ({"data__crop": 33}, "data.crop"),
        ({"task__layer": "conv9"}, "conv9"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=name):
        toys.make("counting", **settings)
