"""A run that gets SIGTERM or SIGINT at any moment saves and later resumes to the bit."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import chaos
import chex
import pytest
import saved
import tiny

from colorize_jax.checkpoints import manifest, writing
from colorize_jax.data import pipeline
from colorize_jax.errors import Interrupted, SaveError
from colorize_jax.training import loop, saving, sharding
from colorize_jax.training.report import Report
from colorize_jax.training.runner import Runner
from colorize_jax.training.signals import ASKING, Signals, Stop, abandoned_function_runs

WAITING = """
import signal, sys, hashlib
sys.path.insert(0, "{root}")
from colorize_jax.training.signals import Signals
with Signals() as signals:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # as compilation: no Python runs
"""


# Setting it ends the waits on the dead disk, so that the test can end.
DEAD_DISK = threading.Event()


@pytest.fixture(scope="module", autouse=True)
def patience():
    """On a slow machine closing may take longer than allowed, which would end pytest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colorize_jax.training.signals.CLOSING_SECONDS", 300.0)
        yield


def _raise(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def _before(patch, owner, name, when, number=signal.SIGTERM):
    """The signal comes just before a call of a method for which `when(self, *args)` is true."""
    plain = getattr(owner, name)

    def hooked(self, *args, **kwargs):
        if when(self, *args):
            _raise(number)
        return plain(self, *args, **kwargs)

    patch.setattr(owner, name, hooked)


def _while_compiling(patch):
    plain = sharding.jit_step

    def jit_step(*arguments):
        threading.Timer(0.2, _raise).start()
        return plain(*arguments)

    patch.setattr(sharding, "jit_step", jit_step)


def _while_waiting_for_data(patch):
    plain = pipeline.TrainingExamples.__getitem__

    def stalling(self, position):
        if position == 16:  # It is in the third step, after the batches of the statistics.
            time.sleep(1)  # The run uses up its prefetched batches and then waits.
            _raise()
        if position >= 16:
            DEAD_DISK.wait(100)
        return plain(self, position)

    patch.setattr(pipeline.TrainingExamples, "__getitem__", stalling)


def _while_restoring(patch):
    plain = writing.ocp.load_checkpointables

    def loading(folder, wanted):
        threading.Timer(0.005, _raise).start()
        return plain(folder, wanted)

    patch.setattr(writing.ocp, "load_checkpointables", loading)


def _while_a_save_is_under_way(patch):
    plain, progress = manifest.write, Report.progress
    raised = threading.Event()

    def write(folder):
        if folder.name == "4":
            _raise()
            raised.set()
            time.sleep(2)
        plain(folder)

    def slow(self, step, values):
        if step == 5:
            raised.wait(100)  # On a slow disk the save gets here only after the last step.
        progress(self, step, values)

    patch.setattr(manifest, "write", write)
    patch.setattr(Report, "progress", slow)


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
    _before(patch, saving.Checkpoints, "save", lambda self, step, *_: step == 4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    loop.train(tiny.config(log__every=1, checkpoint__every=4), workdir)
    return workdir


def test_a_run_stopped_at_every_kind_of_moment_ends_bit_identical(
    tmp_path, undisturbed, monkeypatch, capfd
):
    config = tiny.config(log__every=1, checkpoint__every=4)
    for stop, step, newest in (
        (_while_compiling, "stopped before it trained", None),
        (_while_evaluating, "stopped after step 0: nothing is lost", None),
        # The step is 2 on a fast machine.
        (_while_waiting_for_data, r"stopped after step ([012])", None),
        (_while_restoring, "stopped before it trained", None),
        (_while_stepping, "SIGINT: stopped after step 3 of 6", 3),
        (_while_evaluating, "stopped after step 3 of 6", 3),
        (_while_saving, "stopped after step 4 of 6", 4),
    ):
        DEAD_DISK.clear()
        with monkeypatch.context() as patch:
            stop(patch)
            began = time.monotonic()
            with pytest.raises(Interrupted, match=step) as caught:
                loop.train(config, tmp_path)
            assert time.monotonic() - began < 60  # It did not wait for the dead disk.
            DEAD_DISK.set()
        found = max((int(p.name) for p in (tmp_path / "checkpoints").iterdir()), default=None)
        if stop is _while_waiting_for_data:
            waited = int(re.search(step, str(caught.value))[1]) or None
        if stop in (_while_waiting_for_data, _while_restoring):
            newest = waited
        assert found == newest
        assert "SIG" in capfd.readouterr().err
    loop.train(config, tmp_path)
    assert "going on from step 4" in capfd.readouterr().err
    chex.assert_trees_all_equal(saved.state(tmp_path, 6), saved.state(undisturbed, 6))
    # The interrupted evaluation was repeated, and no row occurs twice.
    scores = [(row["step"], row["eval/loss"]) for row in saved.rows(tmp_path) if "eval/loss" in row]
    expected = [
        (row["step"], row["eval/loss"]) for row in saved.rows(undisturbed) if "eval/loss" in row
    ]
    assert scores == expected
    results = [json.loads((w / "results.json").read_text()) for w in (tmp_path, undisturbed)]
    for found in results:
        assert found.pop("checkpoint").endswith("checkpoints/6")
        assert found.pop("seconds") > sum(found.pop("spent").values()) > 0
    assert results[0] == results[1]


def test_a_signal_while_a_save_is_under_way_waits_for_it(tmp_path, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        _while_a_save_is_under_way(patch)
        with pytest.raises(Interrupted, match="step [456] of 6.*saved"):
            loop.train(tiny.config(log__every=1, checkpoint__every=4), tmp_path)
    # The evaluation of step 3 was interrupted twice and repeated; it has one row.
    for kill in (Interrupted, None):
        with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
            if kill:
                _while_evaluating(patch)
                stack.enter_context(pytest.raises(Interrupted))
            loop.train(tiny.config(log__every=1, checkpoint__every=4), tmp_path)
    rows = [[r["step"] for r in saved.rows(w) if "eval/loss" in r] for w in (tmp_path, undisturbed)]
    assert rows[0] == rows[1] == [0, 3, 6]
    chex.assert_trees_all_equal(saved.state(tmp_path, 6), saved.state(undisturbed, 6))


def test_a_stop_that_cannot_be_saved_says_so(tmp_path, monkeypatch):
    _while_stepping(monkeypatch)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.ocp, "save_checkpointables_async", full)
    with pytest.raises(SaveError, match="step 3.*No space"):
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
        with pytest.raises(Stop):
            signals.wait_for(lambda: pytest.fail("not reached"))
        with pytest.raises(Stop):
            signals.check()
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.mark.parametrize("number", ASKING)
def test_asking_signals_stop_the_run_unless_they_are_ignored(number):
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_IGN)  # nohup does this.
        with Signals() as signals:
            _raise(number)
            time.sleep(0.05)
            assert signals.received is None
        signal.signal(number, signal.SIG_DFL)
        with pytest.raises(Interrupted, match=number.name), Signals() as signals:
            _raise(number)
            signals.wait_for(lambda: time.sleep(10))
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_what_is_waited_for_gives_and_raises_what_it_would_without_signals():
    def fails():
        raise error

    with Signals() as signals:
        for error in (KeyError("a"), StopIteration(), SystemExit(3)):
            with pytest.raises(type(error)) as caught:
                signals.wait_for(fails)
            assert caught.value is error
            assert signals.wait_for(threading.current_thread) is not threading.current_thread()
    assert not abandoned_function_runs()


def test_elsewhere_than_in_the_main_thread_nothing_is_caught_and_waiting_is_plain():
    found, before = [], signal.getsignal(signal.SIGTERM)

    def run():
        with Signals() as signals:
            found.append(signals.wait_for(threading.current_thread))
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [thread, before]


def test_a_signal_at_any_moment_ends_the_wait_and_leaves_the_rest_to_itself():
    end, undisturbed = threading.Event(), []

    def waiting():
        _raise(signal.SIGINT)  # It often comes before the main thread sleeps.
        end.wait(100)
        undisturbed.append(True)

    began = time.monotonic()
    for _ in range(300):
        with pytest.raises(Interrupted, match="SIGINT"), Signals() as signals:
            signals.wait_for(waiting)
        assert abandoned_function_runs()
    assert time.monotonic() - began < 60
    end.set()
    while abandoned_function_runs():
        assert time.monotonic() - began < 90
        time.sleep(0.01)
    assert len(undisturbed) == 300


def test_in_a_notebook_the_second_one_is_a_keyboard_interrupt(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    with pytest.raises(KeyboardInterrupt), Signals() as signals:
        _raise(signal.SIGINT)
        time.sleep(0.2)
        assert signals.received == "SIGINT"
        _raise(signal.SIGINT)
        time.sleep(10)


LEAVING = """
import sys, threading
sys.path.insert(0, "{root}")
from concurrent import futures
import argparse
from colorize_jax import command_line
from colorize_jax.training.signals import Signals
def hanging():
    print("ready", flush=True)
    futures.ThreadPoolExecutor(1).submit(threading.Event().wait, 1000).result()  # Python waits too
def main(asked):
    with Signals() as signals:
        signals.wait_for(hanging)
command_line.run(main, argparse.ArgumentParser())
"""


def test_a_process_with_an_abandoned_function_ends_with_the_right_code(tmp_path):
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING.format(root=saved.ROOT))
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - began < 8  # Otherwise it takes the ten seconds of `exit_within`.
    assert process.returncode == Interrupted.exit_code
    assert "SIGTERM: stopped before it trained" in error


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
    for again in (signal.SIGHUP, number):  # `timeout` signals a process and its group at once.
        process.send_signal(again)
    time.sleep(1.2)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    assert time.monotonic() - began < 5
    process.stdout.close()
    process.stderr.close()


@pytest.mark.slow
def test_a_run_outlives_its_parent_and_its_reader(tmp_path):
    words = chaos.command(tmp_path / "run", "--config.steps=300")
    parent = subprocess.Popen(
        ["sh", "-c", '"$@" 2>&1 & wait', "sh", *words], cwd=saved.ROOT, stdout=subprocess.PIPE,
        env=chaos.environment(tmp_path / "cache"), text=True,
    )  # fmt: skip
    for line in parent.stdout:
        if line.startswith("step 10/"):
            break
    parent.kill()
    parent.stdout.close()  # Nobody reads any more.
    parent.wait()
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    rows = saved.rows(tmp_path / "run")
    assert rows[-1]["step"] == 300 and sum(r.get("log/lines_lost", 0) for r in rows) > 20
