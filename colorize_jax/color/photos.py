"""Arrays that are taken for photos: what they may be is checked, with a sentence for what is not.

Without JAX, since data workers check photos too.
"""

from typing import Any

import numpy as np

from colorize_jax.errors import PhotoError

# A float may be outside [0, 1] by this much, which covers the rounding of float32 interpolation.
ROUNDING = 1e-3


def check_photo(image: Any, what: str = "the photo", ndims: tuple[int, ...] = (3,)) -> None:
    """PhotoError unless an array has the shape and the type of an RGB photo; looks at no value.

    Args:
        image: with `shape` and `dtype`: uint8, or float of any size, channels last.
        what: it is called in the error.
        ndims: what it may be: 3, one photo, [height, width, 3]; 4, a batch of them; or both.
    """
    shape, dtype = tuple(image.shape), np.dtype(image.dtype)
    known = {3: "[height, width, 3]", 4: "[batch, height, width, 3]"}
    wanted = " or ".join(known[ndim] for ndim in ndims)
    if len(shape) not in ndims or shape[-1] != 3:
        raise PhotoError(f"{what} is {list(shape)}, not {wanted}: {_advice(shape, ndims)}")
    if dtype != np.uint8 and not _is_float(dtype):
        raise PhotoError(
            f"{what} is {dtype}: give uint8, or floats from 0 to 1. Whole numbers from 0 to 255: "
            ".astype(np.uint8)"
        )


def _advice(shape: tuple[int, ...], ndims: tuple[int, ...]) -> str:
    if len(shape) >= 3 and shape[-3] == 3 and len(shape) in ndims:
        return "the channels come first here; np.moveaxis(photo, -3, -1) puts them last"
    if len(shape) in ndims and shape[-1] == 4:
        return "with a fourth channel it may be RGBA or CMYK; give RGB, with Pillow .convert('RGB')"
    if shape and (shape[-1] == 1 or (len(shape) == min(ndims) - 1 and shape[-1] != 3)):
        return "it seems gray; np.repeat(photo[..., None], 3, -1) gives the value three times"
    return "a photo has height, width and three channels, red, green and blue, in this order"


def check_values(image: Any, what: str = "the photo") -> None:
    """PhotoError unless the floats of a photo lie in [0, 1]; all of uint8 do."""
    image = np.asarray(image)
    if not image.size or not _is_float(image.dtype):
        return
    low, high = float(image.min()), float(image.max())
    if not np.isfinite([low, high]).all():  # With a NaN both are NaN.
        raise PhotoError(f"{what} holds values that are not finite (NaN or infinity)")
    if low < -ROUNDING or high > 1 + ROUNDING:
        advice = "clip what is outside, or undo a normalization by mean and deviation"
        if low >= 0 and high <= 255:
            advice = "values up to 255 are to be divided by 255, or given as uint8"
        raise PhotoError(
            f"{what} holds floats from {low:.4g} to {high:.4g}, and not from 0 to 1: {advice}"
        )


def to_uint8(image: Any, what: str = "the photo") -> np.ndarray:
    """A photo [height, width, 3], uint8 or of floats in [0, 1], as uint8; PhotoError if it is none.

    What is no array becomes one first: a Pillow image, a tensor of PyTorch on the CPU.
    """
    image = np.asarray(image)
    check_photo(image, what)
    if image.dtype == np.uint8:
        return image
    check_values(image, what)
    return np.round(np.clip(image.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def _is_float(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"
