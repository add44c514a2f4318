"""Whole small runs: their outputs, resuming, and failures."""

import contextlib
import io
import itertools
import json
import pathlib
import re

import chex
import jax
import numpy as np
from PIL import Image
import pytest
import saved
import tiny

import colorize_jax
from colorize_jax.checkpoints import reading
from colorize_jax.data import bad_records
from colorize_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    StorageError,
)
from colorize_jax.training import ending, loop, same_run, sharding
from colorize_jax.training.report import Report
from colorize_jax.training.run import Run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """An undisturbed run of six steps: workdir, scores, messages."""
    workdir, said = tmp_path_factory.mktemp("run"), io.StringIO()
    with contextlib.redirect_stderr(said):
        scores = loop.train(tiny.config(), workdir)
    return workdir, scores, said.getvalue()


@pytest.fixture(scope="module")
def finished(finished_run):
    return finished_run[:2]


def test_a_run_leaves_all_that_was_promised(finished):
    workdir, scores = finished
    rows = saved.rows(workdir)
    assert [r["step"] for r in rows if "eval/loss" in r] == [0, 3, 6]
    training = [r for r in rows if "train/loss" in r]
    assert [r["step"] for r in training] == [2, 4, 6]
    assert set(training[-1]) == {
        "step", "train/loss", "train/loss_hue", "train/loss_chroma", "train/rate",
        "train/grad_norm", "train/images_per_second", "train/data_wait",
    }  # fmt: skip
    for row in training:
        total = 5 * row["train/loss_hue"] + row["train/loss_chroma"]
        np.testing.assert_allclose(row["train/loss"], total, rtol=1e-5)
    np.testing.assert_allclose([r["train/rate"] for r in training], [0.02, 0.002, 0.002])
    assert set(scores) == {
        "eval/loss", "eval/loss_hue", "eval/loss_chroma", "eval/loss_constant", "eval/psnr",
        "eval/psnr_gray", "eval/auc", "eval/auc_gray", "eval/rmse_ab", "eval/active_units",
    }  # fmt: skip
    best = min((r for r in rows if "eval/loss" in r), key=lambda r: r["eval/loss"])
    results = json.loads((workdir / "results.json").read_text())
    assert results.pop("best") == {name: best[name] for name in ("step", "eval/loss")}
    assert results.items() >= ({"step": 6} | scores).items()
    assert results["metric"]["value"] == scores["eval/loss"]
    assert results["data"]["source"] == "builtin:photos"
    spent = results["spent"]
    assert set(spent) == {"start", "evaluation", "checkpoints"} and min(spent.values()) >= 0
    assert 0 < sum(spent.values()) <= results["seconds"] + 0.2  # All are rounded to 0.1.
    assert rows[-1] == {"step": 6} | scores
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"3", "6"}
    for step in (0, 3, 6):
        picture = np.asarray(Image.open(workdir / "images" / f"{step}.png"))
        # Three photos are side by side, each with three panels.
        assert picture.shape[1] > 9 * 128 and picture.shape[0] > 128
    assert list((workdir / "tensorboard").glob("events*"))
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["crop"] == 32 and config["task"]["edge_buffer"] == 32 * 96 // 352


def test_a_run_speaks_before_and_after_its_first_step(finished_run):
    said = finished_run[2]
    guess, first = said.index("6 steps, about "), said.index("step 1/6  loss ")
    zero, second = said.index("step 0/6  eval/loss"), said.index("step 2/6  loss ")
    compiles = said.index("compiling the evaluation")
    assert guess < compiles < zero < first < second
    assert "on 4 x cpu: a guess from a step's" in said[guess:first]
    assert "full-size" not in said and "held out of" not in said
    assert re.search(r"in all: start 0:\d\d \(\d+%\), evaluation .*, training 0:\d\d", said)


def test_the_first_evaluation_is_that_of_uniform_histograms_and_training_lowers_it(finished):
    rows = [r for r in saved.rows(finished[0]) if "eval/loss" in r]
    assert len({r["eval/loss_constant"] for r in rows}) == 1
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"]


class _Killed(Exception):
    pass


