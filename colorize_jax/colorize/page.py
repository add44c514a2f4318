"""A page to look at colored photos: one HTML file, which needs nothing else and no network."""

import base64
from collections.abc import Sequence
import dataclasses
import html
import os
import pathlib

import cv2
import numpy as np

from colorize_jax.color import quality
from colorize_jax.files import atomic_write_bytes

_SIDE = 900  # pixels of the longest side on the page
_QUALITY = 88  # of its JPEGs
_GRID = 256  # pixels a side of the grid that is scored: one size is compiled once


@dataclasses.dataclass(frozen=True)
class Entry:
    """One colored photo.

    Attributes:
        name: that is shown.
        pictures: {"gray", "colored" and perhaps "truth": JPEG}.
        numbers: of the colored one and of the gray one, if the photo had colors.
    """

    name: str
    pictures: dict[str, bytes]
    numbers: dict[str, tuple[float, float]]


def shown(pixels: np.ndarray) -> np.ndarray:
    """RGB or gray, uint8, uint16 or float in [0, 1], as uint8 RGB no larger than on the page."""
    scale = min(_SIDE / max(pixels.shape[:2]), 1)
    size = [max(round(side * scale), 1) for side in pixels.shape[1::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
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
    return Entry(str(path), {name: _jpeg(x) for name, x in pictures.items()}, numbers)


def write(path: pathlib.Path, entries: Sequence[Entry]) -> None:
    """Writes the page; OSError if that cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(map(_figure, entries))
    told = sum(bool(each.numbers) for each in entries)
    note = _NUMBERS.format(told=told) if told else ""
    text = _PAGE.replace("@COUNT@", f"{len(entries):,}").replace("@NOTE@", note)
    atomic_write_bytes(path, text.replace("@BODY@", body).encode("utf-8", "replace"))


def _jpeg(rgb: np.ndarray) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), settings)[1].tobytes()


def _source(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _figure(each: Entry) -> str:
    name = html.escape(os.path.basename(each.name))
    gray, colored = (_source(each.pictures[key]) for key in ("gray", "colored"))
    truth, numbers = "", ""
    if "truth" in each.pictures:
        truth = (
            f'<button type="button" data-truth="{_source(each.pictures["truth"])}">truth</button>'
        )
        numbers = ", ".join(
            f"{key} {ours:.{digits}f} (gray {left:.{digits}f})"
            for (key, (ours, left)), digits in zip(each.numbers.items(), (1, 3), strict=True)
        )
    return (
        f'<figure><div class="pair"><img class="after" src="{colored}" alt="{name}, colored">'
        f'<img class="before" src="{gray}" alt="{name}, gray"><i></i>'
        f'<input type="range" min="0" max="100" value="50" aria-label="gray to colored, {name}">'
        f"</div><figcaption><b>{name}</b><span>{numbers}</span>{truth}</figcaption></figure>"
    )


_NUMBERS = (
    "{told} of the photos had colors. Beside each stand PSNR in dB and AuC of its new colors, and "
    "in brackets those of the photo left gray, at 900 pixels a side or less: higher is better, "
    "and gray scores high, since most pixels of most photos are nearly gray."
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Colored photos</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body { margin: 2rem auto; max-width: 1500px; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
 background: #1b1c1e; color: #ddd; }
h1 { font-weight: 500; } p { max-width: 46rem; }
main { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); }
figure { margin: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: .2rem .8rem; font-size: 14px; align-items: center;
 margin-top: .3rem; }
figcaption b { overflow-wrap: anywhere; }
.pair { position: relative; line-height: 0; --at: 50%; }
.pair img { width: 100%; display: block; }
.pair .before { position: absolute; inset: 0; height: 100%;
 clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.pair i { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
 background: #fff; box-shadow: 0 0 4px #000; }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
 cursor: ew-resize; }
.pair input:focus-visible ~ i, .pair:focus-within i { background: #ffd24a; }
button { font: inherit; background: #333; color: inherit; border: 1px solid #666;
 border-radius: 4px; padding: 0 .6rem; cursor: pointer; }
button.on { background: #ffd24a; color: #000; }
</style></head><body>
<h1>@COUNT@ colored photos</h1>
<p>Left of the line a photo is gray, right of it the network has colored it: drag the line. The
colors are a guess, and no evidence of what the scene looked like. @NOTE@</p>
<main>
@BODY@
</main>
<script>
for (const pair of document.querySelectorAll(".pair"))
  pair.querySelector("input").addEventListener("input", event =>
    pair.style.setProperty("--at", event.target.value + "%"));
for (const button of document.querySelectorAll("button"))
  button.addEventListener("click", () => {
    const image = button.closest("figure").querySelector(".after");
    [image.src, button.dataset.truth] = [button.dataset.truth, image.src];
    button.textContent = button.classList.toggle("on") ? "colored" : "truth";
  });
</script>
</body></html>
"""
