"""Linear SVMs on frozen features: average precision, the choice of costs, and low-shot draws."""

import json

import labelled
import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from colorize_jax import extract, probe
from colorize_jax.data import voc
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.features import feature_files, svm

COSTS = (0.001, 1.0, 100.0)
CLASSES = ("cat", "dog", "owl")


def _objects(rng, photos=60):
    """Features [photos, 4, 2] and objects [photos, 3] with difficult ones, that overlap."""
    truth = np.where(rng.random((photos, 3)) < 0.4, 1, -1)
    x = truth @ np.random.default_rng(3).normal(size=(3, 8)) + 1.2 * rng.normal(size=(photos, 8))
    truth[rng.random((photos, 3)) < 0.1] = 0
    return x.reshape(photos, 4, 2).astype(np.float32), truth.astype(np.int8)


def _judge(scores, positive):
    """The same area, point by point of recall, with ties counted against the positives."""
    total = 0.0
    for own in scores[positive]:
        best = 0.0
        for threshold in scores[positive][scores[positive] <= own]:
            above = scores >= threshold
            best = max(best, (positive & above).sum() / above.sum())
        total += best
    return total / positive.sum()


def test_average_precision_is_the_area_below_the_envelope(rng):
    # Hits at the places 1, 3 and 4 of five: the envelope is 1, 3/4, 3/4.
    found = svm.envelope_precision(np.array([5, 4, 3, 2, 1]), np.array([1, 0, 1, 1, 0], bool))
    assert found == pytest.approx((1 + 0.75 + 0.75) / 3)
    for _ in range(5):
        scores, positive = rng.normal(size=30), rng.random(30) < 0.3
        assert svm.envelope_precision(scores, positive) == pytest.approx(_judge(scores, positive))
    tied = svm.envelope_precision(np.zeros(4), np.array([1, 0, 0, 0], bool))
    assert tied == 0.25 and np.isnan(svm.envelope_precision(np.zeros(2), np.zeros(2, bool)))


def _fitted(x, truth, cost):
    return LinearSVC(
        C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1}, random_state=0
    ).fit(x, truth)


def test_machines_are_those_of_scikit_learn_with_costs_by_cross_validation(rng):
    train, test = _objects(rng), _objects(rng)
    found = svm.probe("svm", train, test, CLASSES, costs=COSTS)
    (x, x_test) = (f.reshape(60, 8) for f in (train[0], test[0]))
    x, x_test = (f / (np.sqrt((f**2).sum(1, keepdims=True)) + 1e-5) for f in (x, x_test))
    for number, name in enumerate(CLASSES):
        known, known_test = train[1][:, number] != 0, test[1][:, number] != 0
        rows, truth = x[known], train[1][known, number]
        means = [
            np.mean(
                [
                    _judge(
                        _fitted(rows[a], truth[a], cost).decision_function(rows[b]), truth[b] > 0
                    )
                    for a, b in StratifiedKFold(3, shuffle=True, random_state=0).split(rows, truth)
                ]
            )
            for cost in COSTS
        ]
        assert found["cost"][name] == COSTS[int(np.argmax(means))]
        scores = _fitted(rows, truth, found["cost"][name]).decision_function(x_test[known_test])
        expected = _judge(scores, test[1][known_test, number] > 0)
        assert found["ap"][name] == pytest.approx(expected, abs=1e-3)
    assert found["map"] == pytest.approx(np.mean(list(found["ap"].values())))
    assert found["left_out"] == {} and found["train_photos"] == 60


def test_no_cost_is_chosen_on_test_photos(rng):
    train, (x_test, truth) = _objects(rng), _objects(rng)
    for kind in svm.KINDS:
        options = {"costs": COSTS, "shots": (2, 4), "draws": 2}
        found = svm.probe(kind, train, (x_test, truth), CLASSES, **options)
        turned = svm.probe(kind, train, (-x_test, truth), CLASSES, **options)
        if kind == "svm":
            assert found["cost"] == turned["cost"]
        else:
            assert [row["cost"] for row in found["shots"]] == [
                row["cost"] for row in turned["shots"]
            ]
        assert found["map"] > turned["map"]


def test_few_positives_are_drawn_nested_and_again_the_same(rng, monkeypatch):
    (x, truth), test = _objects(rng), _objects(rng)
    drawn = []
    fit = svm._fit

    def watched(rows, labels, cost):
        drawn.append((labels, {row.tobytes() for row in rows}))
        return fit(rows, labels, cost)

    monkeypatch.setattr(svm, "_fit", watched)
    options = {"costs": (1.0,), "shots": (1, 4, 96), "draws": 3}
    found = svm.probe("lowshot", (x, truth), test, CLASSES, **options)
    assert [(labels > 0).sum() for labels, _ in drawn] == [1] * 9 + [4] * 9
    assert [(labels < 0).sum() for labels, _ in drawn] == [2] * 9 + [8] * 9
    for (_, few), (_, more) in zip(drawn[:9], drawn[9:], strict=True):
        assert few < more
    assert len({frozenset(rows) for _, rows in drawn}) == 18
    assert [row["k"] for row in found["shots"]] == [1, 4] and "positives" in found["left_out"]["96"]
    assert found["shots"][1]["map"] > found["shots"][0]["map"] > 0.3  # chance is about 0.4
    assert all(row["std"] > 0 for row in found["shots"])
    again = svm.probe("lowshot", (x, truth), test, CLASSES, **options)
    assert again["shots"] == found["shots"]
    other = svm.probe("lowshot", (x, truth), test, CLASSES, **options, seed=1)
    assert other["shots"] != found["shots"]


