"""The linear softmax classifier on features on disk."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from colorize_jax.features import probes, softmax
from colorize_jax.features.softmax import Schedule


@pytest.fixture
def blobs(rng):
    """Features [90, 3, 2] of three classes that overlap, and labels."""
    labels = np.arange(90) % 3
    x = rng.normal(size=(3, 6))[labels] + 0.7 * rng.normal(size=(90, 6))
    return (5 * x + 3).reshape(90, 3, 2).astype(np.float32), labels


def _judge(x, labels, orders, rows, rates, decay, momentum):
    """The same training in numpy, with the gradient of the softmax written out."""
    classes = labels.max() + 1
    kernel, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    mean, var = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for order, rate in zip(orders, rates, strict=True):
        for start in range(0, len(order) - rows + 1, rows):
            batch = np.sort(order[start : start + rows])
            some = x[batch].astype(np.float64)
            normed = (some - some.mean(0)) / np.sqrt(some.var(0) + 1e-5)
            logits = normed @ kernel + bias
            shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            shares[np.arange(rows), labels[batch]] -= 1
            gradients = normed.T @ shares / rows + decay * kernel, shares.mean(0) + decay * bias
            velocity = [momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
            kernel, bias = kernel - rate * velocity[0], bias - rate * velocity[1]
            mean = 0.9 * mean + 0.1 * some.mean(0)
            var = 0.9 * var + 0.1 * some.var(0, ddof=1)
    return kernel, bias, mean, var


def test_steps_are_those_of_numpy(blobs):
    x, labels = blobs
    schedule = Schedule(epochs=4, batch_size=20, drops=(0.5, 0.75))
    fitted = softmax.fit(x, labels, np.arange(90), 0.1, 0.01, schedule)
    orders = [np.random.default_rng((0, epoch)).permutation(90) for epoch in range(4)]
    expected = _judge(x.reshape(90, 6), labels, orders, 20, (0.1, 0.1, 0.01, 0.001), 0.01, 0.9)
    for name, values in zip(("kernel", "bias", "mean", "var"), expected, strict=True):
        np.testing.assert_allclose(fitted[name], values, rtol=2e-4, atol=2e-5)
    normed = (x.reshape(90, 6) - expected[2]) / np.sqrt(expected[3] + 1e-5)
    logits = softmax.predict(fitted, x, np.arange(90))
    np.testing.assert_allclose(logits, normed @ expected[0] + expected[1], rtol=1e-3, atol=1e-4)


def test_long_training_finds_the_optimum_of_logistic_regression(blobs):
    x, labels = blobs
    decay = 0.02
    schedule = Schedule((0.3,), (decay,), 300, batch_size=90)  # whole batches: one fixed loss
    scores, told = softmax.softmax(x, labels, x, schedule)
    assert told == {"rate": 0.3, "decay": decay, "epochs": 300, "chosen_on": 0}
    flat = x.reshape(90, 6)
    # The decay is that of the bias too: to scikit-learn it is the weight of a constant.
    judge = LogisticRegression(C=1 / (90 * decay), tol=1e-8, max_iter=1000, fit_intercept=False)

    def with_constant(ddof):
        normed = (flat - flat.mean(0)) / flat.std(0, ddof=ddof)
        return np.concatenate([normed, np.ones((90, 1))], 1)

    judge.fit(with_constant(0), labels)
    found = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    # The running average of the variance is unbiased.
    np.testing.assert_allclose(found, judge.predict_proba(with_constant(1)), atol=1e-3)


def test_held_out_photos_choose_and_test_photos_do_not(blobs):
    x, labels = blobs
    schedule = Schedule(rates=(0.0, 0.1), decays=(0.0, 1e-3), epochs=3, batch_size=30)
    seen = []
    for test in (x, np.full_like(x, 7)):
        scores, told = softmax.softmax(x, labels, test, schedule)
        seen.append(told)
        assert scores.shape == (90, 3)
    assert seen[0] == seen[1] and seen[0]["rate"] == 0.1 and seen[0]["chosen_on"] == 9
    held_out = softmax._held_out(labels, schedule)
    np.testing.assert_array_equal(np.bincount(labels[held_out]), [3, 3, 3])
    alone = np.array([0, 0, 0, 1])  # nothing is held out of a class of one photo
    assert 3 not in softmax._held_out(alone, schedule)


class _OnDisk:
    """An array that tells how much of it was read at once."""

    def __init__(self, values):
        self.values, self.shape, self.largest = values, values.shape, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        found = self.values[index]
        self.largest = max(self.largest, len(found))
        return found


def test_only_batches_are_read_of_features_on_disk(blobs, monkeypatch):
    monkeypatch.setattr(softmax, "_CHUNK", 16)
    x, labels = blobs
    stored = _OnDisk(x)
    softmax.softmax(stored, labels, stored, Schedule(epochs=2, batch_size=16))
    assert stored.largest == 16


def test_the_probe_is_seeded_and_scores(blobs):
    x, labels = blobs
    schedule = Schedule((0.1,), epochs=10, batch_size=30)
    found = [probes.probe("softmax", (x, labels), (x, labels), schedule=schedule) for _ in range(2)]
    assert found[0]["top1"] == found[1]["top1"] > 0.9
    assert found[0]["probe"] == "softmax" and found[0]["train_photos"] == 90
