"""Linear support vector machines, one for every class, on frozen features: all photos, or a few.

The protocol is that of VISSL for VOC 2007, with costs that are never chosen on the test photos.
"""

from collections.abc import Sequence
import time
import warnings

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from tqdm import tqdm

from colorize_jax.errors import ConfigError

KINDS = ("svm", "lowshot")
COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
DRAWS = 5
_FOLDS = 3
_ITERATIONS = 2000
_WEIGHTS = {1: 2.0, -1: 1.0}
_SHOW_PROGRESS_FROM = 5_000_000  # values to learn from


def envelope_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Average precision: the area under the envelope of precision, at all points of recall.

    The envelope at a recall is the largest precision at this or a higher recall, as in VOC's devkit
    from 2010 on. Ties count against the positives.

    Args:
        scores: [n].
        positive: [n] bool.

    Returns:
        From 0 to 1; NaN if nothing is positive.
    """
    if not positive.any():
        return float("nan")
    hits = positive[np.lexsort((positive, -scores))]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].mean())


def one_against_rest(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Objects of photos that show one class each: int8 [n, len(classes)], 1 (present) or -1.

    Args:
        labels: [n].
        classes: the numbers of the classes.
    """
    return np.where(labels[:, None] == classes, 1, -1).astype(np.int8)


def normalized(features: np.ndarray) -> np.ndarray:
    """Features [n, ...] -> [n, channels] float32, divided by (their L2 norm + 1e-5)."""
    flat = np.asarray(features, np.float32).reshape(len(features), -1)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-5)


def probe(
    kind: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
    *,
    costs: Sequence[float] = COSTS,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    seed: int = 0,
    jobs: int = 1,
) -> dict:
    """Fits the machines of all classes and scores them.

    Args:
        kind: one of `KINDS`: "svm" learns from all photos, "lowshot" from a few of every class.
        train, test: features [n, ...], and objects [n, classes]: 1 (present), -1 (absent) or 0
            (difficult, which is left out for this class in both).
        classes: their names.
        costs: the costs to choose from.
        shots: the numbers of positives of "lowshot"; those that are too many are left out.
        draws: how often they are drawn.
        seed: of the draws and of the folds.
        jobs: the number of processes; 1 needs no other.

    Returns:
        {"probe", "map", "train_photos", "test_photos", "seconds", "converged", ...}. Of "svm": "ap"
        and "cost", {class: number}, without classes that cannot be scored, and "left_out" {class:
        why}. Of "lowshot": "shots" [{"k", "map", "std" over the draws, "cost"}], "draws", "seed"
        and "left_out" {k: why}; "map" is that of the largest k.

    Raises:
        ConfigError: a feature is not finite, or no class or number of shots can be scored.
    """
    (x, objects), (x_test, objects_test) = ((normalized(f), o) for f, o in (train, test))
    for values, what in ((x, "training"), (x_test, "test")):
        if not np.isfinite(values).all():
            raise ConfigError(f"some {what} features are not finite")
    start = time.perf_counter()
    left_out, usable = {}, []
    for number, name in enumerate(classes):
        if reason := _lacking(objects[:, number], objects_test[:, number]):
            left_out[name] = reason
        else:
            usable.append(number)
    if not usable:
        raise ConfigError(f"no class can be scored: of {classes[0]!r} {left_out[classes[0]]}")
    sets = x, objects, x_test, objects_test
    found = (_all if kind == "svm" else _few)(
        sets, usable, classes, costs, shots, draws, seed, jobs
    )
    found["left_out"] = left_out | found.get("left_out", {})
    return {
        "probe": kind,
        "train_photos": len(x),
        "test_photos": len(x_test),
        "seconds": time.perf_counter() - start,
        **found,
    }


def _all(sets, usable, classes, costs, shots, draws, seed, jobs) -> dict:
    x, objects, x_test, objects_test = sets

    def one(number):
        return objects[:, number], objects_test[:, number]

    calls = [joblib.delayed(_machine)(x, *one(c), x_test, costs, seed) for c in usable]
    found = _run(calls, jobs, x.size)
    names = [classes[number] for number in usable]
    return {
        "map": float(np.mean([ap for ap, _, _ in found])),
        "ap": {name: ap for name, (ap, _, _) in zip(names, found, strict=True)},
        "cost": {name: cost for name, (_, cost, _) in zip(names, found, strict=True)},
        "converged": all(converged for _, _, converged in found),
    }


