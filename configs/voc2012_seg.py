r"""VOC 2012 segmentation from a pretrained network: the paper's transfer.

python -m colorize_jax.main --config=configs/voc2012_seg.py --config.init_from=/ckpt/vgg16 \
    --config.data.source=/data/VOCdevkit/VOC2012 --config.data.sbd=/data/benchmark_RELEASE/dataset \
    --workdir=/ckpt/vgg16_seg
python -m colorize_jax.main --config=configs/voc2012_seg.py:alexnet \
    --config.init_from=/ckpt/alexnet \
    --config.data.source=/data/VOCdevkit/VOC2012 --config.data.sbd=/data/benchmark_RELEASE/dataset \
    --workdir=/ckpt/alexnet_seg
python -m colorize_jax.main --config=configs/voc2012_seg.py:resnet152 \
    --config.init_from=/ckpt/resnet152 \
    --config.data.source=/data/VOCdevkit/VOC2012 --config.data.sbd=/data/benchmark_RELEASE/dataset \
    --workdir=/ckpt/resnet152_seg

40,000 steps of 10 crops of 448 pixels at their original scale, on the 10,582 photos of train_aug
(without SBD: on those of train); the rate drops tenfold after 22,500 and 30,000. Evaluated on the
1,449 whole photos of val, in gray. This is the released schedule, which was found for ResNet-152
(:resnet152): for another network or start let early stopping find it, with :crossval.

Variants, as in --config=configs/voc2012_seg.py:alexnet,random,crossval
    alexnet     another network than VGG-16
    alexnet_bn  AlexNet with batch norm and without groups, as in RotNet and torchvision
    resnet152   another one
    resnet101   the same with 101 layers
    resnet50    with 50 layers
    resnet34    with 34 layers, of blocks of two convolutions
    resnet18    with 18 layers of these
    zhang       Zhang's colorizer, whose batch norm stays too
    vit         a vision transformer, ViT-B with patches of 16 pixels
    nin         network in network, for photos of 32 pixels; its batch norm stays too
    random      a random start, with batch norm; --config.model.norm=none: without
    crossval    finds the schedule on 90 % of the training split, then trains on all of it
    no_fov      without the two blocks for a larger field of view

--config.finetune=head | fc6,fc7 | conv4_1..fc7 | all is Table 6; --config.model.in_channels=3 takes
color (Table 5). Batch norm is absorbed at the start; --config.model.norm=batch keeps it, and a
ResNet always does.
"""

from colorize_jax.config import (
    NETWORKS,
    default_config,
    transfer,
    transfer_rates,
    variants,
)


def get_config(variant=""):
    asked = variants(variant, (*NETWORKS, "random", "crossval", "no_fov"))
    config = default_config("segmentation")
    transfer(config, asked)
    config.steps = 40_000
    config.model.fov = "no_fov" not in asked
    config.data.labels = "masks"
    config.data.split, config.data.eval_split = "train_aug", "val"
    config.data.scaling = "none"
    config.data.crop = 448
    config.data.batch_size = 10
    config.task.edge_buffer = config.data.get_ref("crop") * 32 // 448
    config.optimizer.bias_rate = 1.0
    config.schedule.drops = (22.5 / 40, 30 / 40)
    config.checkpoint.snapshots = ()
    config.eval.view = "whole"
    config.eval.photos = 0
    if "crossval" in asked:
        config.early_stopping.mode = "crossval"
        config.steps = 200_000  # at most
    return config


def sweep(variant=""):
    return transfer_rates(variant, (3e-4, 1e-3, 3e-3))
