"""Batch norm without parameters: results, running averages, and several devices."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from colorize_jax.models import layers, norm
from colorize_jax.training import sharding


def _train(x, variables):
    return norm.BatchNorm().apply(variables, x, True, mutable=["batch_stats"])


def test_golden_running_average(golden):
    # Batch means 1, 1.001, 1.002, ... of a channel that is constant within its batch.
    trace = golden["bn_ema_trace"]
    variables = norm.BatchNorm().init({}, jnp.zeros((1, 1)), False)

    def step(variables, batch_mean):
        _, updated = _train(jnp.full((2, 1), batch_mean), variables)
        return updated, updated["batch_stats"]["mean"][0]

    means = 1 + 0.001 * np.arange(len(trace))
    _, actual = jax.lax.scan(step, variables, jnp.asarray(means, jnp.float32))
    np.testing.assert_allclose(actual, trace, rtol=1e-4)


def test_a_smaller_decay_looks_back_over_fewer_steps():
    """Batch means of 0 for 200 steps, then 1: the running average shows the share of new ones."""
    short = norm.BatchNorm(decay=0.95)  # Its ramp has 20 steps.

    def step(variables, mean):
        _, updated = short.apply(variables, jnp.full((2, 1), mean), True, mutable=["batch_stats"])
        return updated, updated["batch_stats"]["mean"][0]

    means = jnp.concatenate([jnp.arange(3.0), jnp.zeros(200), jnp.ones(30)])
    _, seen = jax.lax.scan(step, short.init({}, jnp.zeros((1, 1)), False), means)
    first, kept = 1 - 0.95 / 20, 0.95 * 2 / 20
    np.testing.assert_allclose(seen[:3], [0, first, kept * first + (1 - kept) * 2], rtol=1e-5)
    np.testing.assert_allclose(seen[-30:], 1 - 0.95 ** np.arange(1, 31), rtol=1e-4)


def test_a_run_is_warned_of_averages_that_lag():
    assert norm.warning(0.999, 900) == norm.warning(0.99, 1778) == norm.warning(0.999, 6250) == ""
    text = norm.warning(0.999, 1778)
    assert "look back over 1,000 of 1,778 steps" in text
    assert "config.model.norm_decay=0.9888 looks" in text
    assert norm.warning(0.999, 50) == norm.warning(0.95, 400) == ""
    text = norm.warning(0.999, 400)
    assert "are of 2 batch(es) after 400 steps" in text and "scores may swing" in text
    assert "config.model.norm_decay=0.95 looks" in text


def test_golden_normalization_after_a_convolution(golden):
    scale = golden["bn_blob2_scale"]
    stats = {
        "mean": golden["bn_blob0_mean"] / scale,
        "var": golden["bn_blob1_var"] / scale,
        "count": np.float32(1000),
    }
    conv = layers.Conv(4, 3, padding="VALID", frozen_bias=True)
    params = {"kernel": golden["bn_W"], "bias": golden["bn_b"]}
    x = conv.apply({"params": params}, jnp.asarray(golden["bn_x"], jnp.float32)[None])
    actual = norm.BatchNorm().apply({"batch_stats": stats}, x, False)
    np.testing.assert_allclose(actual[0], golden["bn_out"], rtol=1e-4, atol=1e-5)


def test_training_normalizes_by_the_batch_with_biased_variance(rng):
    x = rng.normal(3, 2, (4, 5, 6, 7)).astype(np.float32)
    variables = norm.BatchNorm().init({}, x, False)
    y, updated = _train(x, variables)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4)  # The ramp begins without memory.
    np.testing.assert_allclose(stats["var"], var, rtol=1e-4)
    assert stats["count"] == 1 and "params" not in variables


def test_gradient_is_that_of_the_formula(rng):
    """The gradient equals JAX's derivative of the formula, and in half precision is close."""
    x = rng.normal(3, 2, (4, 5, 6, 7)).astype(np.float32)
    pull = rng.normal(size=x.shape).astype(np.float32)

    def plain(x):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return ((x - mean) / jnp.sqrt(var + norm.EPSILON) * pull).sum()

    def ours(x):
        y, mean, var = norm.standardize(x)
        # The running averages have no gradient.
        return (y * pull).sum() + 100 * (mean.sum() + var.sum())

    expected = jax.grad(plain)(x)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(jax.grad(ours)(x), expected, atol=1e-5)
    half = jax.grad(ours)(jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), expected, atol=0.03)


