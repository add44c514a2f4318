"""Early stopping in a run: the steps that it finds, resuming, and the schedule that it writes."""

import json

import jax
import labelled
import numpy as np
import pytest
import saved
import tiny

from colorize_jax import json_files
from colorize_jax.errors import ConfigError, DataError
from colorize_jax.tasks.task import Score
from colorize_jax.training import loop, progress, search
from colorize_jax.training.early_stopping import EarlyStopping
from colorize_jax.training.report import Report
from colorize_jax.training.run import Run
from colorize_jax.training.runner import Runner

# The rate drops at 6 and 10.
SCORES = {2: 0.1, 4: 0.2, 6: 0.15, 8: 0.16, 10: 0.16, 12: 0.2, 14: 0.1}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    root = tmp_path_factory.mktemp("devkit") / "VOC2012"
    labelled.write_devkit(root, np.random.default_rng(0), photos=10, size=(36, 40))
    return root


def _config(devkit, **settings):
    return tiny.segmentation(
        **{
            "data__source": str(devkit), "init_from": "random", "steps": 40,
            "early_stopping__mode": "search", "early_stopping__window": 2,
            "checkpoint__every": 3, "log__every": 1, "eval__pictures": 0, "data__eval_split": "",
        } | settings
    )  # fmt: skip


@pytest.fixture
def scripted(monkeypatch):
    """Replaces evaluations by SCORES, one for every window."""
    plain = Runner.evaluate

    def evaluate(self, variables, statistics, batches, pictures=0):
        found, rows, strips = plain(self, variables, statistics, batches, pictures)
        return found | {"miou": SCORES.get(self.step, 0.0)}, rows, strips

    score = Run.score

    def noted(run, evaluators):
        run.setup.runner.step = run.progress.step
        return score(run, evaluators)

    monkeypatch.setattr(Runner, "evaluate", evaluate)
    monkeypatch.setattr(Run, "score", noted)


class _Killed(Exception):
    pass


def test_plateaus_drop_the_rate_twice_and_then_end_the_run_also_a_killed_one(
    devkit, scripted, tmp_path, monkeypatch
):
    config = _config(devkit)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    loop.train(config, whole)
    found = json.loads((whole / "schedule.json").read_text())
    assert found["found"] == {"photos": 9, "steps": 14, "drops": [6, 10]}
    assert found["full"] == {"photos": 10, "steps": 16, "drops": [7, 11]}
    assert {w["step"]: w["score"] for w in found["windows"]} == SCORES
    rates = {r["step"]: r["train/rate"] for r in saved.rows(whole) if "train/rate" in r}
    expected = [0.02] * 6 + [0.002] * 4 + [0.0002] * 4
    np.testing.assert_allclose([rates[step] for step in range(1, 15)], expected, rtol=1e-6)
    assert json.loads((whole / "results.json").read_text())["step"] == 14

    plain = Report.progress

    def progress(self, step, values):
        if step == 11:  # This is between the two drops.
            raise _Killed
        plain(self, step, values)

    with monkeypatch.context() as patch:
        patch.setattr(Report, "progress", progress)
        with pytest.raises(_Killed):
            loop.train(config, killed)
    loop.train(config, killed)
    assert (killed / "schedule.json").read_text() == (whole / "schedule.json").read_text()
    jax.tree.map(
        np.testing.assert_array_equal,
        *(saved.state(workdir, 14)["params"] for workdir in (killed, whole)),
    )
    loop.train(config, killed)  # A run that has ended does not train again.
    assert json.loads((killed / "results.json").read_text())["step"] == 14


def test_one_command_searches_and_then_trains_on_the_whole_split(
    devkit, scripted, tmp_path, monkeypatch
):
    config = _config(devkit, early_stopping__mode="crossval", data__eval_split="val")
    loop.train(config, tmp_path)
    assert (tmp_path / "search" / "schedule.json").exists()
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["step"] == 16
    assert found["data"]["photos"] == 10 and found["data"]["eval_split"] == "val"
    rates = [r["train/rate"] for r in saved.rows(tmp_path) if "train/rate" in r]
    np.testing.assert_allclose(rates, [0.02] * 7 + [0.002] * 4 + [0.0002] * 5, rtol=1e-6)
    before = sorted((tmp_path / "search" / "checkpoints").iterdir())
    loop.train(config, tmp_path)  # Nothing is left to do.
    assert sorted((tmp_path / "search" / "checkpoints").iterdir()) == before


def test_errors_of_the_second_run_are_raised_before_the_first(devkit, tmp_path):
    config = _config(devkit, early_stopping__mode="crossval", data__eval_split="vall")
    with pytest.raises(DataError, match="vall"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_search_that_comes_to_its_longest_length_says_so(devkit, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(search, "say_once", said.append)
    loop.train(_config(devkit, steps=1), tmp_path)
    assert any("ended by its longest allowed length, 1 steps" in line for line in said)
    assert json.loads((tmp_path / "schedule.json").read_text())["ended"] is False


def test_a_search_resumes_from_an_older_note(devkit):
    fresh = search.begin(_config(devkit), Score("miou", higher=True))
    fresh.update(2, 0.5)
    old = {"stopping": fresh.to_json(), "looks": [], "looked": 2}
    json_files.check(old, progress.SEARCHING["search"])
    assert EarlyStopping.from_json(old["stopping"]) == fresh


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping__holdout": 1.5}, "holdout=1.5"),
        ({"early_stopping__window": 0}, "window=0"),
        ({"early_stopping__mode": "crossval", "schedule_from": "x"}, "leave out config.schedule"),
        ({"schedule_from": "x"}, "leave out config.schedule_from"),
    ],
)
def test_searches_that_cannot_be_are_refused(devkit, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        loop.train(_config(devkit, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
