"""Scales, crops, mirrors and pads photos and their masks; draws the random parts."""

import dataclasses
import math

import cv2
import numpy as np

_TRIES = 10
# Photos are processed in parallel, so threads within one photo would only compete.
cv2.setNumThreads(1)


@dataclasses.dataclass(frozen=True)
class Window:
    """A square crop of `crop` pixels at (y, x) of a photo scaled to `height` x `width`."""

    height: int
    width: int
    y: int
    x: int
    crop: int
    mirror: bool = False


def scaled_size(height: int, width: int, shortest: int) -> tuple[int, int]:
    """(height, width) scaled so that the shortest side is `shortest`; the other is truncated."""
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
        rng: the generator of this photo alone.
        height, width: the size of the photo as stored.
        scale: the shortest side becomes an integer in [scale[0], scale[1]): the end is excluded.
        crop: the side of the crop, at most scale[0].
        mirror: whether to mirror half of the photos.
    """
    shortest = int(rng.integers(scale[0], scale[1]))
    mirrored = bool(rng.integers(2)) and mirror
    height, width = scaled_size(height, width, shortest)
    # As in the release, the last offset is never drawn unless it is the only one.
    y, x = (int(rng.integers(max(size - crop, 1))) for size in (height, width))
    return Window(height, width, y, x, crop, mirrored)


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of a photo as stored: `height` x `width` pixels at (y, x)."""

    y: int
    x: int
    height: int
    width: int
    mirror: bool = False


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    mirror: bool,
) -> Box:
    """Draws the part of a photo for a random resized crop.

    It is Inception's (Szegedy et al. 2014, section 6) with SimCLR's numbers (Chen et al. 2020,
    appendix A). First the mirror is drawn. Then an area (uniform) and an aspect ratio (uniform in
    its logarithm) are drawn, up to ten times, until such a box fits into the photo. Last, its row
    and column are drawn (uniform). If no box fits, it is the box of `central_box`.

    Args:
        rng: the generator of this view alone.
        height, width: the size of the photo as stored.
        area: the smallest and largest share of the photo's area.
        ratio: the smallest and largest width over height.
        mirror: whether to mirror half of the boxes.
    """
    mirrored = bool(rng.integers(2)) and mirror
    for _ in range(_TRIES):
        pixels = rng.uniform(*area) * height * width
        aspect = math.exp(rng.uniform(*map(math.log, ratio)))
        rows, columns = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            y, x = (int(rng.integers(n + 1)) for n in (height - rows, width - columns))
            return Box(y, x, rows, columns, mirrored)
    rows, columns = central_box(height, width, ratio)
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns, mirrored)


def central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """(height, width) of the largest part of a photo with width over height within `ratio`."""
    if width < ratio[0] * height:
        return max(round(width / ratio[0]), 1), width
    return height, max(min(round(height * ratio[1]), width), 1)


