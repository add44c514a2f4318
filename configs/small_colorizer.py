r"""The network that colors photos when no checkpoint is named: a VGG-16 of a quarter of the width.

python -m colorize_jax.main --config=configs/small_colorizer.py --workdir=/ckpt/small_colorizer \
    --config.data.source=/data/tiny_imagenet/train@0.7,/data/VOC2012/JPEGImages@0.3

It predicts the 313 bins of Zhang, Isola and Efros (ECCV 2016) at sampled pixels of crops of 64, in
bfloat16. Rare colors weigh a little more (`config.task.uniform=0.95`, 0.5 in the paper): a small
network that is told to be bold is often wrong. docs/colorize.md has the numbers of the network in
the package, its photos and its time. This writes a file such as that one:

    colorize_jax.Colorizer.load("/ckpt/small_colorizer", size=128).save("default.safetensors")
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    variants(variant, ())
    config = default_config("gamut", optimizer="adam", schedule="cosine")
    config.steps = 3200
    config.model.width = 0.25
    config.model.fc6_kernel = 3
    config.model.hidden = 256
    config.model.dtype = "bfloat16"
    config.data.scale = (64, 113)
    config.data.crop = 64
    config.data.batch_size = 32
    config.data.holdout = 0.01
    config.data.threads = 2
    config.task.points = 64
    config.task.edge_buffer = 8
    config.task.uniform = 0.95
    config.task.prior_batches = 200
    config.optimizer.rate = 0.002
    config.schedule.warmup = 0.05
    config.checkpoint.every = 250
    config.checkpoint.snapshots = ()
    config.eval.every = 500
    config.eval.photos = 200
    config.eval.norm_batches = 10
    config.log.every = 50
    return config
