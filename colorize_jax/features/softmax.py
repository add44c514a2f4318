"""Linear softmax classifiers on features that need not fit into memory."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from colorize_jax.data import ahead

_EPSILON = 1e-5
_NORM_DECAY = 0.9  # of the running averages of batch norm
_CHUNK = 1024  # photos at a time that are scored
_SHOW_PROGRESS_FROM = 100_000  # photos, over all epochs


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a classifier is trained: by default as VISSL trains those on AlexNet's layers.

    Attributes:
        rates: learning rates. Of several, and of several decays, the pair is taken that scores
            best on a held-out part of the training photos.
        decays: the factor of the weights and biases that is added to their gradients.
        epochs: their number.
        batch_size: photos in a step, at most; what is left of an epoch is not seen in it.
        drops: fractions of the epochs after which the rate is divided by ten.
        momentum: of SGD.
        holdout: the share of every class that is held out to choose.
        seed: of the orders and of what is held out.
    """

    rates: Sequence[float] = (0.01,)
    decays: Sequence[float] = (5e-4,)
    epochs: int = 28
    batch_size: int = 256
    drops: Sequence[float] = (8 / 28, 16 / 28, 24 / 28)
    momentum: float = 0.9
    holdout: float = 0.1
    seed: int = 0


def softmax(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, schedule: Schedule
) -> tuple[np.ndarray, dict]:
    """A linear classifier behind a batch norm without scale and shift, trained by SGD.

    Args:
        train: [n, ...]; an array on disk is read batch by batch, and never as a whole.
        labels: [n] integers, every class from 0 on.
        test: [m, ...].
        schedule: see there.

    Returns:
        [m, classes] logits, and {"rate", "decay", "epochs", "chosen_on": the number of held-out
        photos that the two were chosen on, 0 if there was no choice}.
    """
    pairs = list(itertools.product(schedule.rates, schedule.decays))
    everything, chosen_on = np.arange(len(train)), 0
    if len(pairs) > 1:
        held_out = _held_out(labels, schedule)
        rest, chosen_on = np.setdiff1d(everything, held_out), len(held_out)

        def right(pair):
            fitted = fit(train, labels, rest, *pair, schedule)
            found = predict(fitted, train, held_out).argmax(1)
            return (found == labels[held_out]).mean()

        pairs = [max(pairs, key=right)]  # the first one of equals
    ((rate, decay),) = pairs
    fitted = fit(train, labels, everything, rate, decay, schedule)
    told = {"rate": rate, "decay": decay, "epochs": schedule.epochs, "chosen_on": chosen_on}
    return predict(fitted, test, np.arange(len(test))), told


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    numbers: np.ndarray,
    rate: float,
    decay: float,
    schedule: Schedule,
) -> dict[str, jax.Array]:
    """Weights "kernel" and "bias", and the averages "mean" and "var" of the batch norm.

    Args:
        features, labels: see `softmax`.
        numbers: of the photos to train on.
        rate, decay: see `Schedule`.
        schedule: the rest.
    """
    channels, classes = int(np.prod(features.shape[1:])), int(labels.max()) + 1
    rows = min(schedule.batch_size, len(numbers))
    steps = len(numbers) // rows
    averages = {"mean": jnp.zeros(channels), "var": jnp.ones(channels)}
    # The problem is convex, so that a start at zero is as good as any.
    params = {"kernel": jnp.zeros((channels, classes)), "bias": jnp.zeros(classes)}
    state = params, jax.tree.map(jnp.zeros_like, params), averages

    def batches() -> Iterator[np.ndarray]:
        for epoch in range(schedule.epochs):
            order = np.random.default_rng((schedule.seed, epoch)).permutation(numbers)
            yield from order[: steps * rows].reshape(steps, rows)

    total = schedule.epochs * steps
    quiet = total * rows < _SHOW_PROGRESS_FROM
    with ahead.threads(1) as pool:
        read = functools.partial(_read, features)
        found = ahead.in_order(pool, read, map(np.sort, batches()), 3)
        bar = tqdm(found, "softmax", total, unit="step", dynamic_ncols=True, disable=quiet)
        for number, (chosen, x) in enumerate(bar):
            epoch = number // steps
            drops = sum(epoch >= drop * schedule.epochs - 1e-6 for drop in schedule.drops)
            rates = rate * 0.1**drops, decay, schedule.momentum
            state = step(state, x, labels[chosen], *rates)
    return state[0] | state[2]


@functools.partial(jax.jit, donate_argnums=0)
def step(state, x, labels, rate, decay, momentum):
    """One step of SGD.

    Args:
        state: weights, their momentum, and the running averages of the batch norm.
        x: [rows, channels] float32.
        labels: [rows].
        rate, decay, momentum: see `Schedule`.

    Returns:
        The next state.
    """
    params, velocity, averages = state
    mean, var = x.mean(0), x.var(0)
    normed = (x - mean) / jnp.sqrt(var + _EPSILON)

    def loss(params):
        logits = normed @ params["kernel"] + params["bias"]
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -own.mean()

    gradient = jax.grad(loss)(params)
    velocity = jax.tree.map(
        lambda v, g, p: momentum * v + g + decay * p, velocity, gradient, params
    )
    params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
    unbiased = var * len(x) / max(len(x) - 1, 1)
    seen = {"mean": mean, "var": unbiased}
    averages = jax.tree.map(
        lambda old, new: _NORM_DECAY * old + (1 - _NORM_DECAY) * new, averages, seen
    )
    return params, velocity, averages


def predict(fitted: dict[str, jax.Array], features: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Logits [len(numbers), classes] of some photos, by the running averages."""
    scores = np.empty((len(numbers), fitted["kernel"].shape[1]), np.float32)
    for start in range(0, len(numbers), _CHUNK):
        some = numbers[start : start + _CHUNK]
        scores[start : start + len(some)] = _logits(fitted, _read(features, some)[1])
    return scores


@jax.jit
def _logits(fitted, x):
    normed = (x - fitted["mean"]) / jnp.sqrt(fitted["var"] + _EPSILON)
    return normed @ fitted["kernel"] + fitted["bias"]


def _read(features: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return numbers, np.asarray(features[numbers], np.float32).reshape(len(numbers), -1)


def _held_out(labels: np.ndarray, schedule: Schedule) -> np.ndarray:
    """A share of every class, at least one photo of a class that has two or more."""
    rng = np.random.default_rng(schedule.seed)
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(round(schedule.holdout * len(members)), 1) if len(members) > 1 else 0
        chosen.append(members[:count])
    return np.sort(np.concatenate(chosen))
