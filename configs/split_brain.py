r"""Split-brain autoencoder: L from a and b, and a and b from L, by two halves of an AlexNet.

python -m colorize_jax.main --config=configs/split_brain.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/split_brain

After Zhang, Isola and Efros, "Split-Brain Autoencoders" (CVPR 2017): AlexNet of the usual width
without connections between its halves, 313 bins of a and b and 100 of L, and the sum of both
cross-entropies. It has batch norm, and no local response norm. Adam, rate, batches and their number
are those of the same authors' colorizer (configs/zhang_col.py), since those of the paper are not
known. The whole recipe was not run yet. At transfer, the network reads the colors of photos, and
both halves are its features; its runs take over config.model.split by themselves.

Variants, as in --config=configs/split_brain.py:small
    regression  L, a and b by squared error
    small       a VGG-16 of a quarter of the width on crops of 64 pixels, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("regression", "small"))
    small = "small" in asked
    config = default_config(
        "split_brain",
        "vgg16" if small else "alexnet",
        optimizer="adam",
        schedule="cosine" if small else "drops",
    )
    config.model.split = True
    config.model.in_channels = 3
    if "regression" in asked:
        config.task.loss = "regression"
    if small:
        shrink(config)
        config.data.scaling = "resized"
        config.data.area = (0.6, 1.0)
        config.task.layer = "conv5_3"
        config.schedule.warmup = 0.02
        return config
    config.model.lrn = False
    config.steps = 500_000
    config.data.scale = (256, 257)
    config.data.crop = 224
    config.data.batch_size = 40
    config.optimizer.b2 = 0.99
    config.optimizer.rate = 3e-5
    config.optimizer.weight_decay = 1e-3
    config.schedule.drops = (0.45, 0.9)
    config.checkpoint.snapshots = ()
    config.eval.shortest = 256
    return config


def sweep():
    for rate in (3e-4, 1e-3, 3e-3):
        yield {"optimizer.rate": rate}
