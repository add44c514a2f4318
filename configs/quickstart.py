r"""Colorization on ten photos with a small VGG.

python -m colorize_jax.main --config=configs/quickstart.py --workdir=quickstart
"""

from colorize_jax.config import default_config


def get_config():
    config = default_config()
    config.steps = 400
    config.model.width = 0.25
    config.model.fc6_kernel = 3
    config.model.hidden = 256
    config.data.source = "builtin:photos"
    config.data.scale = (128, 257)
    config.data.crop = 64
    config.data.batch_size = 16
    config.data.threads = 2
    config.task.points = 64
    config.task.edge_buffer = 8
    config.optimizer.rate = 0.01
    config.checkpoint.every = 200
    config.checkpoint.seconds = 10.0
    config.checkpoint.snapshots = ()
    config.eval.every = 100
    config.log.every = 20
    return config
