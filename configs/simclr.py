r"""SimCLR: find the other view of the same photo among all views of a batch; ResNet-50.

python -m colorize_jax.main --config=configs/simclr.py \
    --config.data.source=/data/imagenet/train --workdir=/ckpt/simclr \
    --config.evals.knn.source=/data/imagenet --config.evals.knn.split=train \
    --config.evals.knn.eval_split=val

The setting of Chen, Kornblith, Norouzi and Hinton (ICML 2020) for ImageNet, as the released code
runs it: ResNet-50, two random resized crops of 224 pixels of each of 4,096 photos, 100 epochs,
LARS, 10 epochs of warm-up and half a cosine. The loss and the statistics of batch norm are those of
the whole batch of all devices. Folders of classes are read as plain photos: labels are not used.
The whole recipe was not run yet.

The rate is that of the release, whose loss is twice ours (`colorize_jax/tasks/simclr.py`). LARS
divides a gradient by its norm, so this matters only for the scale and bias of batch norm, which
learn half as fast here.

Variants, as in --config=configs/simclr.py:cifar
    long   1,000 epochs on ImageNet, with the same 10 epochs of warm-up
    cifar  the release's setting for CIFAR-10: ResNet-18 for photos of 32 pixels, 512 photos a step,
           1,000 epochs, weaker changes of colors and no blur
    small  a narrow ResNet of 14 layers for two CPU cores and thousands of photos of 64 pixels, as
           Tiny ImageNet

python -m colorize_jax.main --config=configs/simclr.py:small --workdir=/ckpt/simclr \
    --config.data.source=/data/tiny_imagenet/train --config.evals.knn.source=/data/tiny_imagenet \
    --config.evals.knn.split=train --config.evals.knn.eval_split=val
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("long", "cifar", "small"))
    if "small" in asked:
        return _small()
    network = "resnet18" if "cifar" in asked else "resnet50"
    config = default_config("simclr", network, optimizer="lars", schedule="cosine")
    config.model.variant = "torch"
    config.model.in_channels = 3
    config.model.norm_decay = 0.9
    config.data.views = 2
    config.data.scaling = "resized"
    config.data.crop = 224
    config.data.batch_size = 4096
    config.optimizer.rate = 0.3
    config.optimizer.rate_batch_size = 256
    config.optimizer.weight_decay = 1e-6
    config.schedule.epochs = 1000.0 if asked.intersection(("long", "cifar")) else 100.0
    config.schedule.warmup = 10 / config.schedule.epochs
    config.checkpoint.snapshots = ()
    if "cifar" in asked:
        config.model.stem = "cifar"
        config.data.crop = 32
        config.data.batch_size = 512
        config.optimizer.rate = 1.0
        config.task.temperature = 0.5
        config.task.jitter = 0.5
        config.task.blur = 0.0
    return config


def _small():
    config = default_config("simclr", "resnet14", optimizer="adam", schedule="cosine")
    shrink(config)
    config.model.variant = "torch"
    config.model.in_channels = 3
    config.data.views = 2
    config.data.scaling = "resized"
    config.data.batch_size = 64
    config.task.temperature = 0.5
    config.task.jitter = 0.5
    config.task.blur = 0.0
    config.schedule.epochs = 30.0
    config.schedule.warmup = 0.05
    config.log.every = 50
    return config


def sweep():
    for rate in (0.3, 1.0, 3.0):
        yield {"optimizer.rate": rate}