def _kill_at(monkeypatch, step):
    """The run dies, as by kill -9, when it logs that step, after an earlier checkpoint."""
    monkeypatch.setattr(ending, "save_after_error", lambda run, error: None)
    plain = Report.progress

    def progress(self, at, values):
        if at == step:
            raise _Killed
        plain(self, at, values)

    monkeypatch.setattr(Report, "progress", progress)


def test_a_killed_run_resumes_and_ends_bit_identical(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        _kill_at(patch, 4)
        with pytest.raises(_Killed):
            loop.train(tiny.config(), workdir)
    before = reading.saved_note(workdir / "checkpoints" / "3")["spent"]
    rows = (workdir / "metrics.jsonl").read_text()
    (workdir / "metrics.jsonl").write_text(rows + '{"step": 4, "train/loss": 0}\n{"step": 5, "tr')
    # Threads and workers may change, but photos must not.
    scores = loop.train(tiny.config(data__threads=0, checkpoint__keep=1), workdir)
    chex.assert_trees_all_equal(saved.state(workdir, 6), saved.state(finished[0], 6))
    assert scores == finished[1]
    assert saved.rows(workdir, times=False) == saved.rows(finished[0], times=False)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"6"}
    after = reading.saved_note(workdir / "checkpoints" / "6")["spent"]
    assert after["start"] > before["start"] > 0 and after["evaluation"] > before["evaluation"] > 0


def test_the_state_is_saved_whatever_ends_the_loop(finished, tmp_path, monkeypatch, capfd):
    def failing(plain, call):
        calls = itertools.count(1)

        def fails(*arguments, **options):
            if next(calls) == call:
                raise RuntimeError("a fault")
            return plain(*arguments, **options)

        return fails

    for step, owner, name, call in (  # (the saved step; the method that fails, and at which call)
        (2, Report, "progress", 1),
        (3, Run, "score", 1),
        (4, bad_records.BadRecords, "_count", 2),  # This is the batch of step 5.
        (5, Run, "save_is_late", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing(getattr(owner, name), call))
            with pytest.raises(RuntimeError, match="a fault"):
                loop.train(tiny.config(checkpoint__every=100), tmp_path)
        assert f"stopped after step {step}, which is saved" in capfd.readouterr().err
    loop.train(tiny.config(checkpoint__every=100), tmp_path)
    chex.assert_trees_all_equal(saved.state(tmp_path, 6), saved.state(finished[0], 6))
    assert saved.rows(tmp_path, times=False) == saved.rows(finished[0], times=False)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path, monkeypatch, finished):
    with monkeypatch.context() as patch:
        _kill_at(patch, 2)
        with pytest.raises(_Killed):
            loop.train(tiny.config(), tmp_path)
    assert loop.train(tiny.config(), tmp_path) == finished[1]
    assert [r["step"] for r in saved.rows(tmp_path)] == [0, 2, 3, 4, 6, 6]


def test_a_finished_run_is_left_as_it_is(finished):
    workdir, scores = finished
    before = (workdir / "metrics.jsonl").read_text()
    again = loop.train(tiny.config(), workdir)
    assert {k: v for k, v in again.items() if k != "step"} == scores
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_snapshots_are_kept_besides_the_newest_checkpoints(tmp_path):
    # With 81 photos in batches of 8, 0.2 epochs are 2 steps.
    config = tiny.config(checkpoint__every=1, checkpoint__keep=1, checkpoint__snapshots=(0.2,))
    loop.train(config, tmp_path)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"2", "6"}


@pytest.mark.slow
def test_a_run_saves_by_the_clock_too(tmp_path):
    config = tiny.config(checkpoint__every=100, checkpoint__seconds=1e-6, checkpoint__keep=100)
    loop.train(config, tmp_path)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == set("123456")


