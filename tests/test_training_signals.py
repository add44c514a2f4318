"""A run that gets SIGTERM or SIGINT at any moment saves, says so, and goes on bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import chex
import pytest
import saved
import tiny

from colorize_jax.data import pipeline
from colorize_jax.errors import Interrupted, SaveError
from colorize_jax.evaluation.runner import Runner
from colorize_jax.training import checkpoint, loop, sharding
from colorize_jax.training.report import Report
from colorize_jax.training.signals import Signals, Stop

WAITING = """
import signal, sys, hashlib
sys.path.insert(0, "{root}")
from colorize_jax.training.signals import Signals
with Signals() as signals:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # as compilation: no Python runs
"""


DEAD_DISK = threading.Event()  # set: what hangs on it comes back, for the test to end


def _raise(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def _before(patch, owner, name, when, number=signal.SIGTERM):
    """The signal comes just before the call of a method for which `when(self, *args)` holds."""
    plain = getattr(owner, name)

    def hooked(self, *args, **kwargs):
        if when(self, *args):
            _raise(number)
        return plain(self, *args, **kwargs)

    patch.setattr(owner, name, hooked)


def _while_compiling(patch):
    _before(patch, sharding, "jit_step", lambda *_: True)


def _while_waiting_for_data(patch):
    plain = pipeline.TrainingExamples.__getitem__

    def stalling(self, position):
        if position == 16:  # in the third step, behind what the statistics read
            time.sleep(1)  # until the run has used up what was read before, and waits
            _raise()
        if position >= 16:
            DEAD_DISK.wait(100)
        return plain(self, position)

    patch.setattr(pipeline.TrainingExamples, "__getitem__", stalling)


def _while_stepping(patch):
    _before(patch, Report, "progress", lambda self, step, _: step == 3, signal.SIGINT)


def _while_evaluating(patch):
    plain = Runner.evaluate

    def evaluate(self, variables, statistics, batches, pictures=0):
        def signalled():
            for batch in batches:
                _raise()
                yield batch

        return plain(self, variables, statistics, signalled(), pictures)

    patch.setattr(Runner, "evaluate", evaluate)


def _while_saving(patch):
    _before(patch, checkpoint.Checkpoints, "save", lambda self, step, *_: step == 5)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    loop.train(tiny.config(log__every=1, checkpoint__every=5), workdir)
    return workdir


def test_a_run_stopped_at_every_kind_of_moment_ends_bit_identical(
    tmp_path, undisturbed, monkeypatch, capfd
):
    config = tiny.config(log__every=1, checkpoint__every=5)
    for stop, step, newest in (
        (_while_compiling, "before the first step", None),
        (_while_evaluating, "stopped after step 0: nothing is lost", None),
        (_while_waiting_for_data, r"stopped after step (\d)", None),  # 2 unless the machine is slow
        (_while_stepping, "SIGINT: stopped after step 3 of 6", 3),
        (_while_evaluating, "stopped after step 3 of 6", 3),
        (_while_saving, "stopped after step 5 of 6", 5),
    ):
        with monkeypatch.context() as patch:
            stop(patch)
            began = time.monotonic()
            with pytest.raises(Interrupted, match=step) as caught:
                loop.train(config, tmp_path)
            assert time.monotonic() - began < 60  # it did not wait for the dead disk
            DEAD_DISK.set()
        found = max((int(p.name) for p in (tmp_path / "checkpoints").iterdir()), default=None)
        if stop is _while_waiting_for_data:
            newest = int(re.search(step, str(caught.value))[1]) or None
        assert found == newest
        assert "SIG" in capfd.readouterr().err
    loop.train(config, tmp_path)
    assert "going on from step 5" in capfd.readouterr().err
    chex.assert_trees_all_equal(saved.state(tmp_path, 6), saved.state(undisturbed, 6))
    # The evaluation that was broken off was made up for; nothing is there twice.
    scores = [(row["step"], row["eval/loss"]) for row in saved.rows(tmp_path) if "eval/loss" in row]
    expected = [
        (row["step"], row["eval/loss"]) for row in saved.rows(undisturbed) if "eval/loss" in row
    ]
    assert scores == expected
    results = [json.loads((w / "results.json").read_text()) for w in (tmp_path, undisturbed)]
    assert results[0] == results[1]


def test_a_stop_that_cannot_be_saved_says_so(tmp_path, monkeypatch):
    _while_stepping(monkeypatch)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.ocp, "save_checkpointables_async", full)
    with pytest.raises(SaveError, match="stopped after step 3, which could not be saved: No space"):
        loop.train(tiny.config(log__every=1), tmp_path)


def test_exit_codes_are_those_of_the_manual():
    assert (Interrupted.exit_code, SaveError.exit_code) == (75, 74)


def test_the_first_signal_only_asks_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        _raise()
        for _ in range(100):
            if signals.received:
                break
            time.sleep(0.01)
        assert signals.received == "SIGTERM"
        with pytest.raises(Stop), signals.interruptible():
            raise AssertionError("not reached")
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    with pytest.raises(Interrupted, match="SIGINT"), Signals() as signals, signals.interruptible():
        _raise(signal.SIGINT)
        time.sleep(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_also_where_no_python_runs(tmp_path, number):
    script = tmp_path / "waiting.py"
    script.write_text(WAITING.format(root=saved.ROOT))
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert "a second one stops at once" in process.stderr.readline() + process.stderr.readline()
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    assert time.monotonic() - began < 5
    process.stdout.close()
    process.stderr.close()
