r"""VGG-16 pretrained by colorization: the paper's recipe.

python -m colorize_jax.main --config=configs/vgg16_col.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/vgg16

Three epochs of the photos in batches of 8, cropped to 352 pixels; the rate drops tenfold after 2.0,
2.5 and 2.75 of them. With the paper's 3.7 million photos that is 1,387,500 steps. Larger batches:
--config.data.batch_size=64 --config.optimizer.rate_batch_size=8 scales the rate linearly with them.
The whole recipe was not run yet. Eight steps of two photos on two CPU cores, float32: 7 seconds a
step, 4.5 GiB of memory; a checkpoint takes 1.1 GiB.

Variants, as in --config=configs/vgg16_col.py:long or :long,no_drop
    long            10 epochs, drops at the same fractions
    regression      Lab's a and b instead of histograms (Table 2)
    no_hypercolumn  the head reads fc7 alone (Table 2)
    no_drop         the rate never drops (Figure 4)

Learning rates, one run after the other or as jobs: python launch/sweep.py --help
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("long", "regression", "no_hypercolumn", "no_drop"))
    config = default_config()
    if "long" in asked:
        config.schedule.epochs = 10.0
        config.checkpoint.snapshots = (0.2, 1.0, 2.0, 3.0, 10.0)
    if "regression" in asked:
        config.task.loss = "regression"
    if "no_hypercolumn" in asked:
        config.model.hypercolumn = False
    if "no_drop" in asked:
        config.schedule.drops = ()
    return config


def sweep():
    for rate in (3e-4, 1e-3, 3e-3):
        yield {"optimizer.rate": rate}
