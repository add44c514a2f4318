"""Decodes JPEGs; refuses a file exactly when coefficients are missing or damaged.

libjpeg warns of many things and reports only the first. A fault that does not concern the
coefficients is repaired in the file's bytes, and the file is decoded again, still strictly. So a
harmless warning never hides missing data after it.
"""

from collections.abc import Iterator
import dataclasses
import functools
import itertools
import re
import struct

import numpy as np
import simplejpeg

from colorize_jax.errors import DataError

# libjpeg's warnings (jerror.h) that do not mean missing coefficients.
_HARMLESS = re.compile(
    r"unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters"
    r"|extraneous bytes before marker|instead of RST|Premature end of JPEG file|bad ICC marker"
)
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
# The limit of pixels x scans. A scan of a few bytes may touch every pixel, so the time grows with
# this product. Encoders write about ten scans. At 1 to 2 ns for each pixel of a scan, the limit
# keeps a photo to seconds.
_MOST_WORK = 4e9
_USUAL_SCANS = 20
_TRIES = 32

_SOI, _EOI, _SOS, _APP0, _APP14, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xFE
_ADOBE_LENGTH = 16
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # Huffman-coded: each scan needs at least two bits for every block.
_SCAN_DATA = 0  # `segments` uses it for the coded data after the header of a scan.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


# The segments of a file whose header says nothing but how to decode it: tables, restart intervals,
# comments, JFIF's, and the frames of baseline, extended and progressive JPEGs.
_PLAIN = frozenset((0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, _APP0, _COMMENT))
_PROGRESSIVE = 0xC2
_PLAIN_MODES = {1: "L", 3: "RGB"}


@dataclasses.dataclass(frozen=True)
class Header:
    """What `Photo` asks of Pillow's image, of a JPEG without metadata.

    Attributes:
        width, height: in pixels.
        mode: "L" or "RGB".
        info: {"progressive": True} if the coefficients come in several scans.
    """

    width: int
    height: int
    mode: str
    info: dict[str, bool]
    format: str = "JPEG"


def plain_header(data: bytes) -> Header | None:
    """The header of a JPEG that has neither EXIF nor a color profile nor anything unusual.

    It takes a tenth of Pillow's time, which for photos of 64 pixels is as long as decoding. None
    for all other files, also for those that do not look whole.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, frame = 2, None
    while True:
        marker = data[at + 1 : at + 2]
        if data[at : at + 1] != b"\xff" or not marker:
            return None
        if marker[0] == _SOS:
            return frame
        if marker[0] not in _PLAIN or at + 4 > len(data):
            return None
        length = struct.unpack_from(">H", data, at + 2)[0]
        if marker[0] in _FRAMES:
            if frame or length < 11 or at + 2 + length > len(data) or data[at + 4] != 8:
                return None
            height, width = _size(data, at)
            mode = _PLAIN_MODES.get(data[at + 9])
            if not (height and width and mode):
                return None
            info = {"progressive": True} if marker[0] == _PROGRESSIVE else {}
            frame = Header(width, height, mode, info)
        at += 2 + length


def decode(data: bytes, colors: str, height: int = 0, width: int = 0) -> np.ndarray:
    """The pixels as stored (EXIF orientation not applied), uint8 [height', width', channels].

    Args:
        data: a JPEG; bytes after its end are ignored.
        colors: "RGB", "GRAY" or "CMYK" (255 is no ink, as Adobe writes it).
        height, width: a photo at least twice as large is reduced by its own transform, but never
            below this size; 0 keeps the full size.

    Raises:
        DataError: coefficients are missing or damaged, or there are far too many scans.
    """

    def strictly(data: bytes) -> np.ndarray:
        # The pixels equal Pillow's to the last bit, at twice the speed. Photos less than twice as
        # large keep their size.
        return simplejpeg.decode_jpeg(
            data, colors, min_height=height, min_width=width, min_factor=2
        )

    _check_scans(data)
    try:
        return strictly(data)
    except ValueError as error:
        if not _HARMLESS.search(str(error)):
            raise DataError(f"damaged image: {error}") from error
    repaired = _repaired(data)
    try:
        return strictly(repaired)
    except ValueError as error:
        for cut in _without_stray_bytes(repaired, str(error)):
            try:
                return strictly(cut)
            except ValueError:
                continue
        raise DataError(f"damaged image: {error}") from error


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte, last byte + 1) of every segment of the file.

    The coded data of a scan is a segment of its own, with marker 0. Stray bytes may lie between
    segments.
    """
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at + 1 : at + 2] == b"\xff":  # Any number of fill bytes may precede a marker.
            at += 1
        if at + 2 > len(data):
            return
        marker = data[at + 1]
        if marker == _EOI:
            yield marker, at, at + 2
            return
        if marker in (0x00, 0x01, _SOI) or 0xD0 <= marker <= 0xD7 or at + 4 > len(data):
            at += 2
            continue
        stop = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        yield marker, at, min(stop, len(data))
        at = stop
        if marker == _SOS:
            found = _NEXT_MARKER.search(data, at)
            stop = found.start() if found else len(data)
            yield _SCAN_DATA, at, stop
            at = stop


