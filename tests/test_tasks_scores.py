"""Scores of a split against golden vectors and scikit-learn; what has no score is NaN."""

import numpy as np
import pytest
import sklearn.metrics

from colorize_jax.tasks import scores


def test_golden_mean_iou(golden):
    confusion = golden["miu_confusion"]
    np.testing.assert_allclose(scores.iou(confusion), golden["miu_per_class"], rtol=1e-7)
    np.testing.assert_allclose(scores.mean_iou(confusion), golden["miu"], rtol=1e-7)


def test_golden_average_precision(golden):
    found = scores.average_precision(golden["ap_score"], golden["ap_truth"])
    np.testing.assert_allclose(found["step"], golden["ap_area"], rtol=1e-7)
    np.testing.assert_allclose(found["step"], golden["ap_area_no_tiebreak"], rtol=1e-7)
    np.testing.assert_allclose(found["voc11"], golden["ap_voc11"], rtol=1e-7)
    np.testing.assert_allclose(found["trapezoid"], golden["ap_trapz"], rtol=1e-7)


def test_iou_is_the_jaccard_score_of_scikit_learn(rng):
    truth, predicted = rng.integers(0, 6, (2, 500))
    confusion = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(6))
    expected = sklearn.metrics.jaccard_score(truth, predicted, average=None)
    np.testing.assert_allclose(scores.iou(confusion), expected)
    np.testing.assert_allclose(scores.mean_iou(confusion), expected.mean())


def test_a_class_that_nobody_saw_has_no_iou_and_one_that_was_imagined_has_zero():
    confusion = np.array([[6, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4]])
    np.testing.assert_array_equal(scores.iou(confusion), [0.75, np.nan, 0, 1])
    assert scores.mean_iou(confusion) == 1.75 / 3
    assert scores.mean_iou(confusion, classes=(1, 3)) == 1
    assert np.isnan(scores.mean_iou(confusion, classes=(1,)))
    assert np.isnan(scores.mean_iou(np.zeros((2, 2), int)))


def test_the_most_frequent_class_alone_is_what_a_network_that_saw_nothing_would_score():
    confusion = np.array([[5, 1], [2, 2]])
    alone = scores.most_frequent_alone(confusion)
    np.testing.assert_array_equal(alone, [[6, 0], [4, 0]])
    assert scores.mean_iou(alone) == 0.3
    # Without a background, class 0 may be rare: predicting it everywhere is no comparison.
    rare = scores.most_frequent_alone(np.array([[1, 0, 0], [3, 4, 0], [0, 0, 2]]))
    np.testing.assert_array_equal(rare, [[0, 1, 0], [0, 7, 0], [0, 2, 0]])


@pytest.mark.parametrize("truth", [[0, 0], [7, 0]])
def test_fewer_than_two_classes_earn_no_mean_iou_however_well_they_are_predicted(truth):
    assert np.isnan(scores.mean_iou(np.diag(truth)))
    assert np.isnan(scores.mean_iou(np.diag(truth), classes=(0,)))


def test_step_is_the_average_precision_of_scikit_learn_with_and_without_ties(rng):
    truth = rng.integers(0, 2, 300)
    for score in (rng.normal(size=300) + truth, rng.integers(0, 9, 300) + truth):
        expected = sklearn.metrics.average_precision_score(truth, score)
        np.testing.assert_allclose(scores.average_precision(score, truth)["step"], expected)


def test_trapezoid_is_the_area_below_the_curve_of_scikit_learn(rng):
    truth = rng.integers(0, 2, 300)
    score = rng.normal(size=300) + truth
    precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, score)
    expected = sklearn.metrics.auc(recall, precision)
    np.testing.assert_allclose(scores.average_precision(score, truth)["trapezoid"], expected)


def test_average_precision_by_hand():
    found = scores.average_precision(np.array([4, 3, 2, 1]), np.array([1, 0, 1, 0]))
    # Precision 1 up to a recall of one half, 2/3 up to 1.
    assert found["step"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["voc11"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    # (0, 1) to (1/2, 1), down to (1/2, 1/2), up to (1, 2/3).
    assert found["trapezoid"] == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_eleven_points_meet_recalls_of_whole_tenths():
    truth = np.array([1, 0] * 10)  # recall i/10 at precision i / (2 i - 1)
    best = [i / (2 * i - 1) for i in range(1, 11)]
    found = scores.average_precision(np.arange(20)[::-1], truth)["voc11"]
    assert found == pytest.approx((best[0] + sum(best)) / 11)


def test_saying_the_same_of_every_photo_earns_no_more_than_chance():
    found = scores.average_precision(np.zeros(4), np.array([1, 0, 0, 0]))
    assert found["step"] == 0.25 and found["trapezoid"] == pytest.approx(0.125)


@pytest.mark.parametrize(
    "score, truth", [([1.0, 2.0], [0, 0]), ([], []), ([np.nan, 1.0, 0.0], [0, 1, 0])]
)
def test_without_positives_or_with_nan_there_is_no_average_precision(score, truth):
    found = scores.average_precision(np.array(score), np.array(truth))
    assert set(found) == set(scores.AVERAGES) and all(np.isnan(v) for v in found.values())


def test_extreme_scores_have_an_average_precision():
    found = scores.average_precision(
        np.array([-np.inf, np.inf, -np.inf, 0]), np.array([0, 1, 0, 1])
    )
    assert found == {"step": 1, "voc11": 1, "trapezoid": 1}


def test_difficult_photos_and_classes_without_positives_are_left_out(rng):
    score, labels = rng.normal(size=(60, 4)), rng.choice([-1, 0, 1], (60, 4))
    labels[:, 2] = np.minimum(labels[:, 2], 0)
    means, each = scores.mean_average_precision(score, labels)
    for index in (0, 1, 3):
        sure = labels[:, index] != 0
        expected = sklearn.metrics.average_precision_score(
            labels[sure, index] > 0, score[sure, index]
        )
        np.testing.assert_allclose(each["step"][index], expected)
    for name in scores.AVERAGES:
        assert np.isnan(each[name][2])
        np.testing.assert_allclose(means[name], each[name][[0, 1, 3]].mean())


def test_a_class_that_has_positives_and_no_number_is_not_hidden_in_the_mean():
    labels = np.array([[1, 1], [-1, -1]])
    means, each = scores.mean_average_precision(np.array([[1, np.nan], [0, np.nan]]), labels)
    assert each["step"][0] == 1 and np.isnan(each["step"][1]) and np.isnan(means["step"])
    means, _ = scores.mean_average_precision(np.zeros((2, 2)), -np.ones((2, 2), int))
    assert np.isnan(means["step"])
