"""Worker processes outlast the signals of a terminal, and do not outlast their parent."""

import os
import signal
import subprocess
import sys
import time

import saved

SCRIPT = """
import multiprocessing, sys, time
sys.path.insert(0, {root!r})
from colorize_jax.data import workers

def work():
    workers.prepare(0, 1)
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
"""


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_ignores_signals_and_goes_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT.format(root=str(saved.ROOT)))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
        time.sleep(0.5)
        assert _alive(worker)
        parent.kill()
        deadline = time.monotonic() + 10
        while _alive(worker):
            assert time.monotonic() < deadline
            time.sleep(0.05)
