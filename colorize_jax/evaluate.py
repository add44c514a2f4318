r"""Scores a trained network again: another split, another view of the photos, predictions as files.

python -m colorize_jax.evaluate --config=configs/voc2007_cls.py --config.data.source=/data/VOC2007 \
    --config.eval.view=ten --checkpoint=/ckpt/vgg16_voc07 --output=/ckpt/vgg16_voc07/ten

Shows the table of a run's end and leaves its results.json and images/ in --output.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from colorize_jax import command_line

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe that the network was trained by.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a run, or a checkpoints/<step>.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")


def main(argv):
    """Evaluates."""
    del argv
    from colorize_jax.training import evaluation, hosts

    hosts.start(_CONFIG.value.distributed)
    evaluation.evaluate(
        _CONFIG.value, _CHECKPOINT.value, pathlib.Path(_OUTPUT.value), stated=command_line.stated()
    )


if __name__ == "__main__":
    command_line.run(main, required=("config", "checkpoint", "output"))
