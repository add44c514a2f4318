"""Signals: the first makes the run save and stop; a second SIGTERM or SIGINT ends it at once."""

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
# The signals of a closed terminal and of schedulers that announce the end of a job. They never end
# the run at once, however often they come. If they are ignored at the start, as under nohup, they
# stay ignored.
ASKING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
# `timeout` and other programs signal a process and then its whole group. Within this time that
# counts as one signal.
ONE_SIGNAL_SECONDS = 1.0
CLOSING_SECONDS = 10.0  # Readers and writers get this long to close after everything is saved.


def exit_within(seconds: float, code: int) -> threading.Timer:
    """Starts a timer that ends the process with that code, unless it is canceled."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
    return timer


class Stop(BaseException):
    """Raised where a run can stop. It is no Exception, so that `except Exception` lets it pass."""


class Signals:
    """Catches signals inside a `with` block in the main thread; in other threads it does nothing.

    The first signal sets `received` and ends a `wait_for`. It raises no exception inside other
    code, which might swallow it or be left half done. A thread watches for signals, because Python
    runs no handler while XLA compiles, nor for a signal just before a call that waits. In a
    notebook the second signal raises a KeyboardInterrupt and does not end the kernel.
    """

    def __init__(self):
        self.received: str | None = None
        self._handled = 0
        self._helper = _Helper()
        # The answers for the newest `wait_for`.
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
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
            os.close(self._write)  # This ends the thread.
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
        """Raises Stop if a signal has come."""
        if self.received:
            raise Stop

    def wait_for(self, function: Callable[[], Result]) -> Result:
        """Runs `function` in another thread and returns its result; raises Stop at a signal.

        After a signal the function is abandoned, because it may hang. It should only read, because
        it may still run after the run has ended.
        """
        if not self._installed or threading.current_thread() is not threading.main_thread():
            return function()
        answers = self._answers = queue.SimpleQueue()
        self.check()  # A later signal finds the queue and ends the wait.
        self._helper.ask(function, answers)
        answer = answers.get()
        if answer is None:
            raise Stop
        result, error = answer
        if error is not None:
            try:
                raise error
            finally:
                del answer, error  # They and their traceback would keep each other alive.
        return result

    def exit_soon(self) -> None:
        """Makes sure that the process ends soon, even if closing hangs on a dead disk."""
        if self._installed and not self._notebook:
            self._timer = exit_within(CLOSING_SECONDS, Interrupted.exit_code)

    def _handle(self, number, frame):
        self._handled += number in INSISTING
        if self._handled > 1 and self._notebook:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name

    def _watch(self):
        insisted = None  # the time of the first SIGTERM or SIGINT
        while byte := os.read(self._read, 1):
            if byte[0] not in self._handlers:  # Handlers of other code write here too.
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
    with contextlib.suppress(OSError, ValueError):  # The thread must live to see a second signal.
        print(f"\n{text}", file=sys.stderr, flush=True)


class _Helper(threading.Thread):
    """A thread that runs one function at a time; the main thread may stop waiting for it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.busy = False
        self._asked: queue.SimpleQueue = queue.SimpleQueue()

    def ask(self, function: Callable[[], Any], answers: queue.SimpleQueue) -> None:
        """Runs the function, then puts `(result, None)` or `(None, error)` into the queue."""
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
            del asked, function, answers, answer  # They would live until the next function.


def abandoned_function_runs() -> bool:
    """Whether a function still runs that `wait_for` has abandoned after a signal."""
    return any(isinstance(thread, _Helper) and thread.busy for thread in threading.enumerate())
