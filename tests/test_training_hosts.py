"""Two processes on localhost train like one process, stop together, and fail together."""

from concurrent import futures
import contextlib
import errno
import functools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest
import saved
import tiny

import colorize_jax
from colorize_jax.errors import (
    CheckpointError,
    ColorizeError,
    ConfigError,
    DataError,
    HostLostError,
    Interrupted,
)
from colorize_jax.training import evaluation, hosts, loop, same_run, sharding

STEPS = 30
SETTINGS = {"steps": STEPS, "data__holdout": 0.3, "log__every": 1, "checkpoint__every": 100}


def _explicit(port):
    return [
        "--config.distributed.mode=explicit", "--config.distributed.count=2",
        f"--config.distributed.coordinator=127.0.0.1:{port}",
    ], ({}, {})  # fmt: skip


def _slurm(port):
    """srun's variables for mode=auto; JAX derives the port from the job's number."""
    job = {
        "SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
    }  # fmt: skip
    return [], [job | {"SLURM_PROCID": str(host)} for host in range(2)]


def _start(workdir, sources, cache, cluster=_explicit, more=(), second=(), **signals):
    """Two processes with two devices each; `more` are flags of both, `second` those of the second
    one, and `signals` its environment."""
    with socket.socket() as free:
        while True:
            with contextlib.suppress(OSError):
                port = random.randrange(61441, 65500)
                free.bind(("127.0.0.1", port))
                break
    joining, environments = cluster(port)
    environment = os.environ | {
        "PYTHONPATH": f"{saved.ROOT}:{saved.ROOT / 'tests'}",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    flags = [
        *(f"--config.{name.replace('__', '.')}={value}" for name, value in SETTINGS.items()),
        "--config.data.threads=0",
        *joining,
        *more,
    ]
    return [
        subprocess.Popen(
            [
                sys.executable, saved.ROOT / "tests" / "two_hosts.py", "--config=tests/tiny.py",
                f"--workdir={workdir}", f"--config.data.source={source}", *flags,
                *([f"--config.distributed.id={host}"] if cluster is _explicit else []),
                *(second if host else []),
            ],
            cwd=saved.ROOT, env=environment | environments[host] | (signals if host else {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for host, source in enumerate(sources)
    ]  # fmt: skip


def _ends(processes):
    """[(exit code, positions that it read, messages)]."""
    try:
        outputs = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, set(map(int, re.findall(r"^read (\d+)$", out, re.M))), errors)
        for process, (out, errors) in zip(processes, outputs, strict=True)
    ]


@pytest.mark.slow
def test_two_hosts_start_from_a_pretrained_network(tmp_path, rng):
    source = tmp_path / "photos"
    tiny.write_photos(source, 20, rng)
    settings = {"steps": 2, "data__source": str(source), "data__holdout": 0.3}
    loop.train(tiny.config(**settings), tmp_path / "pretrained")
    flags = [
        f"--config.init_from={tmp_path / 'pretrained'}", "--config.steps=2",
        f"--config.evals.knn.source={source}",  # Its two folders are two classes.
    ]  # fmt: skip

    ends = _ends(_start(tmp_path / "two", [source, source], tmp_path / "cache", more=flags))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "encoder/conv1, encoder/conv2, encoder/conv3" in ends[0][2]
    before, after = (
        colorize_jax.load_encoder(tmp_path / name)[1]["params"]["conv1"]["kernel"]
        for name in ("pretrained", "two")
    )
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    config = tiny.config(**settings, evals__knn__source=str(source))
    again = evaluation.evaluate(config, str(tmp_path / "two"), tmp_path / "again")
    (found,) = [row["eval/knn/top1"] for row in saved.rows(tmp_path / "two") if row["step"] == 2
                if "eval/knn/top1" in row]  # fmt: skip
    assert again["eval/knn/top1"] == found


@pytest.mark.slow
def test_two_hosts_train_as_one_and_the_signal_of_one_stops_both(tmp_path, rng, monkeypatch):
    source = tmp_path / "photos"
    tiny.write_photos(source, 20, rng)
    together = tmp_path / "two"
    processes = _start(
        together, [source, source], tmp_path / "cache",
        STOP_AT=str(8 * 10 + 5), SIGNAL=str(int(signal.SIGTERM)),
    )  # fmt: skip
    (code0, read0, said0), (code1, read1, said1) = _ends(processes)
    assert code0 == code1 == 75, (said0, said1)

    # Both saved the same step, a few after the signal, into one checkpoint; the first one talks.
    (folder,) = (together / "checkpoints").iterdir()
    step = int(folder.name)
    assert 10 <= step <= 16
    for said in (said0, said1):
        assert f"stopped after step {step} of {STEPS}, which is saved" in said
    assert "a signal to another host" in said0 and "SIGTERM: stopped" in said1
    assert "host 0 of 2: 2 of 4 x cpu" in said0 and "host 1 of 2: 2 of 4 x cpu" in said1
    assert "step 2/30" in said0 and "step 2/30" not in said1
    assert len(list((together / "tensorboard").iterdir())) == 1

    # Between them they read every position, each its contiguous half of every batch of eight.
    for host, read in enumerate((read0, read1)):
        assert read >= {p for p in range(step * 8) if p % 8 // 4 == host}
        assert {p % 8 // 4 for p in read} == {host}

    config = tiny.config(data__source=str(source), **SETTINGS)
    loop.train(config, tmp_path / "one")
    losses = [
        {r["step"]: r["train/loss"] for r in saved.rows(w) if "train/loss" in r}
        for w in (together, tmp_path / "one")
    ]
    for at, tolerance in ((1, 1e-5), (2, 1e-5), (4, 1e-4), (6, 1e-3)):  # Rounding errors grow.
        np.testing.assert_allclose(losses[0][at], losses[1][at], rtol=tolerance)
    # One process resumes from the checkpoint of two, at the same position of the data.
    devices = jax.devices()[:2]
    monkeypatch.setattr(sharding, "make_mesh", lambda plain=sharding.make_mesh: plain(devices))
    loop.train(config, together)
    assert saved.state(together, STEPS)["step"] == STEPS
    assert [r["step"] for r in saved.rows(together) if "train/loss" in r] == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_photos_of_one_host_are_compared_with_those_of_the_other(tmp_path, rng, monkeypatch):
    source = tmp_path / "photos"
    tiny.write_photos(source, 20, rng)
    settings = {"steps": 2, "task__name": "simclr", "data__views": 2, "model__in_channels": 3}
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in settings.items()]
    ends = _ends(_start(tmp_path / "2x2", [source, source], tmp_path / "cache", more=flags))
    assert [code for code, _, _ in ends] == [0, 0], ends

    config = tiny.config(**SETTINGS | settings, data__source=str(source))
    for count in (4, 1):
        devices = jax.devices()[:count]
        monkeypatch.setattr(
            sharding, "make_mesh", lambda plain=sharding.make_mesh, of=devices: plain(of)
        )
        loop.train(config, tmp_path / f"{count}")
        monkeypatch.undo()
    expected, *others = (
        [row["train/loss"] for row in saved.rows(tmp_path / name) if "train/loss" in row]
        for name in ("1", "4", "2x2")
    )
    assert len(expected) == 2
    for found in others:
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_hosts_that_see_other_photos_lose_one_another_or_fail_do_not_hang(tmp_path, rng):
    sources = [tmp_path / "photos", tmp_path / "others"]
    for source, count in zip(sources, (20, 21), strict=True):
        tiny.write_photos(source, count, rng)
    for code, _, said in _ends(_start(tmp_path / "a", sources, tmp_path / "cache")):
        assert code == 1 and "photos to train on: 12 on host 0; 13 on host 1" in said
        assert "Traceback" not in said
    killed = _start(
        tmp_path / "b", sources[:1] * 2, tmp_path / "cache", _slurm,
        STOP_AT=str(8 * 10 + 5), SIGNAL=str(int(signal.SIGKILL)),
    )  # fmt: skip
    (code0, _, said0), (code1, _, _) = _ends(killed)
    assert code1 == -signal.SIGKILL and "host 0 of 2: 2 of 4 x cpu" in said0
    # The code is 75 if a collective notices first, SIGABRT if JAX's coordinator does; never 1.
    assert code0 in (75, -signal.SIGABRT), said0
    faulty = _start(
        tmp_path / "c", sources[:1] * 2, tmp_path / "cache", STOP_AT=str(8 * 10 + 5)
    )  # fmt: skip
    (code0, _, said0), (code1, _, said1) = _ends(faulty)
    assert code1 == 1 and "a fault that nobody thought of" in said1
    # It is not 75, because it would fail again; it is SIGABRT if JAX's coordinator notices first.
    assert code0 in (1, -signal.SIGABRT), said0
    if code0 == 1:
        assert "host 1 cannot go on: RuntimeError: a fault that nobody thought of" in said0
        assert "Traceback" not in said0


def _settings(**changes):
    return ConfigDict({"mode": "auto", "coordinator": "", "count": 0, "id": -1} | changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "on"}, "'on'; known: auto, off, explicit"),
        ({"mode": "explicit"}, "needs coordinator=HOST:PORT"),
        ({"mode": "explicit", "coordinator": "a:1", "count": 2, "id": 2}, "id from 0 to count - 1"),
        ({"mode": "explicit", "coordinator": "a", "count": 2, "id": 0}, "HOST:PORT"),
        ({"coordinator": "a:1"}, "are for config.distributed.mode=explicit; it is auto"),
        ({"mode": "off", "count": 2}, "it is off"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        hosts.start(_settings(**settings))


def test_jax_still_says_in_the_same_way_that_it_found_no_cluster():
    """With mode=auto a single process is alone; the commands of other tests rely on it."""
    code = "import jax; jax.distributed.initialize()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: coordinator_address should be defined" in result.stderr


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_process_without_a_cluster_is_alone(mode, capsys, monkeypatch):
    def initialize(*_, **__):
        assert mode == "auto"
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    hosts.start(_settings(mode=mode))
    assert capsys.readouterr().err == ""


def test_what_jax_says_of_a_cluster_becomes_a_sentence(monkeypatch):
    def initialize(*_, **__):
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    settings = _settings(mode="explicit", coordinator="127.0.0.1:1", count=2, id=0)
    with pytest.raises(HostLostError, match="600 seconds.*DEADLINE") as caught:
        hosts.start(settings)
    assert caught.value.exit_code == 75


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["--config.optimizer.rate=0.5"], "config.optimizer.rate: 0.02 on host 0; 0.5 on host 1"),
        (["--config.eval.every=7"], "config.eval.every: 3 on host 0; 7 on host 1"),
        (["--config.early_stopping.mode=crossval"], "config.early_stopping.mode: 'off' on host 0"),
        (["--config.replay=a.json"], "config.replay: '' on host 0; 'a.json' on host 1"),
        (["--workdir={own}"], "--workdir must be one folder that all hosts share"),
        (["--config.data.source={own}"], "there is no {own}"),  # Only that host lacks it.
    ],
)
def test_hosts_that_are_not_set_up_for_one_run_end_before_its_first_step(
    tmp_path, rng, second, message
):
    source, own = tmp_path / "photos", tmp_path / "own"
    tiny.write_photos(source, 20, rng)
    second = [flag.format(own=own) for flag in second]
    ends = _ends(_start(tmp_path / "run", [source] * 2, tmp_path / "cache", second=second))
    for code, read, said in ends:
        assert code == 1 and message.format(own=own) in said, said
        assert "Traceback" not in said and not read
    assert not list(tmp_path.glob("*/checkpoints"))


