"""Colors of any profile equal those of littleCMS and of published matrices."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms
import pytest

from colorize_jax.bench.input_speed import Decoding
from colorize_jax.data import check, decode, profiles
from colorize_jax.data.record import Record
from colorize_jax.errors import DataError

# XYZ of red, green and blue, adapted to D50, and the exponent. Of Display P3 the exponent is about
# that of sRGB's curve.
DISPLAY_P3 = profiles.matrix_profile(
    "Display P3",
    ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    2.2,
)
PROPHOTO = profiles.matrix_profile(
    "ProPhoto RGB",
    ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.0), (0.03134, 0.00009, 0.82491)),
    1.8,
)
ADOBE_RGB = profiles.adobe_rgb()
SRGB = profiles.srgb()
WIDE = {"Display P3": DISPLAY_P3, "ProPhoto RGB": PROPHOTO, "Adobe RGB (1998)": ADOBE_RGB}


def _picture(height=96, width=128):
    y, x = np.mgrid[:height, :width]
    colors = [x * 255 // width, 255 - y * 255 // height, (x * 3 + y * 5) % 256]
    return Image.fromarray(np.stack(colors, -1).astype(np.uint8))


def _encode(image, kind="PNG", **options):
    file = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 97, "subsampling": "4:4:4"} | options
    image.save(file, kind, **options)
    return file.getvalue()


def _judged(data, profile):
    """Converts the whole picture by Pillow's own call of littleCMS."""
    image = Image.open(io.BytesIO(data))
    image = image.convert("RGB") if image.mode in ("P", "RGBA") else image
    return np.asarray(
        ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("name", WIDE)
def test_colors_are_those_of_the_profile(name, kind):
    data = _encode(_picture(), kind, icc_profile=WIDE[name])
    photo = decode.open_photo(data)
    assert (photo.profile.name, photo.profile.broken) == (name, False)
    np.testing.assert_array_equal(photo.pixels(), _judged(data, WIDE[name]))
    ignored = np.abs(photo.pixels().astype(int) - np.asarray(_picture())).mean()
    assert ignored > 5  # It is far from the stored values.


def test_adobe_rgb_is_what_its_publisher_says():
    """Converts through XYZ by the matrices of Adobe RGB (1998) and IEC 61966-2-1, both for D65."""
    colors = np.array([[200, 100, 50], [90, 180, 90], [60, 70, 200], [128, 128, 128]], np.uint8)
    to_xyz = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )
    to_srgb = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    )
    light = ((colors / 255) ** (563 / 256) @ to_xyz.T @ to_srgb.T).clip(0, 1)
    expected = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light) * 255
    data = _encode(Image.fromarray(colors[None]), icc_profile=ADOBE_RGB)
    np.testing.assert_allclose(decode.decode(data)[0], expected, atol=1.5)


def test_reduced_photos_are_converted_too():
    data = _encode(_picture(400, 600), "JPEG", icc_profile=ADOBE_RGB)
    small = decode.open_photo(data).pixels(100, 150)
    assert small.shape == (100, 150, 3)
    whole = _judged(data, ADOBE_RGB).reshape(100, 4, 150, 4, 3).mean((1, 3))
    assert np.abs(small - whole).mean() < 2


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "I;16"])
def test_other_modes_with_a_profile(mode):
    gray = mode in ("LA", "L", "1", "I;16")
    profile = _gray_profile() if gray else ADOBE_RGB
    if mode == "I;16":
        image = Image.fromarray(np.asarray(_picture().convert("L")).astype(np.uint16) * 257)
    else:
        image = _picture().convert(mode)
    pixels = decode.decode(_encode(image, icc_profile=profile))
    plain = image.convert("P" if mode == "P" else "L" if gray else "RGB")
    if mode == "I;16":
        plain = _picture().convert("L")
    np.testing.assert_array_equal(pixels, _judged(_encode(plain), profile))


def _gray_profile(exponent=1.8):
    """A gray profile with one exponent: the profile of three colors reduced to its white."""
    colors = bytearray(profiles.matrix_profile("Gray", ((0.3, 0.3, 0.3),) * 3, exponent))
    colors[16:20] = b"GRAY"
    at = colors.index(b"rTRC")
    colors[at : at + 4] = b"kTRC"
    return bytes(colors)


