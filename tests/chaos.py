"""Disturbs and ends a run of the command at random moments and restarts it until it is done."""

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
        "--config.log.every=10", "--config.data.batch_size=4", "--config.eval.pictures=0", *flags,
    ]  # fmt: skip


def environment(cache):
    """The environment: one device, and a cache folder of its own, with the compiled programs."""
    return os.environ | {
        "PYTHONPATH": f"{saved.ROOT}:{saved.ROOT / 'tests'}",
        "JAX_PLATFORMS": "cpu",
        "COLORIZE_CACHE": str(cache),
    }


def finish(workdir, cache, *flags):
    """Starts or resumes a run without disturbing it."""
    result = subprocess.run(
        command(workdir, *flags), cwd=saved.ROOT, env=environment(cache), capture_output=True,
        text=True, timeout=1800,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stderr


# Disturbances that a run must survive; each takes the process, its folder of photos and an rng.


def photos_go_away(process, photos, rng):
    """Makes the photos disappear for a while, like network storage."""
    away = photos.with_name("away")
    photos.rename(away)
    time.sleep(rng.uniform(0.1, 2))
    away.rename(photos)


def worker_dies(process, photos, rng):
    """Kills a data worker, as happens when memory is short."""
    if workers := data_workers(process.pid):
        os.kill(rng.choice(workers), signal.SIGKILL)


def worker_stands_still(process, photos, rng):
    """Stops a data worker and lets it continue."""
    if workers := data_workers(process.pid):
        worker = rng.choice(workers)
        os.kill(worker, signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 2))
        os.kill(worker, signal.SIGCONT)


def run_stands_still(process, photos, rng):
    """Stops the main process and lets it continue."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.1, 2))
    process.send_signal(signal.SIGCONT)


DISTURBANCES = (photos_go_away, worker_dies, worker_stands_still, run_stands_still)


def data_workers(pid):
    """The ids of a run's worker processes, which read photos."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            words = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in words:
                found.append(int(child))
    return found


def _codes(number):
    # Before Python has installed our handlers, a signal kills the process as usual.
    return 75, -number, 128 + number


ENDS = {  # {name: (signals, allowed exit codes)}
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
    """Under nohup, programs started by tests would inherit that SIGHUP is ignored."""
    # A new program has the default.
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def newest(workdir):
    """The step of the newest checkpoint."""
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    return max(steps, default=0)


# {phase: the last message of the first host when it begins}.
PHASES = {
    "setting up": "host 0 of 2",
    "compiling": "compiling the step",
    "starting": "it needs",  # With a checkpoint it then restores.
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
    """The file with all messages of a host."""
    return workdir.with_name(f"{workdir.name}_host{host}.txt")


def finish_hosts(workdir, cache, *flags):
    """Starts or resumes a run of two hosts without disturbing it."""
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
        # JAX itself ends by SIGABRT after it has printed the reason.
        assert code in (75, -signal.SIGABRT), f"{log[-1]}: {text}"
        assert code != 75 or "Traceback" not in text, f"{log[-1]}: {text}"
    return log
