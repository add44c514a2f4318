"""Errors for the user; `main` prints them without a stack trace.

Each class has the exit code of the program. After 75, and only then, a launcher starts the same
command again.
"""

import errno


class ColorizeError(Exception):
    """The base of all errors that the user can act upon; the text can be printed as it is."""

    exit_code = 1

    def __str__(self):
        return printable(super().__str__())


class ConfigError(ColorizeError):
    """A setting is unknown, of the wrong kind, or contradicts another one."""


class DataError(ColorizeError):
    """The photos are missing or cannot be read."""


class StorageError(DataError):
    """The storage of the photos does not answer at the moment."""

    exit_code = 75


class WorkerError(DataError):
    """Processes that read photos were killed too often."""

    exit_code = 75


class PhotoError(DataError, ValueError):
    """An array or another object is no photo."""


class CheckpointError(ColorizeError):
    """A checkpoint or a workdir is not what the run needs."""


class WeightsError(ColorizeError):
    """A file of weights is invalid, or is of no known network."""


class NonFiniteError(ColorizeError):
    """The loss or its gradient is not finite."""


class OutOfMemoryError(ColorizeError):
    """The step does not fit into the memory of a device."""


class SaveError(ColorizeError):
    """The last state of a run could not be written."""

    exit_code = 74  # EX_IOERR of sysexits.h


class Interrupted(ColorizeError):
    """A signal ended the run in good order; the same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class HostLostError(ColorizeError):
    """Another process of the run is gone; the same commands resume it."""

    exit_code = 75


def exit_code(error: Exception) -> int:
    """The exit code of the program for an uncaught error."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SaveError.exit_code if full else getattr(error, "exit_code", 1)


def why(error: Exception) -> str:
    """The reason of an error, without the path and the number in an OSError."""
    return getattr(error, "strerror", None) or str(error)


def shown(name: str) -> str:
    """The name of a file or class for printing, on one line.

    Control characters and bytes that are no text become escapes (\\x1b, \\xfc).
    """
    return name if name.isprintable() else "".join(map(_shown, name))


def printable(text: str) -> str:
    """Like `shown`, for text of several lines."""
    return "\n".join(map(shown, text.split("\n")))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # Python keeps a byte that is no text like this.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
