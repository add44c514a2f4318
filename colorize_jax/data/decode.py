"""Decodes photos to 8-bit sRGB, upright, and no larger than needed.

Other kinds of pictures are converted:
- Gray and palette pictures become RGB. Transparent pixels become white.
- An embedded color profile is converted to sRGB by littleCMS. A profile that is broken, or for
  another kind of picture, is ignored. CMYK without a profile is converted by Pillow's formula.
- 16-bit gray is divided by its full range. Floating-point and 32-bit gray is divided by the
  smallest of 1, 255 and 65535 that its largest value fits.
- The first frame of an animation is taken. The EXIF orientation is applied.

Metadata never decides whether a photo is read: invalid metadata is ignored. PNG's color profile is
used; its chunks gAMA, cHRM, sRGB, cICP and sBIT are ignored, as most programs do.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import importlib
import io
import warnings

import cv2
import numpy as np
from PIL import Image

from colorize_jax.data import jpeg, png, profiles
from colorize_jax.data.budget import Budget
from colorize_jax.data.record import HAS_HEIC, HEIC_PLUGIN
from colorize_jax.errors import DataError

# They are tried in this order, whatever the file's name. EPS and WMF are left out: for EPS Pillow
# starts another program, and WMF is drawing commands.
FORMATS = (
    "JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF",
    *(["HEIF"] if HAS_HEIC else []),
    "TGA",  # It is last because its files have no signature.
)  # fmt: skip
if HAS_HEIC:
    importlib.import_module(HEIC_PLUGIN).register_heif_opener()
# Pillow's warnings about metadata change nothing here, and they do not name the photo.
warnings.filterwarnings("ignore", module=r"PIL\.")
MAX_PIXELS = 200_000_000  # Cameras and phones have up to 200 million pixels.
# All photos that a process decodes at the same time take at most this many bytes for each of
# `max_pixels`: 2.2 GB.
BYTES = 11
# The measured peak of bytes for each pixel in formats that are decoded in one piece. It is high
# where a library keeps copies of its own.
_COST = {"WEBP": 18, "AVIF": 14, "JPEG2000": 21, "TIFF": 12, "HEIF": 12}
_USUAL_COST = 8
_BUDGET = Budget()
# Photos of other formats than JPEG are reduced first if they have more pixels than this. Smaller
# ones are scaled in one step.
_LARGE = 16_000_000
_STRIP = 2**20  # the number of pixels that are converted at a time

_ORIENTATION, _EXIF, _COLOR_SPACE, _INTEROP = 0x0112, 0x8769, 0xA001, 0xA005  # EXIF tags
_UNCALIBRATED, _ADOBE = 0xFFFF, "R03"
# How to turn an array [height, width, ...] of each orientation upright.
_UPRIGHT = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo whose size is known and whose pixels are not decoded yet; see `open_photo`."""

    height: int
    width: int
    data: bytes | np.ndarray
    orientation: int = 1
    image: Image.Image | jpeg.Header | None = None
    profile_data: bytes | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def profile(self) -> profiles.Profile:
        """The photo's color profile; `profiles.NONE` without one."""
        if self.profile_data is None or self.image.mode == "LAB":
            return profiles.NONE
        return profiles.read(self.profile_data, profile_mode(self.image.mode))

    def pixels(self, height: int = 0, width: int = 0) -> np.ndarray:
        """[height', width', 3] uint8, upright, sRGB; DataError if the photo is damaged.

        Without `height` and `width` it has its full size. Otherwise a JPEG at least twice as large
        is reduced by its own transform, and a photo of another format with more than 16 million
        pixels by averages of whole pixels; none becomes smaller than height x width. The call waits
        while other photos take the memory.
        """
        if self.image is None:
            return self.data
        if self.orientation in (5, 6, 7, 8):
            height, width = width, height
        needed = self._memory(height, width)
        with _BUDGET.taken(needed, BYTES * self.max_pixels):
            try:
                if self._is_jpeg():
                    pixels = self._jpeg(height, width)
                else:
                    # `self.image` would keep its decoded pixels, so a new image is opened.
                    pixels = _to_rgb(open_image(self.data)[0], self.profile, height, width)
            except DataError:
                raise
            # Decoders raise many kinds of errors on damaged files. None of them may end a long run.
            except Exception as error:
                raise DataError(f"damaged image: {error}") from error
            return upright(pixels, self.orientation)

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Takes its turn, for who decodes the photo by other means than `pixels`."""
        with _BUDGET.taken(self._memory(0, 0), BYTES * self.max_pixels):
            yield

    def _is_jpeg(self) -> bool:
        return self.image.format in ("JPEG", "MPO")

    def _jpeg(self, height: int, width: int) -> np.ndarray:
        mode, profile = self.image.mode, self.profile
        if mode != "CMYK" and not profile:
            return jpeg.decode(self.data, "RGB", height, width)
        colors = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[mode]
        coded = jpeg.decode(self.data, colors, height, width)
        pixels = np.empty((*coded.shape[:2], 3), np.uint8)
        for strip in _strips(*coded.shape[:2]):
            part = coded[strip]
            if mode == "CMYK":  # Ink is inverted, as Adobe writes it and Pillow reads it.
                part = 255 - part
            part = Image.frombytes(mode, part.shape[1::-1], np.ascontiguousarray(part).data)
            pixels[strip] = np.asarray(_rgb(part, profile))
        return pixels

    def _memory(self, height: int, width: int) -> int:
        """The most bytes that decoding takes; DataError if that is more than a photo may take."""
        what = f"{self.width} x {self.height} pixels of {self.image.format}"
        needed, limit = self._needed(height, width), BYTES * self.max_pixels
        if self.height * self.width > self.max_pixels:
            raise DataError(f"{what} are more than config.data.max_pixels={self.max_pixels}")
        if needed > limit:
            raise DataError(
                f"{what} take {needed / 1e9:.1f} GB to decode; config.data.max_pixels="
                f"{self.max_pixels} allows {limit / 1e9:.1f}, {BYTES} bytes for each"
            )
        return needed

    def _needed(self, height: int, width: int) -> int:
        turned = 3 * (self.orientation in _UPRIGHT)
        size = self.height * self.width
        if not self._is_jpeg():
            return size * (_COST.get(self.image.format, _USUAL_COST) + turned)
        reduced = 0 < height * 2 <= self.image.height and 0 < width * 2 <= self.image.width
        converted = self.profile or self.image.mode == "CMYK"
        result = 3 + turned + 5 * bool(converted)
        scans = 8 * bool(self.image.info.get("progressive"))  # libjpeg then keeps all coefficients.
        return size * scans + size * result // (4 if reduced else 1)


def open_photo(data: bytes | np.ndarray, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads the header of any photo.

    Args:
        data: encoded bytes, or pixels [height, width, 3] uint8 that are passed on.
        max_pixels: the largest photo that is allowed. A photo of a format that is decoded in one
            piece is also refused if that takes more than `max_pixels` x `BYTES` bytes.

    Raises:
        DataError: the bytes are no picture, or the picture is damaged or too large.
    """
    if isinstance(data, np.ndarray):
        return Photo(*data.shape[:2], data)
    if header := jpeg.plain_header(data):
        photo = Photo(header.height, header.width, data, image=header, max_pixels=max_pixels)
        photo._memory(1, 1)
        return photo
    image, profile = open_image(data)
    width, height = image.size
    exif = _exif(image)
    # Pillow turns a TIFF itself while it decodes it, and already reports the size after turning.
    orientation = 1 if image.format == "TIFF" else exif.get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        height, width = width, height
    if profile is None and _is_adobe_rgb(image, exif):
        profile = profiles.adobe_rgb()
    photo = Photo(height, width, data, orientation, image, profile, max_pixels)
    photo._memory(1, 1)
    return photo


