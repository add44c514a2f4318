"""A browser without a window, for tests of pages; without one they are skipped.

It is driven by the DevTools protocol over a pipe, which needs no package: JSON that ends with a
zero byte, read by the browser from descriptor 3 and written to 4.
"""

import base64
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
needed = pytest.mark.skipif(FOUND is None, reason=f"none of {', '.join(NAMES)} is installed")
PATIENCE = 60  # The machine may be busy with something else.


class Page:
    """One tab."""

    def __init__(self, reading: int, writing: int):
        self._reading, self._writing = reading, writing
        self._rest, self._number, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]

    def call(self, method: str, **parameters) -> dict:
        """The browser's answer to a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:  # Events may come before the answer.
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            part = os.read(self._reading, 2**16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, address: str) -> None:
        """Goes to a page, and waits until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def evaluate(self, expression: str):
        """The value of a JavaScript expression, or the result of a promise."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str):
        """Waits until an expression is true and returns its value."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.02)
        raise AssertionError(f"it never was: {expression}")

    def screenshot(self, path: pathlib.Path) -> None:
        """A picture of the page, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def page(folder: pathlib.Path) -> Iterator[Page]:
    """A new browser with its own profile folder."""
    theirs_in, writing = os.pipe()
    reading, theirs_out = os.pipe()
    # As root it needs this flag; it opens only our own pages.
    sandbox = "--no-sandbox" if os.geteuid() == 0 else ""
    command = (
        f'exec "$0" --headless --disable-gpu --no-first-run {sandbox} --remote-debugging-pipe '
        f'--disable-background-networking --user-data-dir="$1" --window-size=1100,900 '
        f"3<&{theirs_in} 4>&{theirs_out}"
    )
    process = subprocess.Popen(
        ["bash", "-c", command, FOUND, str(folder / "profile")], pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(reading, writing)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