def _machine(x, truth, truth_test, x_test, costs, seed) -> tuple[float, float, bool]:
    """(average precision, cost, converged) of one class; cross-validation chooses the cost."""
    known, known_test = truth != 0, truth_test != 0
    x, truth = x[known], truth[known]
    converged = []

    def scores(rows, cost, asked):
        machine, whole = _fit(x[rows], truth[rows], cost)
        converged.append(whole)
        return machine.decision_function(asked)

    if len(costs) > 1:
        folds = min(_FOLDS, (truth == 1).sum(), (truth == -1).sum())
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
        means = []
        for cost in costs:
            precisions = [
                envelope_precision(scores(rest, cost, x[part]), truth[part] == 1)
                for rest, part in parts.split(x, truth)
            ]
            means.append(np.mean(precisions))
        cost = costs[int(np.argmax(means))]
    else:
        (cost,) = costs
    converged.clear()  # What counts is the machine that is scored.
    found = scores(np.arange(len(x)), cost, x_test[known_test])
    return envelope_precision(found, truth_test[known_test] == 1), cost, converged[0]


def _few(sets, usable, classes, costs, shots, draws, seed, jobs) -> dict:
    x, objects, x_test, objects_test = sets
    rows, left_out, whole = [], {}, True
    fewest = min(usable, key=lambda number: (objects[:, number] == 1).sum())
    there = int((objects[:, fewest] == 1).sum())
    for k in shots:
        if k >= there:  # One positive or more stays, to choose the cost on.
            left_out[str(k)] = f"{classes[fewest]!r} has {there} positives"
            continue
        calls = [
            joblib.delayed(_draw)(x, objects, x_test, objects_test, number, k, costs, (seed, draw))
            for number in usable
            for draw in range(draws)
        ]
        found = _run(calls, jobs, x.size)
        shape = len(usable), draws, len(costs)
        chosen_on = np.array([on_rest for on_rest, _, _ in found]).reshape(shape)
        scored = np.array([on_test for _, on_test, _ in found]).reshape(shape)
        converged = np.array([flags for _, _, flags in found]).reshape(shape)
        best = int(np.argmax(chosen_on.mean((0, 1))))
        means = scored[:, :, best].mean(0)
        whole = whole and bool(converged[:, :, best].all())
        rows.append(
            {"k": k, "map": float(means.mean()), "std": float(means.std()), "cost": costs[best]}
        )
    if not rows:
        raise ConfigError(f"no number of shots can be had: {next(iter(left_out.values()))}")
    return {
        "map": rows[-1]["map"],
        "shots": rows,
        "draws": draws,
        "seed": seed,
        "left_out": left_out,
        "converged": whole,
    }


def _draw(x, objects, x_test, objects_test, number, k, costs, seed) -> tuple[list, list, list]:
    """Average precisions, for every cost, on the photos of train that are not drawn and on test.

    k positives are drawn, and k negatives for every other class. A smaller k is a part of a larger
    one of the same seed.
    """
    truth, truth_test = objects[:, number], objects_test[:, number]
    rng = np.random.default_rng((*seed, number))
    positives = rng.permutation(np.flatnonzero(truth == 1))[:k]
    negatives = rng.permutation(np.flatnonzero(truth == -1))
    # As for the positives, at least one stays.
    negatives = negatives[: min(k * max(objects.shape[1] - 1, 1), len(negatives) - 1)]
    drawn = np.concatenate([positives, negatives])
    rest = np.setdiff1d(np.flatnonzero(truth != 0), drawn)
    known = np.flatnonzero(truth_test != 0)
    on_rest, on_test, converged = [], [], []
    for cost in costs:
        machine, whole = _fit(x[drawn], truth[drawn], cost)
        converged.append(whole)
        on_rest.append(envelope_precision(machine.decision_function(x[rest]), truth[rest] == 1))
        on_test.append(
            envelope_precision(machine.decision_function(x_test[known]), truth_test[known] == 1)
        )
    return on_rest, on_test, converged


def _fit(x: np.ndarray, truth: np.ndarray, cost: float) -> tuple[LinearSVC, bool]:
    """A machine with squared hinge loss and L2, and whether liblinear's dual solver converged."""
    machine = LinearSVC(
        C=cost, dual=True, tol=1e-4, max_iter=_ITERATIONS, class_weight=_WEIGHTS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # The result says it.
        machine.fit(x, truth)
    return machine, bool(np.max(machine.n_iter_) < _ITERATIONS)


def _run(calls: Sequence, jobs: int, values: int) -> list:
    # Processes, because liblinear's random numbers are shared by all threads.
    found = joblib.Parallel(n_jobs=jobs, return_as="generator")(calls)
    quiet = values < _SHOW_PROGRESS_FROM
    return list(tqdm(found, "machines", len(calls), dynamic_ncols=True, disable=quiet))


def _lacking(truth: np.ndarray, truth_test: np.ndarray) -> str:
    """Why a class cannot be learned or scored; "" if it can."""
    if min((truth == 1).sum(), (truth == -1).sum()) < 2:
        return "there are fewer than two positives or negatives to learn from"
    if not (truth_test == 1).any():
        return "no test photo is positive"
    return ""
