"""Random scale, crop and mirror in one resampling, and the fixed crop of evaluation."""

import dataclasses

import cv2
import numpy as np

# Parallelism is over photos.
cv2.setNumThreads(1)


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


def cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    """The window of a photo [height, width, 3] uint8: [crop, crop, 3] uint8.

    Only what is kept is resampled, once, with plain bilinear interpolation (the release's, without
    smoothing). A photo at least twice as large as needed is first averaged over whole pixels, so
    that large photos do not turn into noise.
    """
    height, width = pixels.shape[:2]
    step_x, step_y = width / window.width, height / window.height
    left, upper = window.x * step_x, window.y * step_y
    factor = max(int(min(step_x, step_y)), 1)
    # A cell beyond the window on each side is what interpolation can touch. Rows and columns that
    # fill no whole cell at the far border are left out.
    x0, x1 = _cells(left, window.crop * step_x, factor, width)
    y0, y1 = _cells(upper, window.crop * step_y, factor, height)
    pixels = pixels[y0 * factor : y1 * factor, x0 * factor : x1 * factor]
    if factor > 1:
        pixels = cv2.resize(pixels, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    left, upper = left / factor - x0, upper / factor - y0
    step_x, step_y = step_x / factor, step_y / factor
    if window.mirror:
        left, step_x = left + window.crop * step_x, -step_x
    # OpenCV counts from the centers of pixels, we from their corners.
    inverse = np.array(
        [[step_x, 0, left + (step_x - 1) / 2], [0, step_y, upper + (step_y - 1) / 2]]
    )
    return cv2.warpAffine(
        pixels, inverse, (window.crop, window.crop),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def _cells(start: float, length: float, factor: int, size: int) -> tuple[int, int]:
    """First and last + 1 of the cells of `factor` pixels that an interval needs."""
    first = max(int(start // factor) - 1, 0)
    return first, min(int((start + length) // factor) + 2, size // factor)