def smallest_box(
    height: int, width: int, *, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[float, float]:
    """The smallest height and the smallest width of the boxes that `random_box` can draw."""
    pixels = area[0] * height * width
    sides = math.sqrt(pixels / ratio[1]), math.sqrt(pixels * ratio[0])
    central = central_box(height, width, ratio)
    return tuple(max(min(math.floor(a), b), 1) for a, b in zip(sides, central, strict=True))


def longest_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) scaled so that the longest side is `longest`.

    The other side is truncated, but at least 1.
    """
    if height >= width:
        return longest, max(longest * width // height, 1)
    return max(longest * height // width, 1), longest


def central_window(height: int, width: int, crop: int, shortest: int = 0) -> Window:
    """The crop in the middle of a photo with its shortest side scaled to `shortest` (0: `crop`)."""
    height, width = scaled_size(height, width, shortest or crop)
    return Window(height, width, (height - crop) // 2, (width - crop) // 2, crop)


def cut(pixels: np.ndarray, window: Window) -> np.ndarray:
    """Cuts a window from a photo, uint8 [height, width, 3]: uint8 [crop, crop, 3]."""
    return resampled(
        pixels, window.height, window.width,
        y=window.y, x=window.x, rows=window.crop, columns=window.crop, mirror=window.mirror,
    )  # fmt: skip


def cut_mask(mask: np.ndarray, window: Window) -> np.ndarray:
    """Like `cut`, for a mask, uint8 [height, width], by the nearest pixel: [crop, crop]."""
    return nearest(
        mask, window.height, window.width,
        y=window.y, x=window.x, rows=window.crop, columns=window.crop, mirror=window.mirror,
    )  # fmt: skip


def cut_box(pixels: np.ndarray, whole: tuple[int, int], box: Box, crop: int) -> np.ndarray:
    """Resizes a part of a photo to a crop, uint8 [crop, crop, 3]; see `resampled`.

    Args:
        pixels: the photo, uint8 [height, width, 3], of any size.
        whole: (height, width) of the photo as stored; the box is in its pixels.
        box: the part.
        crop: the side of the result.
    """
    # Scaled by these factors, the box has the size of the crop.
    step_y, step_x = crop / box.height, crop / box.width
    return resampled(
        pixels, whole[0] * step_y, whole[1] * step_x, y=box.y * step_y, x=box.x * step_x,
        rows=crop, columns=crop, mirror=box.mirror, stretched=True,
    )  # fmt: skip


def cut_box_of_mask(mask: np.ndarray, box: Box, crop: int) -> np.ndarray:
    """Like `cut_box`, for a mask as stored, uint8 [height, width]: [crop, crop]."""
    part = mask[box.y : box.y + box.height, box.x : box.x + box.width]
    return nearest(part, crop, crop, mirror=box.mirror)


def resampled(
    pixels: np.ndarray,
    height: float,
    width: float,
    *,
    y: float = 0,
    x: float = 0,
    rows: int = 0,
    columns: int = 0,
    mirror: bool = False,
    stretched: bool = False,
) -> np.ndarray:
    """A part of a photo scaled to height x width: uint8 [rows, columns, 3].

    Only this part is resampled, once, by bilinear interpolation without smoothing (the release's).
    A photo at least twice as large as needed is first averaged over whole pixels, because plain
    interpolation would turn large photos into noise.

    Args:
        pixels: the photo, uint8 [height, width, 3].
        height, width: the size of the whole photo after scaling.
        y, x: the upper left corner of the part in the scaled photo.
        rows, columns: the size of the part; 0 means all, if height and width are whole numbers.
        mirror: whether to mirror the part.
        stretched: whether height and width are scaled by different factors. Each is then averaged
            by a factor of its own.
    """
    rows, columns = rows or height, columns or width
    if (height, width) == pixels.shape[:2] and y == int(y) and x == int(x):
        y, x = int(y), int(x)
        part = pixels[y : y + rows, x : x + columns]
        return np.ascontiguousarray(part[:, ::-1] if mirror else part)
    step_x, step_y = pixels.shape[1] / width, pixels.shape[0] / height
    left, upper = x * step_x, y * step_y
    factors = (step_x, step_y) if stretched else (min(step_x, step_y),) * 2
    factor_x, factor_y = (max(int(factor), 1) for factor in factors)
    # Interpolation can reach one cell beyond the part on each side. Rows and columns at the far
    # border that fill no whole cell are left out.
    x0, x1 = _cells(left, columns * step_x, factor_x, pixels.shape[1])
    y0, y1 = _cells(upper, rows * step_y, factor_y, pixels.shape[0])
    pixels = pixels[y0 * factor_y : y1 * factor_y, x0 * factor_x : x1 * factor_x]
    if max(factor_x, factor_y) > 1:
        pixels = cv2.resize(pixels, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    left, upper = left / factor_x - x0, upper / factor_y - y0
    step_x, step_y = step_x / factor_x, step_y / factor_y
    if mirror:
        left, step_x = left + columns * step_x, -step_x
    # OpenCV's coordinates refer to the centers of pixels, ours to their corners.
    inverse = np.array(
        [[step_x, 0, left + (step_x - 1) / 2], [0, step_y, upper + (step_y - 1) / 2]]
    )
    return cv2.warpAffine(
        pixels, inverse, (columns, rows),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def nearest(
    mask: np.ndarray,
    height: int,
    width: int,
    *,
    y: int = 0,
    x: int = 0,
    rows: int = 0,
    columns: int = 0,
    mirror: bool = False,
) -> np.ndarray:
    """Like `resampled`, for a mask: [rows, columns]. It takes the pixel at every pixel's center."""
    at = []
    for start, count, scaled, size in (
        (y, rows or height, height, mask.shape[0]),
        (x, columns or width, width, mask.shape[1]),
    ):
        at.append((2 * (start + np.arange(count)) + 1) * size // (2 * scaled))
    return mask[np.ix_(at[0], at[1][::-1] if mirror else at[1])]


@dataclasses.dataclass(frozen=True)
class PaddedAxis:
    """One axis of a crop from a photo that may be smaller than the crop.

    Attributes:
        start: the first pixel to take from the photo.
        length: the number of pixels to take.
        before: the number of pixels of padding before them.
    """

    start: int
    length: int
    before: int


def padded_axis(size: int, crop: int, start: int = 0) -> PaddedAxis:
    """A crop from `start`; a side smaller than the crop is taken whole and centered.

    Padding is (crop - size) // 2 pixels before it and the rest after it, as in the release.
    """
    if size >= crop:
        return PaddedAxis(start, crop, 0)
    return PaddedAxis(0, size, (crop - size) // 2)


def padded(
    part: np.ndarray, shape: tuple[int, int], before: tuple[int, int], value: int
) -> np.ndarray:
    """Places a part [height, width, ...] on a canvas filled with `value`.

    `before` is the offset (rows, columns) of the part from the canvas's upper left corner.
    """
    if part.shape[:2] == tuple(shape):
        return part
    canvas = np.full((*shape, *part.shape[2:]), value, part.dtype)
    (y, x), (height, width) = before, part.shape[:2]
    canvas[y : y + height, x : x + width] = part
    return canvas


def _cells(start: float, length: float, factor: int, size: int) -> tuple[int, int]:
    """The first cell, and the last + 1, of the cells of `factor` pixels that an interval needs."""
    first = max(int(start // factor) - 1, 0)
    return first, min(int((start + length) // factor) + 2, size // factor)
