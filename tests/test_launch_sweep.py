"""Sweeps: many through stub launchers, and one real run."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from colorize_jax.errors import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from colorize_jax.config import default_config, variants

def get_config(variant=""):
    variants(variant, ("long",))
    return default_config()

def sweep():
    yield {"optimizer.rate": 1e-3}
    yield {"optimizer.rate": 0.01, "data.scale": (64, 80)}
    yield {"model.hypercolumn": False, "data.source": "/some photos"}
"""
NAMES = (
    "optimizer.rate=0.001",
    "optimizer.rate=0.01,data.scale=(64,80)",
    "model.hypercolumn=False,data.source=_some_photos",
)
RESULTS = {
    "step": 4, "eval/iou/cat": 0.5, "seed": 0, "seconds": 3.0, "data": {"photos": 5},
    "schedule": {"steps": 4, "drops": []}, "hardware": "an abacus",
}  # fmt: skip
# The stub notes its arguments, writes scores if it trains, and exits with the test's code.
LAUNCHER = """
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (here / "calls").open("a") as file:
    file.write(json.dumps([pathlib.Path(__file__).stem, *words]) + "\\n")
workdir = pathlib.Path(next(w for w in words if w.startswith("--workdir="))[10:])
code = json.loads((here / "codes").read_text()).get(workdir.name, 0)
if code == 0 and pathlib.Path(__file__).stem in ("local", "tpu_vm") and "--dry-run" not in words:
    workdir.mkdir(parents=True)
    (workdir / "results.json").write_text(json.dumps(RESULTS | {
        "eval/loss": 1 / len(workdir.name),
        "metric": {"name": "loss", "value": 1 / len(workdir.name), "higher_is_better": False},
    }))
sys.exit(code)
"""


