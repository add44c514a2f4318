r"""Contrastive predictive coding: which patches lie beyond those that were seen; ResNet-50.

python -m colorize_jax.main --config=configs/cpc.py \
    --config.data.source=/data/imagenet/train --workdir=/ckpt/cpc

After van den Oord, Li and Vinyals (2018) and Hénaff et al. (ICML 2020): 7 x 7 patches of 64 pixels
every 32 in crops of 256, layer norm, context networks in four directions that predict all rows but
the next one, which overlaps. The second paper's numbers are 63.8 % top-1 by a linear classifier
with a ResNet-50, and 71.5 % with a network of its own of 161 layers. Batch, rate and length are
ours. The whole recipe was not run yet.

Variants, as in --config=configs/cpc.py:small
    small  a VGG-16 of a quarter of the width, patches of 16 pixels every 8, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    if "small" in asked:
        return _small()
    config = default_config("cpc", "resnet50", optimizer="adam", schedule="cosine")
    config.model.variant = "torch"
    config.model.in_channels = 3
    config.model.norm = "layer"
    config.data.scale = (300, 301)
    config.data.crop = 256
    config.data.batch_size = 256
    config.optimizer.rate = 2e-4
    config.schedule.epochs = 200.0
    config.schedule.warmup = 0.02
    config.checkpoint.snapshots = ()
    return config


def _small():
    config = default_config("cpc", "vgg16", optimizer="adam", schedule="cosine")
    shrink(config)
    config.model.in_channels = 3
    config.model.norm = "layer"
    config.model.context = 128
    config.model.context_blocks = 3
    config.data.scaling = "resized"
    config.data.area = (0.6, 1.0)
    # A patch of 16 pixels is two cells of it a side.
    config.task.layer = "conv4_3"
    config.schedule.warmup = 0.05
    config.eval.norm_batches = 0
    return config


def sweep():
    for rate in (1e-4, 3e-4, 1e-3):
        yield {"optimizer.rate": rate}
