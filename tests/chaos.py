"""Disturbs and ends a run of the command at random moments, and starts it again, until it is
through."""

import contextlib
import os
import pathlib
import random
import signal
import socket
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
        text=True, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stderr


# What a run must outlive: each takes the process, the folder of its photos and random numbers.


def photos_go_away(process, photos, rng):
    """As storage over a network does."""
    away = photos.with_name("away")
    photos.rename(away)
    time.sleep(rng.uniform(0.1, 2))
    away.rename(photos)


def worker_dies(process, photos, rng):
    """As where memory is short."""
    if workers := data_workers(process.pid):
        os.kill(rng.choice(workers), signal.SIGKILL)


def worker_stands_still(process, photos, rng):
    """And goes on."""
    if workers := data_workers(process.pid):
        worker = rng.choice(workers)
        os.kill(worker, signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 2))
        os.kill(worker, signal.SIGCONT)


def run_stands_still(process, photos, rng):
    """And goes on."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.1, 2))
    process.send_signal(signal.SIGCONT)


DISTURBANCES = (photos_go_away, worker_dies, worker_stands_still, run_stands_still)


def data_workers(pid):
    """Process ids of those that read photos for a run."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in words:
                found.append(int(child))
    return found


def _codes(number):
    # Before Python has come to our handlers, a signal kills as it always does.
    return 75, -number, 128 + number


ENDS = {  # what ends it: the signals, and the exit codes that are right
    "SIGTERM": ((signal.SIGTERM,), _codes(signal.SIGTERM)),
    "SIGKILL": ((signal.SIGKILL,), (-signal.SIGKILL,)),
    "SIGHUP": ((signal.SIGHUP,), _codes(signal.SIGHUP)),
    "SIGTERM twice": ((signal.SIGTERM, signal.SIGTERM), _codes(signal.SIGTERM)),
}


def torment(workdir, cache, ends, seed, *flags, photos=None):
    """Ends the run `ends` times, by each of `ENDS` in turn.

    A third of the ends fall anywhere from the start of the process on, the others once it trains.
    With a folder of photos up to five `DISTURBANCES` come before each of the others.

    Returns:
        [(what, seconds from signal to end, exit code, step of the newest checkpoint)], and as many
        fields of a disturbance, which ends nothing.
    """
    rng, log = random.Random(seed), []
    said = workdir.with_name(f"{workdir.name}.log")
    for number in range(ends):
        name = list(ENDS)[number % len(ENDS)]
        with said.open("w") as file, _hangups_heard():
            process = subprocess.Popen(
                command(workdir, *flags), cwd=saved.ROOT, env=environment(cache),
                stdout=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip
        if number % 3:
            ready = "images/s" if photos else " steps of "  # or before the first evaluation
            while ready not in said.read_text() and process.poll() is None:
                time.sleep(0.05)
            for _ in range(rng.randint(3, 5) if photos else 0):
                time.sleep(rng.uniform(0, 2))
                if process.poll() is None:
                    disturbance = rng.choice(DISTURBANCES)
                    disturbance(process, photos, rng)
                    log.append((disturbance.__name__, 0, None, newest(workdir)))
            time.sleep(rng.uniform(0, 3))
        else:
            time.sleep(rng.uniform(0, 10))
        began = time.monotonic()
        signals, codes = ENDS[name]
        for one in signals:
            process.send_signal(one)
        code = process.wait(timeout=120)
        seconds = time.monotonic() - began
        assert code in (*codes, 0), said.read_text()
        log.append((name, round(seconds, 1), code, newest(workdir)))
        if code == 0:
            break
    return log


@contextlib.contextmanager
def _hangups_heard():
    """Under nohup, programs that the tests start would inherit that SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)  # is gone in a new program
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def newest(workdir):
    """Step of the newest checkpoint."""
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


# What the first of two hosts has last said when a phase begins.
PHASES = {
    "setting up": "host 0 of 2",
    "compiling": "compiling the step",
    "starting": "it needs",  # or restoring, where there is a checkpoint
    "evaluating": " steps of ",
    "training": "images/s",
}


@contextlib.contextmanager
def hosts(workdir, cache, *flags):
    """Two hosts of one run, [process, process]; each says what it has to say to `host<id>.txt`
    beside the workdir."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        *flags, "--config.data.threads=0", "--config.distributed.mode=explicit",
        "--config.distributed.count=2", f"--config.distributed.coordinator=127.0.0.1:{port}",
    )  # fmt: skip
    processes = []
    for host in range(2):
        with said(workdir, host).open("w") as errors:
            processes.append(
                subprocess.Popen(
                    command(workdir, *flags, f"--config.distributed.id={host}"), cwd=saved.ROOT,
                    env=environment(cache), stdout=subprocess.DEVNULL, stderr=errors,
                )
            )  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def said(workdir, host):
    """The file with all that a host has said."""
    return workdir.with_name(f"{workdir.name}_host{host}.txt")


def finish_hosts(workdir, cache, *flags):
    """A run of two hosts, or the rest of one, undisturbed."""
    with hosts(workdir, cache, *flags) as processes:
        codes = [process.wait(timeout=900) for process in processes]
    assert codes == [0, 0], said(workdir, codes.index(max(codes))).read_text()


def torment_hosts(workdir, cache, kills, seed, *flags):
    """Kills one of the two hosts of a run, `kills` times, each in one of the `PHASES` or shortly
    after it; the other one must end by itself, with a code that launchers restart.

    Returns:
        [(phase, host that was killed, seconds until the other one ended, exit code of that)].
    """
    rng, log = random.Random(seed), []
    for kill in range(kills):
        phase = list(PHASES)[kill % len(PHASES)]
        victim = rng.randrange(2)
        with hosts(workdir, cache, *flags) as processes:
            while PHASES[phase] not in said(workdir, 0).read_text():
                assert processes[0].poll() is None, said(workdir, 0).read_text()
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 3))
            began = time.monotonic()
            processes[victim].kill()
            code = processes[1 - victim].wait(timeout=150)
            log.append((phase, victim, round(time.monotonic() - began, 1), code))
        text = said(workdir, 1 - victim).read_text()
        if code == 0:
            break
        # SIGABRT is JAX's own way, and says what it knows.
        assert code in (75, -signal.SIGABRT), f"{log[-1]}: {text}"
        assert code != 75 or "Traceback" not in text, f"{log[-1]}: {text}"
    return log
