r"""Colorization in two minutes: a small VGG on ten photos of installed packages.

python -m colorize_jax.main --config=configs/quickstart.py --workdir=quickstart

The photos are cut into squares, of which every fourth is held out; 400 steps on crops of 64 pixels.
Takes about 70 seconds of training on two CPU cores. Look at quickstart/images/400.png.

Variants, as in --config=configs/quickstart.py:regression
    regression  Lab's a and b instead of histograms

Learning rates: python launch/sweep.py --config=configs/quickstart.py --workdir=sweeps/rates
"""

from colorize_jax.config import default_config, variants


def get_config(variant=""):
    asked = variants(variant, ("regression",))
    config = default_config()
    config.steps = 400
    config.model.width = 0.125
    config.model.fc6_kernel = 3
    config.model.hidden = 128
    config.data.source = "builtin:photos"
    # As large as the held-out squares are shown, and up to twice that.
    config.data.scale = (64, 129)
    config.data.crop = 64
    config.data.batch_size = 32
    config.data.threads = 2
    config.task.points = 64
    config.task.edge_buffer = 8
    config.optimizer.rate = 0.002
    config.schedule.drops = (0.5, 0.8)
    config.checkpoint.every = 100
    config.checkpoint.seconds = 10.0
    config.checkpoint.snapshots = ()
    config.eval.every = 100
    config.eval.pictures = 12
    # Running averages of batch norm lag behind so short a run, and the score swings with them.
    config.eval.norm_batches = 20
    config.log.every = 20
    if "regression" in asked:
        config.task.loss = "regression"
    return config


def sweep():
    for rate in (0.001, 0.003, 0.01):
        yield {"optimizer.rate": rate}
