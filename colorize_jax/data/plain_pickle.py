"""Reads the plain values and arrays in a pickle without running anything in it.

Python's own unpickler calls whatever a pickle names. This one knows the few instructions and the
few names that dictionaries, lists, numbers, texts and numpy's arrays are written with.
"""

import dataclasses
import pickletools
from typing import Any

from colorize_jax.errors import DataError, printable

_MOST = 10**6  # instructions; a batch of CIFAR-10 has about 50,000
_RECONSTRUCT, _FROM_BUFFER, _ENCODE, _DTYPE = "_reconstruct", "_frombuffer", "encode", "dtype"
_NAMES = {
    f"numpy.{core}.{module} {name}": name
    for core in ("core", "_core")
    for module, name in (("multiarray", _RECONSTRUCT), ("numeric", _FROM_BUFFER))
} | {"numpy dtype": _DTYPE, "numpy ndarray": "ndarray", "_codecs encode": _ENCODE}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Instructions with one of these in their names hold a value themselves.
_VALUES = ("INT", "LONG", "FLOAT", "BYTE", "STRING", "UNICODE")
_NOTHING = ("PROTO", "FRAME", "STOP")


@dataclasses.dataclass
class Array:
    """An array as it is stored.

    Attributes:
        dtype: numpy's name of it, such as "u1"; "" if it is not known.
        shape: as stored, so nothing is known of what is in it.
        data: bytes, or a text whose characters stand for bytes.
        fortran: whether the first index moves fastest.
    """

    dtype: Any = ""
    shape: Any = ()
    data: Any = b""
    fortran: Any = False


@dataclasses.dataclass
class _Name:
    name: str


@dataclasses.dataclass
class _Dtype:
    name: Any


def load(data: bytes) -> Any:
    """The value of a pickle, of which arrays are `Array`, and keys of dictionaries are text.

    A text of Python 2 is a text with a character for every byte.

    Raises:
        DataError: it is no whole pickle, or asks for anything else; nothing of it was run.
    """
    try:
        return _value(data)
    except DataError:
        raise
    except Exception as error:  # pickletools and the stack raise many kinds for what is damaged
        raise DataError(f"it is no whole pickle ({type(error).__name__}: {error})") from error


def _value(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped() -> list[Any]:
        """What lies above the last mark."""
        place = marks.pop()
        found = stack[place:]
        del stack[place:]
        return found

    for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if number > _MOST:
            raise DataError(f"it has more than {_MOST:,} instructions")
        name = operation.name
        if name in _NOTHING:
            continue
        if name == "MARK":
            marks.append(len(stack))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            found = tuple(stack[-_TUPLES[name] :])
            del stack[-_TUPLES[name] :]
            stack.append(found)
        elif name in ("TUPLE", "LIST"):
            stack.append((tuple if name == "TUPLE" else list)(popped()))
        elif name == "DICT":
            found = popped()
            pairs = zip(found[::2], found[1::2], strict=True)
            stack.append({_text(key): value for key, value in pairs})
        elif name in ("APPEND", "APPENDS"):
            found = [stack.pop()] if name == "APPEND" else popped()
            _of(stack[-1], list).extend(found)
        elif name in ("SETITEM", "SETITEMS"):
            found = [stack.pop(-2), stack.pop()] if name == "SETITEM" else popped()
            pairs = zip(found[::2], found[1::2], strict=True)
            _of(stack[-1], dict).update((_text(key), value) for key, value in pairs)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "STACK_GLOBAL":
            last = stack.pop()
            stack.append(_named(f"{stack.pop()} {last}"))
        elif name == "REDUCE":
            given = _of(stack.pop(), tuple)
            stack.append(_made(_of(stack.pop(), _Name).name, given))
        elif name == "BUILD":
            _build(stack[-2], stack.pop())
        elif any(kind in name for kind in _VALUES):
            stack.append(argument)
        else:
            raise DataError(_refusal(f"the instruction {name}"))
    (value,) = stack
    return value


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise DataError(_refusal(printable(name.replace(" ", ".", 1))))
    return _Name(_NAMES[name])


def _made(name: str, given: tuple) -> Any:
    if name == _RECONSTRUCT:
        return Array()
    if name == _FROM_BUFFER:
        data, dtype, shape, order = given
        return Array(_of(dtype, _Dtype).name, shape, data, order != "C")
    if name == _DTYPE:
        return _Dtype(given[0])
    if name == _ENCODE:
        return _of(given[0], str)
    raise DataError(_refusal(f"a call of {name}"))


def _build(made: Any, state: Any) -> None:
    if isinstance(made, Array):
        _, shape, dtype, fortran, data = _of(state, tuple)
        made.dtype, made.shape = _of(dtype, _Dtype).name, shape
        made.fortran, made.data = fortran, data
    else:
        _of(made, _Dtype)  # Its state is the order of bytes, which one byte does not have.


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def _text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else _of(key, str)


def _refusal(what: str) -> str:
    return (
        f"it asks for {what}, which is no plain value. Reading that might run code, so it is "
        "refused, and nothing of it was run"
    )
