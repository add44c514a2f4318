"""Folders of photos in several colors, and the command that compares them."""

import numpy as np
from PIL import Image

from colorize_jax import command_line
from colorize_jax.colorize import score


def run(*arguments):
    """Runs the command in this process."""
    score.main(command_line.parse(score.parser(), list(map(str, arguments))))


def write(folder, **photos):
    """Writes photos as PNGs in a folder; "cat__1" becomes cat/1.png."""
    for name, pixels in photos.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def photo(rng, height=24, width=20):
    """A smooth photo with colors."""
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
