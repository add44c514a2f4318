"""A run that is killed at random moments ends with the parameters of one that is not."""

import chaos
import chex
import pytest
import saved


def _compare(tmp_path, steps, kills, seed):
    flags = (f"--config.steps={steps}",)
    chaos.finish(tmp_path / "undisturbed", tmp_path / "cache", *flags)
    log = chaos.torment(tmp_path / "killed", tmp_path / "cache", kills, seed, *flags)
    said = chaos.finish(tmp_path / "killed", tmp_path / "cache", *flags)
    print(*log, sep="\n")
    assert f"done: {steps} steps" in said
    states = [saved.state(tmp_path / run, steps) for run in ("killed", "undisturbed")]
    chex.assert_trees_all_equal(*states)
    rows = [
        [(r["step"], r["eval/loss"]) for r in saved.rows(tmp_path / run) if "eval/loss" in r]
        for run in ("killed", "undisturbed")
    ]
    assert rows[0] == rows[1]
    return log


def test_two_kills(tmp_path):
    _compare(tmp_path, steps=300, kills=2, seed=0)


@pytest.mark.chaos
def test_twenty_kills(tmp_path):
    log = _compare(tmp_path, steps=6000, kills=20, seed=1)
    assert len(log) == 20, "it was through before it was killed so often: give it more steps"
