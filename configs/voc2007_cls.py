r"""VOC 2007 classification: which of twenty classes are in a photo.

python -m colorize_jax.main --config=configs/voc2007_cls.py --config.init_from=/ckpt/vgg16 \
    --config.data.source=/data/VOCdevkit/VOC2007 --workdir=/ckpt/vgg16_voc07
python -m colorize_jax.main --config=configs/voc2007_cls.py:alexnet \
    --config.init_from=/ckpt/alexnet \
    --config.data.source=/data/VOCdevkit/VOC2007 --workdir=/ckpt/alexnet_voc07
python -m colorize_jax.main --config=configs/voc2007_cls.py:resnet152 \
    --config.init_from=/ckpt/resnet152 \
    --config.data.source=/data/VOCdevkit/VOC2007 --workdir=/ckpt/resnet152_voc07

80,000 steps of 16 crops of 224 pixels (AlexNet: 227), scaled by 0.5 to 2, on the 5,011 photos
of trainval; the rate halves every eighth of the run. Photos in which a class is hard to see do not
count for it. Evaluated on the 4,952 photos of test, each by ten random crops;
--config.eval.view=ten takes the classic ten, whole the whole photo.

Variants, as in --config=configs/voc2007_cls.py:alexnet,random,crossval
    alexnet     another network than VGG-16
    alexnet_bn  AlexNet with batch norm and without groups, as in RotNet and torchvision
    resnet152   another one, whose batch norm stays
    resnet101   the same with 101 layers
    resnet50    with 50 layers
    resnet34    with 34 layers, of blocks of two convolutions
    resnet18    with 18 layers of these
    zhang       Zhang's colorizer, whose batch norm stays too
    vit         a vision transformer, ViT-B with patches of 16 pixels
    nin         network in network, for photos of 32 pixels; its batch norm stays too
    random      a random start, with batch norm; --config.model.norm=none: without
    crossval    finds the schedule on 90 % of the training split, then trains on all of it
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
    config.steps = 80_000
    config.data.labels = "lists"
    config.data.split, config.data.eval_split = "trainval", "test"
    config.data.scaling = "factor"
    config.data.batch_size = 16
    config.task.loss = "sigmoid"
    config.optimizer.bias_rate = 1.0
    config.optimizer.clip = 10.0
    config.optimizer.weight_decay = 1e-6
    config.schedule.drops = tuple(i / 8 for i in range(1, 8))
    config.schedule.factor = 0.5
    config.checkpoint.snapshots = ()
    config.eval.view = "random10"
    config.eval.photos = 0
    if "crossval" in asked:
        config.early_stopping.mode = "crossval"
        config.steps = 200_000  # at most
    return config


def sweep(variant=""):
    return transfer_rates(variant, (3e-4, 1e-3, 3e-3))
