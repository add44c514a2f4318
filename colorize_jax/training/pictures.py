"""Pages of photos for people to look at: panels with headings, names, scores and a legend."""

from collections.abc import Mapping, Sequence
import dataclasses
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from colorize_jax.errors import shown

SMALLEST = 128  # pixels of a panel's shorter side: smaller ones are enlarged
_GAP = 6  # pixels around panels and text
_TEXT = 13  # height of the letters
_LINE = 18  # pixels from one line to the next
_SQUARE = 12  # side of the colored square before a class's name


@dataclasses.dataclass(frozen=True)
class Row:
    """One photo of a page.

    Attributes:
        name: of the photo.
        panels: uint8 [height, width, 3] each, shown side by side.
        text: what is said of it: its scores, its classes.
        legend: {class: (red, green, blue)} of the colors in its panels.
    """

    name: str
    panels: Sequence[np.ndarray]
    text: str = ""
    legend: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)


def page(rows: Sequence[Row], headings: Sequence[str] = ()) -> np.ndarray:
    """Photos one below the other, each under its name, on white; the legend of all at the end.

    Args:
        rows: the photos, at least one.
        headings: of the panels, from left to right; written once for every photo whose panels lie
            elsewhere than those of the photo above.

    Returns:
        uint8 [height, width, 3].
    """
    font = ImageFont.load_default(_TEXT)
    legend = {name: color for row in rows for name, color in row.legend.items()}
    scaled = [[_enlarged(panel) for panel in row.panels] for row in rows]
    inner = max(sum(p.width for p in panels) + _GAP * (len(panels) - 1) for panels in scaled)
    # Lines first, since they decide about the height.
    lines = [
        _wrapped([shown(row.name)], font, inner) + _wrapped(row.text.split(), font, inner)
        for row in rows
    ]
    places, above = [], None
    for panels in scaled:
        left = [_GAP]
        for panel in panels[:-1]:
            left.append(left[-1] + panel.width + _GAP)
        places.append((left, bool(headings) and left != above))
        above = left
    entries = _legend_places(legend, font, inner)
    height = _GAP + sum(
        _LINE * (len(text) + headed) + max(panel.height for panel in panels) + 2 * _GAP
        for panels, text, (_, headed) in zip(scaled, lines, places, strict=True)
    )
    if entries:
        height += entries[-1][1] + _LINE + _GAP
    canvas = Image.new("RGB", (inner + 2 * _GAP, height), "white")
    draw, y = ImageDraw.Draw(canvas), _GAP
    for panels, text, (left, headed) in zip(scaled, lines, places, strict=True):
        if headed:
            for x, heading in zip(left, headings, strict=False):
                draw.text((x, y), heading, "gray", font)
            y += _LINE
        for line in text:
            draw.text((_GAP, y), line, "black", font)
            y += _LINE
        for x, panel in zip(left, panels, strict=True):
            canvas.paste(panel, (x, y))
        y += max(panel.height for panel in panels) + 2 * _GAP
    for name, x, down in [(name, x, down) for (x, down), name in zip(entries, legend, strict=True)]:
        at = (x + _GAP, y + down)
        draw.rectangle((*at, at[0] + _SQUARE, at[1] + _SQUARE), legend[name], "gray")
        draw.text((at[0] + _SQUARE + _GAP, at[1] - 1), name, "black", font)
    return np.asarray(canvas)


def png(picture: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()


def _enlarged(panel: np.ndarray) -> Image.Image:
    """A whole number of times as large, so that its shorter side has `SMALLEST` pixels or more."""
    image = Image.fromarray(panel)
    factor = -(-SMALLEST // min(image.size))
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def _wrapped(words: Sequence[str], font, width: int) -> list[str]:
    """Lines of at most `width` pixels; a word that is longer is cut at its beginning."""
    lines: list[str] = []
    for word in words:
        cut = word
        while len(cut) > 1 and font.getlength(cut) > width:
            cut = "…" + cut.lstrip("…")[1:]
        if lines and font.getlength(f"{lines[-1]} {cut}") <= width:
            lines[-1] += f" {cut}"
        else:
            lines.append(cut)
    return lines


def _legend_places(names: Sequence[str], font, width: int) -> list[tuple[int, int]]:
    """(x, y) of every class of the legend, in lines of at most `width` pixels."""
    places, x, y = [], 0, 0
    for name in names:
        wide = _SQUARE + 3 * _GAP + int(font.getlength(name))
        if x and x + wide > width:
            x, y = 0, y + _LINE
        places.append((x, y))
        x += wide
    return places
