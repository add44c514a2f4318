r"""One page in the browser on which a photo is dropped, colored and saved.

python -m colorize_jax.colorize.demo
python -m colorize_jax.colorize.demo --checkpoint=/ckpt/vgg16 --port=9000

Serves this machine alone, under the address that it prints, and reads none of its files; Ctrl-C
ends it. What is dropped stays in memory and is forgotten with the next photos.
"""

import argparse
import collections
import contextlib
import dataclasses
import http
import http.server
import json
import math
import re
import secrets
import sys
import threading
import traceback
from typing import Any
import urllib.parse

import numpy as np

from colorize_jax import command_line, help
from colorize_jax.colorize import pages, photos
from colorize_jax.data import sources
from colorize_jax.errors import ColorizeError, ConfigError, DataError, why
from colorize_jax.paths import argument

HOST = "127.0.0.1"  # loopback: no other machine can reach it
_SHOWN = 1024  # pixels of the longest side on the page
_KEPT = 2  # photos in memory
_PLANES = 16  # colorizations of one photo that are kept, for moving a slider back
_SECONDS = 30  # that a connection may say nothing
_DISCARDED = 2**25  # bytes of a file that is too large, before the connection is closed
_QUALITY = 95  # of a saved JPEG
_HIGHEST = {"temperature": 4.0, "saturation": 4.0}
# The page may talk to this server and to nobody else; the script is a part of the page.
_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Refused(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: http.HTTPStatus, sentence: str):
        super().__init__(sentence)
        self.status = status


@dataclasses.dataclass
class _Photo:
    """A photo as the server keeps it."""

    scan: photos.Scan
    gray: np.ndarray  # float32 [height, width]
    dtype: type
    small: np.ndarray  # what the network sees
    shown_gray: np.ndarray  # `gray`, no larger than on the page
    truth: np.ndarray | None  # likewise; None if the photo has no color
    planes: collections.OrderedDict = dataclasses.field(default_factory=collections.OrderedDict)


class DroppedPhotos:
    """The photos that were dropped, and a network that colors them; for several threads.

    Args:
        colorizer: a `Colorizer`.
        max_pixels: of a photo; a larger one is refused.
    """

    def __init__(self, colorizer, max_pixels: int):
        self.colorizer = colorizer
        self._max_pixels = max_pixels
        self._dropped: collections.OrderedDict[str, _Photo] = collections.OrderedDict()
        self._lock = threading.Lock()  # one photo is colored at a time

    def add(self, data: bytes) -> dict[str, Any]:
        """Takes a photo in, in the place of the oldest one.

        Returns:
            "id", which cannot be guessed; "width", "height"; "color": whether it has any, and
            "notes": what became of what cannot be kept.

        Raises:
            DataError: it is no photo, a damaged one or a larger one.
        """
        scan = photos.read(data, self._max_pixels)
        pixels = scan.pixels
        eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        truth = None if sources.is_gray(eight) else pages.shrunk(eight, _SHOWN)
        with self._lock:
            gray = self.colorizer.gray(pixels)
            small = self.colorizer.small(gray)
            scan.pixels = None
            shown = pages.shrunk(gray, _SHOWN)
            found = _Photo(scan, gray, pixels.dtype.type, small, shown, truth)
            name = secrets.token_urlsafe(16)
            self._dropped[name] = found
            while len(self._dropped) > _KEPT:
                self._dropped.popitem(last=False)
        height, width = gray.shape
        return {
            "id": name, "width": width, "height": height, "color": truth is not None,
            "notes": scan.notes, "ending": photos.FORMATS[self._form(found)][0],
        }  # fmt: skip

    def picture(self, name: str, kind: str) -> bytes:
        """A JPEG of "gray" or of "truth"; KeyError if there is none."""
        found = self._dropped[name]
        if kind == "truth":
            if found.truth is None:
                raise KeyError(kind)
            return pages.jpeg(found.truth)
        gray = np.round(found.shown_gray * 255).astype(np.uint8)
        return pages.jpeg(np.repeat(gray[..., None], 3, -1))

    def colored(self, name: str, **decoding) -> bytes:
        """A JPEG of the colored photo, as large as on the page; KeyError, ConfigError."""
        with self._lock:
            found = self._dropped[name]
            how = self.colorizer.decoding(**decoding)
            plane = self._plane(found, how)
            rgb = self.colorizer.join(plane, found.shown_gray, np.uint8, how.saturation)
        return pages.jpeg(rgb)

    def save(self, name: str, **decoding) -> bytes:
        """The colored photo at its full size, in its own format where that can be written, and as
        PNG otherwise; KeyError, ConfigError, DataError."""
        with self._lock:
            found = self._dropped[name]
            how = self.colorizer.decoding(**decoding)
            plane = self._plane(found, how)
            rgb = self.colorizer.join(plane, found.gray, found.dtype, how.saturation)
        scan = found.scan
        form = self._form(found)
        return photos.write(rgb, scan.alpha, form, scan.metadata, _QUALITY, [])

    @staticmethod
    def _form(found: _Photo) -> str:
        form = found.scan.format if found.scan.format in photos.FORMATS else "PNG"
        return "PNG" if found.scan.alpha is not None else form

    def _plane(self, found: _Photo, how) -> np.ndarray:
        """The colors of one decoding; the saturation comes later, and costs nothing anew."""
        key = how._replace(saturation=1.0)
        if key not in found.planes:
            ((found.planes[key],),) = self.colorizer.planes([found.small], [how])
        found.planes.move_to_end(key)
        while len(found.planes) > _PLANES:
            found.planes.popitem(last=False)
        return found.planes[key]


