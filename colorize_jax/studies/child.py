"""Runs another command as a child process, and forwards signals to stop."""

from collections.abc import Sequence
import os
import signal
import subprocess
import sys

STOPPED = 75  # main's exit code after a signal: it has saved, and the same command resumes.


def execute(words: Sequence[str]) -> int:
    """Runs a command, forwards signals to stop to it, and returns its exit code.

    If this program was signaled and the command failed, the result is `STOPPED`, whatever its exit
    code.
    """
    # A launcher's `python` should be the Python that runs this file.
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))
    process, told = None, []

    def tell(number, frame):
        told.append(number)
        if process is not None:
            os.killpg(process.pid, signal.SIGTERM)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Under nohup it is ignored.
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, tell) for number in numbers}
    try:
        # In its own session it does not get Ctrl-C from the terminal a second time.
        process = subprocess.Popen(words, env=os.environ | {"PATH": path}, start_new_session=True)
        if told:  # The signal came while the process was started.
            os.killpg(process.pid, signal.SIGTERM)
        code = process.wait()
        return STOPPED if told and code else code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