GLOO = "UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:45273"


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError(GLOO),
        ValueError(GLOO),  # Reading an array whose computation failed raises this.
        RuntimeError("Unable to initialize backend 'cpu': DEADLINE_EXCEEDED: timed out"),
        TimeoutError("Timeout waiting at barrier: Task 1 heartbeat timeout"),  # Orbax raises this.
        ExceptionGroup("saving", [ValueError("no"), jax.errors.JaxRuntimeError(GLOO)]),
    ],
)  # fmt: skip
def test_a_lost_host_is_recognized_by_any_kind_of_error(monkeypatch, error):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    gone = pytest.raises(HostLostError, match="another process")
    with gone as caught, hosts.loss_explained():
        raise error
    assert caught.value.exit_code == 75
    with pytest.raises(HostLostError), hosts.loss_explained():
        try:
            raise error
        except Exception as first:  # This is a library's own error.
            raise TypeError("cannot be saved") from first
    with pytest.raises(HostLostError), hosts.loss_explained():
        try:
            raise error
        except Exception as first:  # It is no damaged checkpoint.
            raise CheckpointError("step 4 does not fit this config") from first
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    with pytest.raises(type(error)), hosts.loss_explained():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INTERNAL: no such kernel"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory, connection or not"),
        ValueError("operands could not be broadcast together"),
        DataError("the Connection of the photos is bad"),
        OSError(errno.ETIMEDOUT, "Connection timed out", "/photos"),
    ],
)
def test_what_does_not_name_the_network_is_no_lost_host(monkeypatch, error):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(type(error)) as caught, hosts.loss_explained():
        raise error
    assert caught.value is error


