"""Signals: the first asks the run to save and stop, a second SIGTERM or SIGINT ends it at once."""

from collections.abc import Callable
import contextlib
import os
import queue
import signal
import sys
import threading
import time
from typing import Any, TypeVar

from colorize_jax.errors import Interrupted

Result = TypeVar("Result")

INSISTING = (signal.SIGTERM, signal.SIGINT)
# A terminal that goes away, and what schedulers announce a job's end by. They only ask, however
# often they come, and whoever starts a run may have it ignore them, as nohup does.
ASKING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
# `timeout` and others tell a process and then its whole group: within this time it is one signal.
ONE_SIGNAL_SECONDS = 1.0
CLOSING_SECONDS = 10.0  # what readers and writers get to close once everything is saved


def leave_within(seconds: float, code: int) -> threading.Timer:
    """Ends the process with that code, whatever else it does, unless the timer is cancelled."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
    return timer


class Stop(BaseException):
    """Raised where a run can leave off; no `except Exception` on the way may swallow it."""


class Signals:
    """Catches the signals while it is entered (in the main thread; elsewhere it does nothing).

    The first one sets `received` and ends a `wait_for`; it raises nothing in the midst of other
    code, which might swallow the exception or be left half done. A thread watches for them, since
    Python runs no handler while XLA compiles, or if one comes just before a call that waits. In a
    notebook the second one is a KeyboardInterrupt and leaves the kernel alone.
    """

    def __init__(self):
        self.received: str | None = None
        self._handled = 0
        self._helper = _Helper()
        self._answers: queue.SimpleQueue = queue.SimpleQueue()  # of the newest `wait_for`
        self._timer: threading.Timer | None = None
        self._notebook = "ipykernel" in sys.modules

    def __enter__(self):
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            asking = [number for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]
            self._handlers = {
                number: signal.signal(number, self._handle) for number in (*INSISTING, *asking)
            }
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
            self._helper.start()
        return self

    def __exit__(self, kind, error, trace):
        if self._installed:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)  # ends the thread
            self._thread.join()
            os.close(self._read)
            self._helper.end()
        if self._timer is not None:
            self._timer.cancel()
        if kind is Stop:
            raise Interrupted(
                f"{self.received}: stopped before it trained; the same command starts again"
            ) from None

    def check(self) -> None:
        """Stop, if a signal has come."""
        if self.received:
            raise Stop

    def wait_for(self, function: Callable[[], Result]) -> Result:
        """What `function()` gives or raises, from another thread; Stop as soon as a signal comes.

        After a signal the function is left to itself, with whatever it hangs on: it should only
        read, since it may go on after the run has ended.
        """
        if not self._installed or threading.current_thread() is not threading.main_thread():
            return function()
        answers = self._answers = queue.SimpleQueue()
        self.check()  # from here on a signal finds the queue
        self._helper.ask(function, answers)
        answer = answers.get()
        if answer is None:
            raise Stop
        result, error = answer
        if error is not None:
            try:
                raise error
            finally:
                del answer, error  # or they and their traceback would keep each other alive
        return result

    def leave_soon(self) -> None:
        """Everything is saved: if closing hangs on a dead disk, the process ends all the same."""
        if self._installed and not self._notebook:
            self._timer = leave_within(CLOSING_SECONDS, Interrupted.exit_code)

    def _handle(self, number, frame):
        self._handled += number in INSISTING
        if self._handled > 1 and self._notebook:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name

    def _watch(self):
        insisted = None  # when SIGTERM or SIGINT first came
        while byte := os.read(self._read, 1):
            if byte[0] not in self._handlers:  # handlers of others tell here too
                continue
            name, now = signal.Signals(byte[0]).name, time.monotonic()
            self.received = self.received or name
            self._answers.put(None)
            if byte[0] not in INSISTING:
                _print(f"{name}: saving, then stopping")
            elif insisted is None:
                insisted = now
                _print(f"{name}: saving, then stopping; a second one stops at once")
            elif now - insisted > ONE_SIGNAL_SECONDS and not self._notebook:
                os._exit(128 + byte[0])


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the thread must see the second signal too
        print(f"\n{text}", file=sys.stderr, flush=True)


class _Helper(threading.Thread):
    """Does one thing at a time for a main thread that may give up waiting for it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.busy = False
        self._asked: queue.SimpleQueue = queue.SimpleQueue()

    def ask(self, function: Callable[[], Any], answers: queue.SimpleQueue) -> None:
        """Has `(result, None)` or `(None, error)` put into the queue."""
        self.busy = True
        self._asked.put((function, answers))

    def end(self) -> None:
        self._asked.put(None)

    def run(self) -> None:
        while (asked := self._asked.get()) is not None:
            function, answers = asked
            try:
                answer = function(), None
            except BaseException as error:
                answer = None, error
            self.busy = False
            answers.put(answer)
            del asked, function, answers, answer  # nothing is kept alive until the next one


def left_behind() -> bool:
    """Whether a function still runs whose wait a signal has ended."""
    return any(isinstance(thread, _Helper) and thread.busy for thread in threading.enumerate())
