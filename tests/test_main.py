"""The train command: a killed run resumes, and mistakes are printed as one sentence."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import chaos
import pytest

from colorize_jax import command_line, main
from colorize_jax.errors import ColorizeError

ROOT = pathlib.Path(__file__).parent.parent


def _command(*flags):
    return [sys.executable, "-m", "colorize_jax.main", *flags]


def _run(*flags):
    return subprocess.run(_command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # One before JAX is imported, and one of the run itself.
        (
            ("--config=configs/quickstart.py", "--config.optimizer.rat=1"),
            "Did you mean optimizer.rate?",
        ),
        (("--config=configs/vgg16_col.py",), "config.data.source is empty"),
    ],
)
def test_mistakes_become_sentences(tmp_path, flags, message):
    result = _run(*flags, f"--workdir={tmp_path}")
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config=configs/vgg16_col.py:short",), "no variant 'short'; known: long"),
        (("--config=configs/absent.py",), "configs/absent.py"),
        (
            ("--config=configs/quickstart.py", "--config.replay=/nowhere/nonfinite_3.json",
             "--config.distributed.mode=off"),
            "there is no /nowhere/nonfinite_3.json",
        ),
        (("--config=configs/quickstart.py", "--config.distributed.mode=on"), "'on'; known: auto"),
    ],
)  # fmt: skip
def test_mistakes_are_errors_with_a_sentence(tmp_path, monkeypatch, flags, message):
    """`command_line.run` prints the sentence of each of these errors, as the test above shows."""
    monkeypatch.chdir(ROOT)
    words = (*flags, f"--workdir={tmp_path}")
    with pytest.raises(ColorizeError, match=re.escape(message)):
        main.main(command_line.parse(main.parser(), words))


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--config=configs/quickstart.py",),
        ("--config=configs/quickstart.py", "--config.seed=1", "--config.model.dtype=bfloat16"),
        ("--config=configs/quickstart.py:regression", "--config.seed=2"),
    ],
)
def test_quickstart_learns_whatever_the_seed_and_the_rounding(flags, tmp_path):
    process = subprocess.Popen(
        _command(*flags, f"--workdir={tmp_path}"),
        cwd=ROOT,
        # A user runs it without these flags.
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
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
    constant = scores[-1]["eval/loss_constant"]
    assert scores[-1]["eval/loss"] <= 0.9 * constant
    assert all(row["eval/loss"] <= constant for row in scores[1:])
    for name in ("psnr", "auc"):
        assert scores[-1][f"eval/{name}"] > scores[-1][f"eval/{name}_gray"]


def test_ctrl_c_reaches_the_workers_too_and_the_run_still_ends_in_order(tmp_path):
    command = chaos.command(tmp_path, "--config.data.workers=2", "--config.steps=50000")
    with subprocess.Popen(
        command, cwd=ROOT, env=chaos.environment(tmp_path / "cache"), stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        for line in process.stderr:
            if "step 10/50000" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=100)[1]
    assert process.returncode == 75, said
    assert "SIGINT: stopped after step" in said and "Traceback" not in said
