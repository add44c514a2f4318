"""Processes that stand in for the one that measures; they live here because a new process imports
them."""

import os
import time

DEVICE = {"hardware": "an abacus", "jax": "0"}
SPEED = {
    "dtype": "bfloat16", "rows": 2, "devices": 1, "compile_seconds": 1.0, "step_seconds": 0.5,
    "flops": 1e9, "counted": 2**30, "seen": 2**30, "fed": None,
}  # fmt: skip


def moody(connection, cache):
    """One row of each kind: it ends well, fails, crashes, never ends, and does what is asked."""
    os.setsid()
    connection.send(("device", DEVICE))
    while True:
        try:
            name, order = connection.recv()
        except EOFError:
            return
        if name == "device":
            rates = {"bfloat16": 4e9}
            connection.send(("part", {"matrix_rates": rates, "copy_rate": None}))
            connection.send(("part", {"matrix_rates": rates, "copy_rate": 1e9}))
        elif name == "vgg16-bfloat16":
            assert order.found["device"]["copy_rate"] == 1e9
            connection.send(("part", {"speeds": [SPEED], "ended": ""}))
            time.sleep(60)
        elif name == "resnet152-bfloat16":
            connection.send(("failed", "no such luck"))
            continue
        elif name == "alexnet-bfloat16":
            os._exit(3)
        connection.send(("done", ""))


def dead(connection, cache):
    """It has no device."""
    os.setsid()