def test_classes_that_cannot_be_scored_are_named(rng):
    (x, truth), (x_test, truth_test) = _objects(rng), _objects(rng)
    truth[:, 1] = np.minimum(truth[:, 1], 0)
    truth_test[:, 2] = -1
    found = svm.probe("svm", (x, truth), (x_test, truth_test), CLASSES, costs=(1.0,))
    assert list(found["ap"]) == ["cat"] and list(found["left_out"]) == ["dog", "owl"]
    assert "no test photo" in found["left_out"]["owl"]
    truth_test[:, 0] = -1
    with pytest.raises(ConfigError, match="no class can be scored: of 'cat' no test photo"):
        svm.probe("svm", (x, truth), (x_test, truth_test), CLASSES)
    x[0] = np.nan
    with pytest.raises(ConfigError, match="some training features are not finite"):
        svm.probe("svm", (x, truth), (x_test, truth_test), CLASSES)


def _write(path, x, labels, classes=CLASSES):
    with feature_files.Writer(str(path), classes, {"fc7": x.shape[1:]}) as writer:
        writer.add([f"{i}.jpg" for i in range(len(x))], labels, {"fc7": x})
    return str(path)


def test_the_command_prints_mean_average_precision(tmp_path, rng, capsys):
    train, test = (_write(tmp_path / name, *_objects(rng)) for name in ("train", "test"))
    output = tmp_path / "results.json"
    options = ["--kind=svm,lowshot", "--cost=1", "--shots=2,1", "--draws=2", "--jobs=1"]
    probe.main([f"--train={train}", f"--test={test}", f"--output={output}", *options])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "mAP"
    assert [line.split()[1] for line in lines] == ["svm", "k=1", "k=2"]
    results = json.loads(output.read_text())["results"]
    assert [r["probe"] for r in results] == ["svm", "lowshot"]
    assert f"{results[0]['map']:.1%}" == lines[0].split()[-1]
    row = results[1]["shots"][1]
    assert lines[2].endswith(f"{row['map']:.1%} +-{row['std']:.1%}")


def test_folders_are_objects_too(tmp_path, rng, capsys):
    labels = np.arange(30) % 3
    x = np.eye(3)[labels].astype(np.float32) + 0.1
    path = _write(tmp_path / "a", x, labels)
    probe.main([f"--train={path}", f"--test={path}", "--kind=svm,knn", "--cost=1,10", "--jobs=1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-1] == "100.0%" and lines[2].split()[1:3] == ["knn", "100.0%"]


def test_objects_and_what_does_not_go_with_them(tmp_path, rng):
    x, objects = _objects(rng)
    both = feature_files.Features(_write(tmp_path / "both", x, objects))
    np.testing.assert_array_equal(both.objects, objects)
    assert (both.labels == -1).all()
    single = feature_files.Features(_write(tmp_path / "one", x, np.arange(60) % 3))
    assert single.objects is None
    with pytest.raises(ConfigError, match="one has no lists of objects: extract it with"):
        probe.probe(both, single, kinds=("svm",))
    with pytest.raises(ConfigError, match="--kind=knn needs one class .*svm,lowshot"):
        probe.probe(both, both, kinds=("svm", "knn"))
    with pytest.raises(ConfigError, match="--share takes photos of one class"):
        probe.probe(both, both, kinds=("svm",), only=np.arange(3))
    index = tmp_path / "both/index.json"
    content = json.loads(index.read_text())
    for bad in ([[1, 1]] * 60, [[1, 1, 1]] * 59, []):
        index.write_text(json.dumps(content | {"objects": bad}))
        with pytest.raises(DataError, match="index.json is damaged .its objects are not one row"):
            feature_files.Features(str(tmp_path / "both"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cost=0,1", "--cost=0,1 must be above 0"),
        ("--shots=1.5", "--shots=1.5 must be whole numbers"),
        ("--shots=0", "--shots=0 must be whole numbers"),
        ("--draws=0", "--draws=0 must be from 1"),
        ("--jobs=0", "--jobs=0 must be from 1"),
    ],
)
def test_options_that_make_no_sense_are_sentences(tmp_path, rng, option, message):
    path = _write(tmp_path / "a", *_objects(rng))
    with pytest.raises(SystemExit, match=f"error: {message}"):
        probe.main([f"--train={path}", f"--test={path}", "--kind=svm", option])


def test_lists_of_a_devkit_are_extracted_with_their_objects(tmp_path, rng):
    listed = labelled.write_devkit(tmp_path / "kit", rng, photos=6)
    photos, (objects, classes) = extract.open_photos(str(tmp_path / "kit"), "train", "lists")
    assert classes == voc.OBJECTS[:2] and objects.shape == (6, 2)
    assert [photos.name(i)[-15:-4] for i in range(6)] == listed["train"]
    assert objects[0, 1] == 0  # difficult
    with pytest.raises(ConfigError, match="name a list of the devkit"):
        extract.open_photos(str(tmp_path / "kit"), "", "lists")
    with pytest.raises(ConfigError, match="--labels=masks: known: folders, lists"):
        extract.open_photos(str(tmp_path / "kit"), "train", "masks")
