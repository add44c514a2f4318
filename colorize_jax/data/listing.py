"""Lists of photos or classes as text files, whoever wrote them."""

import codecs

from colorize_jax.errors import DataError


def lines(data: bytes, name: str) -> list[str]:
    """The lines of a list without space around them; empty ones are left out.

    A byte order mark is not part of the first line. Bytes that are no UTF-8 are kept as Python
    keeps those of file names, so that such a line names the file of these bytes.

    Args:
        data: of the file.
        name: of it, for messages.

    Raises:
        DataError: it is no text.
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
    # Not splitlines: a name may hold characters that count as ends of lines elsewhere.
    found = (line.strip() for line in text.replace("\r", "\n").split("\n"))
    return [line for line in found if line]
