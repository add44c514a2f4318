"""The command as one of two processes that train together; started by test_training_hosts.py.

Prints the positions that it reads. When it reads STOP_AT, the environment's SIGNAL comes, or, where
none is named, a fault.
"""

import os

from colorize_jax import command_line, main
from colorize_jax.data import pipeline

plain = pipeline.HostRows.__getitem__


def telling(self, index):
    """Reads a row and prints its position."""
    row = plain(self, index)
    if isinstance(self.examples, pipeline.TrainingExamples):
        print("read", row["position"], flush=True)
        if row["position"] == int(os.environ.get("STOP_AT", -1)):
            if "SIGNAL" not in os.environ:
                raise RuntimeError("a fault that nobody thought of")
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return row


if __name__ == "__main__":
    pipeline.HostRows.__getitem__ = telling
    command_line.run(main.main, main.parser())
