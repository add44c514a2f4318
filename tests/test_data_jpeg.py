"""After a warning of libjpeg a photo is used only if no coefficient is missing."""

import io
import re
import struct

import numpy as np
from PIL import Image
import pytest
import simplejpeg

from colorize_jax.data import decode, jpeg
from colorize_jax.errors import DataError


def _picture(mode="RGB"):
    y, x = np.mgrid[:96, :128]
    colors = np.stack([x * 2, y * 2, (x * 3 + y * 5) % 256], -1).astype(np.uint8)
    return Image.fromarray(colors).convert(mode)


def _jpeg(mode="RGB", **options):
    file = io.BytesIO()
    _picture(mode).save(file, "JPEG", quality=85, **options)
    return file.getvalue()


PLAIN, SCANS = _jpeg(), _jpeg(progressive=True)
RESTARTS = _jpeg(restart_marker_blocks=4)
INKS = _jpeg("CMYK")


def _put(data, at, new):
    """Replaces bytes; a negative `at` counts from the end."""
    at %= len(data)
    return data[:at] + new + data[at + len(new) :]


def _insert(data, at, new):
    return data[:at] + new + data[at:]


def _revision(version, data=PLAIN):
    return _put(data, data.index(b"JFIF\0") + 5, version)


def _scan(position, value, data=PLAIN):
    """Changes the end of the scan header: first and last coefficient, and bits."""
    start = data.index(b"\xff\xda")
    return _put(data, start + 2 + data[start + 3] + position, bytes([value]))


def _adobe(transform):
    start = PLAIN.index(b"\xff\xdb")  # It replaces JFIF's segment, which would decide.
    return b"\xff\xd8\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + PLAIN[start:]


def _segment(marker, content):
    return _insert(PLAIN, 2, struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)


def _sized(height, width, data=PLAIN):
    start = data.index(b"\xff\xc0") if b"\xff\xc0" in data else data.index(b"\xff\xc2")
    return _put(data, start + 5, struct.pack(">HH", height, width))


def _renumbered(shift):
    numbered = RESTARTS
    for found in re.finditer(rb"\xff[\xd0-\xd7]", RESTARTS[RESTARTS.index(b"\xff\xda") :]):
        at = RESTARTS.index(b"\xff\xda") + found.start() + 1
        numbered = _put(numbered, at, bytes([0xD0 + (RESTARTS[at] - 0xD0 + shift) % 8]))
    return numbered


def _without(data, first, last):
    """Removes the bytes from one marker to the next marker of another kind."""
    start = data.index(first)
    return data[:start] + data[data.index(last, start) :]


def _starts(marker, data=SCANS):
    return [found.start() for found in re.finditer(re.escape(marker), data)]


def _before_third_scan():
    return SCANS.rindex(b"\xff\xc4", 0, _starts(b"\xff\xda")[2])