class _Sweep:
    """The command with launchers that only note their arguments."""

    def __init__(self, folder, monkeypatch, capfd):
        spec = importlib.util.spec_from_file_location("sweep", ROOT / "launch" / "sweep.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.folder, self.workdir, self._output = folder, folder / "sweeps" / "rates", capfd
        monkeypatch.chdir(folder)
        self._calls, self._codes = folder / "calls", folder / "codes"
        for name in ("local", "slurm", "tpu_vm", "kubernetes"):
            path = folder / f"{name}.sh"
            path.write_text(f"#!{sys.executable}\nRESULTS = {RESULTS}\n{LAUNCHER}")
            path.chmod(0o755)
        monkeypatch.setattr(self.module, "LAUNCH", folder)
        (folder / "recipe.py").write_text(CONFIG)
        self.codes()

    def codes(self, **codes):
        """Sets the exit codes of runs by their place in the sweep: second=1."""
        places = ("first", "second", "third")
        named = {NAMES[places.index(place)]: code for place, code in codes.items()}
        self._codes.write_text(json.dumps(named))

    def calls(self):
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [json.loads(line) for line in lines]

    def run(self, *flags, config="recipe.py"):
        """Runs the command and returns its result with the output."""
        code = self.module.main([f"--config={config}", f"--workdir={self.workdir}", *flags])
        return subprocess.CompletedProcess([], code, *self._output.readouterr())


@pytest.fixture
def sweep(tmp_path, monkeypatch, capfd):
    return _Sweep(tmp_path, monkeypatch, capfd)


def _rows(text):
    """{name of the run: the other cells} of a Markdown table."""
    lines = [
        [cell.strip() for cell in line.strip("| \n").split(" | ")]
        for line in text.split("\n")
        if line.startswith("|")
    ]
    return {line[0]: line[1:] for line in lines if line[0] not in ("", "---")}


def test_runs_in_order_and_shows_scores(sweep):
    result = sweep.run("--", "--config.steps=4", "--config.data.crop=64")
    assert result.returncode == 0, result.stderr
    more = ["--config.steps=4", "--config.data.crop=64"]
    flags = (
        ["--config.optimizer.rate=0.001"],
        ["--config.optimizer.rate=0.01", "--config.data.scale=(64,80)"],
        ["--config.model.hypercolumn=False", "--config.data.source=/some photos"],
    )
    assert sweep.calls() == [
        ["local", "--", "--config=recipe.py", f"--workdir={sweep.workdir / name}", *more, *own]
        for name, own in zip(NAMES, flags, strict=True)
    ]
    rows = _rows(result.stdout)
    assert rows["run"] == ["state", "step", "eval/loss"]
    assert list(rows)[1:] == list(NAMES)
    assert rows[NAMES[0]] == ["done", "4", f"{1 / len(NAMES[0]):.6g}"]
    longest = max(NAMES, key=len)
    assert f"best: {longest}, loss {1 / len(longest):.6g}" in result.stdout
    assert (sweep.workdir / "sweep.md").read_text() == result.stdout


def test_a_sweep_may_depend_on_the_variant(sweep):
    recipe = str(ROOT / "configs" / "voc2012_seg.py")
    names = [run.name for run in sweep.module.load(f"{recipe}:random,no_fov").runs()]
    assert names == [
        f"model.norm={norm},optimizer.rate={rate}"
        for norm in ("batch", "none")
        for rate in (0.0003, 0.001, 0.003)
    ]
    assert len(sweep.module.load(recipe).runs()) == 3


def test_a_table_of_how_many_layers_to_freeze(sweep):
    recipe = str(ROOT / "configs" / "downstream_cls.py")
    runs = sweep.module.load(f"{recipe}:select,depths,random,alexnet_bn").runs()
    depths = [run.settings["finetune"] for run in runs]
    assert depths[:3] == ["head", "fc7..fc7", "fc6..fc7"] and depths[-1] == "conv1..fc7"
    with pytest.raises(ConfigError, match="select"):
        sweep.module.load(f"{recipe}:depths")


def test_skips_what_is_done(sweep):
    assert sweep.run().returncode == 0
    again = sweep.run()
    assert again.returncode == 0 and len(sweep.calls()) == 3
    assert {row[0] for name, row in _rows(again.stdout).items() if name != "run"} == {"done"}


def test_a_failed_run_is_named_and_the_sweep_continues(sweep):
    sweep.codes(second=74)
    result = sweep.run()
    assert result.returncode == 1 and len(sweep.calls()) == 3
    assert f"failed: {NAMES[1]}" in result.stderr
    rows = _rows(result.stdout)
    assert rows[NAMES[1]][0] == "failed with exit code 74" and rows[NAMES[2]][0] == "done"
    sweep.codes()
    assert sweep.run().returncode == 0 and len(sweep.calls()) == 4


def test_stops_when_a_run_is_stopped_and_goes_on_there(sweep):
    sweep.codes(second=75)
    result = sweep.run()
    assert result.returncode == 75 and len(sweep.calls()) == 2
    rows = _rows(result.stdout)
    assert rows[NAMES[0]][0] == "done" and "stopped" in rows[NAMES[1]][0]
    assert rows[NAMES[2]][0] == "not started"
    sweep.codes()
    assert sweep.run().returncode == 0 and len(sweep.calls()) == 4


@pytest.mark.parametrize("through", ("slurm", "kubernetes"))
def test_submits_each_once(sweep, through):
    flags = (f"--through={through}", "--options=--nodes=2 --comment='a b'")
    sweep.codes(third=1)
    result = sweep.run(*flags, config="recipe.py:long")
    assert result.returncode == 1
    calls = sweep.calls()
    assert len(calls) == 3
    for name, call in zip(NAMES, calls, strict=True):
        job = call[3].partition("=")
        assert call[:3] == [through, "--nodes=2", "--comment=a b"] and call[4] == "--"
        assert job[0] == {"slurm": "--job-name", "kubernetes": "--name"}[through]
        assert len(job[2]) <= 40 and set(job[2]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert call[5:7] == ["--config=recipe.py:long", f"--workdir={sweep.workdir / name}"]
    assert len({call[3] for call in calls}) == 3
    sweep.codes()
    done = RESULTS | {
        "eval/loss": 2.5,
        "metric": {"name": "loss", "value": None, "higher_is_better": False},
    }
    (sweep.workdir / NAMES[0] / "results.json").write_text(json.dumps(done))
    again = sweep.run(*flags, config="recipe.py:long")
    assert again.returncode == 0
    # Only the run that could not be submitted is submitted again.
    assert sweep.calls()[3:] == [calls[2]]
    rows = _rows(again.stdout)
    assert rows[NAMES[0]] == ["done", "4", "2.5"] and "best" not in again.stdout
    assert "submitted before" in rows[NAMES[1]][0] and rows[NAMES[2]][0] == "submitted"


def test_dry_run_asks_every_launcher_for_one_and_leaves_nothing(sweep):
    for through in ("local", "slurm"):
        assert sweep.run("--dry-run", f"--through={through}").returncode == 0
    called = [(call[0], "--dry-run" in call) for call in sweep.calls()]
    assert called == [("local", True)] * 3 + [("slurm", True)] * 3
    assert not sweep.workdir.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "there is no file recipe.py"),
        ("", "recipe.py has no function sweep"),
        ("def sweep():\n    yield {'optimizer.rat': 1}", "yields optimizer.rat=1: .*Did you mean"),
        ("def sweep():\n    yield {'optimizer.rate.x': 1}", "has no field optimizer.rate.x"),
        ("def sweep():\n    yield {'optimizer': 1}", "optimizer is a group"),
        ("def sweep():\n    yield {'seed': 'x'}", "config.seed=x must be a whole number"),
        ("def sweep():\n    yield {'seed': 1}\n    yield {'seed': 1}", "yields seed=1 twice"),
        ("def sweep():\n    yield from ()", "yields nothing"),
    ],
)
def test_mistakes_become_sentences(sweep, body, message):
    recipe = sweep.folder / "recipe.py"
    if body is None:
        recipe.unlink()
    else:
        recipe.write_text(CONFIG.partition("def sweep")[0] + body)
    result = sweep.run()
    assert result.returncode == 1 and result.stderr.startswith("error: ")
    assert re.search(message, result.stderr) and sweep.calls() == []


