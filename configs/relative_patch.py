r"""Relative patch position: in which of eight directions one patch lies from another; AlexNet.

python -m colorize_jax.main --config=configs/relative_patch.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/relative_patch

The setting of Doersch, Gupta and Efros (ICCV 2015): patches of 96 pixels with gaps of 48 that are
moved by up to 7, in photos of 150,000 to 450,000 pixels; about 512 patches a step: here the
nine of one grid from each of 56 photos, and their 40 pairs. The released rate of 1e-5, for the sum
over all pairs and without momentum, is 0.02 for our mean. Their network has batch norm in fc6 and
fc7 too. The whole recipe was not run yet.

Variants, as in --config=configs/relative_patch.py:small
    small  a VGG-16 of a quarter of the width, patches of 16 pixels, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    if "small" in asked:
        return _small()
    config = default_config("relative_patch", "alexnet", optimizer="sgd", schedule="constant")
    config.model.in_channels = 3
    config.data.scale = (400, 600)
    config.data.crop = 400
    config.data.mirror = False
    config.data.batch_size = 56
    config.task.patch = 96
    config.task.gap = 48
    config.task.jitter = 7
    config.task.layer = "conv5"
    config.task.grid = 3
    config.optimizer.rate = 0.02
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0
    config.steps = 1_000_000
    config.checkpoint.snapshots = ()
    return config


def _small():
    config = default_config("relative_patch", "vgg16", optimizer="adam", schedule="cosine")
    shrink(config)
    config.model.in_channels = 3
    config.model.tile_features = 256
    config.model.hidden = 512
    config.data.scaling = "resized"
    config.data.area = (0.6, 1.0)
    config.data.crop = 72  # Patches of 16 pixels, gaps of 8, and 8 pixels of room.
    config.task.patch = 16
    config.task.gap = 8
    config.task.jitter = 2
    config.task.layer = "conv4_3"
    config.task.grid = 2
    config.task.dropout = 0.1
    config.schedule.warmup = 0.05
    return config


def sweep():
    for rate in (0.005, 0.02, 0.05):
        yield {"optimizer.rate": rate}
