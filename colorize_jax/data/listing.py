"""Reads text files that list photos or classes, whatever program wrote them."""

import codecs

from colorize_jax.errors import DataError


def lines(data: bytes, name: str) -> list[str]:
    """The lines of a list without leading and trailing space; empty lines are left out.

    A byte order mark at the start is dropped. Bytes that are not UTF-8 are kept as Python keeps
    those in file names, so that such a line names the file with these bytes.

    Args:
        data: the content of the file.
        name: its name, for messages.

    Raises:
        DataError: the file is no text.
    """
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no list of photos: {error}") from error
    if "\0" in text:
        raise DataError(f"{name} is no list of photos, and no text at all")
    # `splitlines` would also split at characters that a file name may contain.
    found = (line.strip() for line in text.replace("\r", "\n").split("\n"))
    return [line for line in found if line]