def test_unknown_variant_is_named(sweep):
    result = sweep.run(config="recipe.py:short")
    assert result.returncode == 1 and "no variant 'short'; known: long" in result.stderr


def test_a_recipe_sweeps_the_learning_rate(tmp_path):
    result = subprocess.run(
        [sys.executable, "launch/sweep.py", "--config=configs/vgg16_col.py",
         f"--workdir={tmp_path}", "--dry-run"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(set(lines)) == 3
    assert all(line.startswith("python -m colorize_jax.main --config=") for line in lines)
    assert all("--config.optimizer.rate=" in line for line in lines)


@pytest.mark.slow
def test_a_real_sweep(tmp_path):
    (tmp_path / "recipe.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "import tiny\n"
        "def get_config():\n    return tiny.config(steps=2, data__batch_size=2, eval__photos=2)\n"
        "def sweep():\n    yield {'seed': 1}\n    yield {'seed': 2}\n"
    )
    flags = (f"--config={tmp_path / 'recipe.py'}", f"--workdir={tmp_path / 'seeds'}")
    # Both runs share one compiled program; speed does not matter.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    result = subprocess.run(
        [sys.executable, "launch/sweep.py", *flags, "--", "--config.optimizer.rate=0.25"],
        cwd=ROOT, env=os.environ | cache, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows, losses = _rows(result.stdout), []
    for seed in (1, 2):
        workdir = tmp_path / "seeds" / f"seed={seed}"
        settings = json.loads((workdir / "config.json").read_text())
        assert (settings["optimizer"]["rate"], settings["seed"]) == (0.25, seed)
        losses.append(json.loads((workdir / "results.json").read_text())["eval/loss"])
        assert rows[workdir.name][rows["run"].index("eval/loss")] == f"{losses[-1]:.6g}"
    assert losses[0] != losses[1]
