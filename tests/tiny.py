"""The smallest complete config, for tests of the step and the loop."""

import numpy as np
from PIL import Image
import small_encoder

from colorize_jax.config import choices, default_config


def config(**settings):
    """A run of 6 steps on crops of 32 pixels; settings are given like data__batch_size=4."""
    config = default_config(network=settings.get("model__name", small_encoder.NAME))
    config.steps = 6
    config.model.width = 0.03125
    config.model.hidden = 8
    config.data.source = "builtin:photos"
    config.data.scale = (40, 50)
    config.data.crop = 32
    config.data.batch_size = 8
    config.data.threads = 2
    config.task.points = 6
    config.task.bins = 8
    config.optimizer.rate = 0.02
    config.schedule.drops = (0.5,)
    config.checkpoint.every = 3
    config.checkpoint.snapshots = ()
    config.eval.every = 3
    config.eval.photos = 5
    config.eval.pictures = 3
    config.eval.statistics_batches = 2
    config.log.every = 2
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    for group in choices.GROUPS:
        if name := settings.get(f"{group}.name"):
            choices.choose(config, group, name)
    for name, value in settings.items():
        with config.unlocked():
            config.update_from_flattened_dict({name: value})
    return config


# A narrow VGG-16, for features of the papers' networks: names of layers, absorption, fc6.
VGG = {"model__name": "vgg16", "model__fc6_kernel": 1}
# A vision transformer of two narrow blocks on 16 patches of a crop of 32 pixels.
VIT = {
    "model__name": "vit", "model__size": "tiny", "model__width": 0.25, "model__blocks": 2,
    "model__patch": 8,
}  # fmt: skip


def vgg(**settings):
    """Like `config`, with a narrow VGG-16."""
    return config(**VGG | settings)


def segmentation(**settings):
    """A run on masks of three classes, without batch norm; `data__source` is a devkit."""
    return config(
        **{
            "model__norm": "none",
            "data__labels": "masks",
            "data__split": "train",
            "data__eval_split": "val",
            "data__scaling": "none",
            "task__name": "segmentation",
            "task__classes": 3,
            "task__edge_buffer": 2,
            "eval__view": "whole",
            "eval__photos": 0,
        }
        | settings
    )


def classification(loss, **settings):
    """A run on photos of three classes, "softmax" or "sigmoid", without batch norm."""
    return config(
        **{
            "model__norm": "none",
            "data__labels": {"softmax": "folders", "sigmoid": "lists"}.get(loss, "folders"),
            "data__split": "train",
            "data__eval_split": "val",
            "task__name": "classification",
            "task__loss": loss,
            "task__classes": 3,
            "eval__photos": 0,
        }
        | settings
    )


def get_config():
    """The function for --config=tests/tiny.py; tests/ must be in PYTHONPATH."""
    return config()


def batch(rng, size=8, crop=32):
    """A batch of random photos with colors, like the pipeline's."""
    return {
        "image": rng.integers(0, 256, (size, crop, crop, 3), dtype=np.uint8),
        "position": np.arange(size),
        "photo": np.arange(size),
        "valid": np.ones(size, bool),
    }


def write_photos(folder, count, rng, size=(48, 64)):
    """Writes JPEGs of random blotches below a folder; returns their names."""
    names = []
    for i in range(count):
        small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        path = folder / f"sub{i % 2}" / f"photo{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(small).resize(size[::-1], Image.Resampling.BILINEAR)
        image.save(path, quality=95)
        names.append(str(path.relative_to(folder)))
    return sorted(names)


def assert_same_batches(left, right):
    """Two sequences of batches have the same arrays."""
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
