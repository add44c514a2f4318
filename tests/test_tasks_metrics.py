"""Scores equal golden vectors and scikit-learn's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from colorize_jax.tasks import metrics

confusion = jax.jit(metrics.confusion, static_argnums=2, static_argnames="void")


def test_golden_confusion(golden):
    actual = confusion(golden["miu_gt"], golden["miu_pred"], 21)
    np.testing.assert_array_equal(actual, golden["miu_confusion"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_confusion_is_that_of_scikit_learn_without_void(rng, dtype):
    truth = rng.integers(0, 7, (2, 30, 40)).astype(dtype)
    truth[rng.random(truth.shape) < 0.2] = 255
    predicted = rng.integers(0, 7, truth.shape).astype(dtype)
    known = truth != 255
    expected = sklearn.metrics.confusion_matrix(truth[known], predicted[known], labels=range(7))
    np.testing.assert_array_equal(confusion(truth, predicted, 7), expected)


def test_pixels_of_no_class_are_in_no_row_of_the_confusion():
    truth = jnp.array([3, -1, 2, 9, 2**30, 1])  # the last but one times 4 would wrap around to 0
    predicted = jnp.array([0, 0, 1, 2, 0, 2])
    actual = np.asarray(confusion(truth, predicted, 4, void=2))
    assert actual.sum() == 2 and actual[3, 0] == actual[1, 2] == 1


def test_confusion_counts_beyond_what_float32_can():
    pixels = 2**24 + 3
    actual = confusion(np.ones(pixels, np.uint8), np.zeros(pixels, np.uint8), 2)
    assert actual.dtype == jnp.int32
    np.testing.assert_array_equal(actual, [[0, 0], [pixels, 0]])


def test_top_k_is_that_of_scikit_learn(rng):
    logits, labels = rng.normal(size=(200, 10)), rng.integers(0, 10, 200)
    for k in (1, 5):
        expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(10))
        np.testing.assert_allclose(metrics.top_k(logits, labels, k).mean(), expected, rtol=1e-6)


def test_ties_and_nan_are_not_among_the_top_k():
    logits = jnp.array([[1, 1, 0], [0, 1, 1], [2, 1, 0], [jnp.nan] * 3])
    labels = jnp.array([0, 0, 0, 0])
    np.testing.assert_array_equal(metrics.top_k(logits, labels, 1), [False, False, True, False])
    np.testing.assert_array_equal(metrics.top_k(logits, labels, 2), [True, False, True, False])


@pytest.mark.parametrize(
    ("score", "shapes"),
    [
        (functools.partial(metrics.confusion, classes=3), [(4,), (1,)]),
        (functools.partial(metrics.top_k, k=1), [(4, 8), (1,)]),
    ],
)
def test_shapes_that_would_broadcast_are_refused(score, shapes):
    with pytest.raises(AssertionError, match="shape"):
        jax.eval_shape(score, *(jnp.zeros(shape) for shape in shapes))
