"""Probes: how well scikit-learn's simple classifiers predict classes from frozen features."""

import time
import warnings

import numpy as np

from colorize_jax.errors import ConfigError
from colorize_jax.features.softmax import Schedule, softmax

USUAL = ("linear", "knn")
KINDS = (*USUAL, "softmax")
# The values of C that cross-validation tries for the linear probe.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3
_ITERATIONS = 1000


def linear(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    regularization: float | None = None,
    iterations: int | None = None,
) -> tuple[np.ndarray, dict[str, float | bool]]:
    """Logistic regression on standardized features.

    Args:
        train: [n, channels].
        labels: [n] integers, every class from 0 on; cross-validation needs each at least twice.
        test: [m, channels].
        regularization: half of it times the squared norm of the weights is added to the mean loss;
            scikit-learn's C is 1 / (n regularization). None chooses C by cross-validation on the
            training set.
        iterations: the most iterations of the solver; None means 1000.

    Returns:
        Log-probabilities [m, classes], and {"C": the value that was used, "converged": bool}.
    """
    # scikit-learn takes as long to import as JAX, and most runs have no probe.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    iterations = iterations or _ITERATIONS
    strength = 1.0 if regularization is None else 1 / (len(train) * regularization)
    solver = LogisticRegression(C=strength, max_iter=iterations)
    classifier = make_pipeline(StandardScaler(), solver)
    if regularization is None:
        folds = StratifiedKFold(min(FOLDS, np.bincount(labels).min()), shuffle=True, random_state=0)
        classifier = GridSearchCV(classifier, {"logisticregression__C": STRENGTHS}, cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # The result reports it.
        classifier.fit(train, labels)
    solver = (classifier if regularization is not None else classifier.best_estimator_)[-1]
    found = {"C": solver.C, "converged": bool(solver.n_iter_.max() < iterations)}
    return classifier.predict_log_proba(test), found


def voters(labels: np.ndarray, wanted: int) -> int:
    """The number of neighbors that vote; with few photos it is lowered, or most would be wrong."""
    counts = np.unique(labels, return_counts=True)[1]
    return min(wanted, max(int(counts.min()) // 2, 1) * len(counts))


def nearest(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    neighbors: int,
    temperature: float | None = None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Votes of the nearest training photos by cosine.

    Args:
        train, labels, test: see `linear`; the norms of features do not matter.
        neighbors: the number of photos that vote.
        temperature: a vote has the weight exp(cosine / temperature), as in instance discrimination
            (Wu et al., CVPR 2018). None gives the weight 1 / cosine distance. With equal weights
            many classes would tie.

    Returns:
        Shares of the votes [m, classes], and {"neighbors": number}.
    """
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distances):
        # This is exp(cosine / temperature) up to a factor that is common to all votes.
        nearest = distances.min(1, keepdims=True)
        return np.exp((nearest - distances) / temperature)

    how = "distance" if temperature is None else weights
    classifier = KNeighborsClassifier(neighbors, metric="cosine", weights=how)
    return classifier.fit(train, labels).predict_proba(test), _told(neighbors, temperature)


def _told(neighbors: int, temperature: float | None) -> dict[str, float]:
    return {"neighbors": neighbors} | ({} if temperature is None else {"temperature": temperature})


def probe(
    kind: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    neighbors: int = 20,
    temperature: float | None = None,
    regularization: float | None = None,
    iterations: int | None = None,
    schedule: Schedule | None = None,
) -> dict:
    """Fits a probe and scores it.

    Args:
        kind: one of `KINDS`.
        train, test: features [n, ...], which are flattened, and labels [n] from 0 on. A class
            without a training photo is never predicted, and its test photos count as wrong.
        neighbors, temperature: for "knn"; see `nearest`.
        regularization, iterations: for "linear"; see there.
        schedule: for "softmax"; None takes the usual one. It reads features batch by batch, so
            that they may lie on disk.

    Returns:
        {"probe", "top1", "top5" (None with five classes or fewer), "train_photos", "test_photos",
        "seconds", and the probe's own entries}.

    Raises:
        ConfigError: the kind is unknown, there are too few photos to train on, or a feature is not
            finite.
    """
    (x, labels), (x_test, labels_test) = ((_flat(f), label) for f, label in (train, test))
    present, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(present) < 2:
        raise ConfigError("there is one class alone, and nothing to tell apart")
    for values, what in ((x, "training"), (x_test, "test")):
        if not _finite(values):
            raise ConfigError(f"some {what} features are not finite")
    start = time.perf_counter()
    if kind == "linear":
        if regularization is None and counts.min() < 2:
            raise ConfigError(
                "a class has only one training photo: the linear probe needs two of each, to "
                "cross-validate"
            )
        scores, told = linear(x, labels, x_test, regularization, iterations)
    elif kind == "knn":
        if not 0 < neighbors <= len(x):
            raise ConfigError(
                f"--neighbors={neighbors}, but there are {len(x)} training photos: give at most so "
                "many"
            )
        scores, told = nearest(x, labels, x_test, neighbors, temperature)
    elif kind == "softmax":
        scores, told = softmax(x, labels, x_test, schedule or Schedule())
    else:
        raise ConfigError(f"--kind: {kind!r}; known: {', '.join(KINDS)}")
    seconds = time.perf_counter() - start
    classes = int(max(present[-1], labels_test.max())) + 1
    of_present, scores = scores, np.full((len(x_test), classes), -np.inf)
    scores[:, present] = of_present
    # As in metrics.top_k, ties count against the prediction.
    place = (~(scores < np.take_along_axis(scores, labels_test[:, None], 1))).sum(1)
    return {
        "probe": kind,
        "top1": float((place <= 1).mean()),
        "top5": float((place <= 5).mean()) if classes > 5 else None,
        "train_photos": len(x),
        "test_photos": len(x_test),
        "seconds": seconds,
        **told,
    }


def _finite(values: np.ndarray) -> bool:
    """Whether all values are finite; looks at a part at a time, as they may lie on disk."""
    return all(np.isfinite(values[i : i + 4096]).all() for i in range(0, len(values), 4096))


def _flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1)
