"""Photo files with all that coloring must keep: depth, transparency, metadata, the upright way.

What is given out is sRGB. Every loss is said by a note: nothing is dropped silently.
"""

from collections.abc import Sequence
import dataclasses
import io
import re
import struct
import zlib

import cv2
import numpy as np
from PIL import ExifTags, Image
import tifffile

from colorize_jax.data import decode, jpeg, png, profiles
from colorize_jax.errors import ConfigError, DataError, why

# What is written, and the endings of its names; the first one is given to a file of another kind.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
    "BMP": (".bmp",),
    "PPM": (".ppm",),
    "TGA": (".tga",),
}
_DEEP = ("PNG", "TIFF")  # hold 16 bits
_OPAQUE = ("JPEG", "BMP", "PPM")  # hold no transparency
_WITH_EXIF = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")
_WITH_PROFILE = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")
_ORIENTATION, _XMP, _IPTC, _PROFILE = 0x0112, 700, 33723, 34675  # tags of TIFF and EXIF
_WIDTH, _HEIGHT = 0xA002, 0xA003  # of EXIF
_PARTS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)  # of EXIF, each a table of its own
# Tags that tell how a TIFF is laid out, and are of the file that they are in.
_LAYOUT = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288,
     289, 292, 293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 338, 339, 340, 341, 342,
     347, 512, 513, 514, 529, 530, 531, 532, _XMP, _IPTC, _PROFILE, 34377)
)  # fmt: skip
_TEXTS = (270, 271, 272, 305, 306, 315, 33432)  # of TIFF: description, make, model and the like
_APP13 = 0xED
# What encoders raise for what they cannot write.
_CANNOT = (OSError, ValueError, RuntimeError, TypeError, cv2.error, struct.error)
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>)\s*)[2-8]")
_PNG_XMP = b"XML:com.adobe.xmp"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a photo's file says besides the pixels.

    Attributes:
        exif: a block that begins with the TIFF header; the orientation is reset and there is no
            thumbnail, which would be gray.
        xmp: a packet; its orientation is reset.
        iptc: as the segment of a JPEG.
        tagged: whether a color profile said what the colors mean: the result says sRGB then.
        dpi: resolution; () without.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    tagged: bool = False
    dpi: tuple[float, float] | tuple[()] = ()


