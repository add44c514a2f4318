"""Scores of a whole split from counts or rows that were collected over it: numpy, on the host."""

from collections.abc import Sequence

import numpy as np

# The release lowers the scores of positives by this, so that ties count against them.
TIE = 1e-5
AVERAGES = ("step", "voc11", "trapezoid")


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of every class: TP / (TP + FP + FN).

    Args:
        confusion: counts of pixels [classes, classes]; rows are true classes, columns predicted.

    Returns:
        float64 [classes]; NaN for a class that neither occurs nor was predicted.
    """
    confusion = np.asarray(confusion, np.float64)
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def mean_iou(confusion: np.ndarray, classes: Sequence[int] | None = None) -> float:
    """The mean of `iou` over the classes that have one.

    Args:
        confusion: see `iou`; pixels of all classes count, even if few classes are averaged.
        classes: the classes to average over; None averages over all.

    Returns:
        A number in [0, 1]. It is NaN if none of the classes occurs or was predicted. It is also NaN
        if fewer than two classes occur, because a score of 1 would then mean nothing.
    """
    if np.count_nonzero(np.asarray(confusion).sum(1)) < 2:
        return float("nan")
    each = iou(confusion)
    if classes is not None:
        each = each[list(classes)]
    each = each[~np.isnan(each)]
    return float(each.mean()) if len(each) else float("nan")


def most_frequent_alone(confusion: np.ndarray) -> np.ndarray:
    """The confusion matrix of predicting the most frequent class everywhere.

    Any network must beat it. In VOC that class is the background.
    """
    truth = np.asarray(confusion).sum(1)
    blank = np.zeros_like(confusion)
    blank[:, truth.argmax()] = truth
    return blank


def average_precision(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Three definitions of average precision.

    Args:
        scores: [n]; a higher score is more certain.
        truth: [n] of 0 and 1.

    Returns:
        "step": the sum of precision times gain in recall over the distinct scores, like
        scikit-learn's `average_precision_score`; the order of ties does not matter.
        "voc11": the mean over recalls 0, 0.1, ... 1 of the best precision at that recall or a
        higher one, like VOC 2007's devkit; ties keep the order of the rows, as there.
        "trapezoid": the area under straight lines between the points of "step" and (0, 1), as the
        release computed it with scikit-learn before 0.19. The scores of positives are lowered by
        1e-5, so that ties count against the prediction.
        All are NaN if there is no positive, or a score is NaN.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth) > 0
    if not truth.any() or np.isnan(scores).any():
        return dict.fromkeys(AVERAGES, float("nan"))
    precision, recall, last = _curve(scores, truth)
    reached = [precision[recall >= tenth / 10].max() for tenth in range(11)]
    step = (precision[last] * np.diff(recall[last], prepend=0)).sum()
    precision, recall, last = _curve(scores - TIE * truth, truth)
    area = np.trapezoid([1, *precision[last]], [0, *recall[last]])
    return {"step": float(step), "voc11": float(np.mean(reached)), "trapezoid": float(area)}


def mean_average_precision(
    scores: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The average precision of every class of a multi-label split, and its mean.

    Args:
        scores: [n, classes].
        labels: [n, classes] of 1 (present), -1 (absent) and 0 (difficult: the photo is left out for
            this class).

    Returns:
        The means, and the values [classes], both with the names of `average_precision`. A class
        without positives is NaN and left out of the mean; a NaN among the scores of another class
        makes the mean NaN.
    """
    each = {name: np.full(labels.shape[1], np.nan) for name in AVERAGES}
    for index, (score, label) in enumerate(zip(scores.T, labels.T, strict=True)):
        for name, value in average_precision(score[label != 0], label[label != 0] > 0).items():
            each[name][index] = value
    judged = (labels > 0).any(0)
    means = {
        name: float(values[judged].mean()) if judged.any() else float("nan")
        for name, values in each.items()
    }
    return means, each


def _curve(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall after every row, sorted by falling score; and every score's last row."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(truth[order])
    precision, recall = found / np.arange(1, len(order) + 1), found / found[-1]
    ranked = scores[order]
    return precision, recall, np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
