"""Kills a run of the command at random moments, and starts it again, until it is through."""

import os
import random
import signal
import subprocess
import sys
import time

import saved


def command(workdir, *flags):
    """The command line of the tiny run."""
    return [
        sys.executable, "-m", "colorize_jax.main", "--config=tests/tiny.py",
        f"--workdir={workdir}", "--config.checkpoint.every=20", "--config.eval.every=100",
        "--config.log.every=10", "--config.data.batch_size=4", *flags,
    ]  # fmt: skip


def environment(cache):
    """One device, and what was compiled once is not compiled again."""
    return os.environ | {
        "PYTHONPATH": f"{saved.ROOT}:{saved.ROOT / 'tests'}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


def finish(workdir, cache, *flags):
    """A run, or the rest of one, undisturbed."""
    result = subprocess.run(
        command(workdir, *flags), cwd=saved.ROOT, env=environment(cache), capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stderr


def torment(workdir, cache, kills, seed, *flags):
    """Ends the run `kills` times, in turn by SIGTERM and SIGKILL.

    A third of the kills fall anywhere from the start of the process on, the others once it trains.

    Returns:
        [(signal, seconds from signal to end, exit code, step of the newest checkpoint)].
    """
    rng, log = random.Random(seed), []
    for kill in range(kills):
        process = subprocess.Popen(
            command(workdir, *flags), cwd=saved.ROOT, env=environment(cache),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        number = signal.SIGTERM if kill % 2 == 0 else signal.SIGKILL
        if kill % 3:
            for line in process.stderr:
                if " steps of " in line:  # the last line before the first step
                    break
            time.sleep(rng.uniform(0, 3))
        else:
            time.sleep(rng.uniform(0, 10))
        began = time.monotonic()
        process.send_signal(number)
        errors = process.communicate(timeout=120)[1]
        seconds, code = time.monotonic() - began, process.returncode
        # Before Python has come to our handlers, SIGTERM kills as it always does.
        expected = (75, -signal.SIGTERM) if number == signal.SIGTERM else (-signal.SIGKILL,)
        assert code in (*expected, 0), errors
        steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
        log.append((number.name, round(seconds, 1), code, max(steps, default=0)))
        if code == 0:
            break
    return log
