r"""Counting: what is counted in a photo is the sum over its quarters; AlexNet.

python -m colorize_jax.main --config=configs/counting.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/counting

After Noroozi, Pirsiavash and Favaro (ICCV 2017): crops of 228 pixels, shrunk and quartered to 114,
1,000 counts, a margin of 10. The paper's optimizer and its share of gray photos are not confirmed:
Adam with 1e-4 and batches of 256 are our choice. The whole recipe was not run yet.

Variants, as in --config=configs/counting.py:small
    small  a VGG-16 of a quarter of the width on crops of 64 pixels, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    network = "vgg16" if "small" in asked else "alexnet"
    config = default_config("counting", network, optimizer="adam", schedule="cosine")
    config.model.in_channels = 3
    config.data.scaling = "resized"
    config.data.area = (0.3, 1.0)
    config.data.crop = 228
    config.data.batch_size = 256
    config.optimizer.rate = 1e-4
    config.schedule.epochs = 90.0
    config.schedule.warmup = 0.05
    config.checkpoint.snapshots = ()
    if "small" in asked:
        shrink(config)
        config.task.counts = 256
        config.task.layer = "conv5_3"
        config.task.grid = 2
    return config


def sweep():
    for rate in (3e-5, 1e-4, 3e-4):
        yield {"optimizer.rate": rate}
