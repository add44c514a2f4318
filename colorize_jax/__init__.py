"""Self-supervised learning by colorization: pretrain on photos without labels, then transfer."""

import sys

__version__ = "0.1.0"


def _end_without_a_trace(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # a command is being imported, for seconds: Ctrl-C may come by then
    sys.excepthook = _end_without_a_trace


def __getattr__(name):
    # Imported when asked for: data workers import this package, and need neither JAX nor Flax.
    if name == "load_encoder":
        from colorize_jax.training.checkpoint import load_encoder

        return load_encoder
    if name == "network_input":
        from colorize_jax.color.spaces import network_input

        return network_input
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
