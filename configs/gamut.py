r"""VGG-16 pretrained by colorization with 313 bins of color, rare ones weighted up (Zhang 2016).

python -m colorize_jax.main --config=configs/gamut.py \
    --config.data.source=/data/imagenet --workdir=/ckpt/gamut

The loss of Zhang et al. on the network of configs/vgg16_col.py, with its schedule: not their
network, whose numbers this does not aim at. Before the first step, how often each bin occurs is
found on config.task.prior_batches training batches. The whole recipe was not run yet.

Variants, as in --config=configs/gamut.py:small
    small  the quickstart with this loss, a few minutes on two CPU cores. Seed 0 ended at eval/loss
           2.86 (3.36 of the best constant) and PSNR 26.0 dB (21.9 of the photos left gray)
"""

from colorize_jax.config import choices, default_config, recipe, variants


def get_config(variant=""):
    asked = variants(variant, ("small",))
    if "small" not in asked:
        return default_config("gamut")
    config = recipe.read_config("quickstart")
    choices.choose(config, "task", "gamut")
    config.task.prior_batches = 50
    # In a run of 100 steps the quickstart's 0.002 did not come down to the loss of a constant.
    config.optimizer.rate = 0.01
    return config