def without_metadata(data: bytes) -> bytes:
    """The file without application segments, except Adobe's, which states the colors."""
    kept = (data[start:stop] for kind, start, stop in segments(data) if not _is_metadata(kind))
    adobe = (
        data[start:stop]
        for kind, start, stop in segments(data)
        if kind == _APP14 and stop - start >= _ADOBE_LENGTH
    )
    return b"".join((b"\xff\xd8", *adobe, *kept))


def _is_metadata(marker: int) -> bool:
    return _APP0 <= marker <= _APP0 + 15 or marker == _COMMENT


def _check_scans(data: bytes) -> None:
    pixels = scans = 0
    for marker, start, _ in segments(data):
        if marker in _FRAMES:
            if marker in _SEQUENTIAL:
                return
            height, width = _size(data, start)
            pixels = height * width
        scans += marker == _SOS
    if scans > _USUAL_SCANS and scans * pixels > _MOST_WORK:
        raise DataError(
            f"{scans} scans of {pixels / 1e6:.0f} million pixels: this takes too long to decode"
        )


def _size(data: bytes, frame: int) -> tuple[int, int]:
    return struct.unpack(">HH", data[frame + 5 : frame + 9].ljust(4, b"\0"))


def _repaired(data: bytes) -> bytes:
    """A file with the same coefficients that libjpeg decodes without a warning."""
    parts, sequential, components, coded = [b"\xff\xd8"], False, 0, _ScannedBits()
    marker = 0
    for marker, start, stop in segments(data):
        if _is_metadata(marker) and marker not in (_APP0, _APP14):
            continue
        part = bytearray(data[start:stop])
        if marker in _FRAMES:
            sequential = marker in _SEQUENTIAL
            components = part[9] if len(part) > 9 else 0
            coded.frame(part)
        elif marker == _APP0 and part[4:9] == b"JFIF\0" and len(part) > 10:
            part[9:11] = 1, 1  # The pixels are the same in every revision of JFIF.
        elif marker == _APP14 and part[4:9] == b"Adobe" and part[15:16] > b"\2":
            part[15] = 2 if components == 4 else 1  # libjpeg takes an unknown transform for this.
        elif marker == _SOS:
            if sequential:
                part[-3:] = 0, 63, 0  # A sequential scan always holds all coefficients.
            coded.scan(part)
        elif marker == _SCAN_DATA:
            # Numbers restart intervals anew. If an interval is lost, libjpeg then misses the last.
            restart = itertools.cycle(bytes((0xFF, 0xD0 + i)) for i in range(8))
            part = _RESTART.sub(functools.partial(_next, restart), part)
        parts.append(part)
    if marker != _EOI:
        if not coded.complete():
            raise DataError("damaged image: Premature end of JPEG file")
        parts.append(b"\xff\xd9")  # Only the end marker may be missing, not the coded data.
    return b"".join(parts)


def _next(values: Iterator[bytes], _: re.Match) -> bytes:
    return next(values)


class _ScannedBits:
    """Tracks which bits of which coefficients the scans of a file contain."""

    def __init__(self):
        # By component: the lowest bit, so far, of every coefficient.
        self._lowest: dict[int, list[int]] = {}

    def frame(self, part: bytes) -> None:
        self._lowest = {part[i]: [99] * 64 for i in range(10, len(part) - 2, 3)}

    def scan(self, part: bytes) -> None:
        first, last, bits = part[-3:]
        for i in range(5, len(part) - 3, 2):
            self._lowest.get(part[i], [0] * 64)[first : last + 1] = [bits & 15] * (last + 1 - first)

    def complete(self) -> bool:
        return bool(self._lowest) and not any(map(any, self._lowest.values()))


def _without_stray_bytes(data: bytes, warning: str) -> Iterator[bytes]:
    """Yields the file without the surplus bytes at the end of one scan or one restart interval.

    Surplus bytes do no harm if they are padding, or too few for a row or a column of blocks. If
    there are more, the header gives a wrong size.
    """
    found = _STRAY.search(warning)
    if not found:
        return
    count, marker = int(found[1]), bytes((0xFF, int(found[2], 16)))
    most, tries = 0.0, 0
    for kind, start, stop in segments(data):
        if kind in _FRAMES:
            height, width = _size(data, start)
            samplings = data[start + 11 : start + 2 + data[start + 9] * 3 + 8 : 3]
            rows = -(-height // (8 * max((s & 15 for s in samplings), default=1)))
            columns = -(-width // (8 * max((s >> 4 for s in samplings), default=1)))
            most = 0.5 / max(rows, columns, 1)
        if kind != _SCAN_DATA:
            continue
        ends = [m.start() for m in re.finditer(re.escape(marker), data[start : stop + 2])]
        for end in (start + e for e in ends):
            stray = data[max(end - count, start) : end]
            if count <= most * (stop - start) or len(set(stray)) == 1:
                tries += 1
                if tries > _TRIES:
                    return
                yield data[: end - len(stray)] + data[end:]
