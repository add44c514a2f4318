"""Any kind of picture becomes 8-bit RGB; anything else gives one clear error."""

import io
import struct
import subprocess
import threading
import time
import zlib

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile
import pytest

from colorize_jax.data import decode, masks, transforms
from colorize_jax.data.budget import Budget
from colorize_jax.data.record import EXTENSIONS
from colorize_jax.errors import DataError


def _encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _ramp(mode):
    return Image.fromarray(np.arange(0, 240, 10, np.uint8).reshape(4, 6)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_modes_become_rgb(mode):
    pixels = decode.decode(_encode(_ramp(mode)))
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    if mode != "1":
        np.testing.assert_array_equal(pixels, np.asarray(_ramp("RGB")))


def test_cmyk_jpeg():
    assert decode.decode(_encode(_ramp("CMYK"), "JPEG")).shape == (4, 6, 3)


def test_transparent_pixels_lie_on_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    np.testing.assert_array_equal(decode.decode(_encode(image)), [[[200, 0, 0], [255] * 3]])


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 32768, 65535]], np.uint16)
    pixels = decode.decode(_encode(Image.fromarray(deep)))
    np.testing.assert_allclose(pixels[0, :, 0], [0, 127, 255], atol=1)


def test_floating_point_gray_from_0_to_1_is_not_black():
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    np.testing.assert_allclose(decode.decode(_encode(unit, "TIFF"))[0, :, 0], [0, 127, 255], atol=1)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned by 90 degrees.
    data = _encode(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode.decode(data).shape == (8, 4, 3)


@pytest.mark.parametrize("data", [b"", b"<html>not a photo</html>", b"\xff\xd8\xff\xe0junk"])
def test_what_is_no_picture_is_one_clear_error(data):
    with pytest.raises(DataError, match="not an image|the header of a JPEG|empty"):
        decode.decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_picture(rng, kind):
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = _encode(image, kind)
    with pytest.raises(DataError, match="damaged"):
        decode.decode(data[: len(data) // 2])


def test_jpegs_are_decoded_as_pillow_does(rng):
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize((150, 120))
    for mode in ("RGB", "L"):
        data = _encode(image.convert(mode), "JPEG", quality=80)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode.decode(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(rng, orientation):
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = _encode(image, kind, exif=exif)
        opened = Image.open(io.BytesIO(data))
        opened.load()  # This turns a TIFF and clears its tag.
        expected = np.asarray(ImageOps.exif_transpose(opened))
        photo = decode.open_photo(data)
        assert (photo.height, photo.width) == expected.shape[:2]
        np.testing.assert_array_equal(photo.pixels(), expected)


def test_large_jpegs_come_reduced_but_never_below_what_is_needed():
    data = _encode(Image.new("RGB", (1500, 1200), (10, 200, 90)), "JPEG")
    photo = decode.open_photo(data)
    assert (photo.height, photo.width) == (1200, 1500)
    for height, width in ((0, 0), (700, 875), (600, 750), (352, 440), (151, 30), (1, 1)):
        pixels = photo.pixels(height, width)
        assert pixels.shape[0] >= height and pixels.shape[1] >= width
        assert (pixels.shape[0] < 1200) == (0 < height <= 600)
        np.testing.assert_allclose(pixels.mean((0, 1)), (10, 200, 90), atol=2)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (5, 4), color) for color in ("red", "blue")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode.decode(data)[0, 0], (255, 0, 0))


def test_gray_with_transparency_and_deep_rgb(rng):
    image = Image.new("LA", (2, 1), (40, 255))
    image.putpixel((1, 0), (40, 0))
    np.testing.assert_array_equal(decode.decode(_encode(image)), [[[40] * 3, [255] * 3]])
    deep = np.full((4, 4, 3), 0x8000, np.uint16)  # OpenCV can write such files, Pillow cannot.
    data = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_allclose(decode.decode(data), 128, atol=1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_large_photos_are_refused_by_their_header(monkeypatch, kind):
    data = _encode(Image.new("RGB", (100, 100)), kind)
    assert decode.open_photo(data, max_pixels=30_000).pixels().shape == (100, 100, 3)
    with pytest.raises(DataError, match=f"100 x 100 pixels of {kind}.*max_pixels=9999"):
        decode.open_photo(data, max_pixels=9_999)


def test_formats_that_take_much_memory_have_a_smaller_limit():
    image = Image.new("RGB", (100, 100))
    for kind in ("PNG", "JPEG"):
        assert decode.open_photo(_encode(image, kind), 10_000).pixels().shape == (100, 100, 3)
    with pytest.raises(DataError, match="WEBP.* GB.*max_pixels=10000"):
        decode.open_photo(_encode(image, "WEBP"), 10_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_photos_of_medium_format_cameras_pass_by_default(kind):
    header = Image.new("L", (1, 1))
    header.format = kind
    photo = decode.Photo(8736, 11648, b"", 6, header)
    assert photo._memory(0, 0) <= decode.BYTES * decode.MAX_PIXELS


def test_large_pngs_are_averaged_in_strips(rng, monkeypatch):
    noise = rng.integers(0, 256, (97, 120, 3), dtype=np.uint8)
    data = _encode(Image.fromarray(noise))
    monkeypatch.setattr(decode, "_STRIP", 1000)
    np.testing.assert_array_equal(decode.decode(data), noise)
    assert decode.open_photo(data).pixels(30, 30).shape == (97, 120, 3)
    monkeypatch.setattr(decode, "_LARGE", 10_000)
    reduced = decode.open_photo(data).pixels(30, 30)
    means = noise[:96].reshape(32, 3, 40, 3, 3).mean((1, 3))
    np.testing.assert_allclose(reduced, means, atol=0.51)
    assert decode.open_photo(data).pixels().shape == (97, 120, 3)


def test_photos_wait_for_memory():
    budget, entered, order = Budget(), threading.Semaphore(0), []

    def take(size):
        with budget.taken(size, 10):
            order.append(size)
            entered.release()

    with budget.taken(6, 10):
        take(4)
        assert entered.acquire(timeout=10)
        waiting = [threading.Thread(target=take, args=(5,))]
        waiting[0].start()
        while not budget._turn.locked():
            time.sleep(0.001)
        # It would fit, but another one is first.
        waiting.append(threading.Thread(target=take, args=(1,)))
        waiting[1].start()
        assert not entered.acquire(timeout=0.05)
    for thread in waiting:
        thread.join(10)
    assert order == [4, 5, 1]
    take(11)  # alone
    assert order[-1] == 11 and budget._used == 0


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n",
        b"\xd7\xcd\xc6\x9a\0\0" + bytes(200),  # WMF
        b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(200),
        b"%PDF-1.4\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_programs_and_drawings_are_no_photos(data, monkeypatch):
    for name in ("Popen", "run"):
        monkeypatch.setattr(subprocess, name, lambda *_, **__: pytest.fail("started a program"))
    for read in (decode.decode, lambda data: masks.decode_mask(data, 2)):
        with pytest.raises(DataError, match="not an image"):
            read(data)


def test_only_formats_of_photos_are_tried():
    """Every format that is read has its endings in the list, and every ending has a format."""
    Image.init()
    known = {ending for ending, kind in Image.EXTENSION.items() if kind in decode.FORMATS}
    jpeg = {".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"}  # Pillow does not list these.
    assert known | jpeg >= EXTENSIONS
    assert not {"EPS", "WMF", "PSD", "FITS", "ICNS"} & set(decode.FORMATS)


def _chunk(kind, data, wrong=0):
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(
        ">I", zlib.crc32(kind + data) ^ wrong
    )  # fmt: skip


def _with_chunks(png, *chunks, at=33):
    return png[:at] + b"".join(chunks) + png[at:]


BIG = zlib.compress(bytes(2**23))


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"zTXt", b"workflow\0\0" + BIG),
        _chunk(b"iTXt", b"workflow\0\1\0\0\0" + BIG),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + BIG),
        _chunk(b"tEXt", b"parameters\0" + b"x" * 2**21),
        _chunk(b"iCCP", b"profile\0\0" + BIG),
        _chunk(b"iCCP", b"profile\0\0no zlib"),
        _chunk(b"tEXt", b"Comment\0hello", wrong=1),
        _chunk(b"eXIf", b"MM\0*\0\0", wrong=1),
        _chunk(b"eXIf", b"no EXIF at all"),
        _chunk(b"pHYs", b"short"),
        _chunk(b"gAMA", b"short"),
        _chunk(b"cHRM", b""),
        _chunk(b"acTL", b"short"),
        _chunk(b"tRNS", bytes(6), wrong=1),
        _chunk(b"prVt", bytes(2**21), wrong=1),
    ],
    ids=lambda chunk: chunk[4:8].decode(),
)
def test_metadata_of_a_png_decides_about_no_pixel(rng, chunk):
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels[0] = 0
    data = _encode(Image.fromarray(pixels))
    for at in (33, len(data) - 12):  # One is before the pixels, one after them.
        read = decode.decode(_with_chunks(data, chunk, at=at))
        np.testing.assert_array_equal(read, pixels)
    np.testing.assert_array_equal(decode.decode(data[:-12] + chunk[:10]), pixels)


