"""Real color photos that ship inside scikit-image and scikit-learn."""

from collections.abc import Mapping
import functools
import importlib.util
import pathlib

import numpy as np

from colorize_jax.data import decode
from colorize_jax.data.names import Names
from colorize_jax.data.record import Record
from colorize_jax.errors import DataError

# motorcycle_right.png is left out: it shows what motorcycle_left.png shows, so one would give away
# the other's held-out part.
_PHOTOS = {
    "skimage/data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}


class BuiltinPhotos:
    """The right quarter of every photo is held out, cut into squares; the rest is for training."""

    left_out: Mapping[str, int] = {}

    def __init__(self, held_out: bool):
        self._held_out = held_out
        photos = _photos()
        names = list(photos)
        if held_out:
            squares = [(i, n) for n, image in photos.items() for i in range(len(_squares(image)))]
            names = [f"{n}#{i}" for i, n in sorted(squares, key=lambda square: square[0])]
        self.names = Names.of(name.encode() for name in names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        if self._held_out:
            path, square = name.split("#")
            return Record(name, _squares(_photos()[path])[int(square)])
        image = _photos()[name]
        return Record(name, image[:, : image.shape[1] * 3 // 4])


@functools.cache
def _photos() -> dict[str, np.ndarray]:
    photos = {}
    for folder, files in _PHOTOS.items():
        package, _, below = folder.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise DataError(f"builtin:photos needs the package {package}, which is not installed")
        for file in files:
            path = pathlib.Path(spec.origin).parent / below / file
            try:
                photos[f"{package}/{file}"] = decode.decode(path.read_bytes())
            except OSError as error:
                raise DataError(f"builtin:photos: {package} ships no {file} ({error})") from error
    return photos


def _squares(image: np.ndarray) -> list[np.ndarray]:
    """The right quarter of a photo, cut from top to bottom into squares."""
    quarter = image[:, image.shape[1] * 3 // 4 :]
    side = quarter.shape[1]
    return [quarter[y : y + side] for y in range(0, len(quarter) - side + 1, side)]
