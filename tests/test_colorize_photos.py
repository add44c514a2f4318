"""What a photo's file says beside its pixels stays, and every loss is said."""

import io

import cv2
import numpy as np
from PIL import Image, ImageCms
import pytest
import tifffile

from colorize_jax.colorize import photos
from colorize_jax.data import decode, profiles
from colorize_jax.errors import ConfigError, DataError

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'


def _bytes(array, form, **settings):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **settings)
    return file.getvalue()


def _exif(orientation=6):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8298] = orientation, "Maker", "somebody"
    exif.get_ifd(0x8769).update({0xA002: 24, 0xA003: 16, 0x829A: 0.01})
    exif[0x8769] = exif.get_ifd(0x8769)
    exif.get_ifd(0x8825)[1] = "N"
    exif[0x8825] = exif.get_ifd(0x8825)
    return exif


def _photo(rng, height=16, width=24, channels=3, dtype=np.uint8):
    most = np.iinfo(dtype).max + 1
    return rng.integers(0, most, (height, width, channels), dtype=dtype)


def _again(scan, form="", quality=95):
    """What is written of a scan, read again; and its notes."""
    notes = []
    data = photos.write(scan.pixels, scan.alpha, form or scan.format, scan.metadata, quality, notes)
    return data, notes


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_once_and_the_rest_of_exif_stays(rng, form):
    image = _photo(rng)
    scan = photos.read(_bytes(image, form, exif=_exif(), quality=100))
    assert scan.pixels.shape == (24, 16, 3)
    if form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(scan.pixels, decode.upright(image, 6))
    data, notes = _again(scan)
    with Image.open(io.BytesIO(data)) as written:
        assert written.format == form and written.size == (16, 24)
        exif = written.getexif()
        assert exif.get(0x0112, 1) == 1 and exif[0x010F] == "Maker"
        assert exif[0x8298] == "somebody"
        assert exif.get_ifd(0x8825)[1] == "N"
        camera = exif.get_ifd(0x8769)
        assert camera[0x829A] == 0.01 and (camera[0xA002], camera[0xA003]) == (16, 24)
    assert photos.read(data).pixels.shape == (24, 16, 3) and not notes


def test_a_thumbnail_goes_since_it_is_gray(rng):
    pack, thumbnail = photos.struct.pack, b"\xff\xd8 small \xff\xd9"
    first = pack(">H", 1) + pack(">HHI4s", 0x010F, 2, 4, b"abc\0")
    second = 8 + len(first) + 4  # where the table of the thumbnail begins
    place = pack(">HHII", 0x0201, 4, 1, second + 30) + pack(">HHII", 0x0202, 4, 1, len(thumbnail))
    tables = first + pack(">I", second) + pack(">H", 2) + place + pack(">I", 0) + thumbnail
    exif = b"Exif\0\0MM\0*" + pack(">I", 8) + tables
    before = _bytes(_photo(rng), "JPEG", exif=exif)
    data, _ = _again(photos.read(before))
    assert thumbnail in before and thumbnail not in data and b"abc\0" in data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_xmp_stays_with_its_orientation_reset(rng, form):
    settings = {"xmp": XMP}
    if form == "PNG":
        from PIL import PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        settings = {"pnginfo": info}
    elif form == "TIFF":
        exif = Image.Exif()
        exif[700] = XMP
        settings = {"exif": exif}
    data, notes = _again(photos.read(_bytes(_photo(rng), form, **settings)))
    with Image.open(io.BytesIO(data)) as written:
        found = written.info.get("xmp") or written.tag_v2.get(700)
    found = found.encode() if isinstance(found, str) else found
    assert b'tiff:Orientation="1"' in found and b'dc:title="t"' in found and not notes


