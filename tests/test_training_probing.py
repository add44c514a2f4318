"""Probes of the encoder during training: their scores are right, and they change nothing."""

import contextlib
import dataclasses
import json
import math

import chex
import golden_pretexts
import jax
import labelled
import numpy as np
import pytest
import saved
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
import small_encoder
import tiny

from colorize_jax.data import pipeline, splits
from colorize_jax.data.bad_records import BadRecords
from colorize_jax.errors import ColorizeError, ConfigError
from colorize_jax.features import probes
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Evaluator, Facts
from colorize_jax.training import evaluation, loop, probing, sharding
from colorize_jax.training.report import overall_and_classes
from colorize_jax.training.runner import Runner
from colorize_jax.training.scoring import Scoring
from colorize_jax.training.step import init_variables

SHORT = {"steps": 4, "eval__every": 4, "checkpoint__every": 2, "eval__norm_batches": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Class folders in train/ and val/ whose photos differ by color."""
    root = tmp_path_factory.mktemp("folders")
    labelled.write_class_folders(root, np.random.default_rng(0))
    return root


def _config(**settings):
    small = {"task__name": "rotation", "model__name": small_encoder.NAME, "model__in_channels": 3}
    return tiny.config(**small | settings)


def _watched(folders, name="knn", **settings):
    own = {"source": str(folders), "split": "train", "eval_split": "val"} | settings
    return {f"evals__{name}__{key}": value for key, value in own.items()}


def _opened(folders, name="knn", **settings):
    config = _config(**_watched(folders, name, **settings))
    return probing.open_probes(config, make_task(config))[name]


def test_probes_do_not_change_a_resumed_run_either(folders, tmp_path):
    """They are due at their own steps, also if averages of batch norm are computed anew."""
    plain = loop.train(_config(**SHORT), tmp_path / "plain")
    both = _watched(folders, every=2) | _watched(folders, "linear", layer="conv1")
    both |= {"evals__spread__source": str(folders / "val")}
    watched = loop.train(_config(**SHORT, **both), tmp_path / "watched")
    for step in (2, 4):
        chex.assert_trees_all_equal(
            *(saved.state(tmp_path / name, step) for name in ("plain", "watched"))
        )
    spread = {f"eval/spread/{score}" for score in ("rank", "alignment", "uniformity")}
    added = {"eval/knn/top1", "eval/linear/top1", *spread}
    assert set(watched) - set(plain) == added
    assert {name: watched[name] for name in plain} == plain
    rows = saved.rows(tmp_path / "watched", times=False)
    steps = {name: [row["step"] for row in rows if name in row] for name in (*added, "eval/loss")}
    seldom = ("eval/linear/top1", "eval/loss", *spread)
    assert steps == {"eval/knn/top1": [0, 2, 4]} | {name: [0, 4] for name in seldom}
    assert 1 <= watched["eval/spread/rank"] <= 4 and watched["eval/spread/uniformity"] < 0
    without = [{k: v for k, v in row.items() if k not in added} for row in rows]
    assert [row for row in without if set(row) != {"step"}] == saved.rows(
        tmp_path / "plain", times=False
    )
    results = json.loads((tmp_path / "watched/results.json").read_text())
    assert results["eval/knn/top1"] == watched["eval/knn/top1"] and not results["per_class"]

    # From step 2 on the run has other probes, as after a kill: they may change.
    for lost in ("checkpoints/4/manifest.json", "results.json"):
        (tmp_path / "watched" / lost).unlink()
    again = loop.train(_config(**SHORT, **_watched(folders, every=1)), tmp_path / "watched")
    assert again == {k: v for k, v in watched.items() if k not in added - {"eval/knn/top1"}}
    chex.assert_trees_all_equal(*(saved.state(tmp_path / name, 4) for name in ("plain", "watched")))
    after = [row["step"] for row in saved.rows(tmp_path / "watched") if "eval/knn/top1" in row]
    assert after == [0, 2, 3, 4]

    config = _config(**SHORT, **_watched(folders))
    found = evaluation.evaluate(config, str(tmp_path / "watched"), tmp_path / "again")
    assert found == pytest.approx(again, rel=1e-5)
    assert json.loads((tmp_path / "again/results.json").read_text())["eval/knn/top1"]


def _spread(folders, **settings):
    settings = {f"evals__spread__{key}": x for key, x in settings.items()}
    config = _config(**{"evals__spread__source": str(folders)} | settings)
    return probing.open_probes(config, make_task(config))["spread"]


def test_spread_is_of_two_crops_of_each_photo_as_in_training(folders):
    probe = _spread(folders, layer="conv1", photos=7)
    assert probe.lines == [f"config.evals.spread: conv1, 7 photos of {folders}"]
    batches = pipeline.evaluation_batches(*probe.parts, probe.config, limit=0)
    with contextlib.closing(batches):
        batch = next(batches)
    assert batch["image"].shape == (8, 2, 32, 32, 3) and batch["valid"].sum() == 7
    assert (batch["image"][:7, 0] != batch["image"][:7, 1]).any((1, 2, 3)).all()

    task = make_task(_config())
    batch = {name: batch[name] for name in ("image", "photo", "position", "valid")}
    single = {name: x[:, 0] if name == "image" else x for name, x in batch.items()}
    variables = init_variables(jax.random.key(0), task, single)
    both, one = (
        probe.evaluator.on_batch(variables, None, None, rows)[1]["features"]
        for rows in (batch, single)
    )
    np.testing.assert_allclose(both[:, 0], one, rtol=1e-5, atol=1e-6)
    assert both.shape == (8, 2, one.shape[1])


def test_a_collapse_is_said_once_until_it_is_over(folders, rng, capfd):
    probe = _spread(folders, share=0.5)
    spread_out = {"features": rng.normal(size=(20, 2, 6))}
    collapsed = {"features": np.ones((20, 2, 6)) + 1e-3 * rng.normal(size=(20, 2, 6))}
    for rows in (spread_out, collapsed, collapsed):
        found = probe.score([rows])
    assert 1 <= found["rank"] < 1.1 and found["alignment"] < 1e-4 and found["uniformity"] > -1e-4
    said = capfd.readouterr().err
    assert said.count("collapse: the features of conv3 have an effective rank of 1.0, of 6") == 1
    for rows in (spread_out, collapsed):
        probe.score([rows])
    assert capfd.readouterr().err.count("collapse") == 1
    spread_out["features"][3, 1, 2] = np.nan
    assert math.isnan(probe.score([spread_out])["alignment"])
    assert "config.evals.spread has no scores" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "/does/not/exist"}, r"config\.evals\.spread: .*/does/not/exist"),
        ({"layer": "fc9"}, r"config\.evals\.spread\.layer='fc9'.*conv2"),
        ({"share": 1.5}, r"evals\.spread\.share"),
    ],
)
def test_a_spread_that_cannot_be_had_is_an_error_by_name(folders, tmp_path, settings, message):
    own = {f"evals__spread__{key}": x for key, x in ({"source": str(folders)} | settings).items()}
    with pytest.raises(ColorizeError, match=message):
        loop.train(_config(**own), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_photo_has_no_spread(tmp_path, rng):
    tiny.write_photos(tmp_path, 1, rng)
    with pytest.raises(ConfigError, match="evals.spread: .* one photo"):
        _spread(tmp_path)


def test_features_are_means_of_a_layer_by_running_averages(folders, rng):
    config = _config(**_watched(folders, layer="conv1"))
    task = make_task(config)
    probe = probing.open_probes(config, task)["knn"]
    batch = tiny.batch(rng) | {"labels": np.arange(8)}
    variables = init_variables(jax.random.key(0), task, batch)
    stats = variables["batch_stats"]["encoder"]["batch_conv1"]
    stats["mean"], stats["count"] = stats["mean"] + 0.1, stats["count"] + 5
    runner = Runner(task, sharding.make_mesh(), 0).of(probe.evaluator)
    _, rows, _ = runner.evaluate(variables, None, [batch])
    own = {kind: tree["encoder"] for kind, tree in variables.items()}
    encoder = task.model.encoder
    maps = encoder.apply(own, encoder.network_input(batch["image"]), train=False)["conv1"]
    np.testing.assert_allclose(rows["features"], maps.mean((1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(rows["labels"], np.arange(8))


def test_photos_are_some_of_every_class_and_few_of_them_ask_few_neighbors(folders):
    probe = _opened(folders, photos=9)
    assert [len(part) for part in probe.parts] == [9, 9]  # There are 18 and 9.
    # The first nine by name have only two classes.
    assert len(set(probe.parts[0].labels.tolist())) == 3
    assert "200 are too many" in probe.lines[-1]
    assert _opened(folders, neighbors=5, photos=0).lines[-1].endswith("temperature 0.07")
    assert probes.voters(np.repeat([0, 1, 2], (40, 60, 90)), 200) == 60
    assert probes.voters(np.array([0, 1, 1]), 200) == 2
    assert probes.voters(np.repeat([0, 1], 500), 200) == 200


def test_a_part_of_every_class_is_scored_where_no_folders_are_named(folders):
    probe = _opened(folders / "train", split="", eval_split="", holdout=0.5)
    assert [np.bincount(part.labels).tolist() for part in probe.parts] == [[3, 3, 3], [3, 3, 3]]


def test_features_that_are_not_finite_have_no_score_and_end_nothing(folders, capfd):
    probe = _opened(folders)
    part = {"features": np.full((4, 2), np.nan), "labels": np.array([0, 1, 0, 1])}
    assert math.isnan(probe.score([part, part])["top1"])
    assert "not finite" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "/does/not/exist"}, r"config\.evals\.knn: .*/does/not/exist"),
        ({"source": "builtin:photos"}, "no photo of builtin:photos"),
        ({"split": "training"}, "no photo .* below a folder 'training'"),
        ({"eval_split": ""}, r"config\.evals\.knn\.eval_split is empty"),
        ({"split": "", "eval_split": ""}, r"evals\.knn\.split=train"),
        ({"layer": "fc9"}, r"config\.evals\.knn\.layer='fc9'.*conv2"),
        ({"neighbors": 0}, r"evals\.knn\.neighbors"),
        ({"temperature": 0.0}, r"evals\.knn\.temperature"),
    ],
)
def test_what_cannot_be_watched_is_an_error_before_anything_is_written(
    folders, tmp_path, settings, message
):
    with pytest.raises(ColorizeError, match=message):
        loop.train(_config(**_watched(folders, **settings)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_or_none_is_refused_by_name(tmp_path, rng):
    tiny.write_photos(tmp_path / "train/cat", 4, rng)
    tiny.write_photos(tmp_path / "val/cat", 2, rng)
    with pytest.raises(ConfigError, match="config.evals.linear: .* one class"):
        _opened(tmp_path, "linear")
    with pytest.raises(ColorizeError, match="config.evals.linear: .* directly"):
        _opened(tmp_path / "train/cat/sub0", "linear", split="", eval_split="")


def test_a_task_may_have_evaluators_besides_its_own(folders, tmp_path, capfd):
    config = _config(eval__pictures=0)
    other = Evaluator(
        lambda variables, statistics, keys, batch: (
            {"seen": statistics, "scored": batch["valid"].sum()}, {}
        ),
        lambda sums, rows: {name: float(value) for name, value in sums.items()},
        statistics=lambda keys, batch: batch["valid"].sum(),
        remark=lambda scores: "a remark",
    )  # fmt: skip
    task = make_task(config, Facts(12))
    task = dataclasses.replace(task, evaluators=task.evaluators | {"other": other})
    opened = splits.open_splits(config)
    runner = Runner(task, sharding.make_mesh(), config.seed)
    bad = BadRecords(tmp_path / "bad.jsonl", 0.1)
    scoring = Scoring(config, task, runner, opened.training, opened.evaluation, bad)
    scoring.find_statistics()
    variables = init_variables(jax.random.key(0), task, tiny.batch(np.random.default_rng(0)))
    for _ in range(2):
        scoring.score(variables)
    assert scoring.scores.keys() >= {"eval/loss", "eval/accuracy"}
    found = {k: v for k, v in scoring.scores.items() if "other" in k}
    assert found == {"eval/other/seen": 2 * 8, "eval/other/scored": 5}
    assert capfd.readouterr().err.count("a remark") == 1
    assert scoring.due(3, 3, False) == {"", "other"} and not scoring.due(4, 3, False)

    with pytest.raises(ConfigError, match="evals.knn: rotation has an evaluator"):
        probing.open_probes(
            _config(**_watched(folders)), dataclasses.replace(task, evaluators={"knn": other})
        )


def test_scores_of_an_evaluator_are_none_of_a_class():
    scores = {"eval/miou": 1.0, "eval/iou/knn/a": 2.0, "eval/knn/top1": 3.0, "eval/knn/iou/a": 4.0}
    assert overall_and_classes(scores, {"knn"}) == (
        {"eval/miou": 1.0, "eval/knn/top1": 3.0}, {"iou": {"knn/a": 2.0}, "knn/iou": {"a": 4.0}}
    )  # fmt: skip


@pytest.mark.parametrize(("k", "tau"), [(5, 0.1), (10, 0.07), (30, 0.1)])
def test_golden_npid_knn(k, tau):
    arrays = golden_pretexts.group("npid_knn")
    of = f"k{k}_tau{str(tau).replace('.', '')}"
    labels = arrays["labels"]
    votes, _ = probes.nearest(arrays["train"], labels, arrays["test"], k, tau)
    shares = arrays[f"scores_{of}"] / arrays[f"scores_{of}"].sum(1, keepdims=True)
    np.testing.assert_allclose(votes, shares, rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(votes.argmax(1), arrays[f"predicted_{of}"])


def test_votes_count_by_the_cosine(rng):
    train, test = rng.normal(size=(40, 5)), rng.normal(size=(7, 5))
    labels = np.arange(40) % 4
    votes, _ = probes.nearest(train, labels, test, 9, 0.02)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    for cosine, found in zip(unit[1] @ unit[0].T, votes, strict=True):
        weights = np.zeros(4)
        for i in np.argsort(-cosine)[:9]:
            weights[labels[i]] += np.exp(cosine[i] / 0.02)
        np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-6)


def test_the_linear_probe_with_a_stated_regularization(rng):
    """Scikit-learn's solver, whose C multiplies the sum of the losses."""
    labels = np.arange(60) % 3
    x = (rng.normal(size=(60, 4)) + labels[:, None]) * [1, 10, 100, 0.1]
    test = rng.normal(size=(9, 4)) * [1, 10, 100, 0.1]
    found, told = probes.linear(x, labels, test, regularization=0.05, iterations=200)
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(C=1 / (60 * 0.05)).fit(scaler.transform(x), labels)
    np.testing.assert_allclose(
        found, expected.predict_log_proba(scaler.transform(test)), rtol=1e-3, atol=1e-3
    )
    assert told["C"] == pytest.approx(1 / 3) and told["converged"]
    assert not probes.linear(x, labels, test, regularization=0.05, iterations=1)[1]["converged"]
