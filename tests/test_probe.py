"""Linear and nearest-neighbor probes equal scikit-learn's scores; mistakes are errors."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from colorize_jax import probe
from colorize_jax.errors import ConfigError
from colorize_jax.features import feature_files, probes


def _blobs(rng, classes=7, each=12, channels=5, noise=1.0):
    """Features around one center per class, with labels; each channel has its own scale."""
    centers = np.random.default_rng(1).normal(size=(classes, channels))
    labels = np.repeat(np.arange(classes), each)
    x = (centers[labels] + noise * rng.normal(size=(len(labels), channels))).astype(np.float32)
    return x * 10.0 ** np.arange(-2, channels - 2), labels


def _write(path, labels, classes=("cat", "dog"), **layers):
    shapes = {name: values.shape[1:] for name, values in layers.items()}
    with feature_files.Writer(str(path), classes, shapes) as writer:
        writer.add([f"{i}.jpg" for i in range(len(labels))], np.asarray(labels), layers)
    return str(path)


@pytest.fixture
def easy(tmp_path, rng):
    """Paths of training and test features: "clear" separates two classes, "noise" does not."""

    def write(name, labels):
        labels = np.array(labels)
        clear = np.stack([labels + 1.0, 2.0 - labels], 1) + 0.01 * rng.normal(size=(len(labels), 2))
        return _write(tmp_path / name, labels, clear=clear, noise=rng.normal(size=(len(labels), 2)))

    return write("train", [0, 1] * 15), write("test", [0, 1, 1, 0])


def test_the_linear_probe_takes_the_strength_that_cross_validates_best(rng):
    (x, labels), test = _blobs(rng, noise=2.0), _blobs(rng, noise=2.0)
    found = probes.probe("linear", (x, labels), test)

    def classifier(strength):
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))

    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    means = [
        cross_val_score(classifier(strength), x, labels, cv=folds).mean()
        for strength in probes.STRENGTHS
    ]
    assert found["C"] == probes.STRENGTHS[int(np.argmax(means))] and found["converged"]
    best = classifier(found["C"]).fit(x, labels)
    assert found["top1"] == pytest.approx(best.score(*test))
    expected = top_k_accuracy_score(test[1], best.predict_proba(test[0]), k=5)
    assert found["top5"] == pytest.approx(expected)
    assert 0.3 < found["top1"] < found["top5"] < 1  # The task is neither trivial nor hopeless.
    assert found["train_photos"] == found["test_photos"] == 84 and found["seconds"] > 0


def test_the_nearest_neighbors_vote_by_cosine(rng):
    train, test = _blobs(rng), _blobs(rng)
    found = probes.probe("knn", train, test, neighbors=9)
    votes = KNeighborsClassifier(9, metric="cosine", weights="distance").fit(*train)
    assert found["top1"] == pytest.approx(votes.score(*test)) and found["neighbors"] == 9
    nearest = probes.probe("knn", train, test, neighbors=1)["top1"]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x, _ in (train, test)]
    closest = train[1][(unit[1] @ unit[0].T).argmax(1)]
    assert nearest == pytest.approx((closest == test[1]).mean())


def test_features_that_say_nothing_score_nothing():
    labels = np.repeat(np.arange(6), 4)
    blank = np.ones((24, 3), np.float32)
    for kind in probes.USUAL:
        found = probes.probe(kind, (blank, labels), (blank, labels), neighbors=24)
        assert found["top1"] == found["top5"] == 0


def test_positions_that_were_kept_are_features_of_their_own(rng):
    x, labels = _blobs(rng, channels=12)
    flat = probes.probe("linear", (x, labels), (x, labels))
    kept = probes.probe("linear", (x.reshape(-1, 2, 2, 3), labels), (x, labels))
    assert {**flat, "seconds": 0} == {**kept, "seconds": 0}


def test_the_command_shows_every_probe_of_every_layer(easy, tmp_path, capsys):
    train, test = easy
    output = tmp_path / "results.json"
    probe.main([f"--train={train}", f"--test={test}", "--neighbors=5", f"--output={output}"])
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["layer", "probe", "top-1", "top-5", "train", "test", "seconds"]
    assert [line.split()[:2] for line in table[1:]] == [
        ["clear", "linear"], ["clear", "knn"], ["noise", "linear"], ["noise", "knn"]
    ]  # fmt: skip
    assert table[1].split()[2:6] == ["100.0%", "-", "30", "4"]
    content = json.loads(output.read_text())
    assert (content["train"], content["test"]) == (train, test)
    assert [r["layer"] for r in content["results"]] == ["clear", "clear", "noise", "noise"]
    assert content["results"][1]["top1"] == 1 and content["results"][1]["top5"] is None
    assert content["results"][1]["neighbors"] == 5


def test_one_layer_and_one_probe_can_be_chosen(easy, capsys):
    train, test = easy
    probe.main([f"--train={train}", f"--test={test}", "--layer=clear", "--kind=linear"])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 and table[1].split()[:3] == ["clear", "linear", "100.0%"]


def test_photos_without_a_label_are_left_out(tmp_path, rng):
    x = np.array([[1, 0], [0, 1], [9, 9], [1, 0.1], [0.1, 1]])
    train = _write(tmp_path / "a", [0, 1, -1, 0, 1], x=x)
    test = _write(tmp_path / "b", [-1, 1, 0], x=x[[2, 1, 0]])
    results = probe.probe(*map(feature_files.Features, (train, test)), kinds=("knn",), neighbors=1)
    assert results[0]["top1"] == 1
    assert (results[0]["train_photos"], results[0]["test_photos"]) == (4, 2)


def test_a_solver_that_was_cut_short_says_so(easy, monkeypatch, capsys):
    monkeypatch.setattr(probes, "_ITERATIONS", 1)
    probe.main([f"--train={easy[0]}", f"--test={easy[1]}", "--kind=linear", "--layer=noise"])
    assert capsys.readouterr().out.rstrip().endswith("(not converged)")


def _files(tmp_path, rng):
    """Writes features with the named fault."""
    x = rng.normal(size=(6, 3))
    labels = [0, 1] * 3
    bad = x.copy()
    bad[3, 1] = np.nan
    write = {
        "good": {"labels": labels, "x": x},
        "unlabelled": {"labels": [-1] * 6, "classes": (), "x": x},
        "birds": {"labels": labels, "classes": ("bird", "cat"), "x": x},
        "more": {"labels": [0, 1, 2] * 2, "classes": ("bird", "cat", "dog"), "x": x},
        "absent": {"labels": [0] * 6, "x": x},
        "alone": {"labels": [0] * 6, "classes": ("cat",), "x": x},
        "few": {"labels": [0, 1, 1, 1, 1, 1], "x": x},
        "wide": {"labels": labels, "x": rng.normal(size=(6, 4))},
        "other": {"labels": labels, "y": x},
        "nan": {"labels": labels, "x": bad},
    }
    return {n: _write(tmp_path / f"{n}", **content) for n, content in write.items()}


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        ("unlabelled", "good", {}, "no photo in .*unlabelled has a label: extract"),
        ("good", "unlabelled", {}, "no photo in .*unlabelled has a label: extract"),
        ("good", "birds", {}, "1 classes of .*good are not among those of .*birds: dog"),
        ("good", "more", {}, "1 classes of .*more are not among those of .*good: bird"),
        ("absent", "good", {}, "absent has no photo of dog: there is nothing to tell apart"),
        ("alone", "alone", {}, "one class alone"),
        ("few", "good", {"kinds": ("linear",)}, "only one training photo"),
        ("good", "wide", {}, r"x is \(3,\) in .*good and \(4,\) in .*wide: extract both"),
        ("good", "other", {}, "good has the layers x, .*other has y: choose"),
        ("good", "other", {"layers": ("x",)}, "--layer: .*other has no layer 'x'; it has y"),
        ("nan", "good", {}, "some training features are not finite"),
        ("good", "nan", {}, "some test features are not finite"),
        ("good", "good", {"kinds": ("tree",)}, "--kind: 'tree'; known: linear, knn"),
        ("good", "good", {"kinds": ("knn",)}, "--neighbors=20, but there are 6 training photos"),
        ("good", "good", {"kinds": ("knn",), "neighbors": 0}, "--neighbors=0"),
    ],
)
def test_mistakes_are_sentences(tmp_path, rng, train, test, options, message):
    files = _files(tmp_path, rng)
    pair = [feature_files.Features(files[name]) for name in (train, test)]
    with pytest.raises(ConfigError, match=message):
        probe.probe(*pair, **options)


def test_with_few_photos_possible_probes_run_and_others_are_reported(easy, tmp_path, capsys):
    train, test = easy
    output = tmp_path / "new" / "results.json"
    probe.main([f"--train={train}", f"--test={test}", "--neighbors=31", f"--output={output}"])
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["clear", "linear"], ["clear", "knn"], ["noise", "linear"], ["noise", "knn"]
    ]  # fmt: skip
    assert "cannot be had: --neighbors=31, but there are 30 training photos" in table[2]
    content = json.loads(output.read_text())
    assert [(r["layer"], r["probe"]) for r in content["results"]] == [
        ("clear", "linear"), ("noise", "linear")
    ]  # fmt: skip
    assert [(r["layer"], r["probe"]) for r in content["missing"]] == [
        ("clear", "knn"), ("noise", "knn")
    ]  # fmt: skip
    assert "give at most so many" in content["missing"][0]["reason"]


def test_one_photo_of_a_class_is_enough_for_neighbors(tmp_path, rng):
    files = _files(tmp_path, rng)
    pair = [feature_files.Features(files[name]) for name in ("few", "good")]
    said = []
    (found,) = probe.probe(*pair, neighbors=1, say=said.append)
    assert found["probe"] == "knn" and "linear   cannot be had: a class has only one" in said[1]


def test_a_layer_that_fails_costs_no_other(tmp_path, rng):
    x = rng.normal(size=(8, 3))
    labels, bad = [0, 1] * 4, np.full((8, 3), np.inf)
    train = _write(tmp_path / "a", labels, a=x, b=bad, c=x, d=x)
    test = _write(tmp_path / "b", labels, a=x, b=x, c=rng.normal(size=(8, 2)), d=x)
    said = []
    pair = [feature_files.Features(path) for path in (train, test)]
    results = probe.probe(*pair, kinds=("knn",), neighbors=1, say=said.append)
    assert [r["layer"] for r in results] == ["a", "d"]
    assert "b           knn      cannot be had: some training features are not finite" in said
    assert any("c is (3,)" in line for line in said)


def test_results_are_kept_if_a_later_probe_fails(easy, tmp_path, monkeypatch):
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError("no more")
        raise KeyboardInterrupt

    monkeypatch.setattr(probes, "nearest", failing)
    output = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        probe.main([f"--train={easy[0]}", f"--test={easy[1]}", f"--output={output}"])
    content = json.loads(output.read_text())
    assert [r["layer"] for r in content["results"]] == ["clear", "noise"]
    assert content["missing"][0]["reason"] == "MemoryError: no more"


def test_a_class_without_training_photos_is_never_predicted(tmp_path, rng):
    x, labels = _blobs(rng, classes=7, noise=0.1)
    some = labels != 3
    whole = probes.probe("knn", (x, labels), (x, labels), neighbors=1)
    part = probes.probe("knn", (x[some], labels[some]), (x, labels), neighbors=1)
    assert whole["top1"] == 1 and part["top1"] == part["top5"] == pytest.approx(6 / 7)
    train = _write(tmp_path / "a", [0, 2, 0, 2], ("bird", "cat", "dog"), x=np.eye(4))
    test = _write(tmp_path / "b", [0, 1, 0, 1], ("bird", "cat", "dog"), x=np.eye(4))
    said = []
    pair = [feature_files.Features(path) for path in (train, test)]
    (found,) = probe.probe(*pair, kinds=("knn",), neighbors=1, say=said.append)
    assert found["top1"] == 0.5
    assert "a has no photo of cat: the test photos of these classes count" in said[0]


def test_a_place_that_cannot_be_written_is_found_before_the_probes(easy, tmp_path):
    with pytest.raises(SystemExit, match="error: --output=.*folder"):
        probe.main([f"--train={easy[0]}", f"--test={easy[1]}", f"--output={tmp_path}"])


def test_the_command_ends_with_the_sentence(tmp_path):
    with pytest.raises(SystemExit, match="error.*no features in .*a"):
        probe.main([f"--train={tmp_path}/a", f"--test={tmp_path}/b"])


def test_a_share_of_the_labels_is_nested_fixed_and_stored(tmp_path, rng):
    x, labels = _blobs(rng, classes=3, each=20)
    path = _write(tmp_path / "a", labels.tolist(), ("a", "b", "c"), x=x)
    train = feature_files.Features(path)
    some, more = probe.some_labels(train, 0.1, 0), probe.some_labels(train, 0.5, 0)
    np.testing.assert_array_equal(np.bincount(labels[some]), [2, 2, 2])
    assert set(some) < set(more) and len(more) == 30
    assert set(probe.some_labels(train, 0.1, 1)) != set(some)
    assert len(probe.some_labels(train, 1e-6, 0)) == 3  # one of each class
    output = tmp_path / "results.json"
    command = [f"--train={path}", f"--test={path}", f"--output={output}", "--kind=knn"]
    probe.main([*command, "--share=0.1", "--neighbors=6", "--temperature=0.07"])
    content = json.loads(output.read_text())
    assert content["learned_from"] == [train.names[i] for i in some]
    assert (content["share"], content["seed"]) == (0.1, 0)
    (found,) = content["results"]
    assert found["train_photos"] == 6 and found["test_photos"] == 60
    assert (found["neighbors"], found["temperature"]) == (6, 0.07)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--share=0", "--share=0 must be above 0"),
        ("--share=nan", "--share=nan must be above 0"),
        ("--rate=fast", "--rate=fast must be numbers"),
        ("--decay=-1", "--decay=-1 must be numbers"),
        ("--rate=", "--rate= must be numbers"),
        ("--epochs=0", "--epochs=0 must be at least 1"),
        ("--batch_size=0", "--batch_size=0 must be at least 1"),
        ("--temperature=0", "--temperature=0 must be from 0.001"),
        ("--seed=-1", "--seed=-1 must be from 0"),
    ],
)
def test_options_that_make_no_sense_are_sentences(easy, option, message):
    train, test = easy
    with pytest.raises(SystemExit, match=f"error: {message}"):
        probe.main([f"--train={train}", f"--test={test}", option])


def test_softmax_of_the_command_chooses_its_rate_on_training_photos(easy, tmp_path, capsys):
    output = tmp_path / "results.json"
    options = [
        "--kind=softmax",
        "--layer=clear",
        "--rate=0,0.1",
        "--epochs=5",
        f"--output={output}",
    ]
    probe.main([f"--train={easy[0]}", f"--test={easy[1]}", *options])
    (found,) = json.loads(output.read_text())["results"]
    assert found["rate"] == 0.1 and found["chosen_on"] > 0 and found["top1"] == 1
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["clear", "softmax", "100.0%"]
