r"""Tests of a pretrained network on CIFAR-10, SVHN or Oxford Flowers, with any layers frozen.

python -m colorize_jax.main --config=configs/downstream_cls.py --config.init_from=/ckpt/vgg16 \
    --config.data.source=/data/cifar-10-batches-py --workdir=/ckpt/vgg16_cifar
python -m colorize_jax.main --config=configs/downstream_cls.py:svhn \
    --config.init_from=/ckpt/vgg16 --config.finetune=conv4_1..fc7 \
    --config.data.source=/data/svhn --workdir=/ckpt/vgg16_svhn
python -m colorize_jax.main --config=configs/downstream_cls.py:flowers,random \
    --config.data.source=/data/flowers --workdir=/ckpt/flowers_random

50 epochs of Adam with batches of 512, whose rate is multiplied by 0.98 after every epoch, without
augmentation: crops of 64 pixels, of the flowers 224 (AlexNet: 227). --config.finetune says what is
trained: all, head, or layers by name; the batch norm of the others does not change. All starts have
batch norm. Nothing is chosen on the test photos: the score is that of the last step. Choose rates
and depths with :select, then run the chosen ones with several seeds. TFDS has the data as
tfds:cifar10, tfds:svhn_cropped and tfds:oxford_flowers102. It was not run at its full size yet.

Variants, as in --config=configs/downstream_cls.py:svhn,alexnet,random
    svhn        SVHN's cropped digits
    flowers     Oxford Flowers, in the official splits
    select      scores a tenth of the training photos (of the flowers the split val), not the test
                photos; name single files: /data/cifar-10-batches-py/data_batch_* or
                /data/svhn/train_32x32.mat
    depths      with :select, launch/sweep.py trains the layers from each one upwards instead of
                trying rates: a table of how many layers to freeze
    random      a random start
    alexnet     another network than VGG-16
    alexnet_bn  AlexNet with batch norm and without groups
    resnet152   another one
    resnet101   the same with 101 layers
    resnet50    with 50 layers
    resnet34    with 34 layers, of blocks of two convolutions
    resnet18    with 18 layers of these
    zhang       Zhang's colorizer
    vit         a vision transformer
    nin         network in network, with crops of 32 pixels
"""

from colorize_jax.config import NETWORKS, default_config, transfer, variants
from colorize_jax.errors import ConfigError
from colorize_jax.models import registry

EPOCHS = 50


def get_config(variant=""):
    asked = variants(variant, (*NETWORKS, "random", "svhn", "flowers", "select", "depths"))
    if {"svhn", "flowers"} <= asked:
        raise ConfigError("the config's variants name two data sets: svhn and flowers")
    config = default_config("classification", optimizer="adam")
    transfer(config, asked, classifier=True)
    config.model.norm = "batch"
    config.task.classes = 102 if "flowers" in asked else 10
    side = config.data.crop  # The network is made for it.
    if "flowers" not in asked:
        side = min(64, side)
        if "fc6_padding" in config.model:
            config.model.fc6_padding = "SAME"
    config.data.labels = "folders"
    config.data.split, config.data.eval_split = "train", "test"
    if "select" in asked:
        flowers = "flowers" in asked
        config.data.split = "train" if flowers else ""
        config.data.eval_split = "val" if flowers else ""
        config.data.holdout = 0.1
    config.data.scale = (side, side + 1)
    config.data.crop = side
    config.data.mirror = False
    config.data.batch_size = 512
    config.optimizer.rate = 1e-4
    config.schedule.epochs = float(EPOCHS)
    config.schedule.drops = tuple(i / EPOCHS for i in range(1, EPOCHS))
    config.schedule.factor = 0.98
    config.checkpoint.snapshots = ()
    config.eval.every = 500
    config.eval.photos = 0
    config.eval.norm_batches = 20
    return config


def sweep(variant=""):
    asked = variant.split(",")
    if "select" not in asked:
        raise ConfigError("a sweep chooses by its scores: not on test photos, but with :select")
    if "depths" in asked:
        layers = registry.make_encoder(get_config(variant).model).layers
        yield {"finetune": "head"}
        yield from ({"finetune": f"{layer}..{layers[-1]}"} for layer in reversed(layers))
    else:
        for rate in (3e-5, 1e-4, 3e-4):
            yield {"optimizer.rate": rate}
