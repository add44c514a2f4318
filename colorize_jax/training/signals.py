"""SIGTERM and SIGINT: the first asks the run to save and stop, the second ends it at once."""

import contextlib
import os
import signal
import sys
import threading

from colorize_jax.errors import Interrupted

CAUGHT = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.01
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

    The first one only sets `received`, except in an `interruptible` block, which it ends (with the
    help of SIGALRM where Python drops what a handler raises). A thread of its own watches for the
    second one, since Python runs no handler while XLA compiles. In a notebook the second one is a
    KeyboardInterrupt and leaves the kernel alone.
    """

    def __init__(self):
        self.received: str | None = None
        self._interruptible = self._stopped = False
        self._handled = 0
        self._timer: threading.Timer | None = None
        self._notebook = "ipykernel" in sys.modules

    def __enter__(self):
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._handlers = {number: signal.signal(number, self._handle) for number in CAUGHT}
            self._handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._again)
            self._unraisable, sys.unraisablehook = sys.unraisablehook, self._swallowed
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        if self._installed:
            sys.unraisablehook = self._unraisable
            if self._stopped:
                signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._write)  # ends the thread
            self._thread.join()
            os.close(self._read)
        if self._timer is not None:
            self._timer.cancel()
        if kind is Stop:
            raise Interrupted(
                f"{self.received}: stopped before it trained; the same command starts again"
            ) from None

    @contextlib.contextmanager
    def interruptible(self):
        """A signal raises `Stop` inside, at once: for waiting, where nothing can be lost.

        What the code inside makes of it (Orbax turns it into an error of its own) does not matter.
        """
        self._interruptible = True
        try:
            if self.received:
                raise Stop
            yield
        except BaseException:
            if self._stopped:
                raise Stop from None
            raise
        finally:
            self._interruptible = False
        if self._stopped:
            raise Stop

    def leave_soon(self) -> None:
        """Everything is saved: if closing hangs on a dead disk, the process ends all the same."""
        if self._installed and not self._notebook:
            self._timer = leave_within(CLOSING_SECONDS, Interrupted.exit_code)

    def _handle(self, number, frame):
        self._handled += 1
        if self._handled > 1 and self._notebook:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
        if self._interruptible:
            self._interruptible, self._stopped = False, True
            raise Stop

    def _swallowed(self, unraisable):
        """Python drops what is raised while an object is cleaned up: once more, a moment later."""
        if unraisable.exc_type is not Stop:
            return self._unraisable(unraisable)
        self._interruptible = True
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)

    def _again(self, number, frame):
        if self._stopped and self._interruptible:
            self._interruptible = False
            raise Stop
        if not self._stopped and callable(other := self._handlers[signal.SIGALRM]):
            other(number, frame)

    def _watch(self):
        first = True
        while byte := os.read(self._read, 1):
            if byte[0] not in CAUGHT:  # handlers of others tell here too
                continue
            if first:
                first, name = False, signal.Signals(byte[0]).name
                print(
                    f"\n{name}: saving, then stopping; a second one stops at once",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            elif not self._notebook:
                os._exit(128 + byte[0])
