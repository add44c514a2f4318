r"""Classification with a few photos a class, of ImageNet or any class folders.

python -m colorize_jax.main --config=configs/imagenet_subset_cls.py:crossval \
    --config.init_from=/ckpt/vgg16 --config.data.source=/data/imagenet --workdir=/ckpt/vgg16_100k
python -m colorize_jax.main --config=configs/imagenet_subset_cls.py:alexnet,crossval \
    --config.init_from=/ckpt/alexnet --config.data.source=/data/imagenet \
    --workdir=/ckpt/alexnet_100k
python -m colorize_jax.main --config=configs/imagenet_subset_cls.py:resnet152,crossval \
    --config.init_from=/ckpt/resnet152 --config.data.source=/data/imagenet \
    --workdir=/ckpt/resnet152_100k

Exactly 100 photos of each class below train/, chosen by the seed (--config.data.per_class=10, or 0
for all), in crops of 224 pixels (AlexNet: 227); evaluated on one central crop of the photos below
val/: top-1 and top-5. Other data: --config.data.split=training --config.data.eval_split=testing.
The paper does not tell its schedule; without :crossval 40 epochs with drops after 20 and 30.

Variants, as in --config=configs/imagenet_subset_cls.py:alexnet,random,crossval
    alexnet     another network than VGG-16
    alexnet_bn  AlexNet with batch norm and without groups, as in RotNet and torchvision
    resnet152   another one, whose batch norm stays
    resnet101   the same with 101 layers
    resnet50    with 50 layers
    resnet34    with 34 layers, of blocks of two convolutions
    resnet18    with 18 layers of these
    zhang       Zhang's colorizer, whose batch norm stays too
    vit         a vision transformer; configs/vit_cls.py has its fine-tuning
    nin         network in network, for photos of 32 pixels; its batch norm stays too
    random      a random start, with batch norm (--config.model.norm=none: without), at 0.01
    crossval    finds the schedule on 90 % of the training photos, then trains on all of them
"""

from colorize_jax.config import (
    NETWORKS,
    default_config,
    transfer,
    transfer_rates,
    variants,
)


def get_config(variant=""):
    asked = variants(variant, (*NETWORKS, "random", "crossval"))
    config = default_config("classification")
    transfer(config, asked, classifier=True)
    config.data.labels = "folders"
    config.data.split, config.data.eval_split = "train", "val"
    config.data.per_class = 100
    config.data.scale = (256, 257)
    config.data.batch_size = 128
    config.optimizer.rate = 0.01 if "random" in asked else 0.001
    config.optimizer.bias_rate = 1.0
    config.schedule.epochs = 40.0
    config.schedule.drops = (0.5, 0.75)
    config.checkpoint.snapshots = ()
    config.eval.shortest = 256
    config.eval.photos = 0
    if "crossval" in asked:
        config.early_stopping.mode = "crossval"
        config.early_stopping.window = 2000
        config.schedule.epochs = 250.0  # at most
    return config


def sweep(variant=""):
    return transfer_rates(variant, (1e-3, 3e-3, 1e-2))
