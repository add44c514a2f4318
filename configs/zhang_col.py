r"""The colorizer of Zhang, Isola and Efros (ECCV 2016), with their network: "Colorful Image
Colorization".

python -m colorize_jax.main --config=configs/zhang_col.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/zhang

Adam and the schedule of the released solver: 500,000 steps of 40 photos, whose shortest side is 256
pixels, cropped to 176; the rate 3e-5 drops tenfold after 225,000 and 450,000. Before the first
step, how often each of 313 bins of color occurs is found on config.task.prior_batches batches.
Three things differ from the release: photos keep their aspect, where it squeezes them to a square;
weights decay and biases do not; and the loss is the mean over pixels, as in the paper. What the
released layer divides by is not known. Adam's steps do not depend on it, but weight decay does: if
that is a sum over pixels, its 1e-3 would be 1e-3 / 44^2 here. The whole recipe was not run yet.

Variants, as in --config=configs/zhang_col.py:small
    l2     a and b by regression, all colors alike
    small  a quarter of the width on crops of 56 pixels, for two CPU cores and thousands of photos
           of 64 pixels, as Tiny ImageNet. Seed 0, with --config.steps=700, less than an epoch of
           29,426 of its photos, ended at eval/loss 3.98 (4.10 of the best constant): all is brown
           yet, as it often is at the start. On builtin:photos with --config.data.holdout=0.25,
           --config.data.scale="(64,129)", --config.task.prior_batches=20 and 300 steps it ended at
           2.49 (2.85) and PSNR 25.9 dB (21.8 of the photos left gray)

Learning rates: python launch/sweep.py --config=configs/zhang_col.py:small --workdir=sweeps/rates
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("l2", "small"))
    config = default_config("zhang", "zhang", optimizer="adam")
    config.steps = 500_000
    config.data.scale = (256, 257)
    config.data.crop = 176
    config.data.batch_size = 40
    config.optimizer.b2 = 0.99
    config.optimizer.rate = 3e-5
    config.optimizer.weight_decay = 1e-3
    config.schedule.drops = (0.45, 0.9)
    config.checkpoint.snapshots = ()
    config.eval.shortest = 256
    if "l2" in asked:
        config.task.loss = "regression"
    if "small" in asked:
        config.steps = 2000
        config.model.width = 0.25
        config.model.norm_decay = 0.99
        config.data.scale = (64, 65)
        config.data.crop = 56
        config.data.batch_size = 32
        config.data.holdout = 0.02
        config.data.threads = 2
        config.task.prior_batches = 50
        config.optimizer.rate = 1e-3
        config.schedule.drops = (0.6, 0.9)
        config.checkpoint.every = 500
        config.eval.every = 500
        config.eval.photos = 400
        config.eval.shortest = 64
        config.eval.norm_batches = 20
        config.eval.statistics_batches = 20
        config.log.every = 50
    return config


def sweep():
    for rate in (3e-4, 1e-3, 3e-3):
        yield {"optimizer.rate": rate}
