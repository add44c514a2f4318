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

# motorcycle_right.png is left out: it shows the same scene as motorcycle_left.png, so training on
# one would leak the held-out squares of the other.
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
COLUMNS = 4  # the number of squares in a row


class BuiltinPhotos:
    """Whole photos, or the squares that they are cut into: four in a row, as many rows as fit.

    One square of every row is held out. Its column changes from row to row and from photo to photo,
    so that the neighbors of every held-out square are trained on.

    Args:
        held_out: True for the held-out squares, False for the others, None for whole photos.
    """

    left_out: Mapping[str, int] = {}

    def __init__(self, held_out: bool | None = None):
        if held_out is None:
            names = list(_photos())
        else:
            names = [name for name, out in _squares().items() if out == held_out]
        self.names = Names.of(name.encode() for name in names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        photo, _, place = name.partition("#")
        image = _photos()[photo]
        if not place:
            return Record(name, image)
        side = image.shape[1] // COLUMNS
        y, x = (int(number) * side for number in place.split(","))
        return Record(name, image[y : y + side, x : x + side])


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


def _squares() -> dict[str, bool]:
    """{PHOTO#ROW,COLUMN: whether this square is held out}.

    The first rows of all photos come first, so that the first few squares show all photos.
    """
    rows = [
        (row, number, name)
        for number, (name, image) in enumerate(_photos().items())
        for row in range(image.shape[0] // (image.shape[1] // COLUMNS))
    ]
    return {
        f"{name}#{row},{column}": (row + number) % COLUMNS == column
        for row, number, name in sorted(rows)
        for column in range(COLUMNS)
    }
