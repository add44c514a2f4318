"""Two real processes on localhost train as one process does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny

from colorize_jax.training import loop

TESTS = pathlib.Path(__file__).parent


def _training(workdir):
    rows = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if "train/loss" in row}


def _scores(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
def test_two_hosts_of_two_devices_train_as_one_of_four(tmp_path, rng):
    source = str(tmp_path / "photos")
    tiny.write_photos(tmp_path / "photos", 20, rng)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "JAX_PLATFORMS": "cpu"}
    together = tmp_path / "two"
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "two_hosts.py"), str(host), port, str(together), source],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for host in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]

    # Between them they read every position, each its contiguous half of every batch of eight.
    for host, (out, _) in enumerate(outputs):
        lines = [line for line in out.splitlines() if line.startswith("read")]
        positions = {int(line.split()[1]) for line in lines}
        assert positions == {p for p in range(48) if p % 8 // 4 == host}
    assert "step 6/6" in outputs[0][1] and "step" not in outputs[1][1]  # only the first one talks

    loop.train(tiny.config(data__source=source, data__holdout=0.3), tmp_path / "one")
    expected = _training(tmp_path / "one")
    found = _training(together)
    assert found.keys() == expected.keys() == {2, 4, 6}
    for step, tolerance in ((2, 1e-5), (4, 1e-4), (6, 1e-3)):  # rounding grows with the steps
        for name in ("train/loss", "train/loss_hue", "train/loss_chroma"):
            np.testing.assert_allclose(found[step][name], expected[step][name], rtol=tolerance)
    np.testing.assert_allclose(
        _scores(together)["eval/loss"], _scores(tmp_path / "one")["eval/loss"], rtol=1e-3
    )
    # One process goes on, or here finds nothing left to do, from what two have saved.
    assert loop.train(tiny.config(data__source=source, data__holdout=0.3), together)