class Server(http.server.ThreadingHTTPServer):
    """Serves the page and the photos to this machine.

    Args:
        dropped: the photos.
        port: 0: a free one.
        max_bytes: of a dropped file.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, dropped: DroppedPhotos, port: int, max_bytes: int):
        self.dropped, self.max_bytes = dropped, max_bytes
        self.uploads = threading.BoundedSemaphore(_KEPT)  # files that are read at the same time
        super().__init__((HOST, port), _Handler)
        colors = dropped.colorizer.network.colors
        settings = {
            "usual": colors.decodings[0],
            "temperature": colors.temperature,
            "distributions": colors.distributions,
            "bytes": max_bytes,
        }
        page = pages.fill("demo", "Color a photo", {"settings": pages.data(settings)}, _POLICY)
        self.page = page.encode()

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.server_port}/"

    def hosts(self) -> set[str]:
        """What a browser on this machine may call the server: another name in a request means that
        another site's name was pointed at this machine."""
        names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}
        return names | ({HOST, "localhost"} if self.server_port == 80 else set())

    def handle_error(self, request, client_address):
        """A connection that breaks is nothing to tell; a fault of ours is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc()


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _SECONDS
    server: Server
    server_version, sys_version = "colorize_jax", ""

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _get(self) -> tuple[str, bytes, dict[str, str]]:
        address = urllib.parse.urlsplit(self.path)
        if address.path == "/":
            return "text/html; charset=utf-8", self.server.page, {}
        if not (match := re.fullmatch(r"/photos/([\w-]{1,64})/([a-z]{1,16})", address.path)):
            raise KeyError(address.path)
        name, kind = match.groups()
        dropped = self.server.dropped
        if kind in ("gray", "truth"):
            return "image/jpeg", dropped.picture(name, kind), {}
        if kind == "colored":
            return "image/jpeg", dropped.colored(name, **_decoding(address.query)), {}
        if kind == "save":
            content = dropped.save(name, **_decoding(address.query))
            return "application/octet-stream", content, {"Content-Disposition": "attachment"}
        raise KeyError(kind)

    def _post(self) -> tuple[str, bytes, dict[str, str]]:
        if self.path != "/photos":
            raise KeyError(self.path)
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts():
            raise _Refused(http.HTTPStatus.FORBIDDEN, "another site may not use this page")
        text = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", text):
            raise _Refused(http.HTTPStatus.LENGTH_REQUIRED, "the request does not tell its length")
        length, most = int(text), self.server.max_bytes
        if length > most:
            self._discard(length)  # or the browser would not read the answer
            raise _Refused(
                http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file has {length / 2**20:.1f} MiB; at most {most / 2**20:.0f} are taken "
                "(--max_megabytes)",
            )
        with self.server.uploads:
            data = self.rfile.read(length)
            if len(data) < length:
                raise ConnectionError("the file did not arrive whole")
            found = self.server.dropped.add(data)
        return "application/json", json.dumps(found).encode(), {}

    def _discard(self, length: int) -> None:
        rest = min(length, _DISCARDED)
        while rest > 0 and (part := self.rfile.read(min(rest, 2**16))):
            rest -= len(part)

    def _answer(self, make) -> None:
        """Sends what a function makes, or a sentence about why there is nothing."""
        self.close_connection = True
        try:
            if self.headers.get("Host", "") not in self.server.hosts():
                raise _Refused(http.HTTPStatus.FORBIDDEN, f"this page is at {self.server.address}")
            kind, content, more = make()
            status = http.HTTPStatus.OK
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            status, sentence = _failure(error)
            kind, content, more = "application/json", json.dumps({"error": sentence}).encode(), {}
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close"}
        for name, value in {**_HEADERS, **headers, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Nobody reads a line for every picture."""


