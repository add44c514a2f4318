"""What a worker process does with signals and when the process that started it is gone, and how
that one ends."""

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
    """For grain's `worker_init_fn`: runs first in every worker.

    A terminal's Ctrl-C, its end, and a scheduler's SIGTERM reach all processes of a run. The main
    one still needs batches then, and ends the workers itself; one that it forgot goes
    `GRACE_SECONDS` later, and one whose parent was killed goes at once.
    """
    del index, count
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _leave_later(number, frame):
    timer = threading.Timer(GRACE_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _outlive_nobody():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@functools.cache
def free_at_exit() -> None:
    """Arrays that workers have sent and nobody has freed when Python ends are freed in order.

    grain has a pool of threads free them. That pool is gone before the last of them are, each of
    which would then leave a traceback, and its memory to nobody. A grain that keeps the class
    elsewhere is left alone.
    """
    try:
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
    except ImportError:
        return

    def free():
        SharedMemoryArray._del_thread_pool = None  # from here on each array frees its own
        gc.collect()

    atexit.register(free)
