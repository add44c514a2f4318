"""Stand-ins for the measuring process. They are in this file because a new process imports it."""

import os
import time

DEVICE = {"hardware": "an abacus", "jax": "0"}
SPEED = {
    "dtype": "bfloat16", "rows": 2, "devices": 1, "compile_seconds": 1.0, "step_seconds": 0.5,
    "flops": 1e9, "counted": 2**30, "seen": 2**30, "fed": None,
}  # fmt: skip


def moody(connection, cache):
    """Each row succeeds, fails, crashes, hangs, or does what is asked."""
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
    """A process without a device."""
    os.setsid()
