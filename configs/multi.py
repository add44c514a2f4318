r"""Colorization and rotation at once, on one VGG-16: the sum of their losses.

python -m colorize_jax.main --config=configs/multi.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/multi

The network reads gray, since colorization is one of the tasks. Weights and rates are our choice.
The whole recipe was not run yet. Other tasks:

    --config.task.tasks="('colorization', 'jigsaw')" --config.task.weights="(1.0, 0.3)"

Variants, as in --config=configs/multi.py:small
    small  the network and the photos of the quickstart, a few minutes on two CPU cores
"""

from colorize_jax.config import choices, default_config, recipe, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    if "small" not in asked:
        config = default_config("multi")
        config.data.crop = 224
        config.data.scale = (224, 400)
        return config
    config = recipe.read_config("quickstart")
    points = {"points": 64, "edge_buffer": 8, "model": {"hidden": 128}}
    choices.choose(config, "task", "multi")
    config.task.settings = {"colorization": points, "rotation": {"layer": "conv5_3"}}
    return config
