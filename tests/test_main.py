"""The command itself: a run that is killed and goes on, and mistakes that become sentences."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TINY = (
    "--config=configs/quickstart.py", "--config.steps=8", "--config.model.width=0.03125",
    "--config.model.hidden=8", "--config.data.crop=32", "--config.data.scale=(40,50)",
    "--config.data.batch_size=4", "--config.checkpoint.every=2", "--config.checkpoint.keep=20",
    "--config.eval.photos=4", "--config.log.every=1", "--config.eval.statistics_batches=1",
)  # fmt: skip


def _command(*flags):
    return [sys.executable, "-m", "colorize_jax.main", *flags]


def _run(*flags):
    return subprocess.run(_command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_run_killed_without_mercy_goes_on(tmp_path):
    flags = (*TINY, f"--workdir={tmp_path}")
    process = subprocess.Popen(_command(*flags), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints" / "2").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = _run(*flags)
    assert result.returncode == 0, result.stderr
    assert "done: 8 steps" in result.stderr and "/8  loss " in result.stderr
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 8
    steps = [
        json.loads(row)["step"] for row in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config=configs/quickstart.py", "--config.optimizer.rat=1"), 'Did you mean "rate"'),
        (("--config=configs/vgg16_col.py:short",), "no variant 'short'; known: long"),
        (("--config=configs/absent.py",), "configs/absent.py"),
        (("--config=configs/vgg16_col.py",), "config.data.source is empty"),
    ],
)
def test_mistakes_become_sentences(tmp_path, flags, message):
    result = _run(*flags, f"--workdir={tmp_path}")
    assert result.returncode != 0
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_quickstart_learns(tmp_path):
    process = subprocess.Popen(
        _command("--config=configs/quickstart.py", f"--workdir={tmp_path}"),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},  # as a user runs it
    )
    saves = []
    while process.poll() is None:
        found = sorted(int(p.name) for p in tmp_path.glob("checkpoints/*") if p.name.isdigit())
        if found and (not saves or saves[-1][0] != found[-1]):
            saves.append((found[-1], time.monotonic()))
        time.sleep(0.2)
    assert process.returncode == 0
    times = [moment for _, moment in saves]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) < 15
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = [row for row in rows if "eval/loss" in row]
    assert scores[-1]["eval/loss"] < scores[-1]["eval/loss_constant"]
    assert scores[-1]["eval/loss"] <= 0.9 * scores[0]["eval/loss"]
