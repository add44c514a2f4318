r"""Fine-tuning of a vision transformer on ImageNet or any class folders; ViT-B.

python -m colorize_jax.main --config=configs/vit_cls.py --config.init_from=/ckpt/mae \
    --config.data.source=/data/imagenet --workdir=/ckpt/mae_imagenet

The published fine-tuning of masked autoencoders (He et al., CVPR 2022): random resized crops of 224
pixels, AdamW with 5e-4 for every 256 photos of a batch of 1024, 100 epochs, rates that fall by 0.65
from layer to layer, stochastic depth, mixup, cutmix and smoothed labels. The class is read off the
mean of the patches. Theirs also erases parts of photos, which we do not. The warm-up of 5 epochs is
our choice. It was not run at its full size yet.

The photos are those below train/, scored are those below val/, on one central crop.

Variants, as in --config=configs/vit_cls.py:large
    large   ViT-L: 50 epochs, 1e-3, rates that fall by 0.75
    huge    ViT-H, as large with more stochastic depth
    random  a random start
    small   the network of configs/mae.py:small on photos of 64 pixels, for two CPU cores
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("large", "huge", "random", "small"))
    config = default_config("classification", "vit", optimizer="adamw", schedule="cosine")
    config.init_from = "random" if "random" in asked else ""
    config.model.in_channels = 3
    config.model.drop_path = 0.1
    config.task.smoothing = 0.1
    config.task.mixup = 0.8
    config.task.cutmix = 1.0
    config.data.labels = "folders"
    config.data.split, config.data.eval_split = "train", "val"
    config.data.scaling = "resized"
    config.data.crop = 224
    config.data.batch_size = 1024
    config.optimizer.rate = 5e-4
    config.optimizer.rate_batch_size = 256
    config.optimizer.layer_decay = 0.65
    config.schedule.epochs = 100.0
    config.schedule.warmup = 5 / 100
    config.checkpoint.snapshots = ()
    config.eval.shortest = 256
    config.eval.photos = 0
    if asked & {"large", "huge"}:
        config.model.size = "huge" if "huge" in asked else "large"
        config.model.patch = 14 if "huge" in asked else 16
        config.model.drop_path = 0.3 if "huge" in asked else 0.2
        config.optimizer.rate = 1e-3
        config.optimizer.layer_decay = 0.75
        config.schedule.epochs = 50.0
        config.schedule.warmup = 5 / 50
    if "small" in asked:
        config.model.size, config.model.width = "tiny", 0.5
        config.model.blocks, config.model.patch = 4, 8
        config.model.drop_path = config.task.mixup = config.task.cutmix = 0.0
        config.data.area = (0.3, 1.0)
        config.data.crop = 64
        config.data.batch_size = 64
        config.data.threads = 2
        config.optimizer.rate, config.optimizer.rate_batch_size = 1e-3, 0
        config.optimizer.layer_decay = 0.75
        config.schedule.epochs = 20.0
        config.eval.every = 500
        config.eval.shortest = 64
    return config


def sweep(variant=""):
    for rate in (2e-4, 5e-4, 1e-3):
        yield {"optimizer.rate": rate}
