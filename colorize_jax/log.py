"""The messages of a command. The terminal or disk that they go to may fail without ending a run."""

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

PATIENCE_SECONDS = 5.0  # the time to wait for a reader that does not read, such as a stopped pager
_CHUNK = 512  # A pipe or terminal with room takes this many bytes without blocking.


class Log:
    """A text stream that never raises: it drops and counts lines that cannot be written.

    Once it can be written again, it reports how many lines are missing. It bypasses Python's buffer
    of a real file, pipe or terminal, which would try to write the same bytes again and again.

    Args:
        stream: the stream to write to; None if it was closed at the start, as in Python.
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
        """Does nothing, because `write` does not buffer."""

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return self._stream.isatty()
        return False

    def newly_lost(self) -> int:
        """The number of lines that were lost since the last call."""
        with self._lock:
            lost, self._untold = self._untold, 0
        return lost

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def surviving_output() -> Iterator[None]:
    """Inside the `with` block `sys.stderr` is a `Log`."""
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
    """Prints a line above a progress bar; a line that cannot be written is no error.

    It catches errors itself, because `sys.stderr` is no `Log` in processes that read photos.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def say_once(text: str) -> None:
    """Like `say`, with any characters, and only on the first host of a run."""
    jax = sys.modules.get("jax")
    if jax is None or jax.process_index() == 0:
        say(printable(text))


def newly_lost() -> int:
    """The number of lines that `sys.stderr` has lost since the last call."""
    return sys.stderr.newly_lost() if isinstance(sys.stderr, Log) else 0


def occupy_standard_streams() -> None:
    """Opens /dev/null for each standard stream that was closed at the start.

    Otherwise the next opened file, perhaps a checkpoint, would get the stream's number, and
    libraries that write to standard error would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number, which is the stream's.
