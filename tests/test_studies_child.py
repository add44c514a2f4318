"""A command as a child process, and the forwarding of signals."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from colorize_jax.studies.child import STOPPED, execute

PARENT = (
    "import sys\nfrom colorize_jax.studies.child import execute\nsys.exit(execute(sys.argv[1:]))"
)


def test_the_exit_code_is_that_of_the_command():
    assert [execute(["sh", "-c", f"exit {code}"]) for code in (0, 3, STOPPED)] == [0, 3, STOPPED]


def test_python_of_the_command_is_ours(tmp_path):
    assert execute(["sh", "-c", f"command -v python > {tmp_path}/python"]) == 0
    found = pathlib.Path((tmp_path / "python").read_text().strip())
    assert found.parent == pathlib.Path(sys.executable).parent


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
@pytest.mark.parametrize(
    ("at_the_end", "code"),
    [("exit 0", 0), ("exit 75", STOPPED), ("exit 1", STOPPED), ("", STOPPED)],
)
def test_a_signal_is_passed_on(tmp_path, number, at_the_end, code):
    """Without a trap the command dies of the signal, like gcloud."""
    trap = f"trap '{at_the_end}' TERM; " if at_the_end else ""
    script = f"{trap}touch {tmp_path}/started; for i in $(seq 1500); do sleep 0.02; done"
    process = subprocess.Popen([sys.executable, "-c", PARENT, "sh", "-c", script])
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=30) == code