def test_answers_come_two_calls_later_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    agreement = hosts.Agreement(sharding.make_mesh())
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    asked = [(False, True), (True, False), (False, False), (False, True), (False, False)]
    answers = [agreement.any(*wishes) for wishes in asked]
    assert answers == [(False, False), (False, False), *asked[:3]]


def test_what_fails_on_the_first_host_fails_on_all(monkeypatch):
    def fail():
        raise CheckpointError("full of things")

    with pytest.raises(CheckpointError, match="full of things"):
        hosts.first_does(fail)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(hosts, "gather", lambda text: ['[74, "full of things"]', text])
    with pytest.raises(ColorizeError, match="host 0 cannot go on: full of things") as caught:
        hosts.first_does(fail)
    # It is not the code of a lost host, which would be restarted.
    assert caught.value.exit_code == 74


def test_what_fails_on_one_host_reaches_the_others_with_its_sentence_and_its_code(monkeypatch):
    said = []

    def gather(text):
        said.append(text)
        return ["", said[0], ""]

    monkeypatch.setattr(hosts, "gather", gather)
    for error, code, sentence in (
        (DataError("there is no /photos"), 1, "there is no /photos"),
        (OSError(errno.ENOSPC, "No space left", "/ckpt"), 74, "No space left"),
        (KeyError("encoder"), 1, "KeyError: 'encoder'"),  # This is a bug of ours.
    ):

        def fail(error=error):
            raise error

        with pytest.raises(type(error)):
            hosts.together(fail)
        with pytest.raises(ColorizeError, match=f"host 1 cannot go on: .*{sentence}") as caught:
            hosts.together(lambda: 3)
        assert caught.value.exit_code == code
        said.clear()
    monkeypatch.setattr(hosts, "gather", lambda text: [text, ""])
    assert hosts.together(lambda: 3) == 3


