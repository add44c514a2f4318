"""Handles signals and the death of the parent in worker processes, and the parent's own exit."""

import atexit
import functools
import gc
import multiprocessing
from multiprocessing import connection
import os
import signal
import threading

GRACE_SECONDS = 60.0


def prepare(index: int, count: int) -> None:
    """grain's `worker_init_fn`, which runs first in every worker.

    Ctrl-C in a terminal, the end of the terminal, and a scheduler's SIGTERM reach all processes of
    a run. The main process still needs batches then, so workers ignore these signals and the main
    process ends them. After SIGTERM a worker exits by itself once `GRACE_SECONDS` have passed. If
    its parent was killed, it exits at once.
    """
    del index, count
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_later)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_later(number, frame):
    timer = threading.Timer(GRACE_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _exit_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@functools.cache
def free_at_exit() -> None:
    """Frees, when Python exits, the shared arrays that workers have sent.

    grain frees them in a pool of threads. That pool ends before the last arrays are freed; each
    would print a traceback and leak its memory. If grain has moved the class, nothing is done.
    """
    try:
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
    except ImportError:
        return

    def free():
        SharedMemoryArray._del_thread_pool = None  # From now on each array frees its own memory.
        gc.collect()

    atexit.register(free)
