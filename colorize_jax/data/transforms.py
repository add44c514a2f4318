"""Random scale, crop and mirror in one resampling, and the fixed crop of evaluation."""

import dataclasses

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Window:
    """The crop to take: `crop` pixels square, from (y, x) of a photo of `height` x `width`."""

    height: int
    width: int
    y: int
    x: int
    crop: int
    mirror: bool = False


def scaled_size(height: int, width: int, shortest: int) -> tuple[int, int]:
    """(height, width) whose shortest side is `shortest`; the other one is truncated."""
    if height <= width:
        return shortest, shortest * width // height
    return shortest * height // width, shortest


def random_window(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    scale: tuple[int, int],
    crop: int,
    mirror: bool,
) -> Window:
    """Draws scale, mirror, row and column, in this order (the release's), all uniform.

    Args:
        rng: of this photo alone.
        height, width: of the photo as stored.
        scale: the shortest side becomes an integer in [scale[0], scale[1]): the end is excluded.
        crop: side of the crop, at most scale[0].
        mirror: whether to mirror half of the photos.
    """
    shortest = int(rng.integers(scale[0], scale[1]))
    mirrored = bool(rng.integers(2)) and mirror
    height, width = scaled_size(height, width, shortest)
    # As in the release the last offset is never drawn, unless it is the only one.
    y, x = (int(rng.integers(max(size - crop, 1))) for size in (height, width))
    return Window(height, width, y, x, crop, mirrored)


def central_window(height: int, width: int, crop: int) -> Window:
    """The middle of the photo with its shortest side scaled to the crop."""
    height, width = scaled_size(height, width, crop)
    return Window(height, width, (height - crop) // 2, (width - crop) // 2, crop)


def cut(image: Image.Image, window: Window) -> np.ndarray:
    """The window of an RGB picture, [crop, crop, 3] uint8.

    Only what is kept is resampled, once, with plain bilinear interpolation (the release's, without
    smoothing). A photo at least twice as large as needed is first averaged over whole pixels, so
    that large photos do not turn into noise.
    """
    left = window.x * image.width / window.width
    upper = window.y * image.height / window.height
    step_x, step_y = image.width / window.width, image.height / window.height
    factor = int(min(step_x, step_y))
    if factor >= 2:
        right, lower = left + window.crop * step_x, upper + window.crop * step_y
        # A cell beyond the window on each side is what interpolation can touch.
        box = (
            max(int(left // factor - 1) * factor, 0),
            max(int(upper // factor - 1) * factor, 0),
            min(int(right // factor + 2) * factor, image.width),
            min(int(lower // factor + 2) * factor, image.height),
        )
        image = image.reduce(factor, box=box)
        left, upper = (left - box[0]) / factor, (upper - box[1]) / factor
        step_x, step_y = step_x / factor, step_y / factor
    if window.mirror:
        left, step_x = left + window.crop * step_x, -step_x
    affine = (step_x, 0.0, left, 0.0, step_y, upper)
    size = (window.crop, window.crop)
    return np.array(
        image.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    )