def open_image(data: bytes, formats: Sequence[str] = FORMATS) -> tuple[Image.Image, bytes | None]:
    """Pillow's image, not decoded yet, of one of the formats; and its color profile or None.

    It does not use `Image.open`, whose own limit would refuse photos that fit into memory.

    Raises:
        DataError: the bytes are no picture, or a damaged one.
    """
    if not data:
        raise DataError("empty file")
    profile, damage = None, ""
    if data.startswith(png.SIGNATURE):
        data, profile = png.without_metadata(data)
    Image.init()
    for name in formats:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(data[:16]) is not True):
            continue
        try:
            image = _opened(factory, name, data)
            _scale_transparent_value(image, data)
            return image, profile if profile is not None else image.info.get("icc_profile")
        except Exception as error:  # A damaged header may raise any kind of error.
            if accept is not None and not damage:
                damage = f"damaged image: the header of a {name} ({error})"
    if damage:
        raise DataError(damage)
    raise DataError("not an image")


def _opened(factory: Callable, name: str, data: bytes) -> Image.Image:
    try:
        return factory(io.BytesIO(data), "")
    except Exception:  # Any kind of error; perhaps only the metadata is invalid.
        if name != "JPEG":
            raise
        return factory(io.BytesIO(jpeg.without_metadata(data)), "")


