r"""Trains what a config file describes, or goes on where it was stopped.

python -m colorize_jax.main --config=configs/quickstart.py --workdir=quickstart

Ends with 0 once all steps are done; 75 after a signal, or if storage or data workers fail for good,
with everything saved: the same command goes on; 74 if the last state could not be saved; 1 if
something is wrong that a person must see to, and the last line says what.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from colorize_jax import command_line
from colorize_jax.training.signals import Signals

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, for example configs/vgg16_col.py or configs/vgg16_col.py:long."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that the run leaves.")


def main(argv):
    """Trains, or replays a step that was not finite."""
    del argv
    with Signals() as signals:
        # JAX starts only once the flags are known to be right, and with all hosts at once.
        from colorize_jax.training import hosts, loop, nonfinite

        signals.wait_for(lambda: hosts.start(_CONFIG.value.distributed))
        stated = command_line.stated()
        if _CONFIG.value.replay:
            workdir = pathlib.Path(_WORKDIR.value)
            signals.wait_for(lambda: nonfinite.replay(_CONFIG.value, workdir, stated))
        else:
            loop.train(_CONFIG.value, _WORKDIR.value, signals, stated=stated)


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))
