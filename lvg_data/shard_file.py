"""A shard that is open for reading: its members by their places, and which file it was when it was opened.

    shard = ShardFile(path, may_be_removed=False)
    shard.read_rows((1536, 98432), 16, range(4, 12), out)           # rows 4 to 11 of an array of 16
    shard.has_changed()                                             # no: they are what was hashed

Bytes are read, not mapped: a file that is cut off under a mapping ends the process by SIGBUS, without a word of which.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvg_data.arrays import read_header

#: more than any header of a stored array has
_HEADER_BYTES = 4096
#: of the tar member that a part's array is: where it begins in the shard, and its size
Place = tuple[int, int]


@dataclass(frozen=True)
class FileState:
    """What tells one file, as it was at one time, from others: any write, truncation or replacement changes it."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, file: Path | int) -> FileState:
        """Of the file at a path, or behind an open descriptor; raises OSError where there is none."""
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class ShardFile:
    """An open shard. It stays open for as long as anybody refers to it.

    Attributes:
      state: of the file when it was opened.
    """

    def __init__(self, path: Path, may_be_removed: bool) -> None:
        """Raises OSError where it cannot be opened.

        Args:
          may_be_removed: from a cache a file may go while it is open, and stays whole for who has it; from a dataset
            it may not.
        """
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file).atexit = False
        self._seen_at = self._file if may_be_removed else path
        self.state = FileState.of(self._file)
        self._arrays: dict[Place, _StoredArray] = {}

    def has_changed(self) -> bool:
        """Whether the file was written to, cut off, replaced or removed since it was opened.

        A write sets the time of a file before it changes its content, so that what was read before this says no is what
        the file held when it was opened.
        """
        try:
            return FileState.of(self._seen_at) != self.state
        except OSError:
            return True

    def sha256(self) -> str:
        with open(self._file, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, place: Place) -> np.ndarray:
        """uint8 [size]: the bytes of a member.

        Raises:
          ValueError: it does not lie inside the file.
        """
        self._check_inside(place)
        offset, size = place
        data = np.empty(size, np.uint8)
        self._read_into(data.data, offset)
        return data

    def read_rows(self, place: Place, num_rows: int, rows: range, out: np.ndarray) -> None:
        """Some rows of the array in an .npy member (version 1.0, C order), into an array of as many rows.

        Raises:
          ValueError: the member is no array of `num_rows` rows of the shape and dtype that those of `out` have.
        """
        found = self._array(place)
        expected = _StoredArray(found.offset, (num_rows, *out.shape[1:]), out.dtype)
        if found != expected:
            raise ValueError(f"it holds {found}, expected {expected}")
        offset = found.offset + rows.start * (out.nbytes // len(out))
        if rows.step == 1 and out.flags.c_contiguous:
            self._read_into(out.data.cast("B"), offset)
            return
        whole = np.empty((rows[-1] + 1 - rows.start, *out.shape[1:]), out.dtype)
        self._read_into(whole.data.cast("B"), offset)
        out[:] = whole[:: rows.step]

    def _array(self, place: Place) -> _StoredArray:
        found = self._arrays.get(place)
        if found is None:
            self._check_inside(place)
            head = self.read((place[0], min(place[1], _HEADER_BYTES)))
            found = self._arrays[place] = _StoredArray.find(place, head.tobytes())
        return found

    def _check_inside(self, place: Place) -> None:
        offset, size = place
        if not 0 <= offset <= offset + size <= self.state.size_bytes:
            raise ValueError(
                f"{size:,} bytes at {offset:,} do not lie inside the shard of {self.state.size_bytes:,} bytes"
            )

    def _read_into(self, out: memoryview, offset: int) -> None:
        while out:
            count = os.preadv(self._file, [out], offset)
            if not count:
                raise ValueError(f"the shard ends at {offset:,}")
            out, offset = out[count:], offset + count


@dataclass(frozen=True)
class _StoredArray:
    """An array in a shard: where its first row begins, its shape and its dtype."""

    offset: int
    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def find(cls, place: Place, head: bytes) -> _StoredArray:
        """What the first bytes of an .npy member say of it."""
        file = io.BytesIO(head)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, fortran_order, dtype = read_header(file)
        if fortran_order or dtype.hasobject:
            raise ValueError(f"array of {dtype} in Fortran order" if fortran_order else f"array of {dtype}")
        found = cls(place[0] + file.tell(), shape, dtype)
        if file.tell() + found.size_bytes != place[1]:
            raise ValueError(f"{place[1]:,} bytes cannot hold {found}")
        return found

    @property
    def size_bytes(self) -> int:
        return math.prod((*self.shape, self.dtype.itemsize))

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"
