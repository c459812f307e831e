"""Arrays on disk as NumPy's own files, written so that a full disk is noticed, and read by any thread."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

#: one thread at a time reads a header, by `ast.literal_eval`: CPython before 3.11.5 mixes up the recursion depths of
#: two threads that do ("AST constructor recursion depth mismatch", github.com/python/cpython/issues/106905)
_PARSING = threading.Lock()


def npy_bytes(array: np.ndarray) -> bytes:
    """`array` as an .npy file, format 1.0: the same bytes for the same array."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes `array` to an .npy file.

    `np.save` hands the data to C's buffered output, which may lose the end of it on a full disk without an error.

    Raises:
      OSError: no space.
    """
    path.write_bytes(npy_bytes(array))


def load_array(source: Path | str | BinaryIO) -> np.ndarray:
    """The array in an .npy file; raises ValueError where it is none, or holds objects."""
    with _PARSING:
        return np.load(source, allow_pickle=False)


def read_header(head: BinaryIO) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, whether in Fortran order, and dtype in the header of an .npy file of format 1.0, behind its version."""
    with _PARSING:
        return np.lib.format.read_array_header_1_0(head)
