"""Small labelled data in the layouts of real data sets; brightness and color show the class."""

import os
import zipfile

import numpy as np
from PIL import Image

from colorize_jax.data import masks, voc


def write_devkit(root, rng, photos=8, size=(48, 64), classes=3):
    """A devkit of one year: `photos` in train and half as many in val.

    Every photo shows a bright rectangle, of one of the object classes in turn, with a border of
    void; every third one shows another class beside it. Has masks, ImageSets/Segmentation, and
    ImageSets/Main of the same objects; the first photo of each split has one difficult label.
    Returns {split: ids}.
    """
    objects = voc.OBJECTS[: classes - 1]
    splits = {"train": photos, "val": max(photos // 2, 1)}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    listed = {}
    for number, (split, count) in enumerate(splits.items()):
        ids = [f"200{7 + number}_{i:06}" for i in range(count)]
        labels = np.full((count, len(objects)), -1)
        for i, name in enumerate(ids):
            shown = [i % len(objects) + 1]
            if i % 3 == 2 and len(objects) > 1:
                shown.append(shown[0] % len(objects) + 1)
            labels[i, np.array(shown) - 1] = 1
            pixels, mask = _scene(rng, size, shown, classes)
            Image.fromarray(pixels).save(
                root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0
            )
            (root / "SegmentationClass" / f"{name}.png").write_bytes(masks.encode_mask(mask))
        if len(objects) > 1:
            labels[0, 1] = 0
        _write_lines(root / "ImageSets/Segmentation" / f"{split}.txt", ids)
        for column, name in zip(labels.T, objects, strict=True):
            lines = [f"{i} {label:2}" for i, label in zip(ids, column, strict=True)]
            _write_lines(root / "ImageSets/Main" / f"{name}_{split}.txt", lines)
        listed[split] = ids
    return listed


def color(label, classes):
    """The color of a class; class 0, the background, is dark."""
    bright = 30 + 200 * label // max(classes - 1, 1)
    return np.array([bright, bright // 2, 255 - bright])


def write_class_folders(root, rng, classes=3, per_class=6, size=(40, 48)):
    """train/<class>/ with `per_class` photos each, and val/<class>/ with half as many."""
    for split, count in (("train", per_class), ("val", max(per_class // 2, 1))):
        for label in range(classes):
            folder = root / split / f"n0{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = rng.integers(-20, 21, (*size, 3))
                pixels = np.clip(color(label, classes) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(
                    folder / f"n0{label}_{i}.JPEG", quality=95, subsampling=0
                )


def zipped(folder, path, prefix=""):
    """Packs all files below a folder into an archive, with names below `prefix`."""
    with zipfile.ZipFile(path, "w") as archive:
        for above, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                file = os.path.join(above, name)
                archive.write(file, prefix + os.path.relpath(file, folder))
    return path


def _scene(rng, size, shown, classes):
    height, width = size
    mask = np.zeros(size, np.uint8)
    share = width // len(shown)
    for i, label in enumerate(shown):
        rows = slice(height // 6, height - height // 6)
        left, right = i * share + 2, (i + 1) * share - 2
        mask[rows, left:right] = masks.VOID
        mask[height // 6 + 1 : height - height // 6 - 1, left + 1 : right - 1] = label
    palette = np.stack([color(label, classes) for label in range(classes)])
    seen = np.where(mask == masks.VOID, 0, mask)
    pixels = palette[seen] + rng.integers(-10, 11, (*size, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), mask


def _write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def _save(pixels, path):
    Image.fromarray(pixels).save(path, "JPEG", quality=95, subsampling=0)
