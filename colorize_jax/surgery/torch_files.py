"""PyTorch's files: .safetensors, which need no PyTorch, and pickled state dicts, which do."""

from collections.abc import Mapping
import pathlib
import pickle
import struct
import warnings

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from colorize_jax.errors import WeightsError

Contents = tuple[dict[str, np.ndarray], dict[str, str]]

_LENGTH = struct.Struct("<Q")  # of the JSON header, which follows
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_WRAPPERS = ("state_dict", "model")  # under which training programs keep the state dict


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
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: _plain(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def write_safetensors(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """The file that `read_safetensors` gives back; OSError if it cannot be written."""
    try:
        safetensors_numpy.save_file(dict(arrays), path, metadata=dict(metadata))
    except safetensors.SafetensorError as error:  # a full disk, for example
        raise OSError(str(error)) from error


def read_pickle(path: pathlib.Path) -> Contents:
    """The tensors of a state dict that `torch.save` wrote, alone or as {"state_dict": ...}.

    Floats of less than 32 bits become float32. Nothing in the file is run.

    Raises:
        WeightsError: PyTorch is not installed, or the file is no state dict.
        ValueError, RuntimeError: it is damaged.
    """
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
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message goes on to recommend to run whatever the file wants.
        raise WeightsError(
            f"{path} holds more than tensors: reading it would run code, so it is refused "
            f"({_reason(error)}). Save the network's state_dict() alone, best as .safetensors"
        ) from None
    except EOFError as error:
        raise ValueError("it ends too early") from error
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise WeightsError(f"{path} is no state dict but holds a {type(found).__name__}")
    tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)}
    return {name: _numpy(torch, name, tensor) for name, tensor in tensors.items()}, {}


def _numpy(torch, name, tensor) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise WeightsError(f"{name} is sparse or quantized: save it as a plain tensor")
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()
    return tensor.numpy()


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def _reason(error: Exception) -> str:
    """The line of PyTorch's message that names what the file asks for."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if line.startswith(("Trying to", "Unsupported"))]
    return named[0].rstrip(".") if named else "an unknown instruction"
