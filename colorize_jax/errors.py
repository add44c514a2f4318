"""Errors for the person who runs the program; `main` prints them without a stack trace."""


class ColorizeError(Exception):
    """Base of every error that the user can act upon."""


class ConfigError(ColorizeError):
    """A setting is unknown, of the wrong kind, or contradicts another one."""


class DataError(ColorizeError):
    """The photos are missing or cannot be read."""


class CheckpointError(ColorizeError):
    """A checkpoint or a workdir is not what the run needs."""


class NonFiniteError(ColorizeError):
    """The loss is no longer a number."""


def why(error: Exception) -> str:
    """What went wrong, without the path and the number that an OSError puts around it."""
    return getattr(error, "strerror", None) or str(error)
