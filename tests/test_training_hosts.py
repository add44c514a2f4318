"""Two real processes on localhost train as one process does, stop together, and fail together."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest
import saved
import tiny

import colorize_jax
from colorize_jax.errors import CheckpointError, ColorizeError, ConfigError, HostLostError
from colorize_jax.training import hosts, loop, sharding

STEPS = 30
SETTINGS = {"steps": STEPS, "data__holdout": 0.3, "log__every": 1, "checkpoint__every": 100}


def _explicit(port):
    return [
        "--config.distributed.mode=explicit", "--config.distributed.count=2",
        f"--config.distributed.coordinator=127.0.0.1:{port}",
    ], ({}, {})  # fmt: skip


def _slurm(port):
    """What srun sets, so that mode=auto finds its way; JAX takes the port from the job's number."""
    job = {
        "SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
    }  # fmt: skip
    return [], [job | {"SLURM_PROCID": str(host)} for host in range(2)]


def _start(workdir, sources, cache, cluster=_explicit, more=(), **signals):
    """Two processes with two devices each; `signals` are of the second one, `more` are flags."""
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
            ],
            cwd=saved.ROOT, env=environment | environments[host] | (signals if host else {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for host, source in enumerate(sources)
    ]  # fmt: skip


def _ends(processes):
    """[(exit code, what it read, what it said)]."""
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
    flags = [f"--config.init_from={tmp_path / 'pretrained'}", "--config.steps=2"]

    ends = _ends(_start(tmp_path / "two", [source, source], tmp_path / "cache", more=flags))
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "15 layers, encoder/conv1_1 to encoder/fc7" in ends[0][2]
    before, after = (
        colorize_jax.load_encoder(tmp_path / name)[1]["params"]["conv1_1"]["kernel"]
        for name in ("pretrained", "two")
    )
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


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
    for at, tolerance in ((1, 1e-5), (2, 1e-5), (4, 1e-4), (6, 1e-3)):  # rounding grows
        np.testing.assert_allclose(losses[0][at], losses[1][at], rtol=tolerance)
    # One process goes on with what two have saved, in the same place of the data.
    devices = jax.devices()[:2]
    monkeypatch.setattr(sharding, "make_mesh", lambda plain=sharding.make_mesh: plain(devices))
    loop.train(config, together)
    assert saved.state(together, STEPS)["step"] == STEPS
    assert [r["step"] for r in saved.rows(together) if "train/loss" in r] == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_hosts_that_see_other_photos_lose_one_another_or_fail_do_not_hang(tmp_path, rng):
    sources = [tmp_path / "photos", tmp_path / "others"]
    for source, count in zip(sources, (20, 21), strict=True):
        tiny.write_photos(source, count, rng)
    for code, _, said in _ends(_start(tmp_path / "a", sources, tmp_path / "cache")):
        assert code == 1 and "the hosts do not see the same photos" in said
        assert "Traceback" not in said
    killed = _start(
        tmp_path / "b", sources[:1] * 2, tmp_path / "cache", _slurm,
        STOP_AT=str(8 * 10 + 5), SIGNAL=str(int(signal.SIGKILL)),
    )  # fmt: skip
    (code0, _, said0), (code1, _, _) = _ends(killed)
    assert code1 == -signal.SIGKILL and "host 0 of 2: 2 of 4 x cpu" in said0
    # 75 if a collective noticed first, SIGABRT if JAX's coordinator did: never 1, which is final.
    assert code0 in (75, -signal.SIGABRT), said0
    faulty = _start(
        tmp_path / "c", sources[:1] * 2, tmp_path / "cache", STOP_AT=str(8 * 10 + 5)
    )  # fmt: skip
    (code0, _, said0), (code1, _, said1) = _ends(faulty)
    assert code1 == 1 and "a fault that nobody thought of" in said1
    assert code0 in (75, -signal.SIGABRT), said0


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
    """The commands of other tests rely on it: with mode=auto they are alone."""
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
    with pytest.raises(HostLostError, match="were not found in 600 seconds: DEADLINE") as caught:
        hosts.start(settings)
    assert caught.value.exit_code == 75


def test_only_what_names_the_network_is_a_lost_host(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for message, error in (
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer", HostLostError),
        ("INTERNAL: no such kernel", jax.errors.JaxRuntimeError),
        ("RESOURCE_EXHAUSTED: out of memory", jax.errors.JaxRuntimeError),
    ):
        with pytest.raises(error), hosts.loss_explained():
            raise jax.errors.JaxRuntimeError(message)


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
    monkeypatch.setattr(hosts, "first_says", lambda value: 1)
    with pytest.raises(ColorizeError, match="the first host could not go on"):
        hosts.first_does(fail)


def test_alone_a_process_agrees_with_itself_at_once():
    agreement = hosts.Agreement(sharding.make_mesh())
    assert agreement.any(True, False) == (True, False)
    assert hosts.first_says(7) == 7
