r"""Masked autoencoder: three quarters of a photo from the patches that are left; ViT-B.

python -m colorize_jax.main --config=configs/mae.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/mae

The published pretraining on ImageNet (He et al., CVPR 2022): random resized crops of 224 pixels, a
quarter of the patches of 16 visible, normalized patches as the target, AdamW with 1.5e-4 for every
256 photos of a batch of 4096, 800 epochs with 40 of warm-up and half a cosine. As theirs, biases
and norms do not decay; here the learned tokens do not either. Our photos are resized bilinearly.
It was not run yet. configs/vit_cls.py has the fine-tuning.

Variants, as in --config=configs/mae.py:large
    large  ViT-L, with 24 blocks of 1024 features
    huge   ViT-H, with 32 blocks of 1280 features and patches of 14 pixels
    raw    the target is the pixels as they are
    small  four blocks of 96 features on crops of 64 pixels with patches of 8, for two CPU cores
"""

from colorize_jax.config import default_config, shrink, variants


def get_config(variant=""):
    asked = variants(variant, ("large", "huge", "raw", "small"))
    config = default_config("mae", "vit", optimizer="adamw", schedule="cosine")
    config.model.in_channels = 3
    config.data.scaling = "resized"
    config.data.area = (0.2, 1.0)
    config.data.crop = 224
    config.data.batch_size = 4096
    config.optimizer.b2 = 0.95
    config.optimizer.rate = 1.5e-4
    config.optimizer.rate_batch_size = 256
    config.schedule.epochs = 800.0
    config.schedule.warmup = 40 / 800
    config.checkpoint.snapshots = ()
    if "large" in asked:
        config.model.size = "large"
    if "huge" in asked:
        config.model.size, config.model.patch = "huge", 14
    if "raw" in asked:
        config.task.normalized = False
    if "small" in asked:
        shrink(config)
        config.model.size, config.model.width = "tiny", 0.5
        config.model.blocks, config.model.patch = 4, 8
        config.model.norm_decay, config.eval.norm_batches = 0.999, 0  # It has no batch norm.
        config.task.decoder, config.task.decoder_blocks, config.task.decoder_heads = 64, 2, 4
        config.data.batch_size = 64
        config.optimizer.rate_batch_size = 0
    return config


def sweep():
    for rate in (5e-5, 1.5e-4, 5e-4):
        yield {"optimizer.rate": rate}