@pytest.mark.parametrize("kind", ["eXIf", "zTXt", "iTXt"])
def test_orientation_of_a_png_is_found_wherever_it_is(rng, kind):
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    chunk = {
        "eXIf": _chunk(b"eXIf", raw.removeprefix(b"Exif\0\0")),
        "zTXt": _chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%d\n" % len(raw) + raw.hex().encode()),
        ),
        "iTXt": _chunk(
            b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'
        ),
    }[kind]
    data = _encode(image)
    for at in (33, len(data) - 12):
        photo = decode.open_photo(_with_chunks(data, chunk, at=at))
        assert (photo.height, photo.width) == (9, 6)
        np.testing.assert_array_equal(photo.pixels(), np.rot90(np.asarray(image), -1))


def test_header_of_a_png_is_read_without_its_pixels(monkeypatch):
    data = _encode(Image.new("RGB", (64, 64)))
    with monkeypatch.context() as patched:
        patched.setattr(PngImageFile, "load", lambda _: pytest.fail("decoded"))
        decode.open_photo(data)
    photo = decode.open_photo(_with_chunks(data[: len(data) // 2], _chunk(b"tEXt", b"a\0b")))
    assert (photo.height, photo.width) == (64, 64)
    with pytest.raises(DataError, match="damaged"):
        photo.pixels()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of the EXIF data.
def test_odd_exif_is_ignored(rng, kind):
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    expected = decode.decode(_encode(image, kind))
    exif = Image.Exif()
    exif[0x0112] = 99
    for odd in (exif.tobytes(), b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0junk", b"Exif\0\0"):
        data = _encode(image, kind, exif=odd)
        np.testing.assert_array_equal(decode.decode(data), expected)


def test_transparent_value_of_deep_and_shallow_pngs():
    """A gray value or a color is transparent, and is stored with the depth of the file."""

    def png(depth, color, row, transparent):
        header = struct.pack(">IIBBBBB", 2, 1, depth, color, 0, 0, 0)
        return png_signature + b"".join(
            _chunk(kind, data)
            for kind, data in (
                (b"IHDR", header),
                (b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)),
                (b"IDAT", zlib.compress(b"\0" + row)),
                (b"IEND", b""),
            )
        )

    png_signature = _encode(Image.new("L", (1, 1)))[:8]
    row = struct.pack(">2H", 25700, 12850)
    np.testing.assert_array_equal(decode.decode(png(16, 0, row, (12850,)))[0, :, 0], [100, 255])
    np.testing.assert_array_equal(
        decode.decode(png(2, 0, bytes([0b01100000]), (2,)))[0, :, 0], [85, 255]
    )
    row = struct.pack(">6H", 25700, 0, 257, 12850, 12850, 300)
    read = decode.decode(png(16, 2, row, (12850, 12850, 300)))
    np.testing.assert_array_equal(read[0], [[100, 0, 1], [255] * 3])


@pytest.mark.parametrize("largest", [1.0, 1.3, 255.0, 260.0, 65535.0, 1e6])
@pytest.mark.parametrize("odd", [0.0, np.nan, -np.inf])
def test_floating_point_gray_has_the_range_that_it_fits(largest, odd):
    full = {1.3: 1.0, 260.0: 255.0}.get(largest, largest)
    values = np.array([[odd, full / 2, full, largest]], np.float32)
    pixels = decode.decode(_encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_allclose(pixels[0, :, 1], [0, 127, 255, 255], atol=1)


def test_floating_point_gray_without_a_number_and_with_an_infinity():
    with pytest.raises(DataError, match="none of its pixels"):
        decode.decode(_encode(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))
    values = np.array([[0, 0.5, np.inf]], np.float32)
    pixels = decode.decode(_encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_allclose(pixels[0, :, 0], [0, 127, 255], atol=1)


def test_gray_of_32_bits_has_the_range_that_it_fits():
    for largest in (255, 65535, 10**6):
        values = np.array([[-5, largest // 2, largest]], np.int32)
        pixels = decode.decode(_encode(Image.fromarray(values), "TIFF"))
        np.testing.assert_allclose(pixels[0, :, 0], [0, 127, 255], atol=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1), (2, 40000), (3, 2)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photos_of_absurd_shape_still_give_crops(rng, size, kind):
    data = _encode(Image.new("RGB", size, (90, 160, 30)), kind)
    photo = decode.open_photo(data)
    window = transforms.random_window(
        rng, photo.height, photo.width, scale=(352, 600), crop=352, mirror=True
    )
    crop = transforms.cut(photo.pixels(window.height, window.width), window)
    assert crop.shape == (352, 352, 3)
    np.testing.assert_allclose(crop.mean((0, 1)), (90, 160, 30), atol=3)


def _fuzz(rng, count):
    """Mutated photos are decoded or refused by a DataError, without a crash or a hang."""
    noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [
        _encode(noise, "JPEG", exif=exif), _encode(noise, "JPEG", progressive=True),
        _encode(noise.convert("L"), "JPEG"), _encode(noise), _encode(noise.convert("P")),
        _encode(noise.convert("RGBA")), _encode(noise, "WEBP"), _encode(noise, "GIF"),
        _encode(noise, "TIFF"), _encode(noise, "BMP"),
    ]  # fmt: skip
    outcomes = {"decoded": 0, "refused": 0}
    for i in range(count):
        data = bytearray(seeds[i % len(seeds)])
        kind = rng.integers(4)
        if kind == 0:
            data = data[: rng.integers(len(data))]
        elif kind == 1:
            start = rng.integers(len(data))
            del data[start : start + rng.integers(1, 40)]
        else:
            for _ in range(rng.integers(1, 12)):
                data[rng.integers(len(data))] = rng.integers(256)
        try:
            photo = decode.open_photo(bytes(data))
            # The size was mutated; decoding it is only slow.
            if photo.height * photo.width > 10**7:
                continue
            pixels = photo.pixels(24, 32)
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            outcomes["decoded"] += 1
        except DataError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > count // 20
    return outcomes


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata.
def test_mutated_photos(rng):
    _fuzz(rng, 500)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_mutated_photos(rng):
    print(_fuzz(rng, 10_000))
