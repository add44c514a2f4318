r"""Trains what a config file describes, or goes on where it was stopped.

python -m colorize_jax.main --config=configs/quickstart.py --workdir=quickstart
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from colorize_jax.errors import ColorizeError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, for example configs/vgg16_col.py or configs/vgg16_col.py:long."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that the run leaves.")


def main(argv):
    """Runs the config; an error of the user's becomes one sentence and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    from colorize_jax.training import loop  # JAX starts only once the flags are known to be right

    try:
        loop.train(_CONFIG.value, _WORKDIR.value)
    except ColorizeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