def test_iptc_and_resolution_of_a_jpeg_stay(rng):
    block = b"\xff\xed" + (2 + 14 + 8).to_bytes(2, "big") + b"Photoshop 3.0\0" + b"8BIM\4\4\0\0"
    data, notes = _again(photos.read(_bytes(_photo(rng), "JPEG", extra=block, dpi=(300, 300))))
    assert data.count(block) == 1 and not notes
    with Image.open(io.BytesIO(data)) as written:
        assert written.info["dpi"] == (300, 300)
    _, notes = _again(photos.read(data), "PNG")
    assert notes == ["PNG does not keep its IPTC"]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_come_back(rng, form, channels):
    image = _photo(rng, channels=channels, dtype=np.uint16)
    if form == "PNG":
        order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
        data = cv2.imencode(".png", image[..., order])[1].tobytes()
    else:
        file = io.BytesIO()
        kind = "minisblack" if channels == 1 else "rgb"
        extra = ["unassalpha"] if channels == 4 else None
        tifffile.imwrite(file, np.squeeze(image), photometric=kind, extrasamples=extra)
        data = file.getvalue()
    scan = photos.read(data)
    rgb = image.repeat(3, -1) if channels == 1 else image[..., :3]
    np.testing.assert_array_equal(scan.pixels, rgb)
    assert (scan.alpha is None) == (channels < 4)
    written, notes = _again(scan)
    again = photos.read(written)
    np.testing.assert_array_equal(again.pixels, rgb)
    if channels == 4:
        np.testing.assert_array_equal(again.alpha, image[..., 3])
    assert not notes and again.format == form


def test_gray_with_transparency_of_16_bits_comes_back(rng):
    gray, alpha = np.moveaxis(_photo(rng, channels=2, dtype=np.uint16), -1, 0)
    header = photos.struct.pack(">IIBBBBB", 24, 16, 16, 4, 0, 0, 0)
    rows = np.stack([gray, alpha], -1).astype(">u2").reshape(16, -1)
    packed = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [(b"IHDR", header), (b"IDAT", photos.zlib.compress(packed)), (b"IEND", b"")]
    scan = photos.read(photos.png.SIGNATURE + b"".join(photos._chunk(*each) for each in chunks))
    np.testing.assert_array_equal(scan.pixels, gray[..., None].repeat(3, -1))
    np.testing.assert_array_equal(scan.alpha, alpha)


def test_sixteen_bits_as_jpeg_are_said(rng):
    image = _photo(rng, dtype=np.uint16)
    scan = photos.read(cv2.imencode(".png", image)[1].tobytes())
    _, notes = _again(scan, "JPEG")
    assert notes == ["JPEG holds 8 bits of its 16"]


def test_a_turned_tiff_of_16_bits_is_turned_once(rng):
    image = _photo(rng, dtype=np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    scan = photos.read(file.getvalue())
    np.testing.assert_array_equal(scan.pixels, decode.upright(image, 6))
    again = photos.read(_again(scan)[0])
    np.testing.assert_array_equal(again.pixels, scan.pixels)


def test_white_is_zero_in_some_tiffs(rng):
    image = _photo(rng, channels=1, dtype=np.uint16)[..., 0]
    file = io.BytesIO()
    tifffile.imwrite(file, image, photometric="miniswhite")
    np.testing.assert_array_equal(photos.read(file.getvalue()).pixels[..., 0], 65535 - image)


def test_transparency_stays_and_jpeg_refuses_it(rng):
    image = _photo(rng, channels=4)
    for form in ("PNG", "TIFF", "WEBP"):
        scan = photos.read(_bytes(image, form, lossless=True, exact=True))
        np.testing.assert_array_equal(scan.alpha, image[..., 3])
        np.testing.assert_array_equal(scan.pixels, image[..., :3])
        again = photos.read(_again(scan)[0])
        np.testing.assert_array_equal(again.alpha, image[..., 3])
    with pytest.raises(DataError, match="--format=png"):
        _again(scan, "JPEG")


def test_a_profile_is_converted_and_said_and_srgb_is_written(rng):
    image = _photo(rng)
    scan = photos.read(_bytes(image, "PNG", icc_profile=profiles.adobe_rgb()))
    assert any("Adobe RGB" in note for note in scan.notes)
    assert np.abs(scan.pixels.astype(int) - image).max() > 10
    for form in ("PNG", "JPEG", "TIFF"):
        with Image.open(io.BytesIO(_again(scan, form)[0])) as written:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(written.info["icc_profile"]))
            assert "sRGB" in ImageCms.getProfileDescription(profile)
    plain = photos.read(_bytes(image, "PNG"))
    with Image.open(io.BytesIO(_again(plain)[0])) as written:
        assert "icc_profile" not in written.info and not plain.notes