def test_gray_jpeg_with_a_gray_profile():
    data = _encode(_picture().convert("L"), "JPEG", icc_profile=_gray_profile())
    pixels = decode.decode(data)
    np.testing.assert_array_equal(pixels, _judged(data, _gray_profile()))
    assert np.abs(pixels - np.asarray(_picture().convert("L"))[..., None].astype(int)).max() > 10


def test_transparent_pixels_of_a_photo_with_a_profile_lie_on_white():
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 0))
    pixels = decode.decode(_encode(image, icc_profile=ADOBE_RGB))
    np.testing.assert_array_equal(pixels[0, 1], [255] * 3)
    opaque = _encode(Image.new("RGB", (1, 1), (200, 100, 50)), icc_profile=ADOBE_RGB)
    np.testing.assert_array_equal(pixels[0, 0], decode.decode(opaque)[0, 0])


def test_lab_tiff_has_the_colors_that_lab_says():
    lab = Image.merge("LAB", [Image.new("L", (4, 4), v) for v in (137, 80, 67)])  # L is 53.7.
    data = _encode(lab, "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "LAB"
    expected = ImageCms.profileToProfile(
        lab, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    np.testing.assert_allclose(decode.decode(data), np.asarray(expected), atol=2)


def test_srgb_costs_nothing():
    data = _encode(_picture(), "JPEG", icc_profile=SRGB)
    photo = decode.open_photo(data)
    assert photo.profile.name == "sRGB" and not photo.profile
    np.testing.assert_array_equal(photo.pixels(), decode.decode(_encode(_picture(), "JPEG")))
    # A profile is read once, not once for every photo.
    assert decode.open_photo(_encode(_picture(8, 8), icc_profile=SRGB)).profile is photo.profile


@pytest.mark.parametrize(
    "profile",
    [b"", b"junk", bytes(4000), ADOBE_RGB[:200], ADOBE_RGB[:-20], SRGB[:128] + bytes(3000),
     ADOBE_RGB + bytes(profiles.LARGEST)],
)  # fmt: skip
def test_broken_profiles_are_ignored(profile):
    for kind in ("PNG", "JPEG", "WEBP"):
        plain = _encode(_picture(), kind)
        data = _encode(_picture(), kind, icc_profile=profile)
        np.testing.assert_array_equal(decode.decode(data), decode.decode(plain))
        assert decode.open_photo(data).profile.broken or not profile


def test_profile_whose_white_is_dark_is_broken():
    dark = profiles.matrix_profile("Dark", np.array(profiles._ADOBE_RGB) / 50, 2.2)
    photo = decode.open_photo(_encode(_picture(), icc_profile=dark))
    assert photo.profile.name == "broken"
    np.testing.assert_array_equal(photo.pixels(), np.asarray(_picture()))


def test_mutated_profiles_never_keep_a_photo_from_being_read(rng):
    for _ in range(100):
        profile = bytearray(ADOBE_RGB)
        for _ in range(rng.integers(1, 8)):
            profile[rng.integers(len(profile))] = rng.integers(256)
        pixels = decode.decode(_encode(_picture(8, 8), icc_profile=bytes(profile)))
        assert pixels.shape == (8, 8, 3)


def test_profiles_for_other_pictures_are_ignored():
    for image, profile in (
        (_picture().convert("L"), ADOBE_RGB),
        (_picture(), _gray_profile()),
        (_picture().convert("CMYK"), ADOBE_RGB),
    ):
        data = _encode(image, "JPEG", icc_profile=profile)
        np.testing.assert_array_equal(decode.decode(data), decode.decode(_encode(image, "JPEG")))
        assert decode.open_photo(data).profile.name == "for another kind of picture"


def _camera(space, index, kind="JPEG", **options):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    exif.get_ifd(0x8769)[0xA005] = {1: index}
    exif[0x0112] = 1
    return _encode(_picture(), kind, exif=exif, **options)


def test_adobe_rgb_is_known_by_what_cameras_write():
    plain = decode.decode(_encode(_picture(), "JPEG"))
    data = _camera(0xFFFF, "R03")
    photo = decode.open_photo(data)
    assert photo.profile.name == "Adobe RGB (1998)"
    np.testing.assert_array_equal(photo.pixels(), _judged(data, ADOBE_RGB))
    for space, index in ((1, "R98"), (0xFFFF, "R98"), (1, "R03")):
        np.testing.assert_array_equal(decode.decode(_camera(space, index)), plain)
    np.testing.assert_array_equal(
        decode.decode(_camera(0xFFFF, "R03", icc_profile=SRGB)), plain
    )  # A profile wins over EXIF.


def test_profiles_are_counted(tmp_path):
    class Photos:
        images = [
            _encode(_picture(), "JPEG", icc_profile=SRGB),
            _encode(_picture(), "JPEG", icc_profile=SRGB),
            _encode(_picture(), "PNG", icc_profile=DISPLAY_P3),
            _encode(_picture(), "JPEG", icc_profile=b"junk"),
            _encode(_picture(), "JPEG"),
        ]

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return type("Record", (), {"image": self.images[index]})

        def name(self, index):
            return str(index)

    text = check.report(check.check(Photos(), 1), scale=(64, 80), crop=64)
    assert "color profiles, used: 2 x sRGB, 1 x Display P3\n" in text
    assert "color profiles, ignored: 1 x broken\n" in text
    bare = check.report([check.Finding("a", 64, 64)], scale=(64, 80), crop=64)
    assert "profile" not in bare


def test_name_of_a_profile_reaches_no_terminal_raw():
    profile = profiles.matrix_profile("\x1b[2Jevil\n" + "x" * 100, profiles._ADOBE_RGB, 2.2)
    name = decode.open_photo(_encode(_picture(), icc_profile=profile)).profile.name
    assert name.isprintable() and len(name) <= 60


def _ink_profile():
    """Four inks by a table of their 16 combinations in Lab (ICC version 2, lut16Type)."""
    table = []
    for corner in range(16):
        c, m, y, k = (corner >> bit & 1 for bit in (3, 2, 1, 0))
        lab = (
            100 * (1 - k) * (1 - (0.4 * c + 0.5 * m + 0.1 * y)),
            70 * (m - c) * (1 - k),
            80 * (y - (c + m) / 2) * (1 - k),
        )
        table += [lab[0] * 652.8, (lab[1] + 128) * 256, (lab[2] + 128) * 256]
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    lut += struct.pack(">2H", 0, 65535) * 4
    lut += struct.pack(">48H", *(round(value) for value in table))
    lut += struct.pack(">2H", 0, 65535) * 3
    desc = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"Inks\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags, body = struct.pack(">I", 3), b""
    for name, value in ((b"desc", desc), (b"wtpt", white), (b"A2B0", lut)):
        tags += struct.pack(">4sII", name, 168 + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI12s12x4s28x", 168 + len(body), 0x02400000, b"prtrCMYKLab ", b"acsp")
    return (header + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0") + tags + body


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_with_a_profile(kind):
    data = _encode(_picture().convert("CMYK"), kind, icc_profile=_ink_profile())
    photo = decode.open_photo(data)
    assert photo.profile.name == "Inks"
    np.testing.assert_array_equal(photo.pixels(), _judged(data, _ink_profile()))
    plain = decode.decode(_encode(_picture().convert("CMYK"), kind))
    assert np.abs(photo.pixels().astype(int) - plain).mean() > 5


def test_damaged_photo_with_a_profile():
    data = _encode(_picture(), "JPEG", icc_profile=ADOBE_RGB)
    with pytest.raises(DataError, match="damaged"):
        decode.decode(data[: len(data) // 2])


def test_speed_is_measured_with_a_profile():
    data = [_encode(_picture(), "JPEG"), _encode(_picture()), np.asarray(_picture())]
    photos = [Record(str(i), image) for i, image in enumerate(data)]
    plain, tagged = Decoding(photos), Decoding(photos, ADOBE_RGB)
    np.testing.assert_array_equal(tagged[0], _judged(data[0], ADOBE_RGB))
    for index in (1, 2):
        np.testing.assert_array_equal(tagged[index], plain[index])
