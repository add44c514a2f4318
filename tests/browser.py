"""A browser without a window, for tests of pages; they are skipped where none is installed."""

import os
import pathlib
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
needed = pytest.mark.skipif(FOUND is None, reason=f"none of {', '.join(NAMES)} is installed")


def _run(folder: pathlib.Path, address: str, *arguments: str) -> str:
    # As root it runs without a sandbox only: what it opens here is our own.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    found = subprocess.run(
        [FOUND, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", *sandbox,
         "--disable-extensions", "--disable-background-networking",
         f"--user-data-dir={folder / 'profile'}", *arguments, address],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    return found.stdout


def dom(folder: pathlib.Path, address: str, seconds: float = 60) -> str:
    """The HTML of a page after its script has run for so many seconds of its own clock, which runs
    as fast as it can."""
    budget = f"--virtual-time-budget={round(1000 * seconds)}"
    return _run(folder, address, "--dump-dom", budget)


def screenshot(folder: pathlib.Path, address: str, path: pathlib.Path, seconds: float = 5) -> None:
    """A picture of a page, as a PNG."""
    budget = f"--virtual-time-budget={round(1000 * seconds)}"
    _run(folder, address, f"--screenshot={path}", "--window-size=1100,900", budget)
