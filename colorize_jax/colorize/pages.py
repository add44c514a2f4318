"""Pages of HTML that need nothing but themselves: no network, no file beside them.

The templates lie in `pages/`; `$name` in them is replaced. Photos are in the page as JPEGs.
"""

import base64
from collections.abc import Mapping
import html
import json
import pathlib
import string

import cv2
import numpy as np

from colorize_jax.data import transforms
from colorize_jax.errors import printable

_TEMPLATES = pathlib.Path(__file__).with_name("pages")
# What a page may do: show what is in it and run its own script, and reach nothing else.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def fill(
    template: str | pathlib.Path, title: str, values: Mapping[str, str], policy: str = _POLICY
) -> str:
    """A page.

    Args:
        template: the name of its body in `pages/`, without the ending, or the path of its body.
        title: in plain text.
        values: {name in the template: HTML, as `text`, `photo` and `data` give it}.
        policy: its Content-Security-Policy.
    """
    path = _TEMPLATES / f"{template}.html" if isinstance(template, str) else template
    body = _template(path).substitute(values)
    return _template(_TEMPLATES / "page.html").substitute(
        title=text(title), policy=policy, style=(_TEMPLATES / "style.css").read_text(), body=body
    )


def _template(path: pathlib.Path) -> string.Template:
    return string.Template(path.read_text())


def text(plain: str) -> str:
    """Any text as HTML; names of files are bytes that others chose."""
    return html.escape(printable(plain))


def data(value: object) -> str:
    """A value as JSON that may stand in a <script>: nothing in it ends the script."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def jpeg(pixels: np.ndarray, quality: int = 92) -> bytes:
    """A photo [height, width, 3] uint8 as a JPEG without subsampled colors."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # fmt: skip
    good, found = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), settings)
    if not good:
        raise ValueError(f"no JPEG can be made of {pixels.shape}")
    return found.tobytes()


def uri(pixels: np.ndarray, quality: int = 92) -> str:
    """A photo as the address of an <img>."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(pixels, quality)).decode()}"


def shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    """A photo whose longest side is at most so many pixels."""
    height, width = pixels.shape[:2]
    if max(height, width) <= longest:
        return pixels
    height, width = transforms.longest_size(height, width, longest)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
