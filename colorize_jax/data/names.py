"""Stores millions of file names in two arrays: a list of strings takes ten times the memory."""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import os

import numpy as np


class Names(Sequence):
    """An immutable sequence of str, stored as the bytes that the file system has.

    Args:
        blob: all names, one after the other, uint8.
        ends: the end of every name in the blob, int64.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray):
        self.blob, self.ends = blob, ends

    @classmethod
    def checked(cls, blob: np.ndarray, ends: np.ndarray) -> "Names":
        """Makes `Names` from arrays of a file; ValueError if they do not encode names."""
        whole = blob.ndim == ends.ndim == 1 and (blob.dtype, ends.dtype) == (np.uint8, np.int64)
        marks = np.concatenate([[0], ends]) if whole else ()
        if not whole or (np.diff(marks) < 0).any() or marks[-1] != len(blob):
            raise ValueError("it holds no names")
        return cls(blob, ends)

    @classmethod
    def of(cls, names: Iterable[bytes]) -> "Names":
        """Makes `Names` from encoded names, in their order."""
        names = list(names)
        blob = np.frombuffer(b"".join(names), np.uint8)
        return cls(blob, np.cumsum([len(name) for name in names], dtype=np.int64))

    @classmethod
    def join(cls, parts: Sequence["Names"]) -> "Names":
        """Concatenates several `Names`."""
        shifts = np.cumsum([0, *(len(part.blob) for part in parts)])[:-1]
        ends = [part.ends + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(np.concatenate([part.blob for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.encoded(range(len(self))[index]))

    def encoded(self, index: int) -> bytes:
        """The name as the file system has it."""
        start = self.ends[index - 1] if index else 0
        return self.blob[start : self.ends[index]].tobytes()

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self._all())

    def hashes(self, salt: bytes = b"") -> np.ndarray:
        """float64 in [0, 1) for every name; depends only on that name and the salt (16 bytes)."""
        return np.fromiter((_hash(name, salt) for name in self._all()), np.float64, len(self))

    def _all(self) -> Iterator[bytes]:
        whole, start = self.blob.tobytes(), 0
        for end in self.ends.tolist():
            yield whole[start:end]
            start = end


def salt_of(seed: int, stream: int = 0) -> bytes:
    """The salt of `Names.hashes` for a choice by a seed; those of other streams are independent."""
    # A salt of zero bytes would be the same as no salt, which other choices use.
    return (seed + 1 + (stream << 64)).to_bytes(16, "little")


def _hash(name: bytes, salt: bytes) -> float:
    digest = hashlib.blake2b(name, digest_size=6, salt=salt).digest()
    return int.from_bytes(digest, "big") / 2**48