def decode(data: bytes | np.ndarray) -> np.ndarray:
    """Any photo at its full size, [height, width, 3] uint8. DataError as for `open_photo`."""
    return open_photo(data).pixels()


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [height, width, ...] turned as EXIF's orientation, 1 to 8, asks for."""
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return Image.Image.getexif(image)  # PNG's own method would decode the picture.
    except Exception:  # Pillow raises several kinds of errors on invalid EXIF data.
        return Image.Exif()


def _is_adobe_rgb(image: Image.Image, exif: Image.Exif) -> bool:
    """Whether EXIF says Adobe RGB as DCF defines it: the color space is not sRGB and the
    interoperability index is "R03"."""
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return False
    # This fast test settles nearly all photos.
    if _ADOBE.encode() not in image.info.get("exif", b""):
        return False
    try:
        space = exif.get_ifd(_EXIF).get(_COLOR_SPACE)
        return space == _UNCALIBRATED and exif.get_ifd(_INTEROP).get(1, "")[:3] == _ADOBE
    except Exception:
        return False


def _scale_transparent_value(image: Image.Image, data: bytes) -> None:
    """Scales the value that a PNG declares transparent in the same way as Pillow scales pixels."""
    value = image.info.get("transparency")
    if image.format != "PNG" or value is None:
        return
    depth = data[24]
    if image.mode == "L" and depth < 8 and isinstance(value, int):
        image.info["transparency"] = value * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def profile_mode(mode: str) -> str:
    """The mode that a profile for such a picture must have: gray, CMYK or RGB."""
    if mode in ("1", "L", "LA", "La", "F") or mode.startswith("I"):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


def _strips(height: int, width: int) -> Iterator[slice]:
    """Slices of rows, each small enough that several copies of it take little memory."""
    rows = max(_STRIP // width, 1)
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def _part(image: Image.Image, rows: slice, width: int = 0) -> Image.Image:
    box = (0, rows.start, width or image.width, rows.stop)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _to_rgb(image: Image.Image, profile: profiles.Profile, height: int, width: int) -> np.ndarray:
    """The sRGB pixels of an image that Pillow decodes; see `Photo.pixels`."""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip the values to 8 bits.
        image = _to_8_bits(image)
    factor = 1
    if image.width * image.height > _LARGE and height and width:
        factor = max(min(image.height // height, image.width // width), 1)
    pixels = np.empty((image.height // factor, image.width // factor, 3), np.uint8)
    for strip in _strips(len(pixels), image.width * factor):
        rows = slice(strip.start * factor, strip.stop * factor)
        part = np.asarray(_rgb(_part(image, rows, pixels.shape[1] * factor), profile))
        if factor > 1:
            size = pixels.shape[1], strip.stop - strip.start
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        pixels[strip] = part
    return pixels


def _rgb(image: Image.Image, profile: profiles.Profile) -> Image.Image:
    """The image in sRGB, with white where it is transparent."""
    if not image.has_transparency_data:
        if not profile:
            return image.convert("RGB")
        return profile.convert(image.convert(profile_mode(image.mode)))
    seen = image.convert("RGBA")
    if profile:
        colors = profile.convert(seen.convert(profile_mode(image.mode)))
        colors.putalpha(seen.getchannel("A"))
        seen = colors
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits or floating point, scaled to 8 bits; transparency is kept."""
    strips = list(_strips(image.height, image.width))
    largest = -np.inf
    for rows in strips:
        deep = np.asarray(_part(image, rows))
        numbers = deep[np.isfinite(deep)]
        largest = max(largest, float(numbers.max())) if numbers.size else largest
    if largest == -np.inf:
        raise DataError("damaged image: none of its pixels is a number")
    most = 65535.0
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        # Interpolation may overshoot a range, so values up to twice its end belong to it.
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        most = next((r for r in ranges if largest <= 2 * r), float(largest))
    transparent = image.info.get("transparency")
    shallow = Image.new("L" if transparent is None else "LA", image.size)
    for rows in strips:
        deep = np.asarray(_part(image, rows))
        light = np.nan_to_num(deep.astype(np.float32), posinf=most, neginf=0) * (255 / most)
        part = Image.fromarray(light.clip(0, 255).astype(np.uint8))
        if transparent is not None:
            part.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
        shallow.paste(part, (0, rows.start))
    return shallow
