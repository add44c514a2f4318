"""PyTorch's files: .safetensors, which need no PyTorch, and pickled state dicts, which do.

Neither is trusted. The instructions of a pickle are looked through first, and none is run that does
more than to make tensors and plain values; what arrays claim is checked before it is asked for.
"""

from collections.abc import Iterator, Mapping
import io
import itertools
import mmap
import pathlib
import pickle
import pickletools
import re
import struct
from typing import Any
import warnings
import zipfile

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from colorize_jax.errors import WeightsError
from colorize_jax.weights.claims import Claims
from colorize_jax.weights.tables import listed

Contents = tuple[dict[str, np.ndarray], dict[str, str]]

_LENGTH = struct.Struct("<Q")  # of the JSON header, which follows
_HEADER = 16 << 20  # of more arrays than any network has; in memory it is several times as large
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PICKLES = 5  # of a file before PyTorch 1.6: two numbers, its machine, the objects, names of arrays
_DEPTH, _ENTRIES = 16, 10**6  # dictionaries within each other, and all that is in them

# What state dicts and the settings of optimizers ask for. PyTorch allows more, with which a few
# bytes ask for tensors of any size.
_PLAIN = re.compile(
    r"_codecs\.encode|builtins\.(complex|set)|__builtin__\.set|collections\.(Counter|OrderedDict)"
    r"|torch\.(cuda\.|storage\.)?\w*Storage|torch\.(Size|device|bool|(complex|b?float|u?int)\d+)"
    r"|torch\.nn\.parameter\.Parameter|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
)
# Tensors that are no plain arrays.
_UNUSUAL = re.compile(r"torch\._utils\._rebuild_(meta|sparse|q|nested|wrapper)\w*")


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins so."""
    return head[_LENGTH.size : _LENGTH.size + 1] == b"{"


def is_pickle(head: bytes) -> bool:
    """Whether a file begins as those of `torch.save` do, now (a zip archive) or before 1.6."""
    return head.startswith((_ZIP, _PICKLE))


def read_safetensors(path: pathlib.Path) -> Contents:
    """Arrays and metadata; bfloat16 becomes float32, which holds the same numbers.

    ValueError if the file is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    if length > min(size - _LENGTH.size, _HEADER):
        raise ValueError(
            f"of {size:,} bytes {length:,} are declared as header, which has {_HEADER:,} at most"
        )
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays = {name: _plain(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        return arrays, dict(file.metadata() or {})


def write_safetensors(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """The file that `read_safetensors` gives back; OSError if it cannot be written."""
    try:
        safetensors_numpy.save_file(dict(arrays), path, metadata=dict(metadata))
    except safetensors.SafetensorError as error:  # a full disk, for example
        raise OSError(str(error)) from error


def read_pickle(path: pathlib.Path) -> Contents:
    """The tensors that `torch.save` wrote, of a state dict or of dictionaries and lists in it.

    Names of those further in are joined by dots: "state_dict.conv1.weight". Floats of less than 32
    bits become float32. Nothing in the file is run.

    Raises:
        WeightsError: the file asks for more than tensors, PyTorch is not installed, or it is no
            state dict.
        ValueError: it is damaged; and what else PyTorch comes up with then.
    """
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    if zipped:
        pickled = _pickle_in_zip(path)
        _check_globals(path, io.BytesIO(pickled), 1)
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            _check_globals(path, whole, _PICKLES)
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path} is a pickle, which only PyTorch reads: pip install 'colorize_jax[torch]', or "
            "save it as .safetensors where PyTorch is"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by other programs than torch.save
            # Arrays are looked up in the file: none is longer than what is there, and none is
            # allocated for what is only claimed.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # PyTorch's own message goes on to recommend to run whatever the file wants.
        raise WeightsError(_refusal(path, _reason(error))) from None
    except EOFError as error:
        raise ValueError("it ends too early") from error
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path} is no state dict but holds a {type(found).__name__}")
    claims, arrays = Claims(path), {}
    for name, tensor in _tensors(path, found, torch.Tensor):
        if name in arrays:
            raise WeightsError(f"{path} holds two tensors whose name is {name}")
        arrays[name] = _numpy(torch, path, name, tensor, claims)
    return arrays, {}


def _pickle_in_zip(path: pathlib.Path) -> bytes:
    """The pickle in an archive of `torch.save`, after a look at the archive.

    Raises:
        WeightsError: it is another archive.
        ValueError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [
                name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")
            ]
            if any(name.endswith("/constants.pkl") for name in names):
                raise WeightsError(
                    f"{path} is a program of TorchScript: save the state_dict() of what "
                    "torch.jit.load gives, best as .safetensors"
                )
            if len(pickles) != 1:
                raise WeightsError(
                    f"{path} is a zip archive, but none that torch.save wrote: it holds "
                    f"{listed(names) or 'nothing'}"
                )
            if len(set(names)) < len(names) or any(entry.compress_type for entry in entries):
                raise WeightsError(
                    f"{path} was not written by torch.save: it has compressed parts, or two of one "
                    "name"
                )
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("its parts are declared larger than the file")
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {bad} does not hold")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(str(error)) from error


def _check_globals(path: pathlib.Path, file, pickles: int) -> None:
    """WeightsError if the first pickles of a file ask for more than plain values and tensors."""
    asked: dict[str, None] = {}
    damage = None
    try:
        for _ in range(pickles):
            asked |= dict.fromkeys(_globals(file))
    except ValueError as error:  # a file of one pickle ends here, whatever it asks for
        damage = error
    if unusual := [name for name in asked if _UNUSUAL.fullmatch(name)]:
        raise WeightsError(
            f"{path} holds tensors without numbers (of the device meta), or sparse, quantized or "
            f"nested ones ({listed(unusual)}): save plain ones"
        )
    if refused := [name for name in asked if not _PLAIN.fullmatch(name)]:
        raise WeightsError(_refusal(path, f"it asks for {listed(refused)}"))
    if damage is not None:
        raise ValueError(f"{damage}, or not written by torch.save") from damage


def _globals(file) -> Iterator[str]:
    """Names of the classes and functions that a pickle asks for; nothing is run.

    ValueError: it is no whole pickle.
    """
    texts: list[str] = ["", ""]  # the last two, of which STACK_GLOBAL makes a name
    memo: dict[int, str] = {}
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        if name in ("GLOBAL", "INST"):
            yield ".".join(argument.split(" ", 1))
        elif name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif name.startswith("EXT"):
            yield f"number {argument} of copyreg"
        elif "UNICODE" in name:
            texts = [texts[1], argument]
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[1]
        elif "PUT" in name:
            memo[argument] = texts[1]
        elif "GET" in name:
            texts = [texts[1], memo.get(argument, "")]


def _refusal(path: pathlib.Path, reason: str) -> str:
    return (
        f"{path} holds more than tensors: {reason}. Reading that would run code, so it is refused, "
        "and nothing of it was run. Ask for a .safetensors file, or for the network's state_dict() "
        "alone. If these names are those of a training's arguments or scores, the part on trust "
        "in docs/weights.md shows how to take the tensors out without them"
    )


def _tensors(path: pathlib.Path, found: Mapping, kind: type) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of all in dictionaries and lists within each other."""
    rest: list[tuple[tuple[str, ...], Any]] = [((), found)]
    for count in itertools.count():
        if not rest:
            return
        keys, value = rest.pop()
        if len(keys) > _DEPTH or count > _ENTRIES:
            raise WeightsError(f"{path} is nested deeper than any state dict, or in itself")
        if isinstance(value, kind):
            yield ".".join(keys), value
        elif isinstance(value, Mapping):
            rest += [((*keys, str(key)), item) for key, item in reversed(value.items())]
        elif isinstance(value, list | tuple):
            rest += [((*keys, str(i)), value[i]) for i in reversed(range(len(value)))]


def _numpy(torch, path, name, tensor, claims: Claims) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise WeightsError(
            f"{path}: {name} is sparse, quantized, or on the device meta: save it as a plain tensor"
        )
    # Both before a number is looked at: a tensor may repeat a few, and old files claim what they do
    # not hold.
    claims.add(name, tensor.shape, max(4, tensor.element_size()))
    if tensor.untyped_storage().nbytes() > path.stat().st_size:
        raise ValueError(f"{name} is declared larger than the file")
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()
    return tensor.numpy()


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _reason(error: Exception) -> str:
    """The part of PyTorch's message that says what the file asks for."""
    text = str(error)
    if name := re.search(r"GLOBAL (\S+)", text):
        return f"it asks for {name[1]}"
    detail = text.rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return detail.rstrip(".") or "an unknown instruction"
