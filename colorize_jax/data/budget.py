"""Limits the memory that all photos being decoded at the same time take together."""

from collections.abc import Iterator
import contextlib
import threading


class Budget:
    """Admits threads in the order in which they ask, as long as their sum is within a limit."""

    def __init__(self):
        self._used = 0
        self._turn = threading.Lock()  # Its owner is next: small photos never starve a large one.
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int, limit: int) -> Iterator[None]:
        """Waits until `size` fits within `limit`. A size above the limit is admitted alone."""
        with self._turn, self._freed:
            self._freed.wait_for(lambda: not self._used or self._used + size <= limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()
