"""Where a command speaks to. It may go away or be full: a line is never worth a run."""

from collections.abc import Iterator
import contextlib
import errno
import io
import os
import select
import sys
import threading

from tqdm import tqdm

from colorize_jax.errors import printable, why

PATIENCE_SECONDS = 5.0  # for a reader that does not read, as a stopped pager
_CHUNK = 512  # bytes that a pipe or terminal with room takes without blocking


class Log:
    """A text stream that loses what cannot be written, counts it, and never raises.

    Once it can be written again it says how many lines are missing. A real file, pipe or terminal
    is written to past Python's buffer, which would try to write the same bytes again and again.

    Args:
        stream: that it stands for; None, as Python has it, if that was closed at the start.
    """

    def __init__(self, stream):
        self._stream, self._lock = stream, threading.RLock()
        self._missing, self._reason, self._untold = 0, "", 0
        buffer = getattr(stream, "buffer", None)
        real = isinstance(buffer, io.BufferedWriter) and isinstance(buffer.raw, io.FileIO)
        self._descriptor = buffer.fileno() if real else None

    def write(self, text: str) -> int:
        """Writes it or loses it."""
        with self._lock:
            try:
                missing = ""
                if self._missing:
                    missing = f"\n[{self._missing} lines are missing here: {self._reason}]\n"
                self._put(missing + text)
                self._missing, self._reason = 0, ""
            except (OSError, ValueError) as error:
                self._missing += text.count("\n")
                self._untold += text.count("\n")
                self._reason = why(error)
        return len(text)

    def _put(self, text: str) -> None:
        if self._stream is None:
            raise OSError(errno.EBADF, "it was closed at the start")
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        while data:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            patience = 0.0 if self._reason else PATIENCE_SECONDS
            if not poll.poll(1000 * patience):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads what is written")
            data = data[os.write(self._descriptor, data[:_CHUNK]) :]

    def flush(self) -> None:
        """Nothing waits: `write` has written."""

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return self._stream.isatty()
        return False

    def newly_lost(self) -> int:
        """How many lines were lost since this was last asked."""
        with self._lock:
            lost, self._untold = self._untold, 0
        return lost

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """While it is entered, `sys.stderr` is a `Log`."""
    if isinstance(sys.stderr, Log):
        yield
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    before = sys.stderr
    sys.stderr = Log(before)
    try:
        yield
    finally:
        sys.stderr = before


def say(text: str) -> None:
    """A line that does not tear a progress bar; one that cannot be written is nothing to end for.

    (Of a process that reads photos `sys.stderr` is no `Log`.)
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def say_once(text: str) -> None:
    """`say`, whatever letters are in it, on the first host of a run only: all of them know it."""
    jax = sys.modules.get("jax")
    if jax is None or jax.process_index() == 0:
        say(printable(text))


def newly_lost() -> int:
    """How many lines `sys.stderr` has lost since this was last asked."""
    return sys.stderr.newly_lost() if isinstance(sys.stderr, Log) else 0


def occupy_standard_streams() -> None:
    """Opens what of standard input, output and error was closed at the start, as nothing.

    The next file to be opened would get its number otherwise, perhaps a checkpoint, and whatever
    libraries write to standard error would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
