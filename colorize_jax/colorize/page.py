"""A page to look at colored photos, with a line between gray and color that can be moved."""

from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from colorize_jax.color import quality
from colorize_jax.colorize import pages
from colorize_jax.files import atomic_write_bytes

_SIDE = 900  # pixels of the longest side on the page
_GRID = 256  # pixels a side of the grid that is scored: one size is compiled once
_NOTE = (
    "Of the photos {told} had colors: their own are behind the button. PSNR in dB and AuC say how "
    "near the new colors come to them, beside the same photo left gray, at {side} pixels a side or "
    "less. Higher is better. Gray scores high, since most pixels of most photos are nearly gray."
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One colored photo.

    Attributes:
        name: that is shown.
        pictures: {"gray", "colored" and perhaps "truth": the address of its JPEG}.
        numbers: of the colored one and of the gray one, if the photo had colors.
    """

    name: str
    pictures: dict[str, str]
    numbers: dict[str, tuple[float, float]]


def shown(pixels: np.ndarray) -> np.ndarray:
    """RGB or gray, uint8, uint16 or float in [0, 1], as uint8 RGB no larger than on the page."""
    small = pages.shrunk(pixels, _SIDE)
    if small.dtype == np.uint16:
        small = np.round(small / 257).astype(np.uint8)
    elif small.dtype != np.uint8:
        small = np.round(small * 255).astype(np.uint8)
    return small if small.ndim == 3 else np.repeat(small[..., None], 3, -1)


def entry(
    path: pathlib.Path, gray: np.ndarray, colored: np.ndarray, truth: np.ndarray | None
) -> Entry:
    """What the page shows of a photo.

    Args:
        path: of the result.
        gray: float32 [height, width] in [0, 1].
        colored: RGB.
        truth: of `shown`, or None.
    """
    pictures = {"gray": shown(gray), "colored": shown(colored)}
    numbers = {}
    if truth is not None:
        pictures["truth"] = truth
        rows, columns = (np.linspace(0, n - 1, _GRID).astype(int) for n in truth.shape[:2])
        left, ours, true = (
            (pictures[name][rows][:, columns] / np.float32(255))[None]
            for name in ("gray", "colored", "truth")
        )
        numbers = {
            name: (float(score(ours, true)[0]), float(score(left, true)[0]))
            for name, score in (("PSNR", quality.psnr), ("AuC", quality.auc))
        }
    return Entry(path.name, {name: pages.uri(x) for name, x in pictures.items()}, numbers)


def write(path: pathlib.Path, entries: Sequence[Entry]) -> None:
    """Writes the page; OSError if that cannot be."""
    told = sum(bool(each.numbers) for each in entries)
    heading = f"{len(entries):,} colored photo{'s' if len(entries) != 1 else ''}"
    values = {
        "heading": heading,
        "note": _NOTE.format(told=told, side=_SIDE) if told else "",
        "figures": "\n".join(map(_figure, entries)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, pages.fill("colored", heading, values).encode("utf-8", "replace"))


def _figure(each: Entry) -> str:
    name, pictures = pages.text(each.name), each.pictures
    truth, numbers = "", ""
    if each.numbers:
        truth = f'<button type="button" data-truth="{pictures["truth"]}">truth</button>'
        numbers = ", ".join(
            f"{key} {ours:.{digits}f} (gray {left:.{digits}f})"
            for (key, (ours, left)), digits in zip(each.numbers.items(), (1, 3), strict=True)
        )
    return (
        f'<figure><div class="pair"><img class="after" src="{pictures["colored"]}" alt="colored">'
        f'<img class="before" src="{pictures["gray"]}" alt="gray"><i></i>'
        f'<input type="range" min="0" max="100" value="50" aria-label="gray to colored, {name}">'
        f"</div><figcaption><b>{name}</b><span>{numbers}</span>{truth}</figcaption></figure>"
    )
