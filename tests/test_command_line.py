"""Commands that are interrupted end with a sentence and leave nothing half-written."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import saved

WAITING = """
import sys, time
sys.path.insert(0, {root!r})
from colorize_jax import command_line
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
        time.sleep({tidying})
command_line.interruptible(main)
"""


def _start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, *script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONPATH": str(saved.ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_interrupted_tidies_up_and_ends_with_a_sentence(number):
    process = _start(("-c", WAITING.format(root=str(saved.ROOT), tidying=0)))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert out == "tidied up\n"
    assert (
        error.strip()
        == f"{number.name}: stopped before the end; what was not finished is not there"
    )


def test_an_interrupt_that_comes_while_python_collects_garbage_is_not_lost():
    script = WAITING.format(root=str(saved.ROOT), tidying=0).replace(
        "time.sleep(60)",
        "gc.callbacks.append(lambda phase, info: phase == 'stop' and signal.raise_signal(15)); "
        "gc.collect(); gc.callbacks.clear(); time.sleep(60)",
    )
    process = _start(("-c", "import gc, signal" + script))
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out) == (143, "ready\ntidied up\n")
    assert error.strip().startswith("SIGTERM: stopped before the end")


def test_a_second_interrupt_ends_it_at_once():
    process = _start(("-c", WAITING.format(root=str(saved.ROOT), tidying=60)))
    for line in ("ready\n", "tidied up\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """More photos than a command can read before it is interrupted."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(folder / "0.jpg", quality=95)
    for number in range(1, 3000):
        os.link(folder / "0.jpg", folder / f"{number}.jpg")
    return folder


@pytest.mark.parametrize("command", ["check", "pack"])
def test_ctrl_c_while_photos_are_looked_at_or_packed(photos, tmp_path, command):
    out = [str(tmp_path / "packed"), "--shortest=300"] if command == "pack" else []
    process = _start(("-m", "colorize_jax.data"), "--threads=1", command, str(photos), *out)
    shown = ""
    while not re.search(r"\| [1-9]\d*/3000", shown):  # Waits until the bar moves.
        character = process.stderr.read(1)
        assert character, shown
        shown += character
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "SIGINT: stopped before the end" in error and "Traceback" not in error
    if out:
        assert {p.name for p in (tmp_path / "packed").iterdir()} == {"pack.json"}


def test_ctrl_c_while_a_command_is_imported_is_no_trace():
    process = _start(("-X", "importtime", "-m", "colorize_jax.study", "--help"))
    for line in process.stderr:
        if "colorize_jax.errors" in line:
            break
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == -signal.SIGINT and "Traceback" not in error
