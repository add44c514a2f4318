"""Losses equal the golden vectors, and are finite for empty targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from colorize_jax.tasks import losses


def test_golden_histogram_kl(golden):
    for name in ("hue", "chroma"):
        logits = jnp.asarray(golden[f"kl_logits_{name}"], jnp.float32)
        target = jnp.asarray(golden[f"hist_{name}_7x7"], jnp.float32)
        actual = losses.histogram_kl(logits, target)
        np.testing.assert_allclose(actual, golden[f"kl_{name}_each"], rtol=1e-4)


def test_golden_kl_is_zero_at_the_target(golden):
    target = jnp.asarray(golden["hist_hue_7x7"], jnp.float32)
    logits = jnp.log(jnp.maximum(target, 1e-30))
    actual = losses.histogram_kl(logits, target)
    np.testing.assert_allclose(actual, golden["kl_zero_case"], atol=1e-5)


def test_golden_euclidean_loss(golden):
    each = losses.regression_loss(
        jnp.asarray(golden["reg_pred"], jnp.float32), jnp.asarray(golden["reg_target"], jnp.float32)
    )
    np.testing.assert_allclose(each.mean(), golden["reg_euclidean_caffe"], rtol=1e-5)


def test_impossible_bins_are_clamped_and_keep_their_gradient():
    logits = jnp.array([500.0, 0.0])
    target = jnp.array([0.0, 1.0])
    value, gradient = jax.value_and_grad(lambda x: losses.histogram_kl(x, target))(logits)
    np.testing.assert_allclose(value, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)
    np.testing.assert_allclose(gradient, [1, -1], atol=1e-6)


def test_masks_carry_no_gradient():
    logits, target = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5])
    assert jax.grad(lambda w: losses.weighted_kl(logits, target, w))(0.3) == 0


def test_half_precision_logits_give_a_single_precision_loss():
    logits = jnp.array([1.0, 2.0], jnp.bfloat16)
    assert losses.histogram_kl(logits, jnp.array([0.5, 0.5])).dtype == jnp.float32


def test_golden_sigmoid_loss_leaves_out_what_is_difficult(golden):
    logits = jnp.asarray(golden["mlabel_logits"], jnp.float32)
    coded = golden["mlabel_labels"]  # 255 means difficult.
    labels = np.select([coded == 255, coded == 1], [0, 1], -1)
    actual = losses.sigmoid_loss(logits, labels)
    np.testing.assert_allclose(actual, golden["mlabel_loss_masked"], rtol=1e-5)
    as_trained = losses.sigmoid_loss(logits, np.where(labels == 0, 1, labels))
    np.testing.assert_allclose(as_trained, golden["mlabel_loss_unmasked_sic"], rtol=1e-5)


def test_difficult_labels_have_no_gradient_and_sure_ones_stay_finite():
    def loss(logits):
        return losses.sigmoid_loss(logits, jnp.array([0, 1, -1]))

    value, gradient = jax.value_and_grad(loss)(jnp.array([3.0, -1e4, 1e4]))
    np.testing.assert_allclose(value, 2e4)
    np.testing.assert_allclose(gradient, [0, -1, 1])


def test_cross_entropy_is_the_log_loss_of_scikit_learn(rng):
    logits, labels = rng.normal(size=(50, 6)), np.arange(50) % 6
    each, counted = losses.cross_entropy(logits, labels)
    assert each.shape == (50,) and counted.all()
    expected = sklearn.metrics.log_loss(labels, np.asarray(jax.nn.softmax(logits)))
    np.testing.assert_allclose(each.mean(), expected, rtol=1e-5)


def test_void_labels_are_not_counted_and_have_finite_gradients(rng):
    logits = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.bfloat16)
    labels = np.array([[0, 255, 3], [255, 255, 1]], np.uint8)
    with jax.debug_nans(True):
        each, counted = losses.cross_entropy(logits, labels)
    assert each.dtype == jnp.float32
    np.testing.assert_array_equal(counted, labels != 255)
    np.testing.assert_array_equal(each == 0, labels == 255)
    gradient = jax.grad(lambda x: losses.cross_entropy(x, labels)[0].sum())(logits)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal((gradient != 0).any(-1), labels != 255)
    _, counted = losses.cross_entropy(logits, labels, void=3)
    assert counted.sum() == 5


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (losses.histogram_kl, [(4, 8), (4, 1)]),
        (losses.weighted_kl, [(4, 8), (4, 8), (4, 1)]),
        (losses.regression_loss, [(4, 2), (4, 1)]),
        (losses.sigmoid_loss, [(4, 8), (4, 1)]),
        (losses.cross_entropy, [(4, 8), (1,)]),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss, shapes):
    with pytest.raises(AssertionError, match="shape"):
        jax.eval_shape(loss, *(jnp.zeros(shape) for shape in shapes))
