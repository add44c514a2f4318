r"""Colorization by a decoder: a and b of every pixel from gray, by squared error; AlexNet.

python -m colorize_jax.main --config=configs/lab_decoder.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/lab_decoder

After the student report of Macar and Liu: photos of 256 pixels, crops of 224, Adam with 3e-4 and
batches of 512. They lowered the rate when the validation loss stood still; here it falls along a
cosine. The whole recipe was not run yet.

Variants, as in --config=configs/lab_decoder.py:small
    small  a VGG-16 of a quarter of the width on crops of 64 pixels, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    network = "vgg16" if "small" in asked else "alexnet"
    config = default_config("lab_decoder", network, optimizer="adam", schedule="cosine")
    config.data.scale = (256, 257)
    config.data.crop = 224
    config.data.batch_size = 512
    config.task.layer = "conv5"
    config.optimizer.rate = 3e-4
    config.schedule.epochs = 200.0
    config.schedule.warmup = 0.02
    config.checkpoint.snapshots = ()
    if "small" in asked:
        shrink(config)
        config.optimizer.rate = 3e-4
        config.data.scaling = "resized"
        config.data.area = (0.6, 1.0)
        config.task.layer = "conv5_3"
        config.task.decoder = 128
    return config


def sweep():
    for rate in (1e-4, 3e-4, 1e-3):
        yield {"optimizer.rate": rate}
