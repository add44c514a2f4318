"""Worker processes survive the signals of a terminal, but not their parent."""

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


LEFT = """
import atexit, sys
sys.path.insert(0, {root!r})
left = []
atexit.register(left.clear)  # runs after those of what is imported from here on
from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
from colorize_jax.data import workers

SharedMemoryArray.enable_async_del(1)
left.append(SharedMemoryArray((1000,)))
left[0].unlink_on_del()
{call}
"""


def test_arrays_that_are_left_at_the_end_leave_no_memory_and_no_traceback():
    def said(call):
        script = LEFT.format(root=str(saved.ROOT), call=call)
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr

    assert "leaked shared_memory" in said("")
    assert "leaked shared_memory" not in (after := said("workers.free_at_exit()"))
    assert "Traceback" not in after