def test_a_gray_profile_of_16_bits_keeps_its_depth():
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16)[None].repeat(4, 0)
    data = cv2.imencode(".png", ramp)[1].tobytes()
    at = len(photos.png.SIGNATURE) + 25
    chunk = photos._chunk(b"iCCP", b"x\0\0" + photos.zlib.compress(_gray_profile(1.0)))
    scan = photos.read(data[:at] + chunk + data[at:])
    values = scan.pixels[0, :, 0].astype(int)
    assert scan.pixels.dtype == np.uint16 and (np.diff(values) >= 0).all()
    assert len(np.unique(values)) > 2500  # of 4096; 8 bits have 256
    # Light of 1/4 is 0.537 in sRGB.
    assert abs(values[1024] / 65535 - 0.537) < 0.01


def _gray_profile(exponent):
    """An ICC profile of one channel, whose light is a power of it."""
    colors = profiles.matrix_profile("gray", profiles._ADOBE_RGB, exponent)
    text = bytearray(colors)
    text[16:20] = b"GRAY"
    return bytes(text.replace(b"rTRC", b"kTRC"))


def test_other_kinds_are_read_and_named(rng):
    animated = io.BytesIO()
    frames = [Image.fromarray(_photo(rng)) for _ in range(2)]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    assert photos.read(animated.getvalue()).notes == ["the first of 2 pictures is taken"]
    floats = io.BytesIO()
    Image.fromarray(rng.random((8, 8)).astype(np.float32)).save(floats, "TIFF")
    assert "8 are" in photos.read(floats.getvalue()).notes[0]
    scan = photos.read(_bytes(_photo(rng, channels=4), "TIFF"))
    assert scan.format == "TIFF"
    cmyk = Image.fromarray(_photo(rng)).convert("CMYK")
    file = io.BytesIO()
    cmyk.save(file, "JPEG")
    assert photos.read(file.getvalue()).pixels.shape == (16, 24, 3)


def test_what_is_no_photo_is_refused():
    for data in (b"", b"hello", b"\x89PNG\r\n\x1a\n and no more"):
        with pytest.raises(DataError):
            photos.read(data)
    with pytest.raises(DataError, match="more than --max_pixels=100"):
        photos.read(_bytes(np.zeros((20, 20, 3), np.uint8), "PNG"), max_pixels=100)


def test_formats_have_names():
    assert photos.asked_format("same") == "" and photos.asked_format("jpg") == "JPEG"
    assert photos.asked_format("tiff") == photos.format_of("a.TIF") == "TIFF"
    with pytest.raises(ConfigError, match="known: same, jpg"):
        photos.asked_format("gif")


@pytest.mark.parametrize("form", photos.FORMATS)
def test_every_format_is_written_and_read_again(rng, form):
    image = np.repeat(np.repeat(_photo(rng, 4, 6), 8, 0), 8, 1)
    scan = photos.Scan(image, None, form, photos.Metadata(b"", b"", b"", True, (72.0, 72.0)), [])
    data, notes = _again(scan, quality=98)
    again = photos.read(data)
    assert again.format == form and not notes
    assert np.abs(again.pixels.astype(int) - image).mean() < 8


def test_metadata_never_decides_whether_a_photo_is_written(rng, monkeypatch):
    scan = photos.read(_bytes(_photo(rng), "JPEG", exif=_exif(1)))
    whole = photos._by_pillow

    def picky(pixels, alpha, form, metadata, quality):
        if metadata.exif:
            raise RuntimeError("no")
        return whole(pixels, alpha, form, metadata, quality)

    monkeypatch.setattr(photos, "_by_pillow", picky)
    data, notes = _again(scan)
    assert notes == ["its EXIF, XMP and IPTC cannot be written as JPEG: no"]
    assert photos.read(data).pixels.shape == scan.pixels.shape
    with pytest.raises(DataError, match="cannot be written as WEBP"):
        monkeypatch.setattr(photos, "_encoded", lambda *_: int("no number"))
        photos.write(scan.pixels, None, "WEBP", photos.Metadata(), 90, [])


def test_damaged_metadata_is_said_and_the_photo_is_read(rng):
    data = bytearray(_bytes(_photo(rng), "PNG", exif=_exif(1)))
    at = data.index(b"eXIf")
    data[at + 30] ^= 255  # its checksum is wrong now
    scan = photos.read(bytes(data))
    assert scan.metadata.exif == b"" and "metadata is damaged" in scan.notes[0]


def test_a_damaged_photo_of_16_bits_is_refused(rng):
    data = bytearray(cv2.imencode(".png", _photo(rng, 64, 64, dtype=np.uint16))[1].tobytes())
    data[-3000:-1000] = bytes(2000)
    with pytest.raises(DataError, match="damaged"):
        photos.read(bytes(data))