def test_the_encoder_in_three_lines(finished, rng):
    workdir, _ = finished
    encoder, variables = colorize_jax.load_encoder(workdir)
    gray = colorize_jax.network_input(rng.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8))
    maps = encoder.apply(variables, gray, train=False)
    assert maps["conv2"].shape == (2, 16, 24, 4) and np.isfinite(maps["conv3"]).all()
    state = saved.state(workdir, 6)
    chex.assert_trees_all_equal(variables["params"], state["params"]["encoder"])
    chex.assert_trees_all_equal(variables["batch_stats"], state["batch_stats"]["encoder"])
    _, earlier = colorize_jax.load_encoder(workdir / "checkpoints" / "3")
    kernels = earlier["params"]["conv1"]["kernel"], variables["params"]["conv1"]["kernel"]
    assert not np.array_equal(*kernels)


def test_a_folder_without_checkpoint_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        colorize_jax.load_encoder(tmp_path)


def test_another_config_in_the_same_workdir_is_refused_by_field(finished):
    workdir, _ = finished
    with pytest.raises(CheckpointError, match=r"config\.optimizer\.rate: 0\.02 there, 0\.5 here"):
        loop.train(tiny.config(optimizer__rate=0.5), workdir)


def test_a_source_that_grew_or_was_replaced_is_refused(tmp_path, rng):
    tiny.write_photos(tmp_path / "photos", 12, rng)
    settings = {"data__source": str(tmp_path / "photos"), "data__holdout": 0.2}
    config = tiny.config(**settings)
    loop.train(config, tmp_path / "run")
    (tmp_path / "photos").rename(tmp_path / "away")
    with pytest.raises(StorageError, match="retry_seconds"):  # It is no mistake in the config.
        loop.train(tiny.config(**settings, data__retry_seconds=0.2), tmp_path / "run")
    with pytest.raises(DataError, match="there is no"):
        loop.train(config, tmp_path / "another run")
    (tmp_path / "away").rename(tmp_path / "photos")
    photo = next((tmp_path / "photos" / "sub0").iterdir())
    content = photo.read_bytes()
    tiny.write_photos(tmp_path / "others", 1, rng)
    photo.write_bytes((tmp_path / "others" / "sub0" / "photo000.jpg").read_bytes())
    with pytest.raises(CheckpointError, match="other contents"):
        loop.train(config, tmp_path / "run")
    photo.write_bytes(content)
    photo.rename(photo.with_name("renamed.jpg"))  # The number is the same, but the order differs.
    with pytest.raises(CheckpointError, match="photos to train on, and had"):
        loop.train(config, tmp_path / "run")
    tiny.write_photos(tmp_path / "photos" / "more", 12, rng)
    with pytest.raises(CheckpointError, match="photos to train on, and had"):
        loop.train(config, tmp_path / "run")


@pytest.mark.slow
def test_changes_are_accepted_where_somebody_says_so(tmp_path, rng, capfd):
    tiny.write_photos(tmp_path / "photos", 12, rng)
    settings = {"data__source": str(tmp_path / "photos"), "data__holdout": 0.2}
    loop.train(tiny.config(**settings, steps=3), tmp_path / "run")
    tiny.write_photos(tmp_path / "photos" / "more", 12, rng)
    changed = tiny.config(**settings, steps=4, optimizer__rate=0.01)
    with pytest.raises(CheckpointError, match="accept_changes=True"):
        loop.train(changed, tmp_path / "run")
    changed.checkpoint.accept_changes = True
    loop.train(changed, tmp_path / "run")
    assert "going on from step 3" in capfd.readouterr().err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 4
    # A checkpoint of another network is refused even if changes are accepted.
    with pytest.raises(CheckpointError, match="does not fit this config"):
        loop.train(
            tiny.config(**settings, model__hidden=4, checkpoint__accept_changes=True),
            tmp_path / "run",
        )


def _complete_checkpoint(workdir):
    folder = workdir / "checkpoints" / "3"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_run_without_a_checkpoint_may_change_its_config(tmp_path):
    same_run.write_config(tmp_path, tiny.config(optimizer__rate=0.5))
    same_run.check_config(tmp_path, tiny.config())
    _complete_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="another config"):
        same_run.check_config(tmp_path, tiny.config())


