"""How much memory the photos being decoded may take together."""

from collections.abc import Iterator
import contextlib
import threading


class Budget:
    """Lets threads in, in their order, as long as what they take together is within a limit."""

    def __init__(self):
        self._used = 0
        self._turn = threading.Lock()  # whoever waits is next: small ones never overtake for ever
        self._freed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int, limit: int) -> Iterator[None]:
        """Waits until `size` fits below `limit`; one that is larger comes alone."""
        with self._turn, self._freed:
            self._freed.wait_for(lambda: not self._used or self._used + size <= limit)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()
