r"""Instance discrimination: each photo a class of its own, with a bank of features.

python -m colorize_jax.main --config=configs/instances.py \
    --config.data.source=/data/imagenet/train --workdir=/ckpt/instances \
    --config.evals.knn.source=/data/imagenet --config.evals.knn.split=train \
    --config.evals.knn.eval_split=val

The setting of Wu, Xiong, Yu and Lin (CVPR 2018) for ImageNet: ResNet-50 on color crops of 224
pixels, 200 epochs, 4,096 photos drawn from the bank for each. Folders of classes are read as plain
photos: labels are not used. The bank takes 512 bytes a photo, 656 MB of ImageNet, of which each of
8 devices holds 82 MB; every checkpoint contains all of it. The whole recipe was not run yet.

The score of the task is how well held-out photos are found again in another view. What the encoder
has learned is told by the labels of evals.knn (the paper's k-NN), which training does not see.

Variants, as in --config=configs/instances.py:small
    small  a narrow AlexNet for two CPU cores and thousands of photos of 64 pixels, as Tiny
           ImageNet; softmax over the whole bank instead of drawing from it

A photo must come many times: a row of the bank is random before its photo was seen, and old by an
epoch. Short runs therefore take few photos, as below (19 epochs), and "small" differs from the
paper in what is too slow for them: it changes colors less, keeps nothing of the old row of the
bank, and uses Adam with a low rate and a warm-up.

python -m colorize_jax.main --config=configs/instances.py:small --workdir=/ckpt/instances \
    --config.data.source=/data/tiny_imagenet/train --config.data.photos=2000 --config.steps=600 \
    --config.evals.knn.source=/data/tiny_imagenet --config.evals.knn.split=train \
    --config.evals.knn.eval_split=val --config.evals.knn.layer=conv5
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    small = "small" in asked
    network, optimizer = ("alexnet_bn", "adam") if small else ("resnet50", "sgd")
    schedule = "cosine" if small else "drops"
    config = default_config("instances", network, optimizer=optimizer, schedule=schedule)
    config.model.in_channels = 3
    config.data.scaling = "resized"
    config.data.area = (0.2, 1.0)
    config.checkpoint.snapshots = ()
    if not small:
        config.model.variant = "torch"
        config.data.crop = 224
        config.data.batch_size = 256
        config.optimizer.rate = 0.03
        config.optimizer.weight_decay = 1e-4
        config.schedule.epochs = 200.0
        config.schedule.drops = (0.6, 0.8)  # after 120 and 160 epochs
        return config
    shrink(config)
    config.model.fc6_kernel = 0  # Its own.
    config.data.batch_size = 64
    config.task.loss = "softmax"
    config.task.temperature = 0.1  # the paper's for CIFAR
    config.task.momentum = 0.0
    config.task.jitter = 0.1
    config.task.gray = 0.0
    config.optimizer.rate = 3e-4
    config.schedule.warmup = 0.1
    config.schedule.epochs = 30.0
    config.checkpoint.every = 1000
    config.eval.every = 300
    config.log.every = 50
    return config
