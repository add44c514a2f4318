"""Shows what `config.data.relabel` makes of the classes of photos: `data check --relabel`."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from colorize_jax.data import decode, relabel, transforms
from colorize_jax.data.labelled import Labelled
from colorize_jax.errors import DataError, shown

_ROWS, _COLUMNS, _SIDE, _TEXT = 64, 8, 96, 340  # of the picture, in buckets, photos and pixels
_PHOTOS, _CLASSES, _CHANGED = 3, 6, 10  # named in the text


class Samples:
    """Photos of every bucket, in an order that mixes the classes of a bucket.

    Args:
        photos: photos with the labels of their folders; they are not changed.
        classes: the names of the folders.
        spec, seed: `config.data.relabel` and `config.seed`.

    Raises:
        ConfigError, DataError: see `relabel.find`.
    """

    def __init__(self, photos: Labelled, classes: Sequence[str], spec: str, seed: int):
        self.found = relabel.find(spec, classes, seed)
        self._photos, self._classes, self._spec = photos, classes, spec
        self._own = photos.labels
        photos = photos.part(np.arange(len(photos)))
        photos.labels = relabel.joined(photos.labels, classes, self.found)
        self._labels = relabel.noised(photos, self.found, seed)
        order = np.argsort(photos.hashes(), kind="stable")
        self._members = [order[self._labels[order] == i] for i in range(len(self.found.classes))]

    def report(self) -> str:
        """The buckets with their classes and the names of some photos, or the changed labels."""
        lines = [relabel.remark(self._spec, len(self._classes), self.found), *self.found.remarks]
        if self.found.noise:
            return "\n".join([*lines, *self._changes()])
        for name, members in zip(self.found.classes, self._members, strict=True):
            inside = [c for c in self._classes if self.found.buckets[c] == name]
            some = ", ".join(inside[:_CLASSES]) + (", ..." if len(inside) > _CLASSES else "")
            lines.append(f"{name}: {len(inside):,} classes, {len(members):,} photos: {some}")
            lines += [f"    {self._photos.name(i)}" for i in members[:_PHOTOS]]
        return "\n".join(map(shown, lines))

    def _changes(self) -> list[str]:
        changed = np.flatnonzero(self._labels != self._own)
        share = len(changed) / max(len(self._own), 1)
        lines = [f"{len(changed):,} of {len(self._own):,} labels are wrong then ({share:.1%}):"]
        for i in changed[np.linspace(0, len(changed) - 1, min(_CHANGED, len(changed))).astype(int)]:
            own, now = self._classes[self._own[i]], self._classes[self._labels[i]]
            lines.append(shown(f"    {self._photos.name(i)}: {own} becomes {now}"))
        return lines

    def picture(self) -> Image.Image:
        """A row for every bucket with photos of it; a frame is around photos with a wrong label.

        There are at most 64 rows, spread over all buckets. A photo that cannot be read is gray.
        """
        count = len(self.found.classes)
        rows = np.linspace(0, count - 1, min(count, _ROWS)).astype(int)
        picture = Image.new("RGB", (_TEXT + _COLUMNS * _SIDE, len(rows) * _SIDE), "white")
        draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
        for row, label in enumerate(rows):
            top, members = row * _SIDE, self._members[label]
            name = _wrapped(shown(self.found.classes[label]), draw, font)
            draw.text((6, top + 6), f"{name}\n{len(members):,} photos", "black", font)
            for column, index in enumerate(members[:_COLUMNS]):
                left = _TEXT + column * _SIDE
                picture.paste(self._thumbnail(index), (left, top))
                if self.found.noise and self._labels[index] != self._own[index]:
                    corners = (left, top, left + _SIDE - 1, top + _SIDE - 1)
                    draw.rectangle(corners, outline="red", width=4)
        return picture

    def _thumbnail(self, index: int) -> Image.Image:
        try:
            photo = decode.open_photo(self._photos[index].image)
            height, width = transforms.scaled_size(photo.height, photo.width, _SIDE)
            y, x = (height - _SIDE) // 2, (width - _SIDE) // 2
            window = transforms.Window(height, width, y, x, _SIDE)
            return Image.fromarray(transforms.cut(photo.pixels(height, width), window))
        except (DataError, OSError):
            return Image.new("RGB", (_SIDE, _SIDE), "gray")


def _wrapped(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont) -> str:
    """At most four lines that fit beside the photos."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= _TEXT - 12 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:4])
