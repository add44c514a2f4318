r"""Jigsaw: in which of 100 orders nine tiles of a photo were laid out; AlexNet.

python -m colorize_jax.main --config=configs/jigsaw.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/jigsaw

The released training on ImageNet (Noroozi and Favaro, ECCV 2016): windows of 255 pixels, tiles of
64 in cells of 85, 256 photos a step, 350,000 steps; the rate drops tenfold every 100,000. The first
convolution has a stride of 2, for the small tiles. At transfer it has its usual stride of 4, as in
the release: a run that starts from this one does not take config.model.conv1_stride over. Here all
maps are padded, and conv5's is averaged to 3x3 in place of the last pool. The whole recipe was not
run yet.

Variants, as in --config=configs/jigsaw.py:small
    small  a VGG-16 of a quarter of the width, tiles of 16 pixels, 24 orders, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    if "small" in asked:
        return _small()
    config = default_config("jigsaw", "alexnet", optimizer="sgd")
    config.model.in_channels = 3
    config.model.conv1_stride = 2
    config.data.scale = (256, 257)
    config.data.crop = 255
    config.data.mirror = False
    config.data.batch_size = 256
    config.task.layer = "conv5"
    config.task.grid = 3
    config.optimizer.rate = 0.01
    config.steps = 350_000
    config.schedule.drops = (100 / 350, 200 / 350, 300 / 350)
    config.checkpoint.snapshots = ()
    return config


def _small():
    config = default_config("jigsaw", "vgg16", optimizer="adam", schedule="cosine")
    shrink(config)
    config.model.in_channels = 3
    config.model.tile_features = 256
    config.model.hidden = 512
    config.data.scaling = "resized"
    config.data.area = (0.6, 1.0)
    # Tiles of 16 pixels are two cells of it a side.
    config.task.layer = "conv4_3"
    config.task.grid = 2
    config.task.dropout = 0.1
    config.schedule.warmup = 0.05
    config.task.permutations = 24
    config.task.shift = 1
    return config


def sweep():
    for rate in (0.003, 0.01, 0.03):
        yield {"optimizer.rate": rate}
