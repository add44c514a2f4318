"""JPEG pixels: strict about missing data, and only about that.

libjpeg warns of many things and names only the first. What says nothing about the coefficients is
put right in the file's bytes, and the file is decoded again, still strictly: so one harmless
warning never hides that data is missing behind it.
"""

from collections.abc import Iterator
import functools
import itertools
import re
import struct

import numpy as np
import simplejpeg

from colorize_jax.errors import DataError

# libjpeg's warnings (jerror.h) after which all coefficients may be there.
_HARMLESS = re.compile(
    r"unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters"
    r"|extraneous bytes before marker|instead of RST|Premature end of JPEG file|bad ICC marker"
)
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
# A scan may touch every pixel and be a few bytes long: time grows with pixels times scans. Encoders
# write about ten. At some 1 to 2 ns each this bounds a photo to seconds.
_MOST_WORK = 4e9
_USUAL_SCANS = 20
_TRIES = 32

_SOI, _EOI, _SOS, _APP0, _APP14, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xEE, 0xFE
_ADOBE_LENGTH = 16
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # Huffman: each scan takes at least two bits of every block
_SCAN_DATA = 0  # in `segments`: what is coded behind the header of a scan
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")


def decode(data: bytes, colors: str, height: int = 0, width: int = 0) -> np.ndarray:
    """The pixels, uint8 [height', width', channels], not turned.

    Args:
        data: a JPEG; what follows its end is not looked at.
        colors: "RGB", "GRAY" or "CMYK" (255 is no ink, as Adobe writes it).
        height, width: a photo at least twice as large is reduced by its own transform, but never
            below these; 0: it keeps its size.

    Raises:
        DataError: coefficients are missing or damaged, or there are far too many scans.
    """

    def strictly(data: bytes) -> np.ndarray:
        # To the last bit what Pillow decodes, at twice the speed. Below a factor of two the size
        # is kept, as the method has it.
        return simplejpeg.decode_jpeg(
            data, colors, min_height=height, min_width=width, min_factor=2
        )

    _check_scans(data)
    try:
        return strictly(data)
    except ValueError as error:
        if not _HARMLESS.search(str(error)):
            raise DataError(f"damaged image: {error}") from error
    mended = _mended(data)
    try:
        return strictly(mended)
    except ValueError as error:
        for cut in _without_stray_bytes(mended, str(error)):
            try:
                return strictly(cut)
            except ValueError:
                continue
        raise DataError(f"damaged image: {error}") from error


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, first byte, last + 1) of every segment up to the end; between them are stray bytes.

    The coded data of a scan comes by itself, as marker 0.
    """
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at + 1 : at + 2] == b"\xff":  # any number of these may stand before a marker
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
    """The file without segments of applications, but for what Adobe's says about its colors."""
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


def _mended(data: bytes) -> bytes:
    """The same coefficients in a file that libjpeg has nothing to say about."""
    parts, sequential, components, coded = [b"\xff\xd8"], False, 0, _Coded()
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
            part[9:11] = 1, 1  # the revision, of which there is no other one with other pixels
        elif marker == _APP14 and part[4:9] == b"Adobe" and part[15:16] > b"\2":
            part[15] = 2 if components == 4 else 1  # what libjpeg takes an unknown transform for
        elif marker == _SOS:
            if sequential:
                part[-3:] = 0, 63, 0  # all coefficients in full, whatever the header says
            coded.scan(part)
        elif marker == _SCAN_DATA:
            # Intervals that are all there, with other numbers. If one is lost, the last is missing.
            restart = itertools.cycle(bytes((0xFF, 0xD0 + i)) for i in range(8))
            part = _RESTART.sub(functools.partial(_next, restart), part)
        parts.append(part)
    if marker != _EOI:
        if not coded.complete():
            raise DataError("damaged image: Premature end of JPEG file")
        parts.append(b"\xff\xd9")  # what is coded may be whole all the same
    return b"".join(parts)


def _next(values: Iterator[bytes], _: re.Match) -> bytes:
    return next(values)


class _Coded:
    """Which bits of which coefficients the scans of a file have."""

    def __init__(self):
        self._lowest: dict[int, list[int]] = {}  # bit of every coefficient, by component

    def frame(self, part: bytes) -> None:
        self._lowest = {part[i]: [99] * 64 for i in range(10, len(part) - 2, 3)}

    def scan(self, part: bytes) -> None:
        first, last, bits = part[-3:]
        for i in range(5, len(part) - 3, 2):
            self._lowest.get(part[i], [0] * 64)[first : last + 1] = [bits & 15] * (last + 1 - first)

    def complete(self) -> bool:
        return bool(self._lowest) and not any(map(any, self._lowest.values()))


def _without_stray_bytes(data: bytes, warning: str) -> Iterator[bytes]:
    """The file without what is left over at the end of one scan or one restart interval.

    Left-over bytes are no harm if they are padding or too few to be a row or a column of blocks:
    if they are more, the header gives a wrong size.
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
