"""Errors for the person who runs the program; `main` prints them without a stack trace.

Each class has the exit code that the program ends with: after 75, and only then, a launcher starts
the same command again.
"""

import errno


class ColorizeError(Exception):
    """Base of every error that the user can act upon; its text can be printed as it is."""

    exit_code = 1

    def __str__(self):
        return printable(super().__str__())


class ConfigError(ColorizeError):
    """A setting is unknown, of the wrong kind, or contradicts another one."""


class DataError(ColorizeError):
    """The photos are missing or cannot be read."""


class StorageError(DataError):
    """Photos that were there cannot be read for the time being."""

    exit_code = 75


class WorkerError(DataError):
    """Processes that read photos are killed again and again."""

    exit_code = 75


class PhotoError(DataError, ValueError):
    """An array is not the photo that it is taken for."""


class CheckpointError(ColorizeError):
    """A checkpoint or a workdir is not what the run needs."""


class WeightsError(ColorizeError):
    """A file of weights from elsewhere is not what it is taken for."""


class NonFiniteError(ColorizeError):
    """The loss or its gradient is no longer a number."""


class OutOfMemoryError(ColorizeError):
    """The step does not fit into the memory of a device."""


class SaveError(ColorizeError):
    """The last state of a run could not be written."""

    exit_code = 74  # EX_IOERR of sysexits.h


class Interrupted(ColorizeError):
    """A signal ended the run in good order; the same command goes on with it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class HostLostError(ColorizeError):
    """Another process of the run is gone; all of them go on with the same command."""

    exit_code = 75


def exit_code(error: Exception) -> int:
    """What a program ends with for an error that nobody has caught."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SaveError.exit_code if full else getattr(error, "exit_code", 1)


def why(error: Exception) -> str:
    """What went wrong, without the path and the number that an OSError puts around it."""
    return getattr(error, "strerror", None) or str(error)


def shown(name: str) -> str:
    """A name of a file or class as it may be printed: on one line, escapes (\\x1b, \\xfc) in the
    place of what moves a terminal's cursor, and of bytes that are no text."""
    return name if name.isprintable() else "".join(map(_shown, name))


def printable(text: str) -> str:
    """`shown` for text of several lines."""
    return "\n".join(map(shown, text.split("\n")))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