HALF = len(PLAIN) // 2
HARMLESS = {
    "JFIF revision 0.00": (_revision(b"\0\0"), PLAIN),
    "JFIF revision 0.02": (_revision(b"\0\2"), PLAIN),
    "JFIF revision 2.01": (_revision(b"\2\1"), PLAIN),
    "JFIF revision 0.02, in scans": (_revision(b"\0\2", SCANS), SCANS),
    "spectral end 0": (_scan(-2, 0), PLAIN),
    "spectral start 1": (_scan(-3, 1), PLAIN),
    "successive approximation 1": (_scan(-1, 1), PLAIN),
    "spectral end 0 and revision 0.02": (_revision(b"\0\2", _scan(-2, 0)), PLAIN),
    "unknown Adobe transform": (_adobe(7), PLAIN),
    "stray bytes before the tables": (_insert(PLAIN, PLAIN.index(b"\xff\xdb"), b"\1\2\3"), PLAIN),
    "stray bytes before a Huffman table": (
        _insert(PLAIN, PLAIN.index(b"\xff\xc4"), bytes(range(200))), PLAIN,
    ),
    "stray bytes before a scan": (_insert(PLAIN, PLAIN.index(b"\xff\xda"), b"\1\2\3"), PLAIN),
    "stray bytes between two scans": (_insert(SCANS, _before_third_scan(), b"\1" * 40), SCANS),
    "a few stray bytes before the end": (_insert(PLAIN, len(PLAIN) - 2, b"\1\2\3\4" * 5), PLAIN),
    "padding before the end": (_insert(PLAIN, len(PLAIN) - 2, bytes(1000)), PLAIN),
    "stray bytes before a restart marker": (
        _insert(RESTARTS, RESTARTS.index(b"\xff\xd3"), bytes(12)), RESTARTS,
    ),
    "restart markers with other numbers": (_renumbered(4), RESTARTS),
    "ICC profile of no parts": (_segment(0xE2, b"ICC_PROFILE\0\5\1junk"), PLAIN),
    "ICC profile that ends too early": (_segment(0xE2, b"ICC_PROFILE\0"), PLAIN),
    "JFIF of a few bytes": (_segment(0xE0, b"JFIF\0\1"), PLAIN),
    "Adobe of a few bytes": (_segment(0xEE, b"Adobe\0"), PLAIN),
    "empty segments": (_segment(0xED, b""), PLAIN),
    "no end marker": (PLAIN[:-2], PLAIN),
    "half an end marker": (PLAIN[:-1], PLAIN),
    "no end marker, in scans": (SCANS[:-2], SCANS),
    "junk after the end": (PLAIN + b"\xff\xda junk", PLAIN),
}  # fmt: skip
DAMAGED = {
    "half of it": PLAIN[:HALF],
    "half of it, ended": PLAIN[:HALF] + b"\xff\xd9",
    "half of it, ended, behind a harmless warning": _revision(b"\0\2")[:HALF] + b"\xff\xd9",
    "half of it, ended, spectral end 0": _scan(-2, 0)[:HALF] + b"\xff\xd9",
    "half of it, behind stray bytes": _insert(PLAIN, PLAIN.index(b"\xff\xc4"), b"\1")[:HALF],
    "a few bytes short": PLAIN[:-6],
    "inks, half of it": INKS[: len(INKS) // 2],
    "some of the scans": SCANS[: _before_third_scan()],
    "a scan is missing": SCANS[: _before_third_scan()]
    + SCANS[SCANS.rindex(b"\xff\xc4", 0, _starts(b"\xff\xda")[3]) :],
    "a restart interval is missing": _without(RESTARTS, b"\xff\xd3", b"\xff\xd4"),
    "bad Huffman codes": _put(PLAIN, HALF, b"\xff\0" * 40),
    "bad Huffman codes behind a harmless warning": _revision(
        b"\0\2", _put(PLAIN, HALF, b"\xff\0" * 40)
    ),
    "twice as high as its data": _sized(192, 128),
    "twice as wide as its data": _sized(96, 256),
    "half as high": _sized(48, 128),
    "a row of blocks less": _sized(80, 128),
    "a column of blocks less": _sized(96, 112),
    "half as wide": _sized(96, 64),
    "no height": _sized(0, 128),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_warnings_change_no_pixel(name):
    data, clean = HARMLESS[name]
    if "junk" not in name:  # The decoding library itself refuses nearly all of these.
        assert data != clean
    np.testing.assert_array_equal(decode.decode(data), simplejpeg.decode_jpeg(clean))
    reduced = decode.open_photo(data).pixels(40, 40)
    np.testing.assert_array_equal(reduced, decode.open_photo(clean).pixels(40, 40))


@pytest.mark.parametrize("name", DAMAGED)
def test_missing_data_is_damage_whatever_else_is_odd(name):
    with pytest.raises(DataError, match="damaged"):
        decode.decode(DAMAGED[name])


def test_most_of_the_table_is_refused_by_the_library_itself():
    refused = 0
    for data, _ in HARMLESS.values():
        try:
            simplejpeg.decode_jpeg(data)
        except ValueError:
            refused += 1
    assert refused >= 15


def test_inks_and_photos_of_several_pictures():
    expected = np.asarray(Image.open(io.BytesIO(INKS)).convert("RGB"))
    np.testing.assert_array_equal(decode.decode(INKS), expected)
    assert decode.open_photo(INKS).pixels(48, 64).shape == (48, 64, 3)
    file = io.BytesIO()
    _picture().save(file, "MPO", save_all=True, append_images=[_picture().rotate(180)], quality=85)
    photo = decode.open_photo(file.getvalue())
    assert photo.image.format == "MPO"
    np.testing.assert_array_equal(photo.pixels(), decode.decode(PLAIN))
    with pytest.raises(DataError, match="damaged"):
        decode.decode(file.getvalue()[:HALF])


def test_scans_are_counted_before_they_are_decoded():
    """A few bytes can demand a scan over every pixel, so the time would have no limit."""
    file = io.BytesIO()
    Image.new("L", (6000, 6000), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xc4") : -2]
    bomb = data[:-2] + last * 300 + data[-2:]
    assert len(bomb) < 2**18
    with pytest.raises(DataError, match="306 scans of 36 million pixels"):
        decode.open_photo(bomb).pixels(100, 100)
    small = SCANS[:-2] + SCANS[SCANS.rindex(b"\xff\xc4") : -2] * 5 + SCANS[-2:]
    assert sum(marker == 0xDA for marker, _, _ in jpeg.segments(small)) == 15
    with pytest.raises(DataError, match="Inconsistent progression"):
        decode.decode(small)


def test_more_scans_than_usual_are_decoded_if_there_are_few_pixels(monkeypatch):
    monkeypatch.setattr(jpeg, "_USUAL_SCANS", 5)
    decode.decode(SCANS)
    monkeypatch.setattr(jpeg, "_MOST_WORK", 9 * 96 * 128)
    with pytest.raises(DataError, match="10 scans"):
        decode.decode(SCANS)
    decode.decode(PLAIN)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}), ("L", {}), ("RGB", {"progressive": True}), ("RGB", {"optimize": True}),
        ("RGB", {"subsampling": 0, "quality": 98}), ("RGB", {"comment": b"by hand"}),
        ("RGB", {"restart_marker_rows": 1}), ("RGB", {"dpi": (72, 72)}),
    ],
)  # fmt: skip
def test_a_plain_header_says_what_pillow_says(rng, mode, options):
    pixels = rng.integers(0, 256, (37, 53, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    data = file.getvalue()
    found, expected = jpeg.plain_header(data), Image.open(io.BytesIO(data))
    assert (found.width, found.height, found.mode, found.format) == (
        *expected.size, expected.mode, expected.format
    )  # fmt: skip
    assert bool(found.info.get("progressive")) == bool(expected.info.get("progressive"))
    # A file that ends within its header is left to Pillow.
    for end in (0, 1, 2, 3, 5, 21, 100, data.index(b"\xff\xda")):
        assert jpeg.plain_header(data[:end]) is None


def test_a_header_that_says_more_is_left_to_pillow(rng):
    colors = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, options in (
        (colors, {"exif": exif}), (colors, {"icc_profile": b"any"}), (colors, {"xmp": b"<x/>"}),
        (colors.convert("CMYK"), {}), (colors, {"format": "PNG"}),
    ):  # fmt: skip
        file = io.BytesIO()
        image.save(file, **{"format": "JPEG"} | options)
        assert jpeg.plain_header(file.getvalue()) is None
