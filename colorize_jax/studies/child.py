"""Another command of ours as a process, which is told when this one is told to stop."""

from collections.abc import Sequence
import os
import signal
import subprocess
import sys

STOPPED = 75  # exit code of main after a signal: saved, and the same command goes on


def execute(words: Sequence[str]) -> int:
    """Runs a command to its end, tells it when this program is told to stop; its exit code.

    `STOPPED` if this program was told to stop and the command did not end well, whatever its code.
    """
    # `python` of a launcher is the Python that runs this file.
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)))
    process, told = None, []

    def tell(number, frame):
        told.append(number)
        if process is not None:
            os.killpg(process.pid, signal.SIGTERM)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    handlers = {number: signal.signal(number, tell) for number in numbers}
    try:
        # In a session of its own it does not get Ctrl-C from the terminal as well.
        process = subprocess.Popen(words, env=os.environ | {"PATH": path}, start_new_session=True)
        if told:  # while it was being started
            os.killpg(process.pid, signal.SIGTERM)
        code = process.wait()
        return STOPPED if told and code else code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
