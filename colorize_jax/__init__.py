"""Self-supervised learning by colorization: pretrain on photos without labels, then transfer."""

import sys

__version__ = "0.1.0"

# They are imported on first use: data workers import this package, and need neither JAX nor Flax.
_MODULES = {
    "Colorizer": "colorize.colorizer",
    "color_input": "color.spaces",
    "default_config": "config",
    "load_config": "config.recipe",
    "load_encoder": "checkpoints.reading",
    "network_input": "color.spaces",
    "train": "training.loop",
}
__all__ = sorted(_MODULES)


def _end_without_a_trace(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # Python is about to import and run a command.
    from colorize_jax import huge_pages

    huge_pages.start_again()
    # Importing a command takes seconds, in which Ctrl-C may come.
    sys.excepthook = _end_without_a_trace


def __getattr__(name):
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(f"colorize_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