def test_a_host_that_fails_in_training_leaves_a_message_for_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "WORD_SECONDS", 0.3)

    @hosts.loss_explained()  # As all of `train` is.
    def run(error):
        with hosts.failing_together(tmp_path), hosts.loss_explained():
            raise error

    lost = RuntimeError("Gloo all-reduce failed: Connection closed by peer")
    ends = _between_two(monkeypatch, run, lost, OSError(errno.ENOSPC, "No space left"))
    assert "host 1 cannot go on: [Errno 28] No space left" in str(ends[0])
    assert ends[0].exit_code == 74 and isinstance(ends[1], OSError)
    # The next start does not see it.
    assert _between_two(monkeypatch, hosts.check_shared, tmp_path, tmp_path) == [None, None]
    assert list(tmp_path.iterdir()) == []
    # There is no message if a host was killed or all hosts were signaled.
    stopped = Interrupted("SIGTERM: stopped")
    ends = _between_two(monkeypatch, run, lost, stopped)
    assert isinstance(ends[0], HostLostError) and "Connection closed by peer" in str(ends[0])
    assert ends[1] is stopped
    assert list(tmp_path.iterdir()) == []


def test_a_difference_names_the_field_and_which_host_has_what():
    one = {"config.seed": 0, "config.eval.classes": [], "photos": 20, "jax": "0.10"}
    assert hosts.differences([one, dict(one)]) == []
    assert hosts.differences([one, one | {"config.seed": 7}]) == [
        "  config.seed: 0 on host 0; 7 on host 1"
    ]
    assert hosts.differences([one, one | {"config.eval.classes": ["cat"], "photos": 21}]) == [
        "  config.eval.classes: [] on host 0; ['cat'] on host 1",
        "  photos: 20 on host 0; 21 on host 1",
    ]
    # True is not 1, and 1 is not 1.0; a photo that one host could not read is not compared.
    assert len(hosts.differences([{"a": 1, "b": 1}, {"a": True, "b": 1.0}])) == 2
    assert hosts.differences([{"a": None, "b": 2}, {"a": 1}]) == []
    many = [{"rate": 0.1}] * 6 + [{"rate": 0.2}] * 2
    assert hosts.differences(many) == ["  rate: 0.1 on hosts 0, 1 and 4 more; 0.2 on hosts 6 and 7"]


