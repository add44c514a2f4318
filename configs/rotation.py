r"""Rotation: which of four right-angled turns was made of a photo; AlexNet with batch norm.

python -m colorize_jax.main --config=configs/rotation.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/rotation

The released training on ImageNet (Gidaris, Singh, Komodakis, ICLR 2018): random resized crops of
224 pixels in color, 192 photos a step, each in all four turns, 50 epochs; the rate drops tenfold
after 15, 30 and 45. The network is theirs, AlexNet with batch norm and without dropout. The whole
recipe was not run yet.

Variants, as in --config=configs/rotation.py:small
    cifar  their training on CIFAR-10: a network in network of four blocks on photos of 32 pixels,
           128 photos a step, each in all four turns, 200 epochs; the rate 0.1 is divided by 5
           after 60, 120 and 160. They pad the photos by 4 pixels before the crop of 32; here a
           photo is enlarged to up to 40. It was not run yet. With "small", a quarter of the
           channels and 5 epochs of 32 photos a step
    small  a VGG-16 of a quarter of the width on crops of 64 pixels, for two CPU cores

While it trains, k-NN shows what was learned: --config.evals.knn.source=FOLDER, with a folder in it
for every class.
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("cifar", "small"))
    network = "vgg16" if "small" in asked else "alexnet_bn"
    network = "nin" if "cifar" in asked else network
    config = default_config("rotation", network, optimizer="sgd")
    config.model.in_channels = 3
    config.data.scaling = "resized"
    config.data.crop = 224
    config.data.batch_size = 192
    config.optimizer.nesterov = True
    config.optimizer.rate = 0.01
    config.schedule.epochs = 50.0
    config.schedule.drops = (15 / 50, 30 / 50, 45 / 50)
    config.checkpoint.snapshots = ()
    if "cifar" in asked:
        config.data.scaling = "shortest"
        config.data.scale = (32, 41)
        config.data.crop = 32
        config.data.batch_size = 128
        config.optimizer.rate = 0.1
        config.schedule.epochs = 200.0
        config.schedule.drops = (60 / 200, 120 / 200, 160 / 200)
        config.schedule.factor = 0.2
    elif "small" not in asked:
        config.model.fc6_padding = "VALID"  # as theirs: a crop of 224 pixels has one answer
    if "small" in asked:
        config.model.width = 0.25
        if "cifar" not in asked:
            config.model.fc6_kernel = 1
            config.data.crop = 64
            config.data.area = (0.3, 1.0)
        config.data.batch_size = 32
        config.data.holdout = 0.02
        config.data.threads = 2
        config.schedule.epochs = 5.0
        config.schedule.drops = (0.6, 0.9)
        config.checkpoint.every = 500
        config.eval.every = 500
        config.eval.photos = 400
        config.eval.norm_batches = 20
    return config


def sweep():
    for rate in (0.003, 0.01, 0.03):
        yield {"optimizer.rate": rate}
