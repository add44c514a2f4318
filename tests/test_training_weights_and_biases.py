"""Weights & Biases gets the rows of the report, and can do a run no harm. A stand-in is tested."""

import json
import sys
import types

import numpy as np
import pytest
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.training import beginning, report, sharding, weights_and_biases


class _Package(types.ModuleType):
    """What our code uses of the package, and a list of what it was given."""

    def __init__(self):
        super().__init__("wandb")
        self.given, self.broken = [], False

    def init(self, **settings):
        self.given.append(("init", settings))
        if self.broken == "init":
            raise RuntimeError("api_key not configured\nrun wandb login")
        return self

    def define_metric(self, name, step_metric):
        self.given.append(("define_metric", name, step_metric))

    def log(self, values):
        if self.broken:
            raise RuntimeError("no network")
        self.given.append(("log", values))

    def finish(self, exit_code):
        self.given.append(("finish", exit_code))

    def Image(self, picture):  # noqa: N802 (the package's)
        return f"picture of {picture.shape}"


@pytest.fixture
def package(monkeypatch):
    found = _Package()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


def _report(workdir, project="photos", step=0):
    tracker = weights_and_biases.start(tiny.config(log__wandb=project), workdir)
    return report.Report(workdir, step=step, steps=9, tracker=tracker)


def test_rows_and_pictures_of_the_report_arrive(tmp_path, package):
    with _report(tmp_path) as written:
        written.write(1, {"train/loss": 0.5, "train/rate": float("nan")})
        written.evaluation(2, {"eval/loss": 0.25}, np.zeros((4, 12, 3), np.uint8))
    (_, settings), *rest = package.given
    assert settings["project"] == "photos" and settings["resume"] == "allow"
    assert settings["config"]["data"]["crop"] == 32 and settings["name"] == tmp_path.name
    assert rest == [
        ("define_metric", "*", "step"),
        ("log", {"step": 1, "train/loss": 0.5}),
        ("log", {"step": 2, "eval/loss": 0.25}),
        ("log", {"step": 2, "pictures": "picture of (4, 12, 3)"}),
        ("finish", 0),
    ]


def test_a_resumed_run_is_the_same_run_there_and_another_is_not(tmp_path, package):
    for folder, step in (("one", 0), ("one", 3), ("two", 0)):
        (tmp_path / folder).mkdir(exist_ok=True)
        with _report(tmp_path / folder, step=step):
            pass
    first, resumed, other = (given[1]["id"] for given in package.given if given[0] == "init")
    assert first == resumed != other
    assert json.loads((tmp_path / "one" / weights_and_biases.FILE).read_text()) == {"id": first}


def test_a_run_that_fails_ends_as_failed_there(tmp_path, package):
    with pytest.raises(KeyError), _report(tmp_path):
        raise KeyError
    assert package.given[-1] == ("finish", 1)


@pytest.mark.parametrize("broken", ["init", "log"])
def test_problems_there_are_said_once_and_end_no_run(tmp_path, package, capsys, broken):
    package.broken = broken
    with _report(tmp_path) as written:
        for step in (1, 2):
            written.write(step, {"train/loss": 0.5})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    said = capsys.readouterr().err
    assert said.count("Weights & Biases: ") == 1 and "wandb login" not in said
    assert {"init": "api_key not configured;", "log": "no network;"}[broken] in said
    assert not [given for given in package.given if given[0] in ("log", "finish")]


def test_it_is_off_by_default(tmp_path, package):
    assert weights_and_biases.start(tiny.config(), tmp_path) is None
    with _report(tmp_path, project="") as written:
        written.write(1, {"train/loss": 0.5})
    assert not package.given and not (tmp_path / weights_and_biases.FILE).exists()


@pytest.mark.parametrize("missing", [None, types.ModuleType("wandb")])
def test_a_run_without_the_package_is_told_before_it_begins(tmp_path, monkeypatch, missing):
    """An empty module is what Python imports of a folder with that name."""
    monkeypatch.setitem(sys.modules, "wandb", missing)
    config, workdir = tiny.config(log__wandb="photos"), tmp_path / "run"
    with pytest.raises(ConfigError, match=r"log.wandb='photos'.*pip install 'colorize_jax\[wandb"):
        beginning.check(config, workdir, sharding.make_mesh())
    assert not workdir.exists()