def test_hosts_with_different_numbers_of_devices_are_refused():
    hosts.check_devices([4, 4])
    with pytest.raises(ConfigError, match="4 on hosts 0 and 1; 3 on host 2"):
        hosts.check_devices([4, 4, 3])


def _between_two(monkeypatch, function, *arguments):
    """Calls `function(argument)` on two pretended hosts, threads that pass each other texts; gives
    what each of them raised."""
    barrier, said, here = threading.Barrier(2), ["", ""], threading.local()

    def gather(text):
        said[here.number] = text
        barrier.wait(timeout=30)
        texts = list(said)
        barrier.wait(timeout=30)
        return texts

    def run(number):
        here.number = number
        try:
            function(arguments[number])
        except (ColorizeError, OSError) as error:
            return error

    monkeypatch.setattr(hosts, "gather", gather)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: here.number)
    with futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1), ("optimizer.rate", 0.1), ("eval.every", 7), ("checkpoint.every", 7),
        ("log.every", 3), ("data.crop", 33), ("model.dtype", "bfloat16"), ("replay", "a.json"),
        ("early_stopping.mode", "crossval"), ("nonfinite_skips", 2), ("evals.linear.every", 5),
    ],
)  # fmt: skip
def test_a_setting_that_differs_between_hosts_ends_all_of_them(monkeypatch, field, value):
    configs = [tiny.segmentation(), tiny.segmentation(**{field.replace(".", "__"): value})]
    ends = _between_two(monkeypatch, lambda c: same_run.check_hosts(c, workdir=None), *configs)
    for error in ends:
        assert isinstance(error, ConfigError) and error.exit_code == 1
        assert re.search(rf"config\.{field}: .+ on host 0; .+ on host 1", str(error))


def test_settings_of_one_host_may_differ(monkeypatch):
    own = {
        "distributed__id": 1, "distributed__coordinator": "localhost:1", "data__threads": 5,
        "data__workers": 3, "data__source": "/other/disk", "init_from": "/other/vgg16",
    }  # fmt: skip
    configs = [tiny.config(), tiny.config(**own)]
    check = functools.partial(same_run.check_hosts, workdir=None)
    assert _between_two(monkeypatch, check, *configs) == [None, None]


def test_the_workdir_must_be_seen_by_all_hosts_whatever_its_path(monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "SEEING_SECONDS", 0.2)
    shared, own = tmp_path / "new" / "run", tmp_path / "own"
    assert _between_two(monkeypatch, hosts.check_shared, shared, shared) == [None, None]
    (tmp_path / "mounted").symlink_to(shared)
    assert _between_two(monkeypatch, hosts.check_shared, shared, tmp_path / "mounted") == [None] * 2
    assert list(shared.iterdir()) == []

    for error in _between_two(monkeypatch, hosts.check_shared, shared, own):
        assert isinstance(error, ConfigError) and "must be one folder that all hosts" in str(error)
        assert str(shared) in str(error) and str(own) in str(error)
    assert list(shared.iterdir()) == [] and not own.exists()


def test_a_workdir_that_one_host_cannot_write_into_ends_both(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")

    ends = _between_two(monkeypatch, hosts.check_shared, tmp_path, tmp_path / "file" / "run")
    assert "host 1 cannot go on" in str(ends[0]) and "Not a directory" in str(ends[1])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_alone_a_process_agrees_with_itself_at_once():
    agreement = hosts.Agreement(sharding.make_mesh())
    assert agreement.any(True, False) == (True, False)
    assert hosts.first_says(7) == 7