@dataclasses.dataclass
class Scan:
    """A photo that was read.

    Attributes:
        pixels: uint8 or uint16, RGB [height, width, 3], upright, sRGB.
        alpha: [height, width] of the same type; None if it is opaque.
        format: one of Pillow's names, as in "JPEG".
        metadata: what the result is to keep.
        notes: what became of what cannot be kept, in words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    format: str
    metadata: Metadata
    notes: list[str]


def read(data: bytes, max_pixels: int = decode.MAX_PIXELS) -> Scan:
    """Decodes a photo.

    Args:
        data: of the file.
        max_pixels: a larger photo is refused.

    Raises:
        DataError: it is no photo, a damaged one, or a larger one.
    """
    try:
        photo = decode.open_photo(data, max_pixels)
    except DataError as error:
        raise DataError(str(error).replace("config.data.max_pixels", "--max_pixels")) from error
    # The header alone does not always come from Pillow, which has the metadata too.
    image = decode.open_image(data)[0]
    photo = dataclasses.replace(photo, image=image)
    notes: list[str] = []
    if (pictures := _pictures(image)) > 1:
        notes.append(f"the first of {pictures} pictures is taken")
    pixels, alpha = _pixels(photo, data, notes)
    form = "JPEG" if photo.image.format == "MPO" else photo.image.format
    metadata = _metadata(data, image, photo, pixels.shape[:2], notes)
    return Scan(pixels, alpha, form, metadata, notes)


def _pictures(image: Image.Image) -> int:
    """How many a file holds; the further ones of a JPEG are previews."""
    try:
        return 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
    except Exception:  # of many kinds, in files of which the first picture may be whole
        return 1


def _pixels(photo: decode.Photo, data: bytes, notes: list[str]):
    """(RGB, alpha or None), upright."""
    image, profile = photo.image, photo.profile
    if profile:
        notes.append(f"its colors were converted from the profile {profile.name} to sRGB")
    elif profile.broken:
        notes.append(f"its color profile is ignored: {profile.name}")
    deep = _deep(photo)
    if deep is not None:
        pixels, alpha = deep
        if profile:
            pixels = _deep_to_srgb(pixels, profile, image.mode, notes)
        if image.format == "TIFF":  # OpenCV has turned it
            return pixels, alpha
        return decode.upright(pixels, photo.orientation), (
            None if alpha is None else decode.upright(alpha, photo.orientation)
        )
    if image.mode.startswith("I") or image.mode == "F" or _bits(image) > 8:
        notes.append("more than 8 bits of this kind of file cannot be kept: 8 are")
    if not image.has_transparency_data:
        return photo.pixels(), None
    with photo.decoding():
        try:
            opened = decode.open_image(data)[0]
            seen = opened.convert("RGBA")
            alpha = np.asarray(seen.getchannel("A"))
            rgb = seen.convert("RGB")
            if profile:
                rgb = profile.convert(seen.convert(decode.profile_mode(image.mode)))
            pixels = np.asarray(rgb)
        except Exception as error:  # of many kinds, in damaged files
            raise DataError(f"damaged image: {error}") from error
    pixels, alpha = (decode.upright(x, photo.orientation) for x in (pixels, alpha))
    return pixels, (None if (alpha == 255).all() else alpha)


def _bits(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", {})
    return max(np.ravel(tags.get(258, 8)))


def _deep(photo: decode.Photo) -> tuple[np.ndarray, np.ndarray | None] | None:
    """(RGB, alpha or None) of 16 bits, of PNG and TIFF; None of anything else."""
    image, data = photo.image, photo.data
    if image.format == "PNG":
        if data[24] != 16:
            return None
    elif image.format == "TIFF":
        tags = image.tag_v2
        integer = set(np.ravel(tags.get(339, 1))) == {1}
        known = tags.get(262) in (0, 1, 2) and tags.get(284, 1) == 1
        if set(np.ravel(tags.get(258, 1))) != {16} or not integer or not known:
            return None
    else:
        return None
    photo.pixels()  # finds damage: OpenCV would give what it has
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise DataError("damaged image: its 16 bits cannot be decoded")
    if found.dtype != np.uint16:
        return None
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:
        found = 65535 - found
    if found.ndim == 2:
        found = found[..., None].repeat(3, -1)
    alpha = found[..., 3] if found.shape[-1] == 4 else None
    if alpha is not None and (alpha == 65535).all():
        alpha = None
    return np.ascontiguousarray(found[..., 2::-1]), alpha


def _deep_to_srgb(
    pixels: np.ndarray, profile: profiles.Profile, mode: str, notes: list[str]
) -> np.ndarray:
    """16 bits in the colors of a profile, as sRGB."""
    if decode.profile_mode(mode) == "L":  # one curve, which 256 of its points tell
        levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        curve = np.asarray(profile.convert(levels), np.float32).mean(-1)[0]
        light = np.interp(np.arange(65536) / 257, np.arange(256), curve) * 257
        return np.round(light).astype(np.uint16)[pixels]
    notes.append("the profile was converted with the precision of 8 bits")
    high = (pixels >> 8).astype(np.uint8)
    moved = np.asarray(profile.convert(Image.fromarray(high)), np.int32) * 257
    rest = pixels.astype(np.int32) - high.astype(np.int32) * 257
    return np.clip(moved + rest, 0, 65535).astype(np.uint16)


def _metadata(
    data: bytes, image: Image.Image, photo: decode.Photo, size: Sequence[int], notes: list[str]
) -> Metadata:
    """Of a file; what is odd in it is left out, and said."""
    info, exif = image.info, b""
    try:
        if image.format == "PNG":  # the decoder's own has lost it
            info = Image.OPEN["PNG"][0](io.BytesIO(data), "").info
        exif = _exif(image if image.format != "PNG" else info, size)
    except Exception as error:  # Pillow raises many kinds on what is odd
        notes.append(f"its metadata is damaged, and not all of it is kept: {error}")
    xmp = info.get("xmp", b"")
    if image.format == "TIFF":
        xmp = image.tag_v2.get(_XMP, b"")
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    iptc = b""
    if image.format in ("JPEG", "MPO"):
        iptc = b"".join(
            data[start:stop] for marker, start, stop in jpeg.segments(data) if marker == _APP13
        )
    dpi = info.get("dpi", ())
    usable = len(dpi) == 2 and all(np.isfinite(float(x)) and float(x) > 0 for x in dpi)
    return Metadata(
        exif=exif,
        xmp=_XMP_ORIENTATION.sub(rb"\g<1>1", xmp),
        iptc=iptc,
        tagged=bool(photo.profile_data) and not photo.profile.broken,
        dpi=tuple(float(x) for x in dpi) if usable else (),
    )


def _exif(source: Image.Image | dict, size: Sequence[int]) -> bytes:
    """A block of EXIF for the upright result; b"" if there is none."""
    if isinstance(source, dict):
        found = Image.Exif()
        found.load(source.get("exif", b"") or None)
    else:
        found = Image.Image.getexif(source)
    kept = Image.Exif()
    for tag, value in found.items():
        if tag not in _LAYOUT and tag not in _PARTS:
            kept[tag] = value
    for tag in _PARTS:
        if tag in found and (part := dict(found.get_ifd(tag))):
            if _WIDTH in part and _HEIGHT in part:
                part[_HEIGHT], part[_WIDTH] = size
            kept[tag] = part
    if not len(kept):
        return b""
    if _ORIENTATION in kept:
        kept[_ORIENTATION] = 1
    return kept.tobytes().removeprefix(b"Exif\0\0")


def write(
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    form: str,
    metadata: Metadata,
    quality: int,
    notes: list[str],
) -> bytes:
    """Encodes a photo.

    Args:
        pixels: RGB [height, width, 3], uint8 or uint16.
        alpha: [height, width] of the same type, or None.
        form: a key of `FORMATS`.
        metadata: to keep, as far as the format can.
        quality: of JPEG, WebP and AVIF, up to 100.
        notes: gets what could not be kept.

    Raises:
        DataError: the format cannot hold the transparency of the photo, or its size.
    """
    if alpha is not None and form in _OPAQUE:
        raise DataError(f"it is transparent in parts, which {form} cannot hold: --format=png can")
    if pixels.dtype == np.uint16 and form not in _DEEP:
        notes.append(f"{form} holds 8 bits of its 16")
        pixels = np.round(pixels / 257).astype(np.uint8)
        alpha = None if alpha is None else np.round(alpha / 257).astype(np.uint8)
    lost = [
        what
        for what, there in (
            ("EXIF", metadata.exif and form not in _WITH_EXIF),
            ("XMP", metadata.xmp and form not in _WITH_EXIF),
            ("IPTC", metadata.iptc and form != "JPEG"),
        )
        if there
    ]
    if lost:
        notes.append(f"{form} does not keep its {' and '.join(lost)}")
    try:
        return _encoded(pixels, alpha, form, metadata, quality, notes)
    except _CANNOT as error:
        plain = dataclasses.replace(metadata, exif=b"", xmp=b"", iptc=b"")
        if plain == metadata:
            raise DataError(f"it cannot be written as {form}: {why(error)}") from error
        notes.append(f"its EXIF, XMP and IPTC cannot be written as {form}: {why(error)}")
        return write(pixels, alpha, form, plain, quality, notes)


def _encoded(pixels, alpha, form, metadata, quality, notes) -> bytes:
    if form == "PNG":
        return _png(pixels, alpha, metadata)
    if form == "TIFF" and pixels.dtype == np.uint16:
        return _deep_tiff(pixels, alpha, metadata, notes)
    return _by_pillow(pixels, alpha, form, metadata, quality)


def _with_alpha(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], -1)


def _by_pillow(pixels, alpha, form: str, metadata: Metadata, quality: int) -> bytes:
    settings = {}
    if form in _WITH_PROFILE and metadata.tagged:
        settings["icc_profile"] = profiles.srgb()
    if form in _WITH_EXIF:
        if metadata.exif:
            settings["exif"] = b"Exif\0\0" + metadata.exif
        if metadata.xmp and form != "TIFF":
            settings["xmp"] = metadata.xmp
    if metadata.dpi and form in ("JPEG", "TIFF"):
        settings["dpi"] = metadata.dpi
    if form in ("JPEG", "WEBP", "AVIF"):
        settings["quality"] = quality
    if form == "JPEG":
        # All of the colors' pixels, or gray would change where colors do.
        settings |= {"subsampling": 0, "extra": metadata.iptc}
    if form == "TIFF":
        exif = Image.Exif()
        if metadata.exif:
            exif.load(b"Exif\0\0" + metadata.exif)
        # Pillow compresses by libtiff, to which it cannot give the tables of EXIF.
        if not any(tag in exif for tag in _PARTS):
            settings["compression"] = "tiff_adobe_deflate"
        if metadata.xmp:
            exif[_XMP] = metadata.xmp
        settings["exif"] = exif
    file = io.BytesIO()
    Image.fromarray(_with_alpha(pixels, alpha)).save(file, form, **settings)
    return file.getvalue()


def _deep_tiff(pixels, alpha, metadata: Metadata, notes: list[str]) -> bytes:
    tags = [(_PROFILE, 7, None, profiles.srgb(), True)] if metadata.tagged else []
    if metadata.xmp:
        tags.append((_XMP, 1, None, metadata.xmp, True))
    texts = {}
    if metadata.exif:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + metadata.exif)
        texts = {tag: value for tag, value in exif.items() if isinstance(value, str)}
        tags += [(tag, 2, None, texts[tag], True) for tag in _TEXTS[1:] if tag in texts]
        if exif.get_ifd(ExifTags.IFD.Exif) or exif.get_ifd(ExifTags.IFD.GPSInfo):
            notes.append("a TIFF of 16 bits keeps its texts, and not the camera's EXIF")
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        _with_alpha(pixels, alpha),
        photometric="rgb",
        extrasamples=None if alpha is None else ["unassalpha"],
        compression="zlib",
        predictor=True,
        description=texts.get(_TEXTS[0]),
        metadata=None,
        software=False,
        resolution=metadata.dpi or None,
        resolutionunit="INCH" if metadata.dpi else None,
        extratags=tags,
    )
    return file.getvalue()


def _png(pixels, alpha, metadata: Metadata) -> bytes:
    order = [2, 1, 0] if alpha is None else [2, 1, 0, 3]
    deep = np.ascontiguousarray(_with_alpha(pixels, alpha)[..., order])
    done, encoded = cv2.imencode(".png", deep, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    if not done:
        raise ValueError("OpenCV cannot encode it")
    data = encoded.tobytes()
    chunks = b""
    if metadata.tagged:
        chunks += _chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(profiles.srgb()))
    if metadata.dpi:
        chunks += _chunk(
            b"pHYs", struct.pack(">IIB", *(round(x / 0.0254) for x in metadata.dpi), 1)
        )
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunks += _chunk(b"iTXt", _PNG_XMP + bytes(5) + metadata.xmp)
    header = len(png.SIGNATURE) + 25  # IHDR is always the first chunk
    return data[:header] + chunks + data[header:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def format_of(name: str) -> str:
    """The key of `FORMATS` that a name's ending means; "" if it means none."""
    ending = "." + name.rpartition(".")[2].lower()
    return next((form for form, endings in FORMATS.items() if ending in endings), "")


def asked_format(text: str) -> str:
    """The key of `FORMATS` that `--format` means; "" of "same"; ConfigError if there is none."""
    if text == "same":
        return ""
    form = text.upper() if text.upper() in FORMATS else format_of(f".{text}")
    if not form:
        known = ", ".join(endings[0][1:] for endings in FORMATS.values())
        raise ConfigError(f"--format={text}; known: same, {known}")
    return form
