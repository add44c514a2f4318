r"""ResNet-152 pretrained by colorization: the paper's best network.

python -m colorize_jax.main --config=configs/resnet152_col.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/resnet152

35 epochs of the photos in batches of 8 crops of 224 pixels, out of photos whose shortest side is
256 to 479 (a range the paper does not tell); the head reads the last block alone. The rate drops at
the fractions of VGG-16's recipe: after 23.3, 29.2 and 32.1 epochs. With 3.7 million photos that is
16,187,500 steps; larger batches: --config.data.batch_size=64 --config.optimizer.rate_batch_size=8.
The whole recipe was not run yet. Two steps of two photos on two CPU cores, float32: 1.4 GiB of
memory by the compiler's count. XLA compiles the step in a minute, in 3.3 GiB (batches of four); a
checkpoint takes 0.4 GiB.

--config.model.variant=torch is the network of torchvision, which halves its maps in other
convolutions; --config.model.name=resnet50 a smaller one.

Variants, as in --config=configs/resnet152_col.py:short
    short  3 epochs, drops at the same fractions (Table 3)
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("short",))
    config = default_config(network="resnet152")
    config.model.hypercolumn = False
    config.data.scale = (256, 480)
    config.data.crop = 224
    config.schedule.epochs = 3.0 if "short" in asked else 35.0
    if "short" not in asked:
        config.checkpoint.snapshots = (0.2, 1.0, 3.0, 10.0, 20.0, 35.0)
    return config


def sweep():
    for rate in (3e-4, 1e-3, 3e-3):
        yield {"optimizer.rate": rate}
