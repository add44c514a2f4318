"""Reads the JSON files of the project and checks their form.

A file that does not have its form raises an error that names the file and the field.

A form is one of

    int, float, str, bool    a value of that kind; an int is a float too
    Number(int, 1, 10)       a number in that range, which is never nan
    None                     null
    object                   anything
    (form, form)             one of several
    [form]                   a list of such values, of any length
    [form, form]             a list of exactly these
    {"name": form}           an object with that field; "name?": that may lack it;
                             str: the form of all other fields, which may be anything without it
"""

from collections.abc import Callable
import json
import math
import pathlib
from typing import Any, NamedTuple

from colorize_jax.errors import ColorizeError, shown
from colorize_jax.files import atomic_write_bytes

_DEEPEST = 40  # The deepest nesting of lists and objects; our own files have 6 levels.
_SHOWN = 60  # the most characters of a value in a message


class Number(NamedTuple):
    """A form: a number of a kind, from the smallest to the largest; never nan."""

    kind: type
    smallest: float = -math.inf
    largest: float = math.inf


COUNT = Number(int, 0, 2**53)  # a number of steps or photos, which may be 0
POSITIVE = Number(int, 1, 2**53)


class FormError(ValueError):
    """A value does not have its form.

    Attributes:
        field: the path of the value, such as found.drops[2]; "" for the whole file.
        value: the value.
        wanted: the expected form, in words.
    """

    def __init__(self, field: str, value: Any, wanted: str):
        self.field, self.value, self.wanted = field, value, wanted
        what = f'its "{field}"' if field else "it"
        super().__init__(f"{what} is {_described(value)} and not {wanted}")


def read(path: pathlib.Path, form: Any, error: type[ColorizeError], advice: str) -> Any:
    """Reads a file and checks its form.

    Args:
        path: the path of the file.
        form: the form that it must have.
        error: the error to raise if it has another form.
        advice: what to do then, as the end of a sentence.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise error(f"{path} is no file: {advice}")
    try:
        return parse(path.read_bytes(), form)
    except ValueError as found:
        raise error(f"{path} is damaged ({found}): {advice}") from None


def parse(text: bytes | str, form: Any) -> Any:
    """Parses JSON; ValueError, worded as a part of a sentence, if it does not have that form."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    check(value, form)
    return value


def checked(value: Any, form: Any, error: type[ColorizeError], what: str) -> Any:
    """Returns a value that another library has read, if it has that form.

    Otherwise it raises `error`, whose message begins with `what`.
    """
    try:
        check(value, form)
    except ValueError as found:
        raise error(f"{what} is damaged ({found})") from None
    return value


def check(value: Any, form: Any) -> None:
    """FormError if a value does not have that form; ValueError if it is nested too deeply."""
    level = [value]
    for _ in range(_DEEPEST):  # Level by level, because a recursion would itself go too deep.
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            break
    else:
        raise ValueError("it is nested too deeply")
    _check(value, form, "")


def _inside(value: Any):
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _check(value: Any, form: Any, field: str) -> None:
    if isinstance(form, dict) and isinstance(value, dict):
        _check_fields(value, form, field)
    elif isinstance(form, list) and isinstance(value, (list, tuple)):
        if len(form) > 1 and len(value) != len(form):
            raise FormError(field, value, f"a list of {len(form)}")
        forms = form * len(value) if len(form) == 1 else form
        for number, (one, wanted) in enumerate(zip(value, forms, strict=True)):
            _check(one, wanted, f"{field}[{number}]")
    elif not _fits(value, form):
        raise FormError(field, value, _wanted(form))


def _check_fields(value: dict, form: dict, field: str) -> None:
    prefix = f"{field}." if field else ""
    others = form.get(str, object)
    known = {name.removesuffix("?") for name in form if name is not str}
    for name, wanted in form.items():
        if name is str:
            continue
        plain = name.removesuffix("?")
        if plain in value:
            _check(value[plain], wanted, prefix + plain)
        elif plain == name:
            raise ValueError(f'it has no "{prefix}{name}"')
    for name, one in value.items():
        if name not in known:
            _check(one, others, f"{prefix}{_short(shown(name))}")


def _fits(value: Any, form: Any) -> bool:
    """Whether a value has a form, without looking into lists and objects."""
    if isinstance(form, Number):
        return _fits(value, form.kind) and form.smallest <= value <= form.largest
    if isinstance(form, tuple):
        return any(_has(value, one) for one in form)
    if form is None:
        return value is None
    if form is float:
        return type(value) in (int, float)
    return type(value) is form or form is object


def _has(value: Any, form: Any) -> bool:
    try:
        _check(value, form, "")
    except ValueError:
        return False
    return True


def _wanted(form: Any) -> str:
    """A form in words."""
    if isinstance(form, Number):
        what = "a whole number" if form.kind is int else "a number"
        if form.largest >= COUNT.largest:
            return what if math.isinf(form.smallest) else f"{what} of at least {form.smallest:,}"
        return f"{what} from {form.smallest:,} to {form.largest:,}"
    if isinstance(form, tuple):
        return " or ".join(map(_wanted, form))
    if isinstance(form, (dict, list)):
        return "an object" if isinstance(form, dict) else "a list"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return words.get(form, "null")


def _described(value: Any) -> str:
    """A value as in the file if it is short; otherwise a description."""
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    return _short(json.dumps(value))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def rows(path: pathlib.Path, form: Any) -> tuple[list[tuple[bytes, Any]], list[tuple[bytes, str]]]:
    """The rows of a file with one JSON value per line; none if there is no such file.

    Returns:
        [(line, value)] of the lines with that form; and [(line, problem)] of the others, which a
        flipped bit, a killed run or another program can leave.
    """
    good, bad = [], []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        if not line.strip():
            continue
        try:
            good.append((line, parse(line, form)))
        except ValueError as error:
            bad.append((line, str(error)))
    return good, bad


def keep_good_rows(
    path: pathlib.Path, form: Any, say: Callable[[str], None], wanted: Callable[[Any], bool]
) -> list[Any]:
    """Removes unwanted rows from a file, and rows that cannot be read (see `rows`).

    Unreadable rows are not lost: they are appended to PATH.bad, and that is printed.

    Args:
        path: the path of the file, which is not written if it stays the same.
        form: the form of a row.
        say: prints how many rows were moved, and the problem of the first one.
        wanted: the value of a row -> whether it stays.

    Returns:
        The values of the rows that stay.

    Raises:
        OSError: the file cannot be read or written.
    """
    good, bad = rows(path, form)
    if bad:
        aside = path.with_name(f"{path.name}.bad")
        with aside.open("ab") as file:
            file.write(b"".join(line + b"\n" for line, _ in bad))
        say(
            f"{len(bad)} of {len(good) + len(bad)} rows of {path} cannot be used (of the first, "
            f"{bad[0][1]}): set aside in {aside}"
        )
    kept = [(line, value) for line, value in good if wanted(value)]
    text = b"".join(line + b"\n" for line, _ in kept)
    if path.exists() and path.read_bytes() != text:
        atomic_write_bytes(path, text)
    return [value for _, value in kept]
