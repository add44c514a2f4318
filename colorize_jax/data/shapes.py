"""Draws a small devkit of shapes on photos, to try segmentation without other data."""

import pathlib

import cv2
import numpy as np
from PIL import Image

from colorize_jax.data.builtin import BuiltinPhotos
from colorize_jax.data.masks import VOID, encode_mask

CLASSES = ("background", "disk", "square", "triangle")
_BORDER = 2  # the width, in pixels, of the void border around a shape, as in PASCAL VOC
# Every shape has its own brightness, so that a network of gray photos can tell them apart.
COLORS = np.array([(0, 0, 0), (250, 225, 90), (40, 60, 110), (190, 60, 160)])
_NOISE = 12


def write_devkit(
    folder: str | pathlib.Path, *, train: int = 48, val: int = 16, side: int = 96, seed: int = 0
) -> str:
    """Writes photos, masks, lists and classes.txt in the layout of a PASCAL VOC devkit.

    Every photo is a part of one of `builtin:photos` with one or two shapes of different classes on
    it. No part of a photo is in both lists.

    Args:
        folder: the folder of the devkit; files that are there already are overwritten.
        train, val: the numbers of photos in the two lists.
        side: the side of every photo, in pixels.
        seed: the seed of all random choices.

    Returns:
        The folder's path, for `config.data.source`; `config.task.classes` is 4.
    """
    folder = pathlib.Path(folder)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        photos = BuiltinPhotos(held_out=split == "val")
        ids = [f"{split}_{number:04}" for number in range(count)]
        for number, name in enumerate(ids):
            pixels, mask = _scene(rng, photos[number % len(photos.names)].image, number, side)
            path = folder / "JPEGImages" / f"{name}.jpg"
            Image.fromarray(pixels).save(path, quality=95)
            (folder / "SegmentationClass" / f"{name}.png").write_bytes(encode_mask(mask))
        lines = "".join(f"{name}\n" for name in ids)
        (folder / "ImageSets/Segmentation" / f"{split}.txt").write_text(lines)
    return str(folder)


def _scene(rng, photo: np.ndarray, number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A part of a photo with shapes on it, uint8 [side, side, 3], and its mask [side, side]."""
    scale = max(side / min(photo.shape[:2]), 0.5)
    height, width = (max(round(n * scale), side) for n in photo.shape[:2])
    photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    pixels = photo[y : y + side, x : x + side].copy()
    mask = np.zeros((side, side), np.uint8)
    number_of_shapes = 1 + number % 2
    for place in range(number_of_shapes):
        label = 1 + (number + place) % (len(CLASSES) - 1)
        # Shapes lie beside each other, so that none hides another one.
        part = side // number_of_shapes
        radius = int(rng.integers(part // 4, part * 2 // 5))
        center = (
            part * place + int(rng.integers(radius, part - radius)),
            int(rng.integers(radius, side - radius)),
        )
        inside = np.zeros((side, side), np.uint8)
        _draw(inside, CLASSES[label], center, radius)
        around = cv2.dilate(inside, np.ones((2 * _BORDER + 1,) * 2, np.uint8)) > inside
        color = COLORS[label] + rng.integers(-_NOISE, _NOISE + 1, (side, side, 3))
        pixels = np.where(inside[..., None] == 1, np.clip(color, 0, 255), pixels).astype(np.uint8)
        mask[around], mask[inside == 1] = VOID, label
    return pixels, mask


def _draw(canvas: np.ndarray, name: str, center: tuple[int, int], radius: int) -> None:
    x, y = center
    if name == "disk":
        cv2.circle(canvas, center, radius, 1, cv2.FILLED)
    elif name == "square":
        half = round(radius * 0.8)
        cv2.rectangle(canvas, (x - half, y - half), (x + half, y + half), 1, cv2.FILLED)
    else:
        corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
        cv2.fillPoly(canvas, [np.array(corners, np.int32)], 1)
