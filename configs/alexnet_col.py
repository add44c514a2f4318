r"""AlexNet pretrained by colorization.

python -m colorize_jax.main --config=configs/alexnet_col.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/alexnet

The recipe of VGG-16 (configs/vgg16_col.py), as the paper does not tell another: three epochs in
batches of 8 crops of 352 pixels, padded everywhere, and a hypercolumn of all layers. With batch
norm, and with the released network's local response norm (--config.model.lrn=False: without; a
transfer then says so too). The whole recipe was not run yet. Two steps of two photos on two CPU
cores, float32: 2.0 GiB of memory; a checkpoint takes 0.5 GiB.

Variants, as in --config=configs/alexnet_col.py:long
    long  10 epochs, drops at the same fractions: the longer training of Table 1
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("long",))
    config = default_config(network="alexnet")
    if "long" in asked:
        config.schedule.epochs = 10.0
        config.checkpoint.snapshots = (0.2, 1.0, 2.0, 3.0, 10.0)
    return config


def sweep():
    for rate in (3e-4, 1e-3, 3e-3):
        yield {"optimizer.rate": rate}
