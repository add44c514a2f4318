"""A run that is disturbed and killed at random moments gives the same results as another run."""

import functools

import chaos
import chex
import numpy as np
import pytest
import saved
import tiny


def _compare(tmp_path, steps, kills, seed, torment=chaos.torment, finish=chaos.finish, more=()):
    flags = (f"--config.steps={steps}", *more)
    finish(tmp_path / "undisturbed", tmp_path / "cache", *flags)
    log = torment(tmp_path / "killed", tmp_path / "cache", kills, seed, *flags)
    print(*log, sep="\n")
    finish(tmp_path / "killed", tmp_path / "cache", *flags)
    states = [saved.state(tmp_path / run, steps) for run in ("killed", "undisturbed")]
    chex.assert_trees_all_equal(*states)
    rows = [saved.rows(tmp_path / run, times=False) for run in ("killed", "undisturbed")]
    assert rows[0] == rows[1]
    return log


def _compare_hosts(tmp_path, steps, kills, seed):
    # Saves follow each other closely, so that many kills come during a save.
    return _compare(
        tmp_path, steps, kills, seed, chaos.torment_hosts, chaos.finish_hosts,
        ["--config.checkpoint.every=10", "--config.eval.every=50"],
    )  # fmt: skip


def test_two_kills(tmp_path):
    _compare(tmp_path, 300, 2, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "collection"), [("instances", "memory"), ("teacher:make_task", "ema")]
)
def test_two_kills_of_a_run_with_a_bank_or_a_teacher(tmp_path, task, collection):
    log = _compare(tmp_path, 1000, 2, 0, more=[f"--config.task.name={task}"])
    assert len(log) == 2, "it was through before it was killed: give it more steps"
    before, after = (saved.state(tmp_path / "killed", step)[collection] for step in (980, 1000))
    with pytest.raises(AssertionError):  # The collection changes from step to step.
        chex.assert_trees_all_equal(before, after)


@pytest.mark.slow
def test_two_kills_of_one_of_two_hosts(tmp_path):
    _compare_hosts(tmp_path, steps=100, kills=2, seed=3)


@pytest.mark.chaos
def test_twenty_kills(tmp_path):
    log = _compare(tmp_path, 6000, 20, 1)
    assert len(log) == 20, "it was through before it was killed so often: give it more steps"


@pytest.mark.chaos
def test_thirty_kills_of_one_of_two_hosts(tmp_path):
    log = _compare_hosts(tmp_path, steps=1000, kills=30, seed=2)
    assert len(log) == 30, "it was through before it was killed so often: give it more steps"


@pytest.mark.chaos
def test_a_hundred_outages_dead_workers_and_kills(tmp_path):
    photos = tmp_path / "photos"
    tiny.write_photos(photos, 40, np.random.default_rng(0))
    flags = (f"--config.data.source={photos}", "--config.data.holdout=0.2",
             "--config.data.workers=2", "--config.data.worker_restarts=100",
             "--config.data.retry_seconds=60")  # fmt: skip
    torment = functools.partial(chaos.torment, photos=photos)
    log = _compare(tmp_path, 10_000, 30, 2, torment, more=flags)
    assert len(log) >= 100, "it was through before it was hit so often: give it more steps"
