r"""Trains what a config file describes, or goes on where it was stopped.

python -m colorize_jax.main --config=configs/quickstart.py --workdir=quickstart
"""

from absl import flags
from ml_collections import config_flags

from colorize_jax import command_line

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, for example configs/vgg16_col.py or configs/vgg16_col.py:long."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for all that the run leaves.")


def main(argv):
    """Trains."""
    del argv
    from colorize_jax.training import loop  # JAX starts only once the flags are known to be right

    loop.train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    command_line.run(main, required=("config", "workdir"))