def test_gradient_with_scale_and_relu_is_that_of_the_formula(rng):
    x = rng.normal(3, 2, (4, 5, 6, 7)).astype(np.float32)
    pull = rng.normal(size=x.shape).astype(np.float32)
    affine = norm.Affine(*rng.normal(size=(2, 7)).astype(np.float32))

    def plain(x, affine):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + norm.EPSILON) * affine.scale + affine.bias
        return jnp.maximum(y, 0)

    def ours(x, affine):
        return norm.standardize(x, affine, True)[0]

    def total(function):
        return jax.jit(
            jax.value_and_grad(lambda *args: (function(*args) * pull).sum(), argnums=(0, 1))
        )(x, affine)

    np.testing.assert_allclose(ours(x, affine), plain(x, affine), atol=1e-5)
    (value, expected), (found, gradients) = total(plain), total(ours)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    for theirs, own in zip(jax.tree.leaves(expected), jax.tree.leaves(gradients), strict=True):
        assert np.abs(theirs).max() > 0.5
        np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-5)


def test_gradient_over_a_mapped_axis_is_that_of_the_global_batch(rng):
    x = rng.normal(size=(8, 3, 3, 2)).astype(np.float32)
    pull = rng.normal(size=x.shape).astype(np.float32)

    affine = norm.Affine(*rng.normal(size=(2, 2)).astype(np.float32))

    def gradient(x, pull, axis=None):
        def loss(x, affine):
            return (norm.standardize(x, affine, True, axis)[0] * pull).sum()

        into_x, into_affine = jax.grad(loss, argnums=(0, 1))(x, affine)
        return into_x, into_affine if axis is None else jax.lax.psum(into_affine, axis)

    mapped = jax.shard_map(
        lambda x, pull: gradient(x, pull, "data"), mesh=sharding.make_mesh(),
        in_specs=P("data"), out_specs=(P("data"), P()), check_vma=False,
    )  # fmt: skip
    found, expected = mapped(x, pull), gradient(x, pull)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_constant_channel_gives_zero_not_nan():
    y, _ = _train(jnp.full((2, 3, 3, 1), 7.0), norm.BatchNorm().init({}, jnp.zeros((1, 1)), False))
    np.testing.assert_allclose(y, 0, atol=1e-3)


def test_half_precision_input_keeps_single_precision_statistics(rng):
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.bfloat16)
    y, updated = _train(x, norm.BatchNorm().init({}, x, False))
    assert y.dtype == jnp.bfloat16
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(updated))


def test_mapped_axis_sees_the_global_batch(rng):
    x = rng.normal(size=(8, 3, 3, 2)).astype(np.float32)
    variables = norm.BatchNorm().init({}, x, False)
    expected, expected_stats = _train(x, variables)
    mapped = norm.BatchNorm(axis_name="data")

    def apply(x):
        return mapped.apply(variables, x, True, mutable=["batch_stats"])

    mesh = sharding.make_mesh()
    y, stats = jax.shard_map(
        apply, mesh=mesh, in_specs=P("data"), out_specs=(P("data"), P()), check_vma=False
    )(x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, expected_stats)


def test_layer_norm_is_that_of_every_row_alone(rng):
    x = (3 + 2 * rng.normal(size=(3, 4, 5, 2))).astype(np.float32)
    affine = norm.Affine(jnp.array([2.0, 0.5]), jnp.array([0.1, -0.2]))
    expected = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(norm.layer_norm(x), expected, rtol=1e-4, atol=1e-4)
    expected = np.maximum(expected * affine.scale + affine.bias, 0)
    found = norm.layer_norm(x, affine, relu=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    half = norm.layer_norm(x.astype(jnp.bfloat16), affine, relu=True)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), found, atol=0.05)
    assert (norm.layer_norm(np.full((1, 2, 2, 3), 7.0, np.float32)) == 0).all()
