r"""Context encoder: the hidden middle of a photo is filled in; AlexNet, squared error.

python -m colorize_jax.main --config=configs/context_encoder.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/context_encoder

After Pathak et al. (CVPR 2016): crops of 128 pixels of photos of 350, the middle 64x64 is predicted
from what is around it. The encoder is that of configs/alexnet_col.py and the decoder is ours. Rates
for squared error alone are not confirmed: Adam with 1e-3 and batches of 64 are our choice. The
whole recipe was not run yet.

Variants, as in --config=configs/context_encoder.py:random,adversarial
    random       regions of any form, a quarter of the photo, in place of the middle
    adversarial  a discriminator judges what was filled in: Adam with b1=0.5, 2e-4 for it and 2e-3
                 for the network; both are updated at the same step, and not in turns
    small        a VGG-16 of a quarter of the width on crops of 64 pixels, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("random", "adversarial", "small"))
    network = "vgg16" if "small" in asked else "alexnet"
    config = default_config("context_encoder", network, optimizer="adam", schedule="cosine")
    config.model.in_channels = 3
    config.data.scale = (350, 351)
    config.data.crop = 128
    config.data.batch_size = 64
    config.task.layer = "conv5"
    config.optimizer.rate = 1e-3
    config.schedule.epochs = 100.0
    config.schedule.warmup = 0.02
    config.checkpoint.snapshots = ()
    if "random" in asked:
        config.task.region = "random"
    if "small" in asked:
        shrink(config)
        config.data.scaling = "resized"
        config.data.area = (0.6, 1.0)
        config.task.layer = "conv5_3"
        config.task.decoder = 128
    if "adversarial" in asked:
        config.task.adversarial = 0.001
        config.optimizer.rate = 2e-3
        config.optimizer.b1 = 0.5
        config.optimizer.groups = {"discriminator": {"rate": 2e-4}}
    return config


def sweep():
    for rate in (3e-4, 1e-3, 3e-3):
        yield {"optimizer.rate": rate}
