"""Strips PNG files of the metadata that does not belong to the picture."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST = 2**22  # The largest profile, in bytes; profiles for CMYK printing have up to 3 million.
_MOST_TEXT = 2**20
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
# Keywords of the text chunks into which some programs write the orientation.
_ORIENTATION = (b"XML:com.adobe.xmp\0\0", b"Raw profile type exif\0")


def without_metadata(data: bytes) -> tuple[bytes, bytes | None]:
    """The file with only its first picture and its orientation; and its color profile.

    Like libpng, it ignores an ancillary chunk with a wrong checksum. The chunk with the orientation
    is moved to the front. Other damage is left for the decoder to report.

    Returns:
        The file, and the color profile: None without one, b"" if it cannot be unpacked.
    """
    header = len(SIGNATURE) + 25  # IHDR is always the first chunk.
    first, rest, profile, at, begun = [data[:header]], [], None, header, header
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        stop = at + 12 + length
        if kind[0] & 0x20:  # This bit marks ancillary chunks.
            content = data[at + 8 : stop - 4]
            sound = zlib.crc32(data[at + 4 : stop - 4]) == int.from_bytes(data[stop - 4 : stop])
            if kind == b"iCCP":
                profile = (_unpacked(content.partition(b"\0")[2][1:]) or b"") if sound else b""
            if sound and (kind == b"eXIf" or (kind in _TEXT and _orients(kind, content))):
                first.append(data[at:stop])
            if not sound or kind != b"tRNS":
                rest.append(data[begun:at])
                begun = stop
        at = stop
        if kind == b"IEND":
            break
    return (b"".join((*first, *rest, data[begun:])) if rest else data), profile


def _orients(kind: bytes, content: bytes) -> bool:
    if not content.startswith(_ORIENTATION) or len(content) > _MOST_TEXT:
        return False
    packed = content.partition(b"\0")[2][1:]
    return kind != b"zTXt" or len(_unpacked(packed) or bytes(_MOST_TEXT)) < _MOST_TEXT


def _unpacked(data: bytes) -> bytes | None:
    """The decompressed data; None if it is damaged or larger than `_MOST`."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(data, _MOST)
    except zlib.error:
        return None
    return content if unpacking.eof else None