def _failure(error: Exception) -> tuple[http.HTTPStatus, str]:
    """The status and the sentence for what went wrong; a fault of ours is printed, too."""
    if isinstance(error, _Refused):
        return error.status, str(error)
    if isinstance(error, KeyError):
        return http.HTTPStatus.NOT_FOUND, "there is nothing here; perhaps the photo was forgotten"
    if isinstance(error, DataError):
        sentence = str(error).replace("--max_pixels", "--max_megapixels")
        return http.HTTPStatus.UNPROCESSABLE_ENTITY, sentence
    if isinstance(error, ColorizeError):
        return http.HTTPStatus.BAD_REQUEST, str(error)
    if isinstance(error, MemoryError):
        return http.HTTPStatus.INSUFFICIENT_STORAGE, "there is not enough memory for this photo"
    traceback.print_exception(error)
    return http.HTTPStatus.INTERNAL_SERVER_ERROR, "the program has a fault: its terminal says more"


def _decoding(query: str) -> dict[str, float]:
    """The arguments of `Colorizer.decoding` that an address gives; ConfigError."""
    try:
        given = urllib.parse.parse_qsl(query, strict_parsing=bool(query), max_num_fields=4)
        found = {name: float(value) for name, value in given}
    except ValueError as error:
        raise ConfigError(f"the address is no question of this page: {why(error)}") from error
    for name, value in found.items():
        if name not in _HIGHEST:
            raise ConfigError(f"the address asks for {name!r}; known: {', '.join(_HIGHEST)}")
        if not math.isfinite(value) or not 0 <= value <= _HIGHEST[name]:
            raise ConfigError(f"{name}={value:g} must lie between 0 and {_HIGHEST[name]:g}")
    return found


def main(asked: argparse.Namespace) -> None:
    """Serves until it is interrupted."""
    if not 0 <= asked.port < 2**16:
        raise ConfigError(f"--port={asked.port} must lie between 0 and {2**16 - 1}")
    if not 0 < asked.max_megabytes <= 1024 or not 0 < asked.max_megapixels <= 200:
        raise ConfigError("--max_megabytes goes up to 1024, and --max_megapixels up to 200")
    from colorize_jax.colorize.colorizer import Colorizer

    colorizer = Colorizer.load(asked.checkpoint, asked.size)
    dropped = DroppedPhotos(colorizer, round(asked.max_megapixels * 1e6))
    try:
        server = Server(dropped, asked.port, round(asked.max_megabytes * 2**20))
    except OSError as error:
        raise ConfigError(
            f"--port={asked.port} cannot be used ({why(error)}): name another one, or 0 for any "
            "free one"
        ) from error
    with server, contextlib.suppress(KeyboardInterrupt):
        command_line.say(f"{server.address} colors photos on this machine; Ctrl-C ends it")
        server.serve_forever()


def parser() -> help.Parser:
    """Of this command."""
    found = help.Parser("python -m colorize_jax.colorize.demo", description=__doc__)
    add = found.add_argument
    add(
        "--checkpoint", default="", type=argument, metavar="PATH",
        help="a run that colors, or a file of Colorizer.save; default: the network of the package",
    )  # fmt: skip
    add("--port", type=int, default=8765, help="of the page; 0: a free one")
    add("--size", type=int, default=None, help="the shortest side of what the network sees")
    add("--max_megabytes", type=float, default=64, metavar="N", help="of a dropped file")
    add("--max_megapixels", type=float, default=50, metavar="N", help="of a dropped photo")
    return found


if __name__ == "__main__":
    command_line.run(main, parser())
