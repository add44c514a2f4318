"""Draws pages of photos: panels with headings, names, scores and a legend."""

from collections.abc import Mapping, Sequence
import dataclasses
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from colorize_jax.errors import shown

SMALLEST = 128  # A panel whose shorter side has fewer pixels is enlarged.
# All sizes are in pixels.
_GAP = 6  # the space around panels and text
_TEXT = 13  # the height of the letters
_LINE = 18  # the distance between lines
_SQUARE = 12  # the side of the colored square before the name of a class
_WIDEST = 1280  # the width of a page, unless a single photo is wider


@dataclasses.dataclass(frozen=True)
class Row:
    """One photo of a page.

    Attributes:
        name: the name of the photo.
        panels: the pictures to show side by side, uint8 [height, width, 3] each.
        text: a line about the photo: its scores, its classes.
        legend: {class: (red, green, blue)} for the colors in its panels.
    """

    name: str
    panels: Sequence[np.ndarray]
    text: str = ""
    legend: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)


def page(rows: Sequence[Row], headings: Sequence[str] = ()) -> np.ndarray:
    """A page of photos on white, each below its name; the legend of all is at the end.

    As many photos as fit on a screen are side by side.

    Args:
        rows: the photos, at least one.
        headings: the headings of the panels, from left to right.

    Returns:
        uint8 [height, width, 3].
    """
    blocks = [_block(row, headings) for row in rows]
    width = max(block.width for block in blocks)
    columns = max(min(_WIDEST // width, len(blocks)), 1)
    lines = [blocks[i : i + columns] for i in range(0, len(blocks), columns)]
    legend = _legend({k: v for row in rows for k, v in row.legend.items()}, columns * width)
    heights = [max(block.height for block in line) for line in lines]
    page = Image.new("RGB", (columns * width, sum(heights) + legend.height), "white")
    y = 0
    for line, height in zip(lines, heights, strict=True):
        for column, block in enumerate(line):
            page.paste(block, (column * width, y))
        y += height
    page.paste(legend, (0, y))
    return np.asarray(page)


def png(picture: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()


def _enlarged(panel: np.ndarray) -> Image.Image:
    """Enlarges by a whole factor so that the shorter side has at least `SMALLEST` pixels."""
    image = Image.fromarray(panel)
    factor = -(-SMALLEST // min(image.size))
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def _wrapped(words: Sequence[str], font, width: int) -> list[str]:
    """Lines of at most `width` pixels; the beginning of a longer word is cut off."""
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


def _block(row: Row, headings: Sequence[str]) -> Image.Image:
    """One photo: name, text, headings, and the panels side by side."""
    font, panels = ImageFont.load_default(_TEXT), [_enlarged(panel) for panel in row.panels]
    left = [_GAP]
    for panel in panels:
        left.append(left[-1] + panel.width + _GAP)
    inner = left[-1] - 2 * _GAP
    text = _wrapped([shown(row.name)], font, inner) + _wrapped(row.text.split(), font, inner)
    above = _GAP + _LINE * (len(text) + bool(headings))
    height = above + max(panel.height for panel in panels) + _GAP
    block = Image.new("RGB", (left[-1], height), "white")
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(text):
        draw.text((_GAP, _GAP + number * _LINE), line, "black", font)
    for x, heading in zip(left, headings, strict=False):
        draw.text((x, above - _LINE), heading, "gray", font)
    for x, panel in zip(left, panels, strict=False):
        block.paste(panel, (x, above))
    return block


def _legend(colors: Mapping[str, tuple[int, int, int]], width: int) -> Image.Image:
    """The legend: a colored square before the name of every class, on as many lines as needed."""
    font, places, x, y = ImageFont.load_default(_TEXT), [], _GAP, 0
    for name in map(shown, colors):
        wide = _SQUARE + 3 * _GAP + int(font.getlength(name))
        if x > _GAP and x + wide > width:
            x, y = _GAP, y + _LINE
        places.append((x, y, name))
        x += wide
    legend = Image.new("RGB", (width, y + _LINE + _GAP if places else 0), "white")
    draw = ImageDraw.Draw(legend)
    for (x, y, name), color in zip(places, colors.values(), strict=True):
        draw.rectangle((x, y, x + _SQUARE, y + _SQUARE), color, "gray")
        draw.text((x + _SQUARE + _GAP, y - 1), name, "black", font)
    return legend