def test_a_field_that_is_newer_than_the_run_had_its_default(tmp_path):
    same_run.write_config(tmp_path, tiny.config())
    _complete_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["alignment"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    same_run.check_config(tmp_path, tiny.config())
    with pytest.raises(CheckpointError, match="alignment: 'corner' there, 'center' here"):
        same_run.check_config(tmp_path, tiny.config(model__alignment="center"))


@pytest.mark.parametrize(("value", "refused"), [("score", False), ("accuracy", True)])
def test_a_setting_that_is_gone_must_have_had_its_default(tmp_path, value, refused):
    same_run.write_config(tmp_path, tiny.config())
    _complete_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["early_stopping"]["metric"] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    refusal = pytest.raises(CheckpointError, match="metric: 'accuracy' there, 'score' here")
    with refusal if refused else contextlib.nullcontext():
        same_run.check_config(tmp_path, tiny.config())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    config = tiny.config(optimizer__rate=1e10, schedule__drops=(), checkpoint__every=1, steps=20)
    config.log.every = 100  # Only saving looks at the loss.
    message = r"step (\d+) is not finite.*names its batch.*last good checkpoint is.*rate"
    with pytest.raises(NonFiniteError, match=message):
        loop.train(config, tmp_path)
    last = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.state(tmp_path, last)["params"]))


@pytest.mark.slow
def test_regression_without_hypercolumn_in_half_precision_with_microbatches(tmp_path):
    config = tiny.config(
        task__loss="regression", model__hypercolumn=False, model__alignment="center",
        model__dtype="bfloat16", microbatches=2, steps=2,
    )  # fmt: skip
    scores = loop.train(config, tmp_path)
    assert set(scores) >= {"eval/loss", "eval/loss_constant", "eval/psnr"}
    assert all(np.isfinite(list(scores.values())))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"data__batch_size": 6}, ConfigError),
        ({"data__crop": 64}, ConfigError),
        ({"data__scale": (40, 50, 60)}, ConfigError),
        ({"eval__every": 0}, ConfigError),
        ({"checkpoint__keep": 0}, ConfigError),
        ({"seed": -1}, ConfigError),
        ({"data__workers": -1}, ConfigError),
        ({"optimizer__rate": float("nan")}, ConfigError),
        ({"optimizer__name": "adagrad"}, ConfigError),
        ({"optimizer__groups": {"head": {"b1": 0.5}}}, ConfigError),
        ({"optimizer__groups": {"discriminator": {"rate": 0.1}}}, ConfigError),
        ({"schedule__name": "stairs"}, ConfigError),
        ({"data__source": "/does/not/exist"}, DataError),
        ({"task__loss": "l1"}, ConfigError),
        ({"data__views": 2}, ConfigError),
    ],
)
def test_what_cannot_work_fails_before_anything_is_written(tmp_path, settings, error):
    workdir = pathlib.Path(tmp_path / "run")
    with pytest.raises(error):
        loop.train(tiny.config(**settings), workdir)
    assert not workdir.exists()


@pytest.mark.slow
def test_workers_and_devices_may_change_between_restarts(tmp_path, finished, monkeypatch):
    plain = sharding.make_mesh
    # (dies at step, workers, devices); the last one finishes.
    for dies, workers, devices in ((4, 0, 4), (6, 2, 4), (None, 1, 1)):
        with monkeypatch.context() as patch:
            patch.setattr(sharding, "make_mesh", lambda n=devices: plain(jax.devices()[:n]))
            if dies:
                _kill_at(patch, dies)
            config = tiny.config(data__workers=workers, checkpoint__every=1)
            if dies:
                with pytest.raises(_Killed):
                    loop.train(config, tmp_path)
            else:
                loop.train(config, tmp_path)
    rows = [row for row in saved.rows(tmp_path) if "train/loss" in row]
    expected = [row for row in saved.rows(finished[0]) if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row, wanted in zip(rows, expected, strict=True):  # The restarts are between two rows.
        np.testing.assert_allclose(row["train/loss"], wanted["train/loss"], rtol=1e-3)
    restored, straight = (saved.state(w, 6)["params"] for w in (tmp_path, finished[0]))
    chex.assert_trees_all_close(restored, straight, rtol=1e-3, atol=1e-5)
