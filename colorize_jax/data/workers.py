"""What a worker process does with signals, and when the process that started it is gone."""

import multiprocessing
from multiprocessing import connection
import os
import signal
import threading

GRACE_SECONDS = 60.0


def prepare(index: int, count: int) -> None:
    """For grain's `worker_init_fn`: runs first in every worker.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach all processes of a run. The main one still
    needs batches then, and ends the workers itself; one that it forgot goes `GRACE_SECONDS` later,
    and one whose parent was killed goes at once.
    """
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_later)
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _leave_later(number, frame):
    timer = threading.Timer(GRACE_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _outlive_nobody():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
