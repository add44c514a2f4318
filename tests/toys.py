"""Toy photos that every task can learn, with labels for tasks that need some."""

import functools

import labelled
import numpy as np
import tiny

from colorize_jax.errors import ConfigError
from colorize_jax.tasks.registry import make_task
from colorize_jax.tasks.task import Facts

CLASSES = ("red", "green", "blue")
PHOTOS = 8
# Settings that make a task's run small or give it labels. Other tasks need none.
_CONFIGS = {
    "counting": functools.partial(
        tiny.config, task__name="counting", task__counts=6, task__margin=1.0
    ),
    "classification": functools.partial(tiny.classification, "softmax"),
    "context_encoder": functools.partial(
        tiny.config, task__name="context_encoder", model__in_channels=3, task__decoder=32
    ),
    "cpc": functools.partial(
        tiny.config, task__name="cpc", task__jitter=0, task__one_color=0.0, task__mirrored=0.0,
        model__in_channels=3, model__width=0.125, model__dimensions=16, model__context=16,
        model__context_blocks=1,
    ),
    "gamut": functools.partial(tiny.config, task__name="gamut", task__prior_batches=2),
    # It compares all eight photos: of random draws from so few, many would be the photo itself.
    "instances": functools.partial(
        tiny.config, task__name="instances", task__loss="softmax", task__jitter=0.05, task__gray=0.0
    ),
    "jigsaw": functools.partial(
        tiny.config, task__name="jigsaw", task__permutations=3, task__shift=0,
        task__dropout=0.0, model__tile_features=32, model__hidden=32,
    ),
    # The rate of the tests would kill all units of a narrower encoder.
    "lab_decoder": functools.partial(
        tiny.config, task__name="lab_decoder", task__decoder=32, model__width=0.25
    ),
    "mae": functools.partial(
        tiny.config, **tiny.VIT, task__name="mae", model__in_channels=3, task__decoder=32,
        task__decoder_blocks=1, task__decoder_heads=2, task__pictures=(0.5, 0.75),
    ),
    "relative_patch": functools.partial(
        tiny.config, task__name="relative_patch", model__in_channels=1, task__resampled=0.1,
        task__dropout=0.0, model__tile_features=32, model__hidden=32,
    ),
    "segmentation": tiny.segmentation,
    # Toy photos differ by their colors.
    "simclr": functools.partial(
        tiny.config, task__name="simclr", model__in_channels=3, task__jitter=0.05, task__gray=0.0,
        task__temperature=0.5,
    ),
    "split_brain": functools.partial(
        tiny.config, task__name="split_brain", model__split=True, model__in_channels=3
    ),
    # It predicts on a whole grid, so small crops have as many places as others sample.
    "zhang": functools.partial(
        tiny.config, task__name="zhang", task__prior_batches=2, data__crop=16
    ),
}  # fmt: skip
# These tasks ask for the place of a part, so every ninth of a photo has its own stripes.
_STRIPED = ("cpc", "jigsaw", "relative_patch")


def _stripes(crop):
    """Stripes [crop, crop] in -1 to 1, whose direction and width show the ninth."""
    down, right = np.indices((crop, crop))
    ninth = 3 * (3 * down // crop) + 3 * right // crop
    angle, width = ninth % 3 * np.pi / 3, 1.2 + 0.7 * (ninth // 3)
    return np.sin((down * np.cos(angle) + right * np.sin(angle)) / width * np.pi)


def make(name, **settings):
    """The smallest (config, task) of a task of this package."""
    config_of = _CONFIGS.get(name, functools.partial(tiny.config, task__name=name))
    for views in (1, 2):  # Only the task knows how many views it takes.
        config = config_of(data__views=views, **settings)
        try:
            return config, make_task(config, Facts(PHOTOS, CLASSES if config.data.labels else ()))
        except ConfigError as error:
            if "config.data.views" not in str(error):
                raise
    raise AssertionError(f"{name} takes neither one nor two views")


def batch(config, task, rng):
    """A training batch. Brightness grows downwards and tells the color, the class and each photo;
    the mask has its classes one below the other."""
    crop, number = config.data.crop, np.arange(PHOTOS)
    down = np.linspace(0, 1, crop)
    tints = np.array([[1, 0.4, 0.4], [0.4, 1, 0.4], [0.4, 0.4, 1]])[number % 3]
    bright = 30 + 50 * (number % 3)[:, None] + 4 * number[:, None] + 60 * down
    image = bright[:, :, None, None] * tints[:, None, None] + rng.uniform(0, 4, (1, crop, crop, 3))
    if config.task.name in _STRIPED:
        image += 25 * _stripes(crop)[..., None]
    image = image.astype(np.uint8)
    found = {
        "image": image if task.views == 1 else np.stack([image] * task.views, 1),
        "position": number,
        "photo": number,
        "valid": np.ones(PHOTOS, bool),
    }
    labels = {
        "labels": number % 3,
        "mask": np.broadcast_to((2.99 * down)[None, :, None], (PHOTOS, crop, crop)),
    }
    for name, (_, dtype) in task.labels.items():
        found[name] = labels[name].astype(dtype)
    return found


def source(config, folder):
    """`config.data.source` of photos on disk with the labels that the run needs."""
    kind, rng = config.data.labels, np.random.default_rng(0)
    if not kind:
        return "builtin:photos"
    if kind == "folders":
        labelled.write_class_folders(folder, rng)
    else:
        folder = folder / "VOC2012"
        labelled.write_devkit(folder, rng, size=(36, 50))
    return str(folder)
